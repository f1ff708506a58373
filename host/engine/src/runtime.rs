//! The runtime of one host: it prepares uploads, loads functions, and starts invocations.

use crate::child::{self, Answer, ChildError, ChildLimits, Job};
use crate::epoch::Ticker;
use crate::instance::{self, Invocation, Run, State};
use crate::nn::Models;
use crate::outbound::OutboundPolicy;
use crate::pool::InferencePool;
use crate::store::{CodeStore, Source, StoreError};
use crate::{compile, config, cpu};
use bytes::Bytes;
use ipnet::IpNet;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;
use vesta_core::Digest;
use vesta_core::limits::Limits;
use vesta_core::manifest::{Encoding, PackageManifest};
use vesta_nn::{Backend, Graph, ModelInfo, ModelLimits, Rten};
use wasmtime::component::{Component, Linker};
use wasmtime_wasi_http::p2::bindings::ProxyPre;

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
    Code(#[from] StoreError),
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
        matches!(self, EngineError::Code(_) | EngineError::Model { .. })
    }
}

fn runtime_error(e: wasmtime::Error) -> EngineError {
    EngineError::Runtime(format!("{e:#}"))
}

/// The runtime of one host.
pub struct Runtime {
    engine: wasmtime::Engine,
    linker: Linker<State>,
    code: CodeStore,
    models_dir: PathBuf,
    backend: Box<dyn Backend>,
    /// Loaded models by their prepared directory, shared by every function that uses the same bytes.
    graphs: Mutex<HashMap<PathBuf, Weak<dyn Graph>>>,
    pool: Arc<InferencePool>,
    ticker: Arc<Ticker>,
    config: RuntimeConfig,
}

/// A function in memory, ready to run. Dropping the last reference takes code and models out of the process.
pub struct Loaded {
    pub(crate) pre: ProxyPre<State>,
    pub(crate) models: Arc<Models>,
    pub(crate) pool: Arc<InferencePool>,
    pub(crate) limits: Limits,
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) outbound: Arc<OutboundPolicy>,
    resident_bytes: u64,
}

impl Loaded {
    /// Bytes that the function holds while it is warm: mapped code and models.
    pub fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }
}

/// What a cold start consisted of.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadReport {
    pub code_ns: u64,
    pub models_ns: u64,
    /// CPU time of the loading thread.
    pub cpu_ns: u64,
}

impl Runtime {
    pub fn new(config: RuntimeConfig) -> Result<Runtime, EngineError> {
        let engine = wasmtime::Engine::new(&config::serving(config.instances_max)).map_err(runtime_error)?;
        let linker = compile::linker(&engine).map_err(runtime_error)?;
        let code = CodeStore::new(config.cache_dir.join("code"), config::compat(&engine), config.cache_key)?;
        let models_dir = config.cache_dir.join("models");
        std::fs::create_dir_all(&models_dir)?;
        for dir in [config.cache_dir.join("code"), models_dir.clone()] {
            remove_unfinished(&dir)?;
        }
        let pool = Arc::new(InferencePool::start(config.inference_threads, config.inference_waiting_max)?);
        let weak = engine.weak();
        let ticker = Ticker::start(move || weak.upgrade().inspect(|e| e.increment_epoch()).is_some())?;
        let backend = Box::new(Rten);
        Ok(Runtime {
            engine,
            linker,
            code,
            models_dir,
            backend,
            graphs: Mutex::default(),
            pool,
            ticker,
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
        if let Some(info) = read_info(&dir) {
            return Ok(info);
        }
        let out = dir.with_extension(format!("new-{}", unique()));
        std::fs::create_dir_all(&out)?;
        let limits = self.config.model_limits.clone();
        let job = Job::Model { source: source.into(), encoding, out: out.clone(), limits };
        let answer = self.child(job).await;
        let result = match answer {
            Ok(Answer::Prepared(info)) => {
                let _ = std::fs::remove_dir_all(&dir);
                std::fs::rename(&out, &dir).map(|()| *info).map_err(EngineError::from)
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
        let _ = std::fs::remove_dir_all(self.model_dir(digest));
    }

    fn model_dir(&self, digest: &Digest) -> PathBuf {
        self.models_dir.join(format!("{}-{}", digest.hex(), vesta_nn::compat()))
    }

    /// The cold start: maps a function's code and models. Blocks for some milliseconds of file work.
    pub fn load(&self, manifest: &PackageManifest) -> Result<(Loaded, LoadReport), EngineError> {
        let cpu = cpu::thread_cpu_ns();
        let begun = Instant::now();
        let (pre, code_bytes) = self.load_component(&source(manifest))?;
        let code_ns = begun.elapsed().as_nanos() as u64;
        let mut models = Models::new();
        for model in &manifest.models {
            models.insert(model.name.clone(), self.load_model(&model.name, &model.blob.digest)?);
        }
        let models_ns = begun.elapsed().as_nanos() as u64 - code_ns;
        let resident_bytes = code_bytes + models.values().map(|g| g.resident_bytes()).sum::<u64>();
        let outbound = OutboundPolicy {
            hosts: manifest.outbound.clone(),
            allow_networks: self.config.outbound_allow_networks.clone(),
        };
        let loaded = Loaded {
            pre,
            models: Arc::new(models),
            pool: self.pool.clone(),
            limits: manifest.limits,
            variables: manifest.variables.clone().into_iter().collect(),
            outbound: Arc::new(outbound),
            resident_bytes,
        };
        Ok((loaded, LoadReport { code_ns, models_ns, cpu_ns: cpu::thread_cpu_ns() - cpu }))
    }

    fn load_component(&self, source: &Source) -> Result<(ProxyPre<State>, u64), EngineError> {
        let path = self.code.verified(source)?;
        let bytes = std::fs::metadata(&path)?.len();
        // SAFETY: the file is native code that this host's child compiled: its MAC under the host's key was
        // checked just now or earlier in this process, and its directory is private to the host's user, so
        // that nobody else can have changed it since.
        #[allow(unsafe_code)]
        let component = unsafe { Component::deserialize_file(&self.engine, &path) }.map_err(runtime_error)?;
        let pre = self.linker.instantiate_pre(&component).map_err(runtime_error)?;
        Ok((ProxyPre::new(pre).map_err(runtime_error)?, bytes))
    }

    fn load_model(&self, name: &str, digest: &Digest) -> Result<Arc<dyn Graph>, EngineError> {
        let dir = self.model_dir(digest);
        // Held while loading: two functions that start at once with the same model load it once.
        let mut graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        graphs.retain(|_, graph| graph.strong_count() > 0);
        if let Some(graph) = graphs.get(&dir).and_then(Weak::upgrade) {
            return Ok(graph);
        }
        let failed = |e: vesta_nn::LoadError| EngineError::Model { name: name.into(), detail: e.to_string() };
        let graph = self.backend.load(&dir).map_err(|e| {
            // Without its description a prepared model counts as missing, and is made anew.
            let _ = std::fs::remove_file(dir.join(vesta_nn::INFO_FILE));
            failed(e)
        })?;
        graphs.insert(dir, Arc::downgrade(&graph));
        Ok(graph)
    }

    /// Begins an invocation of a loaded function. `request` is what the guest sees; `tls` is the scheme it is told.
    pub fn start<B>(
        &self,
        loaded: Arc<Loaded>,
        request: http::Request<B>,
        tls: bool,
        invocation: Invocation,
    ) -> Run
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<wasmtime_wasi_http::Error>,
    {
        instance::start(loaded, &self.ticker, request, tls, invocation)
    }
}

/// What a function's code is compiled from.
fn source(manifest: &PackageManifest) -> Source {
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
