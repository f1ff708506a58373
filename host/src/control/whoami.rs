//! Whose key this is.

use super::extract::Caller;
use super::problem::Refusals;
use super::{ControlState, Problem};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

#[derive(Serialize, ToSchema)]
pub struct WhoAmI {
    /// `operator` or `tenant`.
    role: &'static str,
    /// The key's tenant; null for an operator.
    tenant: Option<String>,
    key_prefix: String,
    /// Where invocations go.
    invoke_url: String,
}

/// Whose key this is
#[utoipa::path(
    get, path = "/api/v1/whoami", tag = "keys",
    operation_id = "whoami",
    responses((status = 200, body = WhoAmI), Refusals)
)]
pub async fn whoami(State(state): State<ControlState>, Caller(me): Caller) -> Result<Json<WhoAmI>, Problem> {
    Ok(Json(WhoAmI {
        role: me.role.as_str(),
        tenant: me.tenant.as_ref().map(ToString::to_string),
        key_prefix: me.key_prefix.clone(),
        invoke_url: state.invoke_base_url.clone(),
    }))
}
