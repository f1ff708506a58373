//! Prepares what was uploaded, at deploy or when the host's version changed: fills the artifact room's trait.

use crate::artifact::{ArtifactError, Artifacts, Prepare, PrepareError};
use dashmap::DashMap;
use futures_util::future::BoxFuture;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{Mutex, Semaphore};
use vesta_core::Digest;
use vesta_core::manifest::{ModelRef, PackageManifest};
use vesta_core::memory::{Kind, Memory};
use vesta_core::usage::CpuTime;
use vesta_engine::{EngineError, ModelInfo, PreparedModel, Runtime};

/// Children that prepare at once; each may use a core and its memory limit.
const CHILDREN_MAX: usize = 2;

/// The least that an instance takes beside code and models, in bytes: its first memory, as Rust's linker lays
/// it out, and its buffers.
const INSTANCE_BYTES_MIN: u64 = 2 << 20;

/// Runs preparations in children: each blob once, however many ask for it at the same time.
pub struct EnginePreparer {
    runtime: Arc<Runtime>,
    artifacts: Arc<Artifacts>,
    memory: Arc<Memory>,
    under_way: DashMap<Digest, Arc<Mutex<()>>>,
    children: Semaphore,
}

impl EnginePreparer {
    pub fn new(runtime: Arc<Runtime>, artifacts: Arc<Artifacts>, memory: Arc<Memory>) -> Arc<EnginePreparer> {
        let children = Semaphore::new(CHILDREN_MAX);
        Arc::new(EnginePreparer { runtime, artifacts, memory, under_way: DashMap::new(), children })
    }

    /// Prepares what is missing of a package, from blobs that are still what was uploaded. Nobody pays for
    /// it.
    pub async fn restore(&self, manifest: &PackageManifest) -> Result<(), EngineError> {
        for blob in manifest.blobs() {
            self.artifacts.verify(blob.digest).await.map_err(|e| {
                tracing::error!(digest = %blob.digest, error = %e, "an uploaded file cannot be used");
                // A path is nothing to tell a client.
                let told = matches!(e, ArtifactError::Damaged).then(|| e.to_string());
                EngineError::Runtime(told.unwrap_or_else(|| "an uploaded file cannot be read".into()))
            })?;
        }
        let (blob, nobodys) = (self.artifacts.blob_path(&manifest.component.digest), CpuTime::default());
        self.prepare_component(manifest, &blob, &nobodys).await?;
        for model in &manifest.models {
            self.prepare_model(model, &self.artifacts.blob_path(&model.blob.digest), &nobodys).await?;
        }
        Ok(())
    }

    async fn prepare_component(
        &self,
        manifest: &PackageManifest,
        blob: &Path,
        spent: &CpuTime,
    ) -> Result<(), EngineError> {
        let work = self.runtime.prepare_component(manifest, blob, spent);
        self.one_at_a_time(&manifest.component.digest, work).await
    }

    async fn prepare_model(
        &self,
        model: &ModelRef,
        blob: &Path,
        spent: &CpuTime,
    ) -> Result<PreparedModel, EngineError> {
        self.one_at_a_time(&model.blob.digest, self.runtime.prepare_model(model, blob, spent)).await
    }

    /// Whoever comes second finds the work done, which the runtime sees at once.
    async fn one_at_a_time<T>(&self, digest: &Digest, work: impl Future<Output = T>) -> T {
        let turn = self.under_way.entry(*digest).or_default().clone();
        let result = {
            let _turn = turn.lock().await;
            let _child = self.children.acquire().await;
            work.await
        };
        self.under_way.remove_if(digest, |_, turn| Arc::strong_count(turn) <= 2);
        result
    }
}

fn refusal(e: EngineError) -> PrepareError {
    PrepareError { code: e.code().to_string(), detail: e.to_string(), platform: e.is_platform() }
}

impl Prepare for EnginePreparer {
    fn component<'a>(
        &'a self,
        manifest: &'a PackageManifest,
        blob: &'a Path,
        spent: &'a CpuTime,
    ) -> BoxFuture<'a, Result<(), PrepareError>> {
        Box::pin(async move { self.prepare_component(manifest, blob, spent).await.map_err(refusal) })
    }

    fn model<'a>(
        &'a self,
        model: &'a ModelRef,
        blob: &'a Path,
        spent: &'a CpuTime,
    ) -> BoxFuture<'a, Result<serde_json::Value, PrepareError>> {
        Box::pin(async move {
            let named = |e: EngineError| {
                let refusal = refusal(e);
                PrepareError { detail: format!("model {:?}: {}", model.name, refusal.detail), ..refusal }
            };
            let PreparedModel { info, engine, why, faster } =
                self.prepare_model(model, blob, spent).await.map_err(named)?;
            Ok(serde_json::json!({
                "name": model.name,
                "inputs": info.signature.inputs,
                "outputs": info.signature.outputs,
                "engine": engine.name(),
                "engine_reason": why,
                "opset": info.opset,
                "producer": info.producer,
                "nodes": info.nodes,
                "parameters": info.parameters,
                "weights_bytes": info.weights_bytes,
                "labels": info.labels,
                "faster_engine": faster.map(|(engine, gain)| serde_json::json!({
                    "engine": engine.name(),
                    "saved_cpu_ms": gain.saved_cpu_ms,
                    "load_cpu_ms": gain.load_cpu_ms,
                })),
                "packed": info.packed,
                "batching": info.batching,
                "dry_run": info.dry_run,
                "notes": notes(&info),
            }))
        })
    }

    fn fits(&self, manifest: &PackageManifest) -> Result<(), PrepareError> {
        let parts = self.runtime.parts(manifest).map_err(refusal)?;
        let mut seen = HashSet::new();
        let bytes = |of: Kind, seen: &mut HashSet<Digest>| -> u64 {
            parts.iter().filter(|p| p.kind == of && seen.insert(p.digest)).map(|p| p.bytes).sum()
        };
        let (code, models) = (bytes(Kind::Code, &mut seen), bytes(Kind::Models, &mut seen));
        let (needed, budget) = (code + models + INSTANCE_BYTES_MIN, self.memory.budget());
        if needed <= budget {
            return Ok(());
        }
        let detail = format!(
            "the function needs {needed} bytes while it runs (code {code}, models {models}, an instance {INSTANCE_BYTES_MIN}), and the whole memory budget \
             of this host is {budget} bytes (memory in its configuration)"
        );
        Err(PrepareError { code: "memory-budget".into(), detail, platform: false })
    }

    fn discard(&self, digest: &Digest) {
        self.runtime.discard(digest);
    }
}

/// What a developer should know of a model that was prepared.
fn notes(info: &ModelInfo) -> Vec<String> {
    let mut notes = info.notes.clone();
    if !info.reduced.is_empty() {
        notes.push(format!("reduced precision: {}", info.reduced.join("; ")));
    }
    if let Some(run) = info.dry_run.as_ref().filter(|run| run.guessed) {
        notes.push(format!(
            "warning: tried only with made-up inputs ({}); [[models.sample]] in vesta.toml states others",
            run.inputs
        ));
    }
    notes
}
