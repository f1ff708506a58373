//! The runtime of one host: it prepares uploads and starts invocations of functions that [`load`](crate::load) made warm.

use crate::child::{self, Answer, ChildError, ChildLimits, Job};
use crate::epoch::Ticker;
use crate::idle::IdleOfHost;
use crate::instance::Instance;
use crate::load::{self, sealed_model};
use crate::pool::InferencePool;
use crate::seal::{SealError, Seals};
use crate::share::InstanceMemory;
use crate::state::State;
use crate::store::{CodeStore, Source};
use crate::{compile, config};
use ipnet::IpNet;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;
use tokio::sync::Semaphore;
use vesta_core::Digest;
use vesta_core::manifest::{Encoding, PackageManifest};
use vesta_core::memory::{Grant, Short};
use vesta_nn::{Backend, Graph, ModelInfo, ModelLimits, Rten};
use wasmtime::component::Linker;

/// What a runtime is made with.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// Private directory of compiled code and prepared models.
    pub cache_dir: PathBuf,
    /// Key of the MACs in it.
    pub cache_key: [u8; 32],
    /// Instances that may live at once.
    pub instances_max: u32,
    pub inference_threads: usize,
    /// Inferences that may wait for a thread.
    pub inference_waiting_max: usize,
    /// The executable whose `prepare-worker` command calls [`child::main`].
    pub child_program: PathBuf,
    pub child_limits: ChildLimits,
    pub model_limits: ModelLimits,
    /// Networks that guests may reach although they are not public.
    pub outbound_allow_networks: Vec<IpNet>,
}

/// Why something uploaded cannot be used, or the runtime failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// What was uploaded is at fault.
    #[error("{detail}")]
    Refused { code: String, detail: String },
    #[error(transparent)]
    Child(#[from] ChildError),
    #[error(transparent)]
    Code(#[from] SealError),
    #[error(transparent)]
    Memory(#[from] Short),
    #[error("model {name:?} cannot be loaded: {detail}")]
    Model { name: String, detail: String },
    #[error("the runtime failed: {0}")]
    Runtime(String),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl EngineError {
    /// A stable name for the API.
    pub fn code(&self) -> &str {
        match self {
            EngineError::Refused { code, .. } => code,
            EngineError::Child(e) => e.code(),
            EngineError::Code(_) => "code-cache",
            EngineError::Memory(_) => "host-memory",
            EngineError::Model { .. } => "model-load",
            EngineError::Runtime(_) | EngineError::Io(_) => "runtime",
        }
    }
    /// Whether the host is to blame rather than what was uploaded.
    pub fn is_platform(&self) -> bool {
        match self {
            EngineError::Refused { .. } => false,
            EngineError::Child(e) => e.is_platform(),
            _ => true,
        }
    }
    /// Whether preparing the function's files anew may mend it.
    pub fn wants_preparation(&self) -> bool {
        // What could not be read this time may well be sound.
        matches!(self, EngineError::Code(SealError::Missing | SealError::Altered) | EngineError::Model { .. })
    }
}

pub(crate) fn runtime_error(e: wasmtime::Error) -> EngineError {
    EngineError::Runtime(format!("{e:#}"))
}

/// The runtime of one host.
pub struct Runtime {
    pub(crate) engine: wasmtime::Engine,
    pub(crate) linker: Linker<State>,
    pub(crate) code: CodeStore,
    pub(crate) seals: Arc<Seals>,
    pub(crate) memory: Arc<InstanceMemory>,
    models_dir: PathBuf,
    pub(crate) backend: Box<dyn Backend>,
    /// Loaded models by their prepared directory, shared by every function that uses the same bytes.
    pub(crate) graphs: Mutex<HashMap<PathBuf, Weak<dyn Graph>>>,
    pub(crate) pool: Arc<InferencePool>,
    /// Places of threads that load models beside a cold start.
    pub(crate) beside: Arc<Semaphore>,
    pub(crate) ticker: Arc<Ticker>,
    pub(crate) idle_of_host: Arc<IdleOfHost<Instance>>,
    pub(crate) config: RuntimeConfig,
}

impl Runtime {
    /// `memory` is the host's budget, and whoever makes room in it.
    pub fn new(config: RuntimeConfig, memory: Arc<dyn Grant>) -> Result<Runtime, EngineError> {
        let engine = wasmtime::Engine::new(&config::serving(config.instances_max)).map_err(runtime_error)?;
        let linker = compile::linker(&engine).map_err(runtime_error)?;
        let seals = Arc::new(Seals::new(config.cache_key));
        let code = CodeStore::new(config.cache_dir.join("code"), config::compat(&engine), seals.clone())?;
        let models_dir = config.cache_dir.join("models");
        std::fs::create_dir_all(&models_dir)?;
        for dir in [config.cache_dir.join("code"), models_dir.clone()] {
            remove_unfinished(&dir)?;
        }
        let pool = Arc::new(InferencePool::start(config.inference_threads, config.inference_waiting_max)?);
        let weak = engine.weak();
        let ticker = Ticker::start(move || weak.upgrade().inspect(|e| e.increment_epoch()).is_some())?;
        let backend = Box::new(Rten);
        let idle_of_host = IdleOfHost::new();
        Ok(Runtime {
            engine,
            linker,
            code,
            seals,
            models_dir,
            backend,
            graphs: Mutex::default(),
            pool,
            beside: Arc::new(Semaphore::new(load::BESIDE_MAX)),
            ticker,
            memory: Arc::new(InstanceMemory { host: memory, idle: idle_of_host.clone() }),
            idle_of_host,
            config,
        })
    }

    /// Compiles a function's component in a child process and keeps the code. Done already: returns at once.
    pub async fn prepare_component(
        &self,
        manifest: &PackageManifest,
        blob: &Path,
    ) -> Result<(), EngineError> {
        let source = &source(manifest);
        if self.code.verified(source).is_ok() {
            return Ok(());
        }
        let out = self.code.path(source).with_extension(format!("new-{}", unique()));
        let job = Job::Compile { source: blob.into(), out: out.clone(), snapshot: source.snapshot };
        let answer = self.child(job).await;
        let result = match answer {
            Ok(_) => self.code.adopt(source, &out).map_err(EngineError::from).and_then(|()| {
                // Loaded once here, so that what the pool cannot hold is refused at deploy.
                self.load_component(source).map(drop).map_err(|e| {
                    self.code.discard(&source.component);
                    EngineError::Refused { code: "invalid-component".into(), detail: e.to_string() }
                })
            }),
            Err(e) => Err(e),
        };
        let _ = std::fs::remove_file(&out);
        result
    }

    /// Checks a model in a child process and keeps its prepared form. Done already: returns at once.
    pub async fn prepare_model(
        &self,
        digest: &Digest,
        encoding: Encoding,
        source: &Path,
    ) -> Result<ModelInfo, EngineError> {
        let dir = self.model_dir(digest);
        if let Some(info) = read_info(&dir)
            && self.seals.check(&sealed_model(&dir, &dir)).is_ok()
        {
            return Ok(info);
        }
        let out = dir.with_extension(format!("new-{}", unique()));
        std::fs::create_dir_all(&out)?;
        let limits = self.config.model_limits.clone();
        let job = Job::Model { source: source.into(), encoding, out: out.clone(), limits };
        let answer = self.child(job).await;
        let result = match answer {
            Ok(Answer::Prepared(info)) => {
                let sealed = self.seals.seal(&sealed_model(&dir, &out));
                let _ = std::fs::remove_dir_all(&dir);
                self.forget_loaded(&dir);
                sealed.and_then(|()| std::fs::rename(&out, &dir)).map(|()| *info).map_err(EngineError::from)
            }
            Ok(_) => Err(EngineError::Runtime("the child answered another question".into())),
            Err(e) => Err(e),
        };
        let _ = std::fs::remove_dir_all(&out);
        result
    }

    async fn child(&self, job: Job) -> Result<Answer, EngineError> {
        let c = &self.config;
        match child::run(&c.child_program, "prepare-worker", c.child_limits, job).await? {
            Answer::Refused { code, detail } => Err(EngineError::Refused { code, detail }),
            answer => Ok(answer),
        }
    }

    /// Removes what was prepared from a blob, be it a component or a model.
    pub fn discard(&self, digest: &Digest) {
        self.code.discard(digest);
        self.seals.forget(&self.model_dir(digest));
        let _ = std::fs::remove_dir_all(self.model_dir(digest));
    }

    pub(crate) fn model_dir(&self, digest: &Digest) -> PathBuf {
        self.models_dir.join(format!("{}-{}", digest.hex(), vesta_nn::compat()))
    }

    /// Ends the instance that has waited the longest for another request; false where none waits.
    pub fn end_idle_instance(&self) -> bool {
        self.idle_of_host.end_oldest()
    }

    /// Ends those that have waited for longer than their functions' keep-alive.
    pub fn end_overdue_instances(&self) {
        self.idle_of_host.end_overdue(Instant::now());
    }
}

/// What a function's code is compiled from.
pub(crate) fn source(manifest: &PackageManifest) -> Source {
    Source { component: manifest.component.digest, snapshot: manifest.snapshot }
}

fn read_info(dir: &Path) -> Option<ModelInfo> {
    serde_json::from_slice(&std::fs::read(dir.join(vesta_nn::INFO_FILE)).ok()?).ok()
}

/// Removes what a preparation left that was cut off by the end of its process.
fn remove_unfinished(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)?.flatten() {
        if entry.file_name().to_string_lossy().contains(".new-") {
            let path = entry.path();
            let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
    }
    Ok(())
}

/// A name for a temporary file that no other use of this process has.
fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
