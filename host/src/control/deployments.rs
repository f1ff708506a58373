//! Deployments: the manifest first, then only the blobs that are missing, then the commit.

use super::extract::{Body, Scope, Segments};
use super::problem::{Conflicts, Refusals};
use super::{ControlState, Problem};
use crate::artifact::deploy::{self, DeployState, StepState};
use axum::Json;
use axum::body::{Body as Bytes, BodyDataStream};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;
use vesta_core::Digest;
use vesta_core::id::{AliasName, LIVE};
use vesta_core::manifest::PackageManifest;

#[derive(Serialize, ToSchema)]
pub struct Deployment {
    id: String,
    function: String,
    state: DeploymentState,
    /// Blobs that this tenant has not uploaded before.
    missing: Vec<Blob>,
    /// The preparation, in the order in which it runs.
    steps: Vec<Step>,
    /// The version that came of it; null until it is ready.
    version: Option<u32>,
    /// Why it failed; null unless it has.
    #[schema(value_type = Option<Problem>)]
    error: Option<Problem>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeploymentState {
    Uploading,
    Preparing,
    Ready,
    Failed,
}

#[derive(Serialize, ToSchema)]
pub struct Blob {
    /// `sha256:` and 64 hexadecimal digits.
    digest: String,
    /// Bytes.
    size: u64,
}

#[derive(Serialize, ToSchema)]
pub struct Step {
    /// `compile`, or `model NAME`.
    name: String,
    state: StepProgress,
    /// Milliseconds that it took.
    ms: u64,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StepProgress {
    Running,
    Done,
    Failed,
}

impl From<deploy::Deployment> for Deployment {
    fn from(d: deploy::Deployment) -> Self {
        let step = |s: deploy::Step| Step {
            name: s.name,
            ms: s.ms,
            state: match s.state {
                StepState::Running => StepProgress::Running,
                StepState::Done => StepProgress::Done,
                StepState::Failed => StepProgress::Failed,
            },
        };
        Self {
            id: d.id,
            function: d.function.to_string(),
            state: match d.state {
                DeployState::Uploading => DeploymentState::Uploading,
                DeployState::Preparing => DeploymentState::Preparing,
                DeployState::Ready => DeploymentState::Ready,
                DeployState::Failed => DeploymentState::Failed,
            },
            missing: d
                .missing
                .into_iter()
                .map(|b| Blob { digest: b.digest.to_string(), size: b.size })
                .collect(),
            steps: d.steps.into_iter().map(step).collect(),
            version: d.version,
            error: d.error.map(Problem::from),
        }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// The alias that is pointed at the new version; `live` where it is left out, none where it is null.
    #[serde(default = "live")]
    #[schema(default = "live")]
    alias: Option<String>,
}

pub fn live() -> Option<String> {
    Some(LIVE.to_owned())
}

pub fn alias_name(text: Option<&str>) -> Result<Option<AliasName>, Problem> {
    let parsed = text.map(str::parse::<AliasName>).transpose();
    parsed.map_err(|e| Problem::from(e).with_field("alias"))
}

/// Begin a deployment with a package's manifest
///
/// The answer lists the blobs to upload. 16 deployments of a tenant may be under way at once.
#[utoipa::path(
    post, path = "/api/v1/deployments", tag = "deployments",
    operation_id = "begin_deployment",
    params(("tenant" = Option<String>, Query, description = "The tenant to act on: for operators")),
    request_body(content = Object, description = "A package manifest, `vesta-package/1`"),
    responses(
        (status = 201, body = Deployment), Refusals, Conflicts,
        (status = 429, body = Problem, content_type = "application/problem+json", description = "Too many are under way"),
    )
)]
pub async fn begin(
    State(state): State<ControlState>,
    scope: Scope,
    Body(manifest): Body<PackageManifest>,
) -> Result<(StatusCode, Json<Deployment>), Problem> {
    let begun = state.deployments.begin(&scope.tenant, manifest).await?;
    Ok((StatusCode::CREATED, Json(begun.into())))
}

/// How a deployment stands
#[utoipa::path(
    get, path = "/api/v1/deployments/{id}", tag = "deployments",
    operation_id = "get_deployment",
    params(
        ("id" = String, Path),
        ("tenant" = Option<String>, Query, description = "The tenant to act on: for operators"),
    ),
    responses((status = 200, body = Deployment), Refusals)
)]
pub async fn get(
    State(state): State<ControlState>,
    scope: Scope,
    Segments(id): Segments<String>,
) -> Result<Json<Deployment>, Problem> {
    Ok(Json(state.deployments.get(&scope.tenant, &id)?.into()))
}

/// Upload one missing blob
///
/// Its size and digest are verified. One that this tenant has uploaded before is not read.
#[utoipa::path(
    put, path = "/api/v1/deployments/{id}/blobs/{digest}", tag = "deployments",
    operation_id = "upload_blob",
    params(
        ("id" = String, Path),
        ("digest" = String, Path, description = "`sha256:` and 64 hexadecimal digits"),
        ("tenant" = Option<String>, Query, description = "The tenant to act on: for operators"),
    ),
    request_body(content = inline(RawBytes), content_type = "application/octet-stream"),
    responses(
        (status = 204, description = "It is here"), Refusals, Conflicts,
        (status = 408, body = Problem, content_type = "application/problem+json", description = "Nothing came for a minute"),
        (status = 507, body = Problem, content_type = "application/problem+json", description = "The host's disk is full"),
    )
)]
pub async fn upload(
    State(state): State<ControlState>,
    scope: Scope,
    Segments((id, digest)): Segments<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, Problem> {
    let digest: Digest = digest.parse().map_err(|e| Problem::from(e).with_field("digest"))?;
    let stated = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    let mut bytes = body.into_data_stream();
    let taken = state.deployments.upload(&scope.tenant, &id, digest, stated, &mut bytes).await;
    // Who waits for `100 Continue` has sent nothing yet.
    if !headers.contains_key(header::EXPECT) {
        drain(&mut bytes).await;
    }
    taken?;
    Ok(StatusCode::NO_CONTENT)
}

/// Bytes of any kind.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code, reason = "only its schema is used")]
pub struct RawBytes(Vec<u8>);

/// Reads a little of what a client still sends, so that it comes to read the answer instead of a reset
/// connection.
pub async fn drain(bytes: &mut BodyDataStream) {
    const BYTES_MAX: usize = 4 << 20;
    let rest = async {
        let mut read = 0;
        while let Some(Ok(chunk)) = bytes.next().await {
            read += chunk.len();
            if read > BYTES_MAX {
                return;
            }
        }
    };
    // Whether it ended or took too long, the answer goes out now.
    let _ = tokio::time::timeout(Duration::from_secs(2), rest).await;
}

/// Compile, check and publish what was uploaded
///
/// The answer comes at once; ask for the deployment until it is `ready` or `failed`. Committing again changes
/// nothing.
#[utoipa::path(
    post, path = "/api/v1/deployments/{id}/commit", tag = "deployments",
    operation_id = "commit_deployment",
    params(
        ("id" = String, Path),
        ("tenant" = Option<String>, Query, description = "The tenant to act on: for operators"),
    ),
    request_body = Commit,
    responses((status = 202, body = Deployment), Refusals, Conflicts)
)]
pub async fn commit(
    State(state): State<ControlState>,
    scope: Scope,
    Segments(id): Segments<String>,
    Body(commit): Body<Commit>,
) -> Result<(StatusCode, Json<Deployment>), Problem> {
    let alias = alias_name(commit.alias.as_deref())?;
    let committed = state.deployments.commit(&scope.tenant, &id, alias)?;
    Ok((StatusCode::ACCEPTED, Json(committed.into())))
}
