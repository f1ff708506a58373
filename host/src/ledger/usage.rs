//! Usage reports: sums over days and months, grouped by the database and given page by page.

use super::store::{damaged, unsigned};
use super::{Day, LedgerError, Sums};
use crate::db::DbError;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row, SqliteConnection};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use vesta_core::{Charge, Currency, FunctionName, TenantName};

/// What the rows of a report are told apart by, beside the currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct By {
    pub function: bool,
    pub day: bool,
}

/// What a row covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    Day,
    /// All days of a month, of which the first is named.
    Month,
}

impl Period {
    pub fn as_str(self) -> &'static str {
        match self {
            Period::Day => "day",
            Period::Month => "month",
        }
    }
}
impl FromStr for Period {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "day" => Ok(Period::Day),
            "month" => Ok(Period::Month),
            other => Err(format!("{other:?} is no period")),
        }
    }
}

/// What a row is told apart by: rows are in this order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowKey {
    pub day: Option<(Day, Period)>,
    pub function: Option<FunctionName>,
    pub currency: Currency,
}

/// Written as `20779.day.hello.USD`, without what rows are not told apart by.
impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((day, period)) = self.day {
            write!(f, "{}.{}.", day.0, period.as_str())?;
        }
        if let Some(function) = &self.function {
            write!(f, "{function}.")?;
        }
        write!(f, "{}", self.currency)
    }
}

impl RowKey {
    /// Reads what was written of a row of a report by the same.
    pub fn parse(text: &str, by: By) -> Option<RowKey> {
        let mut parts = text.split('.');
        let day = match by.day {
            true => Some((Day(parts.next()?.parse().ok()?), parts.next()?.parse().ok()?)),
            false => None,
        };
        let function = match by.function {
            true => Some(parts.next()?.parse().ok()?),
            false => None,
        };
        let key = RowKey { day, function, currency: parts.next()?.parse().ok()? };
        parts.next().is_none().then_some(key)
    }
}

/// One row of a usage report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRow {
    pub key: RowKey,
    pub sums: Sums,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageQuery {
    /// The first and the last day, both included. A month counts on its first day.
    pub from: Day,
    pub to: Day,
    pub by: By,
    /// Only rows after this one.
    pub after: Option<RowKey>,
    /// Most rows.
    pub limit: u32,
}

/// A page of a tenant's usage, by day, then function, then currency.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    pub rows: Vec<UsageRow>,
    /// Whether rows follow.
    pub more: bool,
    /// The sums of the whole report in each currency. Computed for the first page only.
    pub totals: BTreeMap<Currency, Sums>,
}

/// Columns that are summed, and two pairs of columns that are one number: units, and 10^-18 parts of one.
const COUNTS: [&str; 10] = [
    "invocations",
    "deployments",
    "guest_cpu_ns",
    "inference_cpu_ns",
    "cold_start_cpu_ns",
    "outbound_cpu_ns",
    "handler_cpu_ns",
    "deploy_cpu_ns",
    "bytes_in",
    "bytes_out",
];
const WIDE: [[&str; 2]; 2] = [["memory_gb_s", "memory_byte_ns"], ["charge_units", "charge_attos"]];
/// Sums are taken in two halves, since SQLite's own overflow at 2^63: nine sums of 10^-18 parts already
/// would.
const HALF: i128 = 1_000_000_000;
const UNIT: i128 = 1_000_000_000_000_000_000;

fn sums_sql() -> String {
    let columns = COUNTS.into_iter().chain(WIDE.into_iter().flatten());
    let halves = columns.map(|c| format!("SUM({c} / {HALF}) AS {c}_high, SUM({c} % {HALF}) AS {c}_low"));
    halves.collect::<Vec<_>>().join(", ")
}

fn sum(row: &SqliteRow, column: &str) -> Result<i128, DbError> {
    let half = |half: &str| row.try_get::<i64, _>(format!("{column}_{half}").as_str());
    Ok(i128::from(half("high")?) * HALF + i128::from(half("low")?))
}

fn sums(row: &SqliteRow) -> Result<Sums, DbError> {
    let count = |column| u64::try_from(sum(row, column)?).map_err(damaged);
    let wide = |[units, parts]: [&str; 2]| Ok::<i128, DbError>(sum(row, units)? * UNIT + sum(row, parts)?);
    Ok(Sums {
        invocations: count("invocations")?,
        deployments: count("deployments")?,
        guest_cpu_ns: count("guest_cpu_ns")?,
        inference_cpu_ns: count("inference_cpu_ns")?,
        cold_start_cpu_ns: count("cold_start_cpu_ns")?,
        outbound_cpu_ns: count("outbound_cpu_ns")?,
        handler_cpu_ns: count("handler_cpu_ns")?,
        deploy_cpu_ns: count("deploy_cpu_ns")?,
        memory_byte_ns: wide(WIDE[0])?,
        bytes_in: count("bytes_in")?,
        bytes_out: count("bytes_out")?,
        charge: Charge::from_attos(wide(WIDE[1])?),
    })
}

fn currency(row: &SqliteRow) -> Result<Currency, DbError> {
    row.try_get::<&str, _>("currency")?.parse().map_err(damaged)
}

pub async fn report(
    connection: &mut SqliteConnection,
    tenant: &TenantName,
    query: &UsageQuery,
) -> Result<Usage, LedgerError> {
    let mut usage = Usage::default();
    if query.after.is_none() {
        let sql = format!(
            "SELECT currency, {} FROM usage_days WHERE tenant = ? AND day >= ? AND day <= ? GROUP BY currency",
            sums_sql()
        );
        let totals =
            sqlx::query(AssertSqlSafe(sql)).bind(tenant.as_str()).bind(query.from.0).bind(query.to.0);
        for row in totals.fetch_all(&mut *connection).await? {
            usage.totals.insert(currency(&row)?, sums(&row)?);
        }
    }
    let mut keys = Vec::new();
    if query.by.day {
        keys.extend(["day", "period"]);
    }
    if query.by.function {
        keys.push("function");
    }
    keys.push("currency");
    let columns = keys.join(", ");
    let after = match query.after {
        Some(_) => format!("AND ({columns}) > ({})", vec!["?"; keys.len()].join(", ")),
        None => String::new(),
    };
    let sql = format!(
        "SELECT {columns}, {} FROM usage_days WHERE tenant = ? AND day >= ? AND day <= ? {after}
         GROUP BY {columns} ORDER BY {columns} LIMIT ?",
        sums_sql()
    );
    let mut rows = sqlx::query(AssertSqlSafe(sql)).bind(tenant.as_str()).bind(query.from.0).bind(query.to.0);
    if let Some(after) = &query.after {
        if let Some((day, period)) = after.day {
            rows = rows.bind(day.0).bind(period.as_str());
        }
        if let Some(function) = &after.function {
            rows = rows.bind(function.as_str());
        }
        rows = rows.bind(after.currency.as_str());
    }
    // One more than asked for tells whether more follow.
    let rows = rows.bind(i64::from(query.limit) + 1).fetch_all(connection).await?;
    usage.more = rows.len() > query.limit as usize;
    for row in rows.iter().take(query.limit as usize) {
        let day = match query.by.day {
            true => {
                Some((Day(row.try_get("day")?), row.try_get::<&str, _>("period")?.parse().map_err(damaged)?))
            }
            false => None,
        };
        let function = match query.by.function {
            true => Some(row.try_get::<&str, _>("function")?.parse().map_err(damaged)?),
            false => None,
        };
        let key = RowKey { day, function, currency: currency(row)? };
        usage.rows.push(UsageRow { key, sums: sums(row)? });
    }
    Ok(usage)
}

/// One row of the table, with the tenant it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DayRow {
    pub tenant: TenantName,
    pub function: FunctionName,
    pub currency: Currency,
    pub day: Day,
    pub sums: Sums,
}

const DAY_COLUMNS: &str = "tenant, day, function, currency, invocations, deployments, guest_cpu_ns, inference_cpu_ns, \
     cold_start_cpu_ns, outbound_cpu_ns, handler_cpu_ns, deploy_cpu_ns, memory_gb_s, memory_byte_ns, bytes_in, \
     bytes_out, charge_units, charge_attos";

fn day_row(row: &SqliteRow) -> Result<DayRow, DbError> {
    let wide = |[units, parts]: [&str; 2]| -> Result<i128, DbError> {
        Ok(i128::from(row.try_get::<i64, _>(units)?) * UNIT + i128::from(row.try_get::<i64, _>(parts)?))
    };
    Ok(DayRow {
        tenant: row.try_get::<&str, _>("tenant")?.parse().map_err(damaged)?,
        function: row.try_get::<&str, _>("function")?.parse().map_err(damaged)?,
        currency: currency(row)?,
        day: Day(row.try_get("day")?),
        sums: Sums {
            invocations: unsigned(row, "invocations")?,
            deployments: unsigned(row, "deployments")?,
            guest_cpu_ns: unsigned(row, "guest_cpu_ns")?,
            inference_cpu_ns: unsigned(row, "inference_cpu_ns")?,
            cold_start_cpu_ns: unsigned(row, "cold_start_cpu_ns")?,
            outbound_cpu_ns: unsigned(row, "outbound_cpu_ns")?,
            handler_cpu_ns: unsigned(row, "handler_cpu_ns")?,
            deploy_cpu_ns: unsigned(row, "deploy_cpu_ns")?,
            memory_byte_ns: wide(WIDE[0])?,
            bytes_in: unsigned(row, "bytes_in")?,
            bytes_out: unsigned(row, "bytes_out")?,
            charge: Charge::from_attos(wide(WIDE[1])?),
        },
    })
}

/// Days before one, of any tenant; at most `limit`.
pub async fn days_before(
    connection: &mut SqliteConnection,
    before: Day,
    limit: i64,
) -> Result<Vec<DayRow>, LedgerError> {
    let sql =
        format!("SELECT {DAY_COLUMNS} FROM usage_days WHERE period = 'day' AND day < ? ORDER BY day LIMIT ?");
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(before.0).bind(limit).fetch_all(connection).await?;
    Ok(rows.iter().map(day_row).collect::<Result<_, _>>()?)
}

/// The first day row after one (by tenant, day, function and currency) whose day is in `days`.
pub async fn day_after(
    connection: &mut SqliteConnection,
    after: Option<&DayRow>,
    days: std::ops::Range<i64>,
) -> Result<Option<DayRow>, LedgerError> {
    let after = after.map_or(("", i64::MIN, "", ""), |a| {
        (a.tenant.as_str(), a.day.0, a.function.as_str(), a.currency.as_str())
    });
    let sql = format!(
        "SELECT {DAY_COLUMNS} FROM usage_days WHERE period = 'day' AND day >= ? AND day < ?
         AND (tenant, day, period, function, currency) > (?, ?, 'day', ?, ?)
         ORDER BY tenant, day, period, function, currency LIMIT 1"
    );
    let query = sqlx::query(AssertSqlSafe(sql)).bind(days.start).bind(days.end);
    let query = query.bind(after.0).bind(after.1).bind(after.2).bind(after.3);
    let row = query.fetch_optional(connection).await?;
    Ok(row.map(|row| day_row(&row)).transpose()?)
}

/// The sums of a day now.
pub async fn day(connection: &mut SqliteConnection, of: &DayRow) -> Result<Option<DayRow>, LedgerError> {
    let sql = format!(
        "SELECT {DAY_COLUMNS} FROM usage_days
         WHERE tenant = ? AND day = ? AND period = 'day' AND function = ? AND currency = ?"
    );
    let query = sqlx::query(AssertSqlSafe(sql)).bind(of.tenant.as_str()).bind(of.day.0);
    let row = query.bind(of.function.as_str()).bind(of.currency.as_str()).fetch_optional(connection).await?;
    Ok(row.map(|row| day_row(&row)).transpose()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_row_is_read_back_by_reports_of_the_same_kind_alone() {
        let (function, currency): (FunctionName, Currency) =
            ("hello".parse().expect("name"), "USD".parse().expect("code"));
        for (by_day, by_function) in [(true, true), (true, false), (false, true), (false, false)] {
            let key = RowKey {
                day: by_day.then_some((Day(20_779), Period::Month)),
                function: by_function.then(|| function.clone()),
                currency,
            };
            for by in [(true, true), (true, false), (false, true), (false, false)] {
                let parsed = RowKey::parse(&key.to_string(), By { day: by.0, function: by.1 });
                assert_eq!(parsed, (by == (by_day, by_function)).then(|| key.clone()));
            }
        }
        for bad in [
            "",
            ".",
            "x.day.hello.USD",
            "1.week.hello.USD",
            "1.day.Hello.USD",
            "1.day.hello.US",
            "1.day.hello.USD.",
        ] {
            assert_eq!(RowKey::parse(bad, By { day: true, function: true }), None, "{bad}");
        }
    }
}
