//! A package in one file, deployed by one request: for `curl`.

use super::deployments::{Deployment, RawBytes, alias_name, drain, live};
use super::extract::{Params, Scope};
use super::problem::{Conflicts, Refusals};
use super::{ControlState, Problem};
use crate::artifact::deploy::{self, Archive, DeployError, Deployments};
use crate::package::archive::{self, ArchiveError, ArchiveLimits, BlobSink};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use futures_util::stream;
use serde::Deserialize;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::Arc;
use tokio::runtime::Handle;
use utoipa::IntoParams;
use vesta_core::TenantName;
use vesta_core::id::AliasName;
use vesta_core::manifest::{BlobRef, PackageManifest};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PackageParams {
    /// The tenant to act on: for operators.
    #[allow(dead_code, reason = "read by Scope")]
    tenant: Option<String>,
    /// The alias that is pointed at the new version; `live` where it is left out.
    #[serde(default = "live")]
    alias: Option<String>,
}

/// Deploy a package that is one file
///
/// As `vesta build --output` writes it. The answer comes when the file was read; ask for the deployment until
/// it is `ready` or `failed`.
#[utoipa::path(
    post, path = "/api/v1/packages", tag = "deployments",
    operation_id = "deploy_package", params(PackageParams),
    request_body(content = inline(RawBytes), content_type = "application/octet-stream"),
    responses(
        (status = 202, body = Deployment), Refusals, Conflicts,
        (status = 408, body = Problem, content_type = "application/problem+json", description = "Nothing came for a minute"),
        (status = 429, body = Problem, content_type = "application/problem+json", description = "Too many are under way"),
        (status = 507, body = Problem, content_type = "application/problem+json", description = "The host's disk is full"),
    )
)]
pub async fn deploy(
    State(state): State<ControlState>,
    scope: Scope,
    Params(params): Params<PackageParams>,
    body: Body,
) -> Result<(StatusCode, Json<Deployment>), Problem> {
    let alias = alias_name(params.alias.as_deref())?;
    let mut bytes = body.into_data_stream();
    let received = state.deployments.receive_archive(&mut bytes).await;
    drain(&mut bytes).await;
    let archive = received?;
    // It is here as a whole: what follows needs no client.
    let unpack = unpack_and_commit(state.deployments.clone(), scope.tenant, archive, alias);
    let committed = state.deployments.to_the_end(unpack).await?;
    Ok((StatusCode::ACCEPTED, Json(committed.into())))
}

async fn unpack_and_commit(
    deployments: Arc<Deployments>,
    tenant: TenantName,
    archive: Archive,
    alias: Option<AliasName>,
) -> Result<deploy::Deployment, Problem> {
    let limits = archive_limits(&deployments);
    let mut sink = Sink {
        deployments: deployments.clone(),
        tenant: tenant.clone(),
        runtime: Handle::current(),
        id: None,
    };
    let unpacked = tokio::task::spawn_blocking(move || {
        let read = match File::open(archive.path()) {
            Ok(file) => archive::read(BufReader::new(file), &limits, &mut sink),
            Err(e) => Err(ArchiveError::Sink(e)),
        };
        (sink.id, read)
    });
    let (id, read) = unpacked.await.map_err(|e| Problem::internal(&e))?;
    let id = match (id, read) {
        (Some(id), Ok(_)) => id,
        (None, Ok(_)) => return Err(Problem::internal(&"an archive without a manifest was accepted")),
        (begun, Err(e)) => {
            if let Some(id) = begun {
                deployments.abandon(&id, &e.to_string()).await;
            }
            return Err(e.into());
        }
    };
    Ok(deployments.commit(&tenant, &id, alias)?)
}

fn archive_limits(deployments: &Deployments) -> ArchiveLimits {
    let bytes_max = deployments.limits().package_bytes_max;
    ArchiveLimits { blob_bytes_max: bytes_max, total_bytes_max: bytes_max, ..ArchiveLimits::default() }
}

/// Begins a deployment with the archive's manifest, and uploads its blobs as any client would.
struct Sink {
    deployments: Arc<Deployments>,
    tenant: TenantName,
    runtime: Handle,
    id: Option<String>,
}

impl BlobSink for Sink {
    fn manifest(&mut self, manifest: &PackageManifest) -> io::Result<()> {
        let begin = self.deployments.begin(&self.tenant, manifest.clone());
        let begun = self.runtime.block_on(begin).map_err(io::Error::other)?;
        self.id = Some(begun.id);
        Ok(())
    }

    fn blob(&mut self, blob: &BlobRef, content: &mut dyn Read) -> io::Result<()> {
        let id = self.id.as_deref().ok_or_else(|| io::Error::other(DeployError::NoDeployment))?;
        let bytes = stream::iter(std::iter::from_fn(|| chunk(content).transpose()));
        let upload = self.deployments.upload(&self.tenant, id, blob.digest, Some(blob.size), bytes);
        self.runtime.block_on(upload).map_err(io::Error::other)
    }
}

fn chunk(content: &mut dyn Read) -> io::Result<Option<Bytes>> {
    const BYTES: u64 = 256 << 10;
    let mut chunk = Vec::new();
    content.take(BYTES).read_to_end(&mut chunk)?;
    Ok((!chunk.is_empty()).then(|| chunk.into()))
}
