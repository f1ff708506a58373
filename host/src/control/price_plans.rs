//! The price plans that records name.

use super::extract::Caller;
use super::problem::{Busy, Refusals};
use super::{ControlState, Problem, time};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

/// A price plan that the host has started with.
#[derive(Serialize, ToSchema)]
pub struct Plan {
    /// As a record's `price_plan`: the first 12 hexadecimal digits of the SHA-256 of `text`.
    id: String,
    /// The plan as TOML: the rule by which charges are computed, the currency, and each price.
    text: String,
    /// When the host first started with it.
    first_used_at: String,
}

#[derive(Serialize, ToSchema)]
pub struct Plans {
    price_plans: Vec<Plan>,
}

/// The price plans that the host has started with, the newest first
///
/// At most 1,000. With them the charge of every record can be recomputed.
#[utoipa::path(
    get, path = "/api/v1/price-plans", tag = "usage",
    operation_id = "list_price_plans",
    responses((status = 200, body = Plans), Refusals, Busy)
)]
pub async fn list(State(state): State<ControlState>, _: Caller) -> Result<Json<Plans>, Problem> {
    let plans = state.ledger.plans().await?.into_iter().map(|plan| Plan {
        id: plan.id,
        text: plan.text,
        first_used_at: time::from_unix_ms(plan.first_used_unix_ms),
    });
    Ok(Json(Plans { price_plans: plans.collect() }))
}
