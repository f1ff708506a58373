//! Statements of this room.

use super::wide::Wide;
use super::{Day, LedgerError, Sums};
use crate::db::{Db, DbError, Write};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, Row};
use std::collections::HashMap;
use std::sync::LazyLock;
use vesta_core::usage::{Phases, Quantities};
use vesta_core::{Charge, FunctionName, InvocationId, Outcome, TenantName, UsageRecord};

const COLUMNS: &str = "id, tenant, function, version, started_unix_ns, outcome, status, cold, inferences, guest_cpu_ns, \
     inference_cpu_ns, cold_start_cpu_ns, peak_memory_bytes, model_memory_peak_bytes, memory_ns, bytes_in, \
     bytes_out, queue_ns, cold_ns, cold_code_ns, cold_model_ns, guest_ns, infer_ns, total_ns, charge_units, charge_attos";
const COLUMN_COUNT: usize = 26;
/// Rows of one statement: of few sizes, so that all stay prepared. A statement costs as much as ten rows of
/// one.
const ROWS: [usize; 2] = [100, 10];

static INSERT_ONE: LazyLock<String> = LazyLock::new(|| insert_sql(1));
static INSERT_MANY: LazyLock<[String; 2]> = LazyLock::new(|| ROWS.map(insert_sql));

fn insert_sql(rows: usize) -> String {
    let row = format!("({})", ["?"; COLUMN_COUNT].join(", "));
    let rows = vec![row; rows].join(", ");
    format!("INSERT INTO usage_records ({COLUMNS}) VALUES {rows} ON CONFLICT (id) DO NOTHING")
}

pub async fn post(db: &Db, records: &[UsageRecord]) -> Result<(), LedgerError> {
    let mut write = db.write().await?;
    let horizon: i64 =
        sqlx::query_scalar("SELECT pruned_before_unix_ns FROM ledger_horizon").fetch_one(&mut *write).await?;
    let mut days = HashMap::new();
    let mut left = records;
    for (rows, sql) in ROWS.into_iter().zip(INSERT_MANY.iter()) {
        let mut chunks = left.chunks_exact(rows);
        for chunk in &mut chunks {
            let young = chunk.iter().all(|r| r.started_unix_ns >= horizon);
            if young && insert_all_new(&mut write, sql, chunk).await? {
                chunk.iter().for_each(|record| count(&mut days, record));
            } else {
                insert_each(&mut write, chunk, horizon, &mut days).await?;
            }
        }
        left = chunks.remainder();
    }
    insert_each(&mut write, left, horizon, &mut days).await?;
    for ((tenant, function, day), sums) in days {
        add_to_day(&mut write, tenant, function, day, &sums).await?;
    }
    Ok(write.commit().await?)
}

type Days<'r> = HashMap<(&'r TenantName, &'r FunctionName, Day), (Sums, InvocationId)>;

fn count<'r>(days: &mut Days<'r>, record: &'r UsageRecord) {
    let key = (&record.tenant, &record.function, Day::of(record.started_unix_ns));
    days.entry(key).or_insert((Sums::default(), record.id)).0.add(&Sums::of(record));
}

/// Inserts a full chunk and says whether every record was new; where one was not, nothing is inserted.
async fn insert_all_new(
    write: &mut Write,
    sql: &'static str,
    chunk: &[UsageRecord],
) -> Result<bool, LedgerError> {
    let mut arguments = arguments_for(chunk.len());
    for record in chunk {
        bind(&mut arguments, record)?;
    }
    sqlx::query("SAVEPOINT chunk").execute(&mut **write).await?;
    let done = sqlx::query_with(AssertSqlSafe(sql), arguments).execute(&mut **write).await?;
    let all_new = done.rows_affected() == chunk.len() as u64;
    if !all_new {
        sqlx::query("ROLLBACK TO chunk").execute(&mut **write).await?;
    }
    sqlx::query("RELEASE chunk").execute(&mut **write).await?;
    Ok(all_new)
}

async fn insert_each<'r>(
    write: &mut Write,
    records: &'r [UsageRecord],
    horizon: i64,
    days: &mut Days<'r>,
) -> Result<(), LedgerError> {
    for record in records.iter().filter(|r| r.started_unix_ns >= horizon) {
        let mut arguments = arguments_for(1);
        bind(&mut arguments, record)?;
        let done =
            sqlx::query_with(AssertSqlSafe(INSERT_ONE.as_str()), arguments).execute(&mut **write).await?;
        if done.rows_affected() == 1 {
            count(days, record);
        }
    }
    Ok(())
}

fn arguments_for(rows: usize) -> SqliteArguments {
    let mut arguments = SqliteArguments::default();
    arguments.reserve(rows * COLUMN_COUNT, 0);
    arguments
}

/// Binds a record's columns in the order of [`COLUMNS`].
fn bind(arguments: &mut SqliteArguments, record: &UsageRecord) -> Result<(), LedgerError> {
    let (q, p) = (&record.quantities, &record.phases);
    let charge =
        Wide::split(record.charge.attos()).ok_or(LedgerError::TooLarge { id: record.id, field: "charge" })?;
    let text = |arguments: &mut SqliteArguments, value: &str| {
        arguments.add(value.to_owned()).map_err(|e| LedgerError::from(sqlx::Error::Encode(e)))
    };
    let number = |arguments: &mut SqliteArguments, value: i64| {
        arguments.add(value).map_err(|e| LedgerError::from(sqlx::Error::Encode(e)))
    };
    text(arguments, &record.id.to_string())?;
    text(arguments, record.tenant.as_str())?;
    text(arguments, record.function.as_str())?;
    number(arguments, i64::from(record.version))?;
    number(arguments, record.started_unix_ns)?;
    text(arguments, record.outcome.as_str())?;
    for value in [i64::from(record.status), i64::from(record.cold), i64::from(record.inferences)] {
        number(arguments, value)?;
    }
    for (field, value) in [
        ("guest_cpu_ns", q.guest_cpu_ns),
        ("inference_cpu_ns", q.inference_cpu_ns),
        ("cold_start_cpu_ns", q.cold_start_cpu_ns),
        ("peak_memory_bytes", q.peak_memory_bytes),
        ("model_memory_peak_bytes", q.model_memory_peak_bytes),
        ("memory_ns", q.memory_ns),
        ("bytes_in", q.bytes_in),
        ("bytes_out", q.bytes_out),
        ("queue_ns", p.queue_ns),
        ("cold_ns", p.cold_ns),
        ("cold_code_ns", p.cold_code_ns),
        ("cold_model_ns", p.cold_model_ns),
        ("guest_ns", p.guest_ns),
        ("infer_ns", p.infer_ns),
        ("total_ns", p.total_ns),
    ] {
        let value = i64::try_from(value).map_err(|_| LedgerError::TooLarge { id: record.id, field })?;
        number(arguments, value)?;
    }
    number(arguments, charge.units)?;
    number(arguments, charge.parts)
}

/// Adds to a day's sums. Parts of 10^-18 carry over into units, so that no column passes 2^63.
const ADD_TO_DAY: &str = "
    INSERT INTO usage_days (tenant, day, function, invocations, guest_cpu_ns, inference_cpu_ns, cold_start_cpu_ns,
        bytes_in, bytes_out, memory_gb_s, memory_byte_ns, charge_units, charge_attos)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (tenant, day, function) DO UPDATE SET
        invocations = usage_days.invocations + excluded.invocations,
        guest_cpu_ns = usage_days.guest_cpu_ns + excluded.guest_cpu_ns,
        inference_cpu_ns = usage_days.inference_cpu_ns + excluded.inference_cpu_ns,
        cold_start_cpu_ns = usage_days.cold_start_cpu_ns + excluded.cold_start_cpu_ns,
        bytes_in = usage_days.bytes_in + excluded.bytes_in,
        bytes_out = usage_days.bytes_out + excluded.bytes_out,
        memory_gb_s = usage_days.memory_gb_s + excluded.memory_gb_s
            + (usage_days.memory_byte_ns + excluded.memory_byte_ns) / 1000000000000000000,
        memory_byte_ns = (usage_days.memory_byte_ns + excluded.memory_byte_ns) % 1000000000000000000,
        charge_units = usage_days.charge_units + excluded.charge_units
            + (usage_days.charge_attos + excluded.charge_attos) / 1000000000000000000,
        charge_attos = (usage_days.charge_attos + excluded.charge_attos) % 1000000000000000000";

async fn add_to_day(
    write: &mut Write,
    tenant: &TenantName,
    function: &FunctionName,
    day: Day,
    (sums, id): &(Sums, InvocationId),
) -> Result<(), LedgerError> {
    let too_large = |field| LedgerError::TooLarge { id: *id, field };
    let memory = Wide::split(sums.memory_byte_ns).ok_or_else(|| too_large("memory"))?;
    let charge = Wide::split(sums.charge.attos()).ok_or_else(|| too_large("charge"))?;
    let mut query = sqlx::query(ADD_TO_DAY).bind(tenant.as_str()).bind(day.0).bind(function.as_str());
    for value in [
        sums.invocations,
        sums.guest_cpu_ns,
        sums.inference_cpu_ns,
        sums.cold_start_cpu_ns,
        sums.bytes_in,
        sums.bytes_out,
    ] {
        query = query.bind(i64::try_from(value).map_err(|_| too_large("a sum"))?);
    }
    let wide = [memory.units, memory.parts, charge.units, charge.parts];
    let query = wide.into_iter().fold(query, |query, value| query.bind(value));
    query.execute(&mut **write).await?;
    Ok(())
}

pub async fn find(db: &Db, id: InvocationId) -> Result<Option<UsageRecord>, LedgerError> {
    static SQL: LazyLock<String> =
        LazyLock::new(|| format!("SELECT {COLUMNS} FROM usage_records WHERE id = ?"));
    let row = sqlx::query(AssertSqlSafe(SQL.as_str())).bind(id.to_string()).fetch_optional(db.pool()).await?;
    Ok(row.map(|row| record(&row)).transpose()?)
}

pub async fn list(
    db: &Db,
    tenant: &TenantName,
    function: Option<&FunctionName>,
    limit: u32,
) -> Result<Vec<UsageRecord>, LedgerError> {
    static SQL: LazyLock<String> = LazyLock::new(|| {
        format!(
            "SELECT {COLUMNS} FROM usage_records WHERE tenant = ? AND (? IS NULL OR function = ?)
             ORDER BY id DESC LIMIT ?"
        )
    });
    let function = function.map(FunctionName::as_str);
    let rows = sqlx::query(AssertSqlSafe(SQL.as_str()))
        .bind(tenant.as_str())
        .bind(function)
        .bind(function)
        .bind(i64::from(limit))
        .fetch_all(db.pool())
        .await?;
    Ok(rows.iter().map(record).collect::<Result<_, _>>()?)
}

/// The sums of each function and day.
pub async fn days(
    db: &Db,
    tenant: &TenantName,
    from: Day,
    to: Day,
) -> Result<Vec<(FunctionName, Day, Sums)>, LedgerError> {
    let rows = sqlx::query(
        "SELECT function, day, invocations, guest_cpu_ns, inference_cpu_ns, cold_start_cpu_ns, memory_gb_s,
             memory_byte_ns, bytes_in, bytes_out, charge_units, charge_attos
         FROM usage_days WHERE tenant = ? AND day >= ? AND day <= ?",
    )
    .bind(tenant.as_str())
    .bind(from.0)
    .bind(to.0)
    .fetch_all(db.pool())
    .await?;
    Ok(rows.iter().map(day_sums).collect::<Result<_, _>>()?)
}

/// Rows of one deletion: short transactions, so that posting never waits long.
const PRUNE_ROWS: i64 = 10_000;

pub async fn prune(db: &Db, before_unix_ns: i64) -> Result<u64, LedgerError> {
    let mut write = db.write().await?;
    sqlx::query("UPDATE ledger_horizon SET pruned_before_unix_ns = ? WHERE pruned_before_unix_ns < ?")
        .bind(before_unix_ns)
        .bind(before_unix_ns)
        .execute(&mut *write)
        .await?;
    write.commit().await?;
    let mut deleted = 0;
    // Found on a reader's connection: the writer is held for the deletion alone.
    while let Some(last) = last_of_oldest(db, before_unix_ns).await? {
        let mut write = db.write().await?;
        let done = sqlx::query("DELETE FROM usage_records WHERE id <= ? AND started_unix_ns < ?")
            .bind(last)
            .bind(before_unix_ns)
            .execute(&mut *write)
            .await?;
        write.commit().await?;
        deleted += done.rows_affected();
    }
    Ok(deleted)
}

/// Of the first [`PRUNE_ROWS`] that are to go, the last. Found by the time in their ids, so that nothing is
/// read of what stays: an id is made just before its invocation starts. Where a clock was set in between, the
/// record goes with a later pruning.
async fn last_of_oldest(db: &Db, before_unix_ns: i64) -> Result<Option<String>, LedgerError> {
    let sql = "SELECT max(id) FROM
         (SELECT id FROM usage_records WHERE id < ? AND started_unix_ns < ? ORDER BY id LIMIT ?)";
    let first_to_stay = InvocationId::new(u64::try_from(before_unix_ns / 1_000_000).unwrap_or(0), 0);
    let query = sqlx::query_scalar(sql).bind(first_to_stay.to_string());
    Ok(query.bind(before_unix_ns).bind(PRUNE_ROWS).fetch_one(db.pool()).await?)
}

fn unsigned(row: &SqliteRow, column: &str) -> Result<u64, DbError> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|_| damaged(format!("{column} = {value}")))
}

fn wide(row: &SqliteRow, units: &str, parts: &str) -> Result<i128, DbError> {
    Ok(Wide { units: row.try_get(units)?, parts: row.try_get(parts)? }.join())
}

fn damaged(detail: impl ToString) -> DbError {
    DbError::Row { table: "usage_records", detail: detail.to_string() }
}

fn day_sums(row: &SqliteRow) -> Result<(FunctionName, Day, Sums), DbError> {
    let function = row.try_get::<&str, _>("function")?.parse().map_err(damaged)?;
    let sums = Sums {
        invocations: unsigned(row, "invocations")?,
        guest_cpu_ns: unsigned(row, "guest_cpu_ns")?,
        inference_cpu_ns: unsigned(row, "inference_cpu_ns")?,
        cold_start_cpu_ns: unsigned(row, "cold_start_cpu_ns")?,
        memory_byte_ns: wide(row, "memory_gb_s", "memory_byte_ns")?,
        bytes_in: unsigned(row, "bytes_in")?,
        bytes_out: unsigned(row, "bytes_out")?,
        charge: Charge::from_attos(wide(row, "charge_units", "charge_attos")?),
    };
    Ok((function, Day(row.try_get("day")?), sums))
}

fn record(row: &SqliteRow) -> Result<UsageRecord, DbError> {
    let small = |column| u32::try_from(unsigned(row, column)?).map_err(damaged);
    let outcome: &str = row.try_get("outcome")?;
    Ok(UsageRecord {
        id: row.try_get::<&str, _>("id")?.parse().map_err(damaged)?,
        tenant: row.try_get::<&str, _>("tenant")?.parse().map_err(damaged)?,
        function: row.try_get::<&str, _>("function")?.parse().map_err(damaged)?,
        version: small("version")?,
        started_unix_ns: row.try_get("started_unix_ns")?,
        outcome: Outcome::from_name(outcome).ok_or_else(|| damaged(outcome))?,
        status: u16::try_from(unsigned(row, "status")?).map_err(damaged)?,
        cold: unsigned(row, "cold")? != 0,
        inferences: small("inferences")?,
        quantities: Quantities {
            guest_cpu_ns: unsigned(row, "guest_cpu_ns")?,
            inference_cpu_ns: unsigned(row, "inference_cpu_ns")?,
            cold_start_cpu_ns: unsigned(row, "cold_start_cpu_ns")?,
            peak_memory_bytes: unsigned(row, "peak_memory_bytes")?,
            model_memory_peak_bytes: unsigned(row, "model_memory_peak_bytes")?,
            memory_ns: unsigned(row, "memory_ns")?,
            bytes_in: unsigned(row, "bytes_in")?,
            bytes_out: unsigned(row, "bytes_out")?,
        },
        phases: Phases {
            queue_ns: unsigned(row, "queue_ns")?,
            cold_ns: unsigned(row, "cold_ns")?,
            cold_code_ns: unsigned(row, "cold_code_ns")?,
            cold_model_ns: unsigned(row, "cold_model_ns")?,
            guest_ns: unsigned(row, "guest_ns")?,
            infer_ns: unsigned(row, "infer_ns")?,
            total_ns: unsigned(row, "total_ns")?,
        },
        charge: Charge::from_attos(wide(row, "charge_units", "charge_attos")?),
    })
}
