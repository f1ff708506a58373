//! What single invocations cost, and how long their phases took.

use super::extract::{Params, Scope, Segments, invalid_query};
use super::problem::Refusals;
use super::{ControlState, Problem, time};
use crate::ledger::LIST_MAX;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use vesta_core::{FunctionName, InvocationId, UsageRecord};

const LIST_DEFAULT: u32 = 50;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// The tenant to act on: for operators.
    #[allow(dead_code, reason = "read by Scope")]
    tenant: Option<String>,
    /// Only of this function, which may have been deleted since.
    function: Option<String>,
    /// 1 to 1000; 50 where it is left out.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// A usage record: what one invocation used, how long its phases took, and what it was charged.
#[derive(Serialize, ToSchema)]
pub struct Invocation {
    #[serde(flatten)]
    #[schema(value_type = Record)]
    record: UsageRecord,
    started_at: String,
    /// All CPU time that is billed, in whole microseconds: as `Vesta-Billed-CPU-Us` said.
    billed_cpu_us: u64,
    /// ISO 4217.
    currency: String,
}

/// The fields of [`UsageRecord`], for the API's description.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its schema is used")]
#[schema(as = UsageRecord)]
struct Record {
    /// A ULID.
    id: String,
    tenant: String,
    function: String,
    version: u32,
    started_unix_ns: i64,
    /// `ok`, `guest_error`, `trap`, `out_of_memory`, `cpu_limit`, `model_memory`, `inference_limit`,
    /// `model_crashed`,
    /// `wall_limit`, `response_limit`, `request_limit`, `client_gone`, `start_failed`, `host_memory` or
    /// `platform_error`.
    outcome: String,
    /// The HTTP status sent to the client.
    status: u16,
    /// Whether this request triggered a cold start.
    cold: bool,
    /// How many times a model ran.
    inferences: u32,
    guest_cpu_ns: u64,
    inference_cpu_ns: u64,
    cold_start_cpu_ns: u64,
    /// The most that the instance held at once: its linear memories and its tensors at the host.
    peak_memory_bytes: u64,
    /// The most that a run of a model held beyond the model's weights; held for `infer_ns`.
    model_memory_peak_bytes: u64,
    memory_ns: u64,
    bytes_in: u64,
    bytes_out: u64,
    queue_ns: u64,
    cold_ns: u64,
    cold_code_ns: u64,
    cold_model_ns: u64,
    guest_ns: u64,
    infer_ns: u64,
    total_ns: u64,
    /// A decimal number with 18 places.
    charge: String,
}

#[derive(Serialize, ToSchema)]
pub struct Invocations {
    invocations: Vec<Invocation>,
}

impl Invocation {
    fn new(record: UsageRecord, currency: &str) -> Self {
        Self {
            started_at: time::from_unix_ns(record.started_unix_ns),
            billed_cpu_us: record.quantities.billed_cpu_ns() / 1_000,
            currency: currency.to_owned(),
            record,
        }
    }
}

/// A tenant's latest invocations, newest first
#[utoipa::path(
    get, path = "/api/v1/invocations", tag = "usage",
    operation_id = "list_invocations", params(ListParams),
    responses((status = 200, body = Invocations), Refusals)
)]
pub async fn list(
    State(state): State<ControlState>,
    scope: Scope,
    Params(params): Params<ListParams>,
) -> Result<Json<Invocations>, Problem> {
    let function = params.function.map(|f| f.parse::<FunctionName>()).transpose();
    let function = function.map_err(|e| invalid_query(&e.to_string()).with_field("function"))?;
    let limit = limit(params.limit, LIST_DEFAULT, LIST_MAX)?;
    let records = state.ledger.list(&scope.tenant, function.as_ref(), limit).await?;
    let invocations = records.into_iter().map(|r| Invocation::new(r, &state.currency)).collect();
    Ok(Json(Invocations { invocations }))
}

/// What an invocation cost
#[utoipa::path(
    get, path = "/api/v1/invocations/{id}", tag = "usage",
    operation_id = "get_invocation",
    params(
        ("id" = String, Path, description = "As `Vesta-Invocation-Id` said"),
        ("tenant" = Option<String>, Query, description = "The tenant to act on: for operators"),
    ),
    responses((status = 200, body = Invocation), Refusals)
)]
pub async fn get(
    State(state): State<ControlState>,
    scope: Scope,
    Segments(id): Segments<String>,
) -> Result<Json<Invocation>, Problem> {
    let id: InvocationId = id.parse().map_err(|e| Problem::from(e).with_field("id"))?;
    let record = state.ledger.find(id).await?.filter(|r| r.tenant == scope.tenant);
    let detail = "there is no record of this invocation, or not any more";
    let record = record.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "no-such-invocation", detail))?;
    Ok(Json(Invocation::new(record, &state.currency)))
}

/// A limit within its bounds.
pub fn limit(asked: Option<u32>, default: u32, max: u32) -> Result<u32, Problem> {
    match asked.unwrap_or(default) {
        limit if (1..=max).contains(&limit) => Ok(limit),
        limit => {
            let detail = format!("limit = {limit} is out of bounds: 1 to {max}");
            Err(invalid_query(&detail).with_field("limit"))
        }
    }
}
