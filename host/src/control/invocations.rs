//! What single invocations cost, and how long their phases took.

use super::extract::{Params, Scope, Segments, invalid_query};
use super::problem::{Busy, Refusals};
use super::{ControlState, Problem, time};
use crate::ledger::{Answer, LIST_MAX};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use vesta_core::usage::Kind;
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
    /// Records of which kind: `invocation`, or `deployment`; `invocation` where it is left out.
    kind: Option<String>,
    /// 1 to 1000; 50 where it is left out.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Only invocations before this one: `next` of the page before.
    before: Option<String>,
}

/// How far an answer can be relied on.
#[derive(Clone, Serialize, ToSchema)]
pub struct Watermark {
    /// Whether every invocation is in the answer whose response had ended when it was asked for. `false`: the
    /// ledger lags behind, and later ones than `as_of` may be missing.
    complete: bool,
    /// Every invocation is in the answer whose response had ended by then.
    as_of: String,
}

/// The same as headers.
const COMPLETE: HeaderName = HeaderName::from_static("vesta-ledger-complete");
const AS_OF: HeaderName = HeaderName::from_static("vesta-ledger-as-of");

impl Watermark {
    pub fn of<T>(answer: &Answer<T>) -> Self {
        Self { complete: answer.complete, as_of: time::from_unix_ns(answer.as_of_unix_ns) }
    }

    /// The answer as JSON with its headers.
    pub fn with(self, answer: impl Serialize) -> impl IntoResponse {
        let complete = if self.complete { "true" } else { "false" };
        ([(COMPLETE, complete.to_owned()), (AS_OF, self.as_of)], Json(answer))
    }
}

/// A usage record: what one invocation or deployment used, how long its phases took, and what it was charged.
#[derive(Serialize, ToSchema)]
pub struct Invocation {
    #[serde(flatten)]
    #[schema(value_type = Record)]
    record: UsageRecord,
    started_at: String,
    /// All CPU time that is billed, in whole microseconds: as `Vesta-Billed-CPU-Us` said.
    billed_cpu_us: u64,
}

/// The fields of [`UsageRecord`], for the API's description.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its schema is used")]
#[schema(as = UsageRecord)]
struct Record {
    /// A ULID.
    id: String,
    /// `invocation` or `deployment`. A deployment's id is that of its record.
    kind: String,
    tenant: String,
    function: String,
    /// The version that ran, or that came of the deployment; 0 where none did.
    version: u32,
    started_unix_ns: i64,
    /// `ok`, `guest_error`, `trap`, `out_of_memory`, `cpu_limit`, `model_memory`, `inference_limit`,
    /// `model_crashed`,
    /// `wall_limit`, `response_limit`, `request_limit`, `client_gone`, `start_failed`, `host_memory`,
    /// `platform_error`, or, of deployments, `refused`.
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
    /// CPU time of the host for the guest's calls to other hosts.
    outbound_cpu_ns: u64,
    /// CPU time of the host itself, from the head of the request to this record.
    handler_cpu_ns: u64,
    /// CPU time of a deployment.
    deploy_cpu_ns: u64,
    /// The most that the instance held at once: its linear memories and its tensors at the host.
    peak_memory_bytes: u64,
    /// The most that a run of a model held beyond the model's weights; held for `model_memory_ns`.
    model_memory_peak_bytes: u64,
    /// How long the invocation held its memory: computing, or waiting for its own input and output.
    memory_ns: u64,
    /// How long its models computed.
    model_memory_ns: u64,
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
    /// Of `charge`: ISO 4217.
    currency: String,
    /// The price plan that `charge` was computed by; `null` for records from before plans were recorded.
    price_plan: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct Invocations {
    invocations: Vec<Invocation>,
    /// `before` of the next page, where there may be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    #[serde(flatten)]
    watermark: Watermark,
}

impl Invocation {
    fn new(record: UsageRecord) -> Self {
        Self {
            started_at: time::from_unix_ns(record.started_unix_ns),
            billed_cpu_us: record.quantities.billed_cpu_ns() / 1_000,
            record,
        }
    }
}

/// A tenant's latest invocations, newest first
#[utoipa::path(
    get, path = "/api/v1/invocations", tag = "usage",
    operation_id = "list_invocations", params(ListParams),
    responses((status = 200, body = Invocations), Refusals, Busy)
)]
pub async fn list(
    State(state): State<ControlState>,
    scope: Scope,
    Params(params): Params<ListParams>,
) -> Result<Response, Problem> {
    let function = params.function.map(|f| f.parse::<FunctionName>()).transpose();
    let function = function.map_err(|e| invalid_query(&e.to_string()).with_field("function"))?;
    let before = params.before.map(|id| id.parse::<InvocationId>()).transpose();
    let before = before.map_err(|e| invalid_query(&format!("before: {e}")).with_field("before"))?;
    let kind = kind(params.kind.as_deref())?;
    let limit = limit(params.limit, LIST_DEFAULT, LIST_MAX)?;
    let answer = state.ledger.list(&scope.tenant, kind, function, before, limit).await?;
    let watermark = Watermark::of(&answer);
    let records = answer.found;
    let next = records.last().filter(|_| records.len() == limit as usize).map(|last| last.id.to_string());
    let invocations = records.into_iter().map(Invocation::new).collect();
    let page = Invocations { invocations, next, watermark: watermark.clone() };
    Ok(watermark.with(page).into_response())
}

/// What an invocation cost
///
/// Where the ledger lags behind and may lack the record, the answer is 503 and not 404.
#[utoipa::path(
    get, path = "/api/v1/invocations/{id}", tag = "usage",
    operation_id = "get_invocation",
    params(
        ("id" = String, Path, description = "As `Vesta-Invocation-Id` said"),
        ("tenant" = Option<String>, Query, description = "The tenant to act on: for operators"),
    ),
    responses((status = 200, body = Invocation), Refusals, Busy)
)]
pub async fn get(
    State(state): State<ControlState>,
    scope: Scope,
    Segments(id): Segments<String>,
) -> Result<Response, Problem> {
    let id: InvocationId = id.parse().map_err(|e| Problem::from(e).with_field("id"))?;
    let answer = state.ledger.find(&scope.tenant, id).await?;
    let watermark = Watermark::of(&answer);
    let missing = || match answer.complete {
        true => {
            let detail = "there is no record of this invocation, or not any more";
            Problem::new(StatusCode::NOT_FOUND, "no-such-invocation", detail)
        }
        false => {
            let detail = format!("the ledger has what had ended by {}; try again", watermark.as_of);
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "ledger-lags", detail)
        }
    };
    let record = answer.found.ok_or_else(missing)?;
    Ok(watermark.with(Invocation::new(record)).into_response())
}

fn kind(name: Option<&str>) -> Result<Kind, Problem> {
    let Some(name) = name else { return Ok(Kind::default()) };
    let shown: String = name.chars().take(40).collect();
    let detail = format!("kind: {shown:?} is neither \"invocation\" nor \"deployment\"");
    Kind::from_name(name).ok_or_else(|| invalid_query(&detail).with_field("kind"))
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
