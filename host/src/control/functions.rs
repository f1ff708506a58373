//! Functions and their versions.

use super::extract::{Scope, Segments};
use super::problem::{Conflicts, Refusals};
use super::{ControlState, Problem, time};
use crate::registry::{Function, RegistryError, Version};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use utoipa::ToSchema;
use vesta_core::TenantName;
use vesta_core::keepalive::Explanation;
use vesta_core::lifecycle::{self, ColdStartParts};
use vesta_core::manifest::PackageManifest;

#[derive(Serialize, ToSchema)]
pub struct FunctionSummary {
    name: String,
    /// The version that the alias `live` points at.
    live: Option<u32>,
    /// How many versions there are.
    versions: usize,
    state: FunctionState,
    /// Whether it may be invoked without a key: as the live version says.
    public: bool,
    created_at: String,
    updated_at: String,
    /// Where the live version is invoked.
    url: String,
}

/// Where the live version stands on this host.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FunctionState {
    Cold,
    Warming,
    Warm,
    Draining,
}

impl From<lifecycle::State> for FunctionState {
    fn from(s: lifecycle::State) -> Self {
        match s {
            lifecycle::State::Cold => FunctionState::Cold,
            lifecycle::State::Warming => FunctionState::Warming,
            lifecycle::State::Warm => FunctionState::Warm,
            lifecycle::State::Draining => FunctionState::Draining,
        }
    }
}

#[derive(Serialize, ToSchema)]
pub struct Functions {
    functions: Vec<FunctionSummary>,
}

#[derive(Serialize, ToSchema)]
pub struct FunctionDetail {
    name: String,
    live: Option<u32>,
    state: FunctionState,
    public: bool,
    created_at: String,
    updated_at: String,
    url: String,
    aliases: BTreeMap<String, u32>,
    /// Oldest first.
    versions: Vec<VersionInfo>,
    /// Versions that the host cannot read from its database; they can only be deleted.
    damaged_versions: Vec<u32>,
    /// How the live version stands on this host. Null until it is asked for.
    standing: Option<Standing>,
}

/// How a version stands on this host: what it holds, why it is kept, until when, and at what cost.
#[derive(Serialize, ToSchema)]
pub struct Standing {
    /// Invocations that run or wait.
    invocations: u32,
    /// Code and models in memory, shared ones included, in bytes; 0 while it is cold.
    resident_bytes: u64,
    /// Whether `scaling.minimum` keeps it warm, whatever the policy says.
    kept_by_minimum: bool,
    /// What the keep-alive policy makes of it. `reason` is `fixed`, `worth`, `prewarm` or `unused`; times are
    /// milliseconds after the last request; `index` is what keeping it saves and `price` what memory costs,
    /// both in milliseconds of cold start per MB (2^20 bytes) and second.
    #[schema(value_type = Object)]
    keep_alive: Explanation,
    /// What its last cold start consisted of.
    #[schema(value_type = Option<Object>)]
    cold_start: Option<ColdStartParts>,
    /// Why it could not be started, while another start is not tried.
    refused: Option<Refused>,
    /// Its models that are not run for a while, since the processes that ran them ended again and again.
    models_set_aside: Vec<SetAside>,
}

#[derive(Serialize, ToSchema)]
pub struct SetAside {
    model: String,
    reason: String,
    retry_after_ms: u64,
}

#[derive(Serialize, ToSchema)]
pub struct Refused {
    reason: String,
    retry_after_ms: u64,
}

/// Whole milliseconds.
fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl From<lifecycle::SetAside> for SetAside {
    fn from(s: lifecycle::SetAside) -> Self {
        SetAside { model: s.model, reason: s.reason, retry_after_ms: ms(s.retry_after) }
    }
}

impl From<lifecycle::Standing> for Standing {
    fn from(s: lifecycle::Standing) -> Self {
        Standing {
            invocations: s.users,
            resident_bytes: s.resident_bytes,
            kept_by_minimum: s.is_kept,
            keep_alive: s.keep_alive,
            cold_start: s.cold_start,
            refused: s
                .refused
                .map(|r| Refused { reason: r.reason.to_string(), retry_after_ms: ms(r.retry_after) }),
            models_set_aside: s.models_set_aside.into_iter().map(SetAside::from).collect(),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub struct VersionInfo {
    version: u32,
    created_at: String,
    /// The package manifest, `vesta-package/1`.
    #[schema(value_type = Object)]
    manifest: PackageManifest,
    /// Of each model: name, inputs, outputs.
    #[schema(value_type = Vec<Object>)]
    models: Vec<serde_json::Value>,
}

impl From<&Version> for VersionInfo {
    fn from(v: &Version) -> Self {
        Self {
            version: v.number,
            created_at: time::from_unix_ms(v.created_unix_ms),
            manifest: v.manifest.clone(),
            models: v.models.clone(),
        }
    }
}

/// Without a live version, the newest one stands for the function.
fn shown(f: &Function) -> Option<u32> {
    f.live().or_else(|| f.versions.keys().next_back().copied())
}

impl ControlState {
    fn summary(&self, tenant: &TenantName, f: &Function) -> FunctionSummary {
        let shown = shown(f);
        let state = shown.map(|n| self.states.state(tenant, &f.name, n)).unwrap_or(lifecycle::State::Cold);
        let base = self.invoke_base_url.trim_end_matches('/');
        FunctionSummary {
            name: f.name.to_string(),
            live: f.live(),
            versions: f.versions.len(),
            state: state.into(),
            public: shown.and_then(|n| f.versions.get(&n)).is_some_and(|v| v.manifest.public),
            created_at: time::from_unix_ms(f.created_unix_ms),
            updated_at: time::from_unix_ms(f.updated_unix_ms),
            url: format!("{base}/fn/{tenant}/{}", f.name),
        }
    }

    /// A function in full: also the answer when its aliases have changed.
    pub(super) fn detail(&self, tenant: &TenantName, f: &Function) -> FunctionDetail {
        let s = self.summary(tenant, f);
        FunctionDetail {
            name: s.name,
            live: s.live,
            state: s.state,
            public: s.public,
            created_at: s.created_at,
            updated_at: s.updated_at,
            url: s.url,
            aliases: f.aliases.iter().map(|(alias, n)| (alias.to_string(), *n)).collect(),
            versions: f.versions.values().map(|v| VersionInfo::from(v.as_ref())).collect(),
            damaged_versions: f.damaged.iter().copied().collect(),
            standing: shown(f).and_then(|n| self.states.standing(tenant, &f.name, n)).map(Standing::from),
        }
    }
}

/// All functions of a tenant, by name
#[utoipa::path(
    get, path = "/api/v1/functions", tag = "functions",
    operation_id = "list_functions",
    params(("tenant" = Option<String>, Query, description = "The tenant to act on: for operators")),
    responses((status = 200, body = Functions), Refusals)
)]
pub async fn list(State(state): State<ControlState>, scope: Scope) -> Json<Functions> {
    let all = state.registry.list(&scope.tenant);
    Json(Functions { functions: all.iter().map(|f| state.summary(&scope.tenant, f)).collect() })
}

/// A function with its versions and aliases
#[utoipa::path(
    get, path = "/api/v1/functions/{name}", tag = "functions",
    operation_id = "get_function",
    params(
        ("name" = String, Path),
        ("tenant" = Option<String>, Query, description = "The tenant to act on: for operators"),
    ),
    responses((status = 200, body = FunctionDetail), Refusals)
)]
pub async fn get(
    State(state): State<ControlState>,
    scope: Scope,
    Segments(name): Segments<String>,
) -> Result<Json<FunctionDetail>, Problem> {
    let function = state.registry.get(&scope.tenant, &name)?;
    Ok(Json(state.detail(&scope.tenant, &function)))
}

/// Delete a function with its versions and aliases
///
/// Its usage records stay.
#[utoipa::path(
    delete, path = "/api/v1/functions/{name}", tag = "functions",
    operation_id = "delete_function",
    params(
        ("name" = String, Path),
        ("tenant" = Option<String>, Query, description = "The tenant to act on: for operators"),
    ),
    responses((status = 204, description = "Deleted"), Refusals)
)]
pub async fn remove(
    State(state): State<ControlState>,
    scope: Scope,
    Segments(name): Segments<String>,
) -> Result<StatusCode, Problem> {
    let now = state.clock.unix_ns() / 1_000_000;
    state.registry.remove_function(&scope.tenant, &name, now).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A version
#[utoipa::path(
    get, path = "/api/v1/functions/{name}/versions/{version}", tag = "functions",
    operation_id = "get_version",
    params(
        ("name" = String, Path), ("version" = u32, Path),
        ("tenant" = Option<String>, Query, description = "The tenant to act on: for operators"),
    ),
    responses((status = 200, body = VersionInfo), Refusals)
)]
pub async fn get_version(
    State(state): State<ControlState>,
    scope: Scope,
    Segments((name, version)): Segments<(String, String)>,
) -> Result<Json<VersionInfo>, Problem> {
    let number = version_number(&version)?;
    let function = state.registry.get(&scope.tenant, &name)?;
    let no_version = || RegistryError::NoVersion { function: function.name.clone(), number };
    let version = function.versions.get(&number).ok_or_else(no_version)?;
    Ok(Json(version.as_ref().into()))
}

/// Delete a version to which no alias points
#[utoipa::path(
    delete, path = "/api/v1/functions/{name}/versions/{version}", tag = "functions",
    operation_id = "delete_version",
    params(
        ("name" = String, Path), ("version" = u32, Path),
        ("tenant" = Option<String>, Query, description = "The tenant to act on: for operators"),
    ),
    responses((status = 204, description = "Deleted"), Refusals, Conflicts)
)]
pub async fn remove_version(
    State(state): State<ControlState>,
    scope: Scope,
    Segments((name, version)): Segments<(String, String)>,
) -> Result<StatusCode, Problem> {
    let number = version_number(&version)?;
    let now = state.clock.unix_ns() / 1_000_000;
    state.registry.remove_version(&scope.tenant, &name, number, now).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn version_number(text: &str) -> Result<u32, Problem> {
    let detail = "a version is a number from 1";
    text.parse().map_err(|_| Problem::new(StatusCode::NOT_FOUND, "no-such-version", detail))
}
