//! The control API: functions, versions, aliases, tenants, keys, usage. One file a resource.
//!
//! `host/openapi.json` is made from this code; a test holds the two together.

mod aliases;
mod deployments;
mod extract;
mod functions;
mod in_time;
mod invocations;
mod keys;
mod logs;
mod packages;
mod price_plans;
mod problem;
mod tenants;
mod time;
mod usage;
mod whoami;

pub use extract::changes;
pub use problem::Problem;

use crate::artifact::deploy::Deployments;
use crate::ledger::Ledger;
use crate::registry::Registry;
use crate::telemetry::logs::LogStore;
use crate::tenancy::Tenancy;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use vesta_core::clock::Clock;
use vesta_core::lifecycle::States;
use vesta_core::pace::Pace;
use vesta_core::{Currency, TenantName};

/// What the API acts on.
#[derive(Clone)]
pub struct ControlState {
    pub tenancy: Arc<Tenancy>,
    pub registry: Arc<Registry>,
    pub deployments: Arc<Deployments>,
    pub ledger: Arc<Ledger>,
    pub logs: Arc<LogStore>,
    pub states: Arc<dyn States>,
    pub clock: Arc<dyn Clock>,
    /// Of the changes of each tenant that nobody is billed for.
    pub changes: Arc<Pace<TenantName>>,
    /// Of the price plan in force.
    pub currency: Currency,
    /// Where invocations go, such as `http://127.0.0.1:7070`.
    pub invoke_base_url: String,
    /// Cancelled when the host drains: followers of logs are let go.
    pub drain: CancellationToken,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Vesta control API",
        description = "Deploys functions, moves their aliases, and shows what they cost. Errors are problems of RFC 9457.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    security(("key" = [])),
    modifiers(&BearerKey)
)]
struct Document;

struct BearerKey;

impl utoipa::Modify for BearerKey {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let key = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_with(Default::default).add_security_scheme("key", key);
    }
}

fn api() -> OpenApiRouter<ControlState> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(whoami::whoami))
        .routes(routes!(tenants::list, tenants::create))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::revoke))
        .routes(routes!(deployments::begin))
        .routes(routes!(deployments::get))
        .routes(routes!(deployments::upload))
        .routes(routes!(deployments::commit))
        .routes(routes!(packages::deploy))
        .routes(routes!(functions::list))
        .routes(routes!(functions::get, functions::remove))
        .routes(routes!(functions::get_version, functions::remove_version))
        .routes(routes!(aliases::set, aliases::remove))
        .routes(routes!(logs::read))
        .routes(routes!(usage::report))
        .routes(routes!(price_plans::list))
        .routes(routes!(invocations::list))
        .routes(routes!(invocations::get))
        .routes(routes!(openapi_json))
}

/// All endpoints under `/api/v1`.
pub fn router(state: ControlState) -> axum::Router {
    let (router, _) = api().split_for_parts();
    router
        .method_not_allowed_fallback(async || {
            let detail = "this path does not take this method";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
        })
        .fallback(async || {
            Problem::new(StatusCode::NOT_FOUND, "no-such-endpoint", "the API has no such path")
        })
        .layer(DefaultBodyLimit::max(extract::JSON_BYTES_MAX))
        .with_state(state)
}

/// The API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    api().into_openapi()
}

/// This description
///
/// Needs no key.
#[utoipa::path(
    get, path = "/api/v1/openapi.json", tag = "api",
    operation_id = "get_openapi", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Object, content_type = "application/json"))
)]
async fn openapi_json() -> axum::Json<utoipa::openapi::OpenApi> {
    axum::Json(openapi())
}

#[cfg(test)]
mod tests;
