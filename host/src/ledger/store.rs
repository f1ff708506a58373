//! Statements that store and find records.

use super::wide::Wide;
use super::{Day, LedgerError, Period, Sums};
use crate::db::{Db, DbError, Write};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, Row, SqliteConnection};
use std::collections::HashMap;
use std::sync::LazyLock;
use vesta_core::price::Prices;
use vesta_core::settlement::{Journaled, Position};
use vesta_core::usage::{Kind, Phases, Quantities};
use vesta_core::{Charge, Currency, FunctionName, InvocationId, Outcome, PlanId, TenantName, UsageRecord};

const COLUMNS: &str = "id, kind, tenant, function, version, started_unix_ns, outcome, status, cold, inferences, guest_cpu_ns, \
     inference_cpu_ns, cold_start_cpu_ns, outbound_cpu_ns, handler_cpu_ns, deploy_cpu_ns, peak_memory_bytes, \
     model_memory_peak_bytes, memory_ns, model_memory_ns, bytes_in, bytes_out, queue_ns, cold_ns, cold_code_ns, \
     cold_model_ns, guest_ns, infer_ns, total_ns, charge_units, charge_attos, currency, price_plan";
const COLUMN_COUNT: usize = 33;
/// The most of a quantity on one record, in nanoseconds or bytes: 2^53, which are 104 days or 9 petabytes.
const QUANTITY_MAX: i64 = 1 << 53;
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

/// Writes down the plan in use, and gives the currency of what was recorded before records had one: that of
/// the first plan which is in use since. The second value says whether that was decided now, and concerns
/// anything.
pub async fn open(db: &Db, plan: &Prices, now_unix_ms: i64) -> Result<(Currency, bool), LedgerError> {
    let mut write = db.write().await?;
    sqlx::query(
        "INSERT INTO price_plans (id, text, first_used_unix_ms) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING",
    )
    .bind(plan.id.as_str())
    .bind(plan.text.as_str())
    .bind(now_unix_ms)
    .execute(&mut *write)
    .await?;
    let known: Option<String> =
        sqlx::query_scalar("SELECT currency FROM ledger_before").fetch_one(&mut *write).await?;
    if let Some(known) = known {
        write.commit().await?;
        return Ok((known.parse().map_err(damaged)?, false));
    }
    sqlx::query("UPDATE ledger_before SET currency = ?")
        .bind(plan.currency.as_str())
        .execute(&mut *write)
        .await?;
    let days = sqlx::query("UPDATE usage_days SET currency = ? WHERE currency = 'XXX'")
        .bind(plan.currency.as_str())
        .execute(&mut *write)
        .await?;
    write.commit().await?;
    Ok((plan.currency, days.rows_affected() > 0))
}

/// Every plan that the host has started with: identity, text, and the moment of its first use in milliseconds
/// since 1970.
pub async fn plans(connection: &mut SqliteConnection) -> Result<Vec<(String, String, i64)>, LedgerError> {
    let sql =
        "SELECT id, text, first_used_unix_ms FROM price_plans ORDER BY first_used_unix_ms DESC, id LIMIT ?";
    Ok(sqlx::query_as(sql).bind(PLANS_MAX).fetch_all(connection).await?)
}

/// Most plans of one answer, the newest first.
const PLANS_MAX: i64 = 1_000;

/// Stores records of which the last ends at the last place, in one transaction with that place. Records whose
/// place is not behind the one that is stored have been taken before.
pub async fn post(db: &Db, before: Currency, records: &[Journaled]) -> Result<(), LedgerError> {
    let Some(last) = records.last() else { return Ok(()) };
    let mut write = db.write().await?;
    let posted = progress(&mut write).await?;
    let horizon: i64 =
        sqlx::query_scalar("SELECT pruned_before_unix_ns FROM ledger_horizon").fetch_one(&mut *write).await?;
    // Records without a plan are of a host from before places: what that host had pruned is known by its age.
    let pruned = |r: &UsageRecord| r.price_plan.is_none() && r.started_unix_ns < horizon;
    let new = records.iter().filter(|r| Some(r.end) > posted).map(|r| &r.record).filter(|r| !pruned(r));
    let new: Vec<&UsageRecord> = new.collect();
    let mut days = HashMap::new();
    let mut left = &new[..];
    for (rows, sql) in ROWS.into_iter().zip(INSERT_MANY.iter()) {
        let mut chunks = left.chunks_exact(rows);
        for chunk in &mut chunks {
            if insert_all_new(&mut write, sql, chunk).await? {
                chunk.iter().for_each(|record| count(&mut days, before, record));
            } else {
                insert_each(&mut write, before, chunk, &mut days).await?;
            }
        }
        left = chunks.remainder();
    }
    insert_each(&mut write, before, left, &mut days).await?;
    for ((tenant, function, currency, day), (sums, id)) in days {
        let key = SumsKey { tenant, function, currency, day, period: Period::Day };
        add_to_sums(&mut write, &key, &sums, id).await?;
    }
    if Some(last.end) > posted {
        set_progress(&mut write, last.end).await?;
    }
    Ok(write.commit().await?)
}

/// Passes a record over: it will never be stored.
pub async fn pass_over(db: &Db, record: &Journaled) -> Result<(), LedgerError> {
    let mut write = db.write().await?;
    if Some(record.end) > progress(&mut write).await? {
        set_progress(&mut write, record.end).await?;
    }
    Ok(write.commit().await?)
}

/// The place in the journal of the last record that has been taken.
pub async fn progress(connection: &mut SqliteConnection) -> Result<Option<Position>, LedgerError> {
    let row: (Option<i64>, Option<i64>) =
        sqlx::query_as("SELECT segment, bytes FROM ledger_progress").fetch_one(connection).await?;
    let number = |n: i64| u64::try_from(n).map_err(damaged);
    let place = match row {
        (Some(segment), Some(bytes)) => Some(Position { segment: number(segment)?, bytes: number(bytes)? }),
        _ => None,
    };
    Ok(place)
}

async fn set_progress(write: &mut Write, place: Position) -> Result<(), LedgerError> {
    let number = |n: u64| i64::try_from(n).map_err(damaged);
    sqlx::query("UPDATE ledger_progress SET segment = ?, bytes = ?")
        .bind(number(place.segment)?)
        .bind(number(place.bytes)?)
        .execute(&mut **write)
        .await?;
    Ok(())
}

type DayKey<'r> = (&'r TenantName, &'r FunctionName, Currency, Day);
type Days<'r> = HashMap<DayKey<'r>, (Sums, InvocationId)>;

/// `before` is the currency of records that state none.
fn count<'r>(days: &mut Days<'r>, before: Currency, record: &'r UsageRecord) {
    let currency = stated(record.currency).unwrap_or(before);
    let key = (&record.tenant, &record.function, currency, Day::of(record.started_unix_ns));
    days.entry(key).or_insert((Sums::default(), record.id)).0.add(&Sums::of(record));
}

/// Inserts a full chunk and says whether every record was new; where one was not, nothing is inserted.
async fn insert_all_new(
    write: &mut Write,
    sql: &'static str,
    chunk: &[&UsageRecord],
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
    before: Currency,
    records: &[&'r UsageRecord],
    days: &mut Days<'r>,
) -> Result<(), LedgerError> {
    for &record in records {
        let mut arguments = arguments_for(1);
        bind(&mut arguments, record)?;
        let done =
            sqlx::query_with(AssertSqlSafe(INSERT_ONE.as_str()), arguments).execute(&mut **write).await?;
        if done.rows_affected() == 1 {
            count(days, before, record);
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
    text(arguments, record.kind.as_str())?;
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
        ("outbound_cpu_ns", q.outbound_cpu_ns),
        ("handler_cpu_ns", q.handler_cpu_ns),
        ("deploy_cpu_ns", q.deploy_cpu_ns),
        ("peak_memory_bytes", q.peak_memory_bytes),
        ("model_memory_peak_bytes", q.model_memory_peak_bytes),
        ("memory_ns", q.memory_ns),
        ("model_memory_ns", q.model_memory_ns),
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
        let value = i64::try_from(value).ok().filter(|value| *value <= QUANTITY_MAX);
        number(arguments, value.ok_or(LedgerError::TooLarge { id: record.id, field })?)?;
    }
    number(arguments, charge.units)?;
    number(arguments, charge.parts)?;
    let mut optional = |value: Option<&str>| {
        let added = arguments.add(value.map(str::to_owned));
        added.map_err(|e| LedgerError::from(sqlx::Error::Encode(e)))
    };
    optional(stated(record.currency).as_ref().map(Currency::as_str))?;
    optional(record.price_plan.as_ref().map(PlanId::as_str))
}

fn stated(currency: Currency) -> Option<Currency> {
    (currency != Currency::UNSTATED).then_some(currency)
}

/// Which sums a record belongs to.
pub struct SumsKey<'r> {
    pub tenant: &'r TenantName,
    pub function: &'r FunctionName,
    pub currency: Currency,
    /// The day itself, or the first of its month.
    pub day: Day,
    pub period: Period,
}

/// Adds to the sums of a day or month. Parts of 10^-18 carry over into units, so that no column passes 2^63.
const ADD_TO_SUMS: &str = "
    INSERT INTO usage_days (tenant, day, period, function, currency, invocations, deployments, guest_cpu_ns,
        inference_cpu_ns, cold_start_cpu_ns, outbound_cpu_ns, handler_cpu_ns, deploy_cpu_ns, bytes_in, bytes_out,
        memory_gb_s, memory_byte_ns, charge_units, charge_attos)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (tenant, day, period, function, currency) DO UPDATE SET
        invocations = usage_days.invocations + excluded.invocations,
        deployments = usage_days.deployments + excluded.deployments,
        guest_cpu_ns = usage_days.guest_cpu_ns + excluded.guest_cpu_ns,
        inference_cpu_ns = usage_days.inference_cpu_ns + excluded.inference_cpu_ns,
        cold_start_cpu_ns = usage_days.cold_start_cpu_ns + excluded.cold_start_cpu_ns,
        outbound_cpu_ns = usage_days.outbound_cpu_ns + excluded.outbound_cpu_ns,
        handler_cpu_ns = usage_days.handler_cpu_ns + excluded.handler_cpu_ns,
        deploy_cpu_ns = usage_days.deploy_cpu_ns + excluded.deploy_cpu_ns,
        bytes_in = usage_days.bytes_in + excluded.bytes_in,
        bytes_out = usage_days.bytes_out + excluded.bytes_out,
        memory_gb_s = usage_days.memory_gb_s + excluded.memory_gb_s
            + (usage_days.memory_byte_ns + excluded.memory_byte_ns) / 1000000000000000000,
        memory_byte_ns = (usage_days.memory_byte_ns + excluded.memory_byte_ns) % 1000000000000000000,
        charge_units = usage_days.charge_units + excluded.charge_units
            + (usage_days.charge_attos + excluded.charge_attos) / 1000000000000000000,
        charge_attos = (usage_days.charge_attos + excluded.charge_attos) % 1000000000000000000";

/// `id` is one of the records that the sums are of, for the error.
pub async fn add_to_sums(
    write: &mut Write,
    key: &SumsKey<'_>,
    sums: &Sums,
    id: InvocationId,
) -> Result<(), LedgerError> {
    let too_large = |field| LedgerError::TooLarge { id, field };
    let memory = Wide::split(sums.memory_byte_ns).ok_or_else(|| too_large("memory"))?;
    let charge = Wide::split(sums.charge.attos()).ok_or_else(|| too_large("charge"))?;
    let mut query = sqlx::query(ADD_TO_SUMS)
        .bind(key.tenant.as_str())
        .bind(key.day.0)
        .bind(key.period.as_str())
        .bind(key.function.as_str())
        .bind(key.currency.as_str());
    for value in [
        sums.invocations,
        sums.deployments,
        sums.guest_cpu_ns,
        sums.inference_cpu_ns,
        sums.cold_start_cpu_ns,
        sums.outbound_cpu_ns,
        sums.handler_cpu_ns,
        sums.deploy_cpu_ns,
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

/// A tenant's record.
pub async fn find(
    connection: &mut SqliteConnection,
    before: Currency,
    tenant: &TenantName,
    id: InvocationId,
) -> Result<Option<UsageRecord>, LedgerError> {
    static SQL: LazyLock<String> =
        LazyLock::new(|| format!("SELECT {COLUMNS} FROM usage_records WHERE id = ? AND tenant = ?"));
    let query = sqlx::query(AssertSqlSafe(SQL.as_str())).bind(id.to_string()).bind(tenant.as_str());
    let row = query.fetch_optional(connection).await?;
    Ok(row.map(|row| record(&row, before)).transpose()?)
}

/// A tenant's records with ids below `id_before`, the newest first.
pub async fn list(
    connection: &mut SqliteConnection,
    before: Currency,
    tenant: &TenantName,
    kind: Kind,
    function: Option<&FunctionName>,
    id_before: Option<InvocationId>,
    limit: u32,
) -> Result<Vec<UsageRecord>, LedgerError> {
    let sql = list_sql(kind, function.is_some());
    let mut query = sqlx::query(AssertSqlSafe(sql)).bind(tenant.as_str());
    if let Some(function) = function {
        query = query.bind(function.as_str());
    }
    // Above every ULID, which ends in letters and digits.
    let id_before = id_before.map_or("~".into(), |id| id.to_string());
    let rows = query.bind(id_before).bind(i64::from(limit)).fetch_all(connection).await?;
    Ok(rows.iter().map(|row| record(row, before)).collect::<Result<_, _>>()?)
}

/// A statement for each kind, named in its text, and with or without a function: so each has its index.
fn list_sql(kind: Kind, of_function: bool) -> String {
    let and = if of_function { "AND function = ?" } else { "" };
    let kind = kind.as_str();
    format!(
        "SELECT {COLUMNS} FROM usage_records WHERE kind = '{kind}' AND tenant = ? {and} AND id < ?
         ORDER BY id DESC LIMIT ?"
    )
}

/// Records of a function from one moment up to another (nanoseconds since 1970), in the order of their ids
/// after `after`. Only ids in `ids` are looked at.
pub async fn started_between(
    connection: &mut SqliteConnection,
    before: Currency,
    (tenant, function): (&TenantName, &FunctionName),
    started: std::ops::Range<i64>,
    (after, up_to): (&str, &str),
    limit: i64,
) -> Result<Vec<UsageRecord>, LedgerError> {
    static SQL: LazyLock<String> = LazyLock::new(|| {
        format!(
            "SELECT {COLUMNS} FROM usage_records WHERE tenant = ? AND function = ? AND id > ? AND id < ?
             AND started_unix_ns >= ? AND started_unix_ns < ? ORDER BY id LIMIT ?"
        )
    });
    let query = sqlx::query(AssertSqlSafe(SQL.as_str())).bind(tenant.as_str()).bind(function.as_str());
    let query = query.bind(after).bind(up_to).bind(started.start).bind(started.end).bind(limit);
    let rows = query.fetch_all(connection).await?;
    Ok(rows.iter().map(|row| record(row, before)).collect::<Result<_, _>>()?)
}

pub fn unsigned(row: &SqliteRow, column: &str) -> Result<u64, DbError> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|_| damaged(format!("{column} = {value}")))
}

fn wide(row: &SqliteRow, units: &str, parts: &str) -> Result<i128, DbError> {
    Ok(Wide { units: row.try_get(units)?, parts: row.try_get(parts)? }.join())
}

pub fn damaged(detail: impl ToString) -> DbError {
    DbError::Row { table: "usage_records", detail: detail.to_string() }
}

fn record(row: &SqliteRow, before: Currency) -> Result<UsageRecord, DbError> {
    let currency: Option<&str> = row.try_get("currency")?;
    let price_plan: Option<&str> = row.try_get("price_plan")?;
    let small = |column| u32::try_from(unsigned(row, column)?).map_err(damaged);
    let (outcome, kind): (&str, &str) = (row.try_get("outcome")?, row.try_get("kind")?);
    Ok(UsageRecord {
        id: row.try_get::<&str, _>("id")?.parse().map_err(damaged)?,
        kind: Kind::from_name(kind).ok_or_else(|| damaged(kind))?,
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
            outbound_cpu_ns: unsigned(row, "outbound_cpu_ns")?,
            handler_cpu_ns: unsigned(row, "handler_cpu_ns")?,
            deploy_cpu_ns: unsigned(row, "deploy_cpu_ns")?,
            peak_memory_bytes: unsigned(row, "peak_memory_bytes")?,
            model_memory_peak_bytes: unsigned(row, "model_memory_peak_bytes")?,
            memory_ns: unsigned(row, "memory_ns")?,
            // Records of before were charged for the wall time of their runs.
            model_memory_ns: match row.try_get::<Option<i64>, _>("model_memory_ns")? {
                Some(_) => unsigned(row, "model_memory_ns")?,
                None => unsigned(row, "infer_ns")?,
            },
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
        currency: currency.map_or(Ok(before), str::parse).map_err(damaged)?,
        price_plan: price_plan.map(str::parse).transpose().map_err(damaged)?,
    })
}
