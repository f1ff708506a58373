//! API keys. A tenant makes and ends its own; an operator those of any tenant, and the operators'.

use super::extract::{Params, Scope, Segments, operator_only};
use super::problem::{Conflicts, Refusals};
use super::{ControlState, Problem, time};
use crate::tenancy::{KeyInfo, Role};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use vesta_core::TenantName;

#[derive(Clone, Copy, Default, PartialEq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyRole {
    Operator,
    #[default]
    Tenant,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct KeyParams {
    /// The tenant to act on: for operators.
    #[allow(dead_code, reason = "read by Scope")]
    tenant: Option<String>,
    /// `operator` for the operators' own keys: for operators.
    #[serde(default)]
    #[param(inline)]
    role: KeyRole,
}

#[derive(Serialize, ToSchema)]
pub struct Key {
    prefix: String,
    /// `operator` or `tenant`.
    role: &'static str,
    tenant: Option<String>,
    created_at: String,
}

impl From<KeyInfo> for Key {
    fn from(k: KeyInfo) -> Self {
        Self {
            prefix: k.prefix,
            role: k.role.as_str(),
            tenant: k.tenant.map(String::from),
            created_at: time::from_unix_ms(k.created_unix_ms),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub struct Keys {
    keys: Vec<Key>,
}

#[derive(Serialize, ToSchema)]
pub struct CreatedKey {
    prefix: String,
    /// The key: shown this once.
    key: String,
}

/// Whose keys are meant: a tenant's, or the operators'.
fn owner(scope: Scope, params: &KeyParams) -> Result<Option<TenantName>, Problem> {
    match (params.role, scope.identity.role) {
        (KeyRole::Tenant, _) => Ok(Some(scope.tenant)),
        (KeyRole::Operator, Role::Operator) => Ok(None),
        (KeyRole::Operator, Role::Tenant) => Err(operator_only()),
    }
}

/// The keys in force, oldest first
#[utoipa::path(
    get, path = "/api/v1/keys", tag = "keys",
    operation_id = "list_keys", params(KeyParams),
    responses((status = 200, body = Keys), Refusals)
)]
pub async fn list(
    State(state): State<ControlState>,
    scope: Scope,
    Params(params): Params<KeyParams>,
) -> Result<Json<Keys>, Problem> {
    let owner = owner(scope, &params)?;
    let keys = state.tenancy.list_keys(owner.as_ref()).into_iter().map(Key::from).collect();
    Ok(Json(Keys { keys }))
}

/// Make a key
#[utoipa::path(
    post, path = "/api/v1/keys", tag = "keys",
    operation_id = "create_key", params(KeyParams),
    responses((status = 201, body = CreatedKey), Refusals, Conflicts)
)]
pub async fn create(
    State(state): State<ControlState>,
    scope: Scope,
    Params(params): Params<KeyParams>,
) -> Result<(StatusCode, Json<CreatedKey>), Problem> {
    let key = state.tenancy.create_key(owner(scope, &params)?, state.clock.as_ref()).await?;
    Ok((StatusCode::CREATED, Json(CreatedKey { prefix: key.prefix, key: key.key })))
}

/// End a key: it is refused from now on
#[utoipa::path(
    delete, path = "/api/v1/keys/{prefix}", tag = "keys",
    operation_id = "revoke_key",
    params(("prefix" = String, Path, description = "The 12 characters after `vk_`"), KeyParams),
    responses((status = 204, description = "Ended"), Refusals, Conflicts)
)]
pub async fn revoke(
    State(state): State<ControlState>,
    scope: Scope,
    Segments(prefix): Segments<String>,
    Params(params): Params<KeyParams>,
) -> Result<StatusCode, Problem> {
    let prefix = prefix.strip_prefix("vk_").unwrap_or(&prefix);
    let owner = owner(scope, &params)?;
    state.tenancy.revoke_key(owner.as_ref(), prefix, state.clock.as_ref()).await?;
    Ok(StatusCode::NO_CONTENT)
}
