//! Aliases: rollback is moving `live` back.

use super::extract::{Body, Scope, Segments};
use super::functions::FunctionDetail;
use super::problem::{Conflicts, Refusals};
use super::{ControlState, Problem};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;
use vesta_core::id::AliasName;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The version that the alias will point at.
    version: u32,
}

/// Point an alias at a version
#[utoipa::path(
    put, path = "/api/v1/functions/{name}/aliases/{alias}", tag = "functions",
    operation_id = "set_alias",
    params(
        ("name" = String, Path), ("alias" = String, Path),
        ("tenant" = Option<String>, Query, description = "The tenant to act on: for operators"),
    ),
    request_body = Target,
    responses((status = 200, body = FunctionDetail), Refusals, Conflicts)
)]
pub async fn set(
    State(state): State<ControlState>,
    scope: Scope,
    Segments((name, alias)): Segments<(String, String)>,
    Body(target): Body<Target>,
) -> Result<Json<FunctionDetail>, Problem> {
    let alias = parse(&alias)?;
    let now = state.clock.unix_ns() / 1_000_000;
    let function = state.registry.set_alias(&scope.tenant, &name, alias, target.version, now).await?;
    Ok(Json(state.detail(&scope.tenant, &function)))
}

/// Remove an alias; `live` stays
#[utoipa::path(
    delete, path = "/api/v1/functions/{name}/aliases/{alias}", tag = "functions",
    operation_id = "delete_alias",
    params(
        ("name" = String, Path), ("alias" = String, Path),
        ("tenant" = Option<String>, Query, description = "The tenant to act on: for operators"),
    ),
    responses((status = 204, description = "Removed"), Refusals, Conflicts)
)]
pub async fn remove(
    State(state): State<ControlState>,
    scope: Scope,
    Segments((name, alias)): Segments<(String, String)>,
) -> Result<StatusCode, Problem> {
    let alias = parse(&alias)?;
    let now = state.clock.unix_ns() / 1_000_000;
    state.registry.remove_alias(&scope.tenant, &name, &alias, now).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn parse(alias: &str) -> Result<AliasName, Problem> {
    alias.parse().map_err(|e| Problem::from(e).with_field("alias"))
}
