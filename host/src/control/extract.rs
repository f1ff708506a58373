//! Reading a request: who calls, for which tenant, its parameters and its JSON body.

use super::in_time::{InTime, TooSlow};
use super::{ControlState, Problem};
use crate::tenancy::{DEFAULT_TENANT, Identity, Role};
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use vesta_core::TenantName;
use vesta_core::pace::Pace;

/// Longest JSON body, in bytes.
pub const JSON_BYTES_MAX: usize = 1 << 20;

/// Anyone with a key in force.
pub struct Caller(pub Arc<Identity>);

impl FromRequestParts<ControlState> for Caller {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &ControlState) -> Result<Self, Problem> {
        let identity = state.tenancy.identify(parts.headers.get(header::AUTHORIZATION))?;
        let missing = "send an API key: `Authorization: Bearer vk_...`";
        identity.map(Caller).ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "no-key", missing))
    }
}

/// Someone with an operator's key.
pub struct Operator;

impl FromRequestParts<ControlState> for Operator {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &ControlState) -> Result<Self, Problem> {
        let Caller(identity) = Caller::from_request_parts(parts, state).await?;
        match identity.role {
            Role::Operator => Ok(Operator),
            Role::Tenant => Err(operator_only()),
        }
    }
}

pub fn operator_only() -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "operator-only", "this needs the key of an operator")
}

/// The tenant that a request acts on: the key's own, or the one that an operator names with `?tenant=`.
pub struct Scope {
    pub identity: Arc<Identity>,
    pub tenant: TenantName,
}

#[derive(Deserialize)]
struct TenantParameter {
    tenant: Option<String>,
}

impl FromRequestParts<ControlState> for Scope {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &ControlState) -> Result<Self, Problem> {
        let Caller(identity) = Caller::from_request_parts(parts, state).await?;
        let Query(TenantParameter { tenant: named }) =
            Query::try_from_uri(&parts.uri).map_err(|e| invalid_query(&e.body_text()))?;
        let own = identity.tenant.as_ref().map_or(DEFAULT_TENANT, TenantName::as_str);
        let name = named.as_deref().unwrap_or(own);
        let no_tenant = || {
            let name: String = name.chars().take(80).collect();
            Problem::new(StatusCode::NOT_FOUND, "no-such-tenant", format!("there is no tenant {name:?}"))
        };
        let tenant: TenantName = name.parse().map_err(|_| no_tenant())?;
        if !identity.may_act_for(&tenant) || !state.tenancy.tenant_exists(name) {
            return Err(no_tenant());
        }
        if identity.role == Role::Tenant && is_change(parts) {
            let paced = state.changes.take(&tenant, state.clock.now());
            paced.map_err(|wait| too_many_changes(wait.as_secs_f64()))?;
        }
        Ok(Scope { identity, tenant })
    }
}

/// The changes of a tenant (to aliases, keys and functions) that nobody is billed for: so many at once, and
/// then one in each of these times. Each takes half a millisecond of CPU time or so. Deployments are billed,
/// and have bounds of their own, packages in one file until they are looked into excepted; operators have
/// none.
pub fn changes() -> Pace<TenantName> {
    Pace::new(1_000, Duration::from_millis(50))
}

/// Whether a request changes something that nobody is billed for.
fn is_change(parts: &Parts) -> bool {
    let path = parts.uri.path();
    // A package in one file may turn out to be none, and then nobody is billed.
    let is_billed = path.starts_with("/api/v1/deployments");
    !parts.method.is_safe() && !is_billed
}

fn too_many_changes(seconds: f64) -> Problem {
    let detail = format!("too many changes in a short time; the next may be made in {seconds:.2} s");
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-changes", detail)
}

/// Query parameters. One that is unknown or malformed is refused.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<ControlState> for Params<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &ControlState) -> Result<Self, Problem> {
        let Query(params) = Query::try_from_uri(&parts.uri).map_err(|e| invalid_query(&e.body_text()))?;
        Ok(Params(params))
    }
}

/// The named segments of the path.
pub struct Segments<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<ControlState> for Segments<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &ControlState) -> Result<Self, Problem> {
        let segments = Path::from_request_parts(parts, state).await;
        let malformed =
            |e: PathRejection| Problem::new(StatusCode::BAD_REQUEST, "invalid-path", e.body_text());
        segments.map(|Path(segments)| Segments(segments)).map_err(malformed)
    }
}

pub fn invalid_query(detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid-query", detail)
}

/// A JSON body of at most [`JSON_BYTES_MAX`], whatever its Content-Type. An empty body is an empty object.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<ControlState> for Body<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, state: &ControlState) -> Result<Self, Problem> {
        let request = request.map(|body| axum::body::Body::new(InTime::new(body)));
        let bytes = Bytes::from_request(request, state).await.map_err(|e| match e.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                let detail = format!("a JSON body may have {JSON_BYTES_MAX} bytes");
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail)
            }
            _ => match too_slow(&e) {
                Some(slow) => Problem::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", slow),
                None => Problem::new(StatusCode::BAD_REQUEST, "body-broken", "the body could not be read"),
            },
        })?;
        let text: &[u8] = if bytes.iter().all(u8::is_ascii_whitespace) { b"{}" } else { &bytes };
        let mut json = serde_json::Deserializer::from_slice(text);
        let value: T = serde_path_to_error::deserialize(&mut json).map_err(|e| not_readable(&e))?;
        json.end().map_err(|e| malformed(&e))?;
        Ok(Body(value))
    }
}

/// Whether an error comes from a body that was not waited for.
fn too_slow<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e TooSlow> {
    let mut error = Some(error);
    while let Some(this) = error {
        if let Some(slow) = this.downcast_ref() {
            return Some(slow);
        }
        error = this.source();
    }
    None
}

fn malformed(e: &serde_json::Error) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "malformed-json", e)
}

fn not_readable(e: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    if !e.inner().is_data() {
        return malformed(e.inner());
    }
    let path = e.path().to_string();
    let problem = |detail| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-json", detail);
    match path.as_str() {
        "." => problem(e.inner().to_string()),
        _ => problem(format!("{path}: {}", e.inner())).with_field(path),
    }
}
