//! Tenants: the operator's affair.

use super::extract::{Body, Operator};
use super::problem::{Conflicts, Refusals};
use super::{ControlState, Problem, time};
use crate::tenancy::TenantInfo;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vesta_core::TenantName;

#[derive(Serialize, ToSchema)]
pub struct Tenant {
    name: String,
    created_at: String,
}

impl From<TenantInfo> for Tenant {
    fn from(t: TenantInfo) -> Self {
        Self { name: t.name.to_string(), created_at: time::from_unix_ms(t.created_unix_ms) }
    }
}

#[derive(Serialize, ToSchema)]
pub struct Tenants {
    tenants: Vec<Tenant>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    /// 1 to 63 of a-z, 0-9 and '-'.
    name: String,
}

#[derive(Serialize, ToSchema)]
pub struct CreatedTenant {
    tenant: Tenant,
    /// Its first API key: shown this once.
    key: String,
}

/// All tenants, by name
#[utoipa::path(
    get, path = "/api/v1/tenants", tag = "tenants",
    operation_id = "list_tenants",
    responses((status = 200, body = Tenants), Refusals)
)]
pub async fn list(State(state): State<ControlState>, _: Operator) -> Json<Tenants> {
    let tenants = state.tenancy.list_tenants().into_iter().map(Tenant::from).collect();
    Json(Tenants { tenants })
}

/// Make a tenant and its first key
#[utoipa::path(
    post, path = "/api/v1/tenants", tag = "tenants",
    operation_id = "create_tenant", request_body = NewTenant,
    responses((status = 201, body = CreatedTenant), Refusals, Conflicts)
)]
pub async fn create(
    State(state): State<ControlState>,
    _: Operator,
    Body(new): Body<NewTenant>,
) -> Result<(StatusCode, Json<CreatedTenant>), Problem> {
    let name: TenantName = new.name.parse().map_err(|e| Problem::from(e).with_field("name"))?;
    let (tenant, key) = state.tenancy.create_tenant(name, state.clock.as_ref()).await?;
    Ok((StatusCode::CREATED, Json(CreatedTenant { tenant: tenant.into(), key: key.key })))
}
