//! What a tenant has used, and what it costs.

use super::extract::{Params, Scope, invalid_query};
use super::problem::Refusals;
use super::{ControlState, Problem, time};
use crate::ledger::{By, Day, Sums, UsageRow};
use axum::Json;
use axum::extract::State;
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
    /// Last day, included. Everything up to now where it is left out.
    to: Option<String>,
    /// What rows are told apart by: `function`, `day` or `function,day`; `function` where it is left out.
    by: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct Usage {
    /// ISO 4217.
    currency: String,
    /// By day, then by function.
    rows: Vec<Row>,
    total: Totals,
}

#[derive(Serialize, ToSchema)]
pub struct Row {
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<String>,
    /// The day, in UTC, on which the invocations started.
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<String>,
    #[serde(flatten)]
    sums: Totals,
}

#[derive(Serialize, ToSchema)]
pub struct Totals {
    invocations: u64,
    guest_cpu_ns: u64,
    inference_cpu_ns: u64,
    cold_start_cpu_ns: u64,
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
            guest_cpu_ns: s.guest_cpu_ns,
            inference_cpu_ns: s.inference_cpu_ns,
            cold_start_cpu_ns: s.cold_start_cpu_ns,
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
            function: row.function.map(String::from),
            day: row.day.map(time::from_day),
            sums: row.sums.into(),
        }
    }
}

/// What a tenant has used
///
/// Holds every invocation whose response has ended before the question.
#[utoipa::path(
    get, path = "/api/v1/usage", tag = "usage",
    operation_id = "get_usage", params(UsageParams),
    responses((status = 200, body = Usage), Refusals)
)]
pub async fn report(
    State(state): State<ControlState>,
    scope: Scope,
    Params(params): Params<UsageParams>,
) -> Result<Json<Usage>, Problem> {
    let (from, to) = (day("from", params.from.as_deref())?, day("to", params.to.as_deref())?);
    let by = by(params.by.as_deref())?;
    let usage = state.ledger.usage(&scope.tenant, from, to, by).await?;
    Ok(Json(Usage {
        currency: state.currency.clone(),
        rows: usage.rows.into_iter().map(Row::from).collect(),
        total: usage.total.into(),
    }))
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
