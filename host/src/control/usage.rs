//! What a tenant has used, and what it costs.

use super::extract::{Params, Scope, invalid_query};
use super::invocations::{Watermark, limit};
use super::problem::{Busy, Refusals};
use super::{ControlState, Problem, time};
use crate::ledger::{By, Day, LIST_MAX, RowKey, Sums, UsageQuery, UsageRow};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsageParams {
    /// The tenant to act on: for operators.
    #[allow(dead_code, reason = "read by Scope")]
    tenant: Option<String>,
    /// First day, `YYYY-MM-DD` in UTC. Everything from the beginning where it is left out.
    from: Option<String>,
    /// Last day, included. Everything up to now where it is left out. A month counts on its first day.
    to: Option<String>,
    /// What rows are told apart by: `function`, `day` or `function,day`; `function` where it is left out.
    by: Option<String>,
    /// `next` of the page before; the other parameters are the same.
    cursor: Option<String>,
    /// Most rows: 1 to 1000; 1000 where it is left out.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

#[derive(Serialize, ToSchema)]
pub struct Usage {
    /// ISO 4217 code of the price plan in force.
    currency: String,
    /// By day, then by function, then by currency.
    rows: Vec<Row>,
    /// `cursor` of the next page, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// The sum of the rows of all pages in the currency of the price plan in force. On the first page only.
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<Totals>,
    /// The sum of the rows of all pages in each currency. On the first page only.
    #[serde(skip_serializing_if = "Option::is_none")]
    totals: Option<Vec<CurrencyTotals>>,
    #[serde(flatten)]
    watermark: Watermark,
}

#[derive(Serialize, ToSchema)]
pub struct CurrencyTotals {
    /// ISO 4217.
    currency: String,
    #[serde(flatten)]
    sums: Totals,
}

#[derive(Serialize, ToSchema)]
pub struct Row {
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<String>,
    /// The day, in UTC, on which the invocations started; of a month the first day.
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<String>,
    /// `day`, or `month`: days become months once all of their month is older than 400 days.
    #[serde(skip_serializing_if = "Option::is_none")]
    period: Option<&'static str>,
    /// Of `charge`: the currency of the price plan that was in force at the time.
    currency: String,
    #[serde(flatten)]
    sums: Totals,
}

#[derive(Serialize, ToSchema)]
pub struct Totals {
    invocations: u64,
    /// Deployments that ended, failed ones included.
    deployments: u64,
    guest_cpu_ns: u64,
    inference_cpu_ns: u64,
    cold_start_cpu_ns: u64,
    /// CPU time of the host for calls to other hosts.
    outbound_cpu_ns: u64,
    /// CPU time of the host itself for invocations.
    handler_cpu_ns: u64,
    /// CPU time of deployments.
    deploy_cpu_ns: u64,
    /// Gigabytes (10^9 bytes) of instances and of models' runs, times seconds: a decimal number with 18
    /// places.
    memory_gb_s: String,
    bytes_in: u64,
    bytes_out: u64,
    /// In the currency: a decimal number with 18 places, the exact sum of the records.
    charge: String,
}

impl From<Sums> for Totals {
    fn from(s: Sums) -> Self {
        Self {
            invocations: s.invocations,
            deployments: s.deployments,
            guest_cpu_ns: s.guest_cpu_ns,
            inference_cpu_ns: s.inference_cpu_ns,
            cold_start_cpu_ns: s.cold_start_cpu_ns,
            outbound_cpu_ns: s.outbound_cpu_ns,
            handler_cpu_ns: s.handler_cpu_ns,
            deploy_cpu_ns: s.deploy_cpu_ns,
            memory_gb_s: s.memory_gb_s(),
            bytes_in: s.bytes_in,
            bytes_out: s.bytes_out,
            charge: s.charge.to_string(),
        }
    }
}

impl From<UsageRow> for Row {
    fn from(row: UsageRow) -> Self {
        Self {
            function: row.key.function.map(String::from),
            day: row.key.day.map(|(day, _)| time::from_day(day)),
            period: row.key.day.map(|(_, period)| period.as_str()),
            currency: row.key.currency.to_string(),
            sums: row.sums.into(),
        }
    }
}

/// What a tenant has used
///
/// Holds every invocation whose response has ended before the question, or says since when it does not
/// (`complete`, `as_of`).
#[utoipa::path(
    get, path = "/api/v1/usage", tag = "usage",
    operation_id = "get_usage", params(UsageParams),
    responses((status = 200, body = Usage), Refusals, Busy)
)]
pub async fn report(
    State(state): State<ControlState>,
    scope: Scope,
    Params(params): Params<UsageParams>,
) -> Result<Response, Problem> {
    let (from, to) = (day("from", params.from.as_deref())?, day("to", params.to.as_deref())?);
    let by = by(params.by.as_deref())?;
    let after = params.cursor.as_deref().map(|cursor| {
        let wrong = "cursor: not the `next` of a page with the same `by`";
        RowKey::parse(cursor, by).ok_or_else(|| invalid_query(wrong).with_field("cursor"))
    });
    let query = UsageQuery {
        from: from.unwrap_or(Day(i64::MIN)),
        to: to.unwrap_or(Day(i64::MAX)),
        by,
        after: after.transpose()?,
        limit: limit(params.limit, LIST_MAX, LIST_MAX)?,
    };
    let first = query.after.is_none();
    let answer = state.ledger.usage(&scope.tenant, query).await?;
    let watermark = Watermark::of(&answer);
    let usage = answer.found;
    let total = usage.totals.get(&state.currency).copied().unwrap_or_default();
    let totals = usage
        .totals
        .iter()
        .map(|(currency, sums)| CurrencyTotals { currency: currency.to_string(), sums: (*sums).into() });
    let page = Usage {
        currency: state.currency.to_string(),
        next: usage.rows.last().filter(|_| usage.more).map(|row| row.key.to_string()),
        total: first.then(|| total.into()),
        totals: first.then(|| totals.collect()),
        rows: usage.rows.into_iter().map(Row::from).collect(),
        watermark: watermark.clone(),
    };
    Ok(watermark.with(page).into_response())
}

fn day(field: &str, text: Option<&str>) -> Result<Option<Day>, Problem> {
    let Some(text) = text.filter(|t| !t.is_empty()) else { return Ok(None) };
    let shown: String = text.chars().take(40).collect();
    let wrong = || invalid_query(&format!("{field}: {shown:?} is not a day, YYYY-MM-DD")).with_field(field);
    time::to_day(text).map(Some).ok_or_else(wrong)
}

fn by(text: Option<&str>) -> Result<By, Problem> {
    let mut by = By::default();
    for part in text.unwrap_or("function").split(',') {
        match part {
            "function" => by.function = true,
            "day" => by.day = true,
            other => {
                let other: String = other.chars().take(40).collect();
                let detail = format!("by: {other:?} is neither \"function\" nor \"day\"");
                return Err(invalid_query(&detail).with_field("by"));
            }
        }
    }
    Ok(by)
}
