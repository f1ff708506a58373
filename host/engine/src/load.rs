//! The cold start: a function's files become mapped code and models, side by side; weights that are not in memory yet are
//! read while the guest begins.

use crate::cpu;
use crate::epoch::Ticker;
use crate::idle::{Idle, IdleOfHost};
use crate::instance::Instance;
use crate::nn::Models;
use crate::outbound::OutboundPolicy;
use crate::pool::InferencePool;
use crate::runtime::{EngineError, Runtime, runtime_error, source};
use crate::seal::{SealError, Sealed};
use crate::share::InstanceMemory;
use crate::state::State;
use crate::store::Source;
use rustix::fs::{Advice, fadvise};
use std::collections::HashMap;
use std::fs::File;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use vesta_core::Digest;
use vesta_core::lifecycle::{CodeStart, ColdStartParts, ModelStart};
use vesta_core::limits::Limits;
use vesta_core::manifest::{ModelRef, PackageManifest};
use vesta_core::memory::{Kind, Part, Reservation};
use vesta_nn::{GRAPH_FILE, Graph, INFO_FILE, LoadError, ReadAhead, WEIGHTS_FILE};
use wasmtime::component::Component;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

/// A kernel reads no more at one request than its read-ahead window, at least this much where it matters, in bytes.
const READ_AHEAD_BYTES: u64 = 512 << 10;

/// Most cold starts that load their models on a thread of their own, while another waits for it: less than the runtime has
/// threads that may block (512), since else all of them could be waiting and none be left to load.
pub(crate) const BESIDE_MAX: usize = 64;

/// How long an instance waits for another request where the manifest states no keep-alive.
const INSTANCE_IDLE_MAX: Duration = Duration::from_secs(60);

/// A function in memory, ready to run. Dropping the last reference takes code and models out of the process.
pub struct Loaded {
    pub(crate) pre: ProxyPre<State>,
    pub(crate) models: Arc<Models>,
    pub(crate) memory: Arc<InstanceMemory>,
    held: Arc<Reservation>,
    pub(crate) pool: Arc<InferencePool>,
    pub(crate) limits: Limits,
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) outbound: Arc<OutboundPolicy>,
    pub(crate) ticker: Arc<Ticker>,
    /// Most requests of one instance.
    pub(crate) reuse: u32,
    /// Instances that wait for another request, where they may serve more than one. None of them refers to this struct.
    pub(crate) idle: Option<Arc<Idle<Instance>>>,
    pub(crate) idle_of_host: Arc<IdleOfHost<Instance>>,
    /// How long the first instance took to make, in nanoseconds; 0 before.
    instance_ns: AtomicU64,
    parts: ColdStartParts,
    /// How long weights were read ahead, in nanoseconds; 0 while that goes on.
    read_ahead_ns: Arc<AtomicU64>,
}

impl Loaded {
    /// What the function holds of the host's memory while it is warm: mapped code and models.
    pub fn reservation(&self) -> &Reservation {
        &self.held
    }

    /// An instance was made, which began then.
    pub(crate) fn instance_made(&self, begun: Instant) {
        if self.instance_ns.load(Relaxed) == 0 {
            self.instance_ns.store(begun.elapsed().as_nanos() as u64, Relaxed);
        }
    }

    /// What its cold start consisted of, as far as is known by now.
    pub fn cold_start(&self) -> ColdStartParts {
        let known = |ns: &AtomicU64| Some(ns.load(Relaxed)).filter(|ns| *ns > 0);
        ColdStartParts {
            instance_ns: known(&self.instance_ns),
            read_ahead_ns: known(&self.read_ahead_ns),
            ..self.parts.clone()
        }
    }
}

/// What a cold start cost. Code and models are loaded at the same time.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadReport {
    pub code_ns: u64,
    pub models_ns: u64,
    /// CPU time of the loading threads. Reading ahead is not in it: what the page cache lacks is the host's affair.
    pub cpu_ns: u64,
}

/// Models as their thread hands them over.
#[derive(Default)]
struct LoadedModels {
    graphs: HashMap<String, Arc<dyn Graph>>,
    /// Those that were not in memory before.
    fresh: Vec<Arc<dyn Graph>>,
    parts: Vec<ModelStart>,
    wall_ns: u64,
    cpu_ns: u64,
    read_ahead_ns: Arc<AtomicU64>,
}

impl Runtime {
    /// What a function will hold while it is warm, by the sizes of its files.
    pub fn parts(&self, manifest: &PackageManifest) -> Result<Vec<Part>, EngineError> {
        let size = |path: &Path| Ok(std::fs::metadata(path)?.len());
        let code = self.code.path(&source(manifest));
        let mut parts = vec![code_part(&code, size(&code).map_err(missing)?)];
        for model in &manifest.models {
            let dir = self.model_dir(&model.blob.digest);
            let bytes = size(&dir.join(GRAPH_FILE)).and_then(|n| Ok(n + size(&dir.join(WEIGHTS_FILE))?));
            let bytes = bytes.map_err(|e| model_error(&model.name, missing(e)))?;
            parts.push(Part { kind: Kind::Models, digest: model.blob.digest, bytes });
        }
        Ok(parts)
    }

    /// The cold start: maps a function's code and models, for which `held` was reserved by their [`Runtime::parts`]. Blocks
    /// for some milliseconds of file work; call it within a Tokio runtime, on a thread that may block.
    pub fn load(
        self: &Arc<Self>,
        manifest: &PackageManifest,
        held: Reservation,
    ) -> Result<(Loaded, LoadReport), EngineError> {
        let cpu = cpu::thread_cpu_ns();
        let begun = Instant::now();
        let models = self.load_models_beside(&manifest.models);
        let (pre, code) = self.load_component(&source(manifest))?;
        let code_ns = begun.elapsed().as_nanos() as u64;
        let models = match models {
            Some(models) => models
                .blocking_recv()
                .map_err(|_| EngineError::Runtime("loading a model failed".into()))??,
            None => LoadedModels::default(),
        };
        let outbound = OutboundPolicy {
            hosts: manifest.outbound.clone(),
            allow_networks: self.config.outbound_allow_networks.clone(),
        };
        let report = LoadReport {
            code_ns,
            models_ns: models.wall_ns,
            cpu_ns: cpu::thread_cpu_ns() - cpu + models.cpu_ns,
        };
        let parts = ColdStartParts {
            wall_ns: begun.elapsed().as_nanos() as u64,
            cpu_ns: report.cpu_ns,
            code: CodeStart { wall_ns: code_ns, ..code },
            models: models.parts,
            instance_ns: None,
            read_ahead_ns: None,
        };
        let code_path = self.code.path(&source(manifest));
        let mut actual = vec![code_part(&code_path, code.mapped_bytes)];
        for model in &manifest.models {
            let bytes = models.graphs.get(&model.name).map_or(0, |graph| graph.resident_bytes());
            actual.push(Part { kind: Kind::Models, digest: model.blob.digest, bytes });
        }
        held.settle(&actual)?;
        let held = Arc::new(held);
        let reuse = manifest.scaling.reuse;
        let longest = manifest.scaling.keep_alive_ms.map_or(INSTANCE_IDLE_MAX, Duration::from_millis);
        let idle = || self.idle_of_host.of_function(manifest.limits.concurrency as usize, longest);
        let loaded = Loaded {
            pre,
            models: Arc::new(Models { by_name: models.graphs, _held: Some(held.clone()) }),
            held,
            memory: self.memory.clone(),
            pool: self.pool.clone(),
            limits: manifest.limits,
            variables: manifest.variables.clone().into_iter().collect(),
            outbound: Arc::new(outbound),
            ticker: self.ticker.clone(),
            reuse,
            idle: (reuse > 1).then(idle),
            idle_of_host: self.idle_of_host.clone(),
            instance_ns: AtomicU64::new(0),
            parts,
            read_ahead_ns: models.read_ahead_ns,
        };
        Ok((loaded, report))
    }

    /// Loads models on another thread, which reads their weights ahead after it has handed them over. With too many cold starts at
    /// once, all of that is done here and now.
    fn load_models_beside(
        self: &Arc<Self>,
        models: &[ModelRef],
    ) -> Option<oneshot::Receiver<Result<LoadedModels, EngineError>>> {
        if models.is_empty() {
            return None;
        }
        let (hand_over, handed_over) = oneshot::channel();
        let (runtime, models) = (self.clone(), models.to_vec());
        let permit = self.beside.clone().try_acquire_owned().ok();
        let is_permitted = permit.is_some();
        let work = move || {
            let loaded = runtime.load_models(&models);
            let (fresh, took) = match &loaded {
                Ok(loaded) => (loaded.fresh.clone(), loaded.read_ahead_ns.clone()),
                Err(_) => Default::default(),
            };
            let _ = hand_over.send(loaded);
            drop(permit);
            let begun = Instant::now();
            for part in [ReadAhead::EveryRun, ReadAhead::Tables] {
                for graph in &fresh {
                    graph.read_ahead(part);
                }
            }
            took.store(begun.elapsed().as_nanos() as u64, Relaxed);
        };
        if is_permitted {
            Handle::current().spawn_blocking(work);
        } else {
            work();
        }
        Some(handed_over)
    }

    fn load_models(&self, models: &[ModelRef]) -> Result<LoadedModels, EngineError> {
        // The first check reads all of a model, which is the host's affair and no part of the bill.
        for model in models {
            self.check_model(model)?;
        }
        let cpu = cpu::thread_cpu_ns();
        let begun = Instant::now();
        let mut loaded = LoadedModels::default();
        for model in models {
            let begun = Instant::now();
            let (graph, shared) = self.load_model(&model.name, &model.blob.digest)?;
            loaded.parts.push(ModelStart {
                name: model.name.clone(),
                wall_ns: begun.elapsed().as_nanos() as u64,
                mapped_bytes: graph.resident_bytes(),
                shared,
            });
            if !shared {
                loaded.fresh.push(graph.clone());
            }
            loaded.graphs.insert(model.name.clone(), graph);
        }
        loaded.wall_ns = begun.elapsed().as_nanos() as u64;
        loaded.cpu_ns = cpu::thread_cpu_ns() - cpu;
        Ok(loaded)
    }

    pub(crate) fn load_component(
        &self,
        source: &Source,
    ) -> Result<(ProxyPre<State>, CodeStart), EngineError> {
        let path = self.code.verified(source)?;
        let mapped_bytes = read_ahead(&path)?;
        // SAFETY: the file is native code that this host's child compiled: its MAC under the host's key was
        // checked just now or earlier in this process, and its directory is private to the host's user, so
        // that nobody else can have changed it since.
        #[allow(unsafe_code)]
        let component = unsafe { Component::deserialize_file(&self.engine, &path) }.map_err(runtime_error)?;
        let pre = self.linker.instantiate_pre(&component).map_err(runtime_error)?;
        Ok((ProxyPre::new(pre).map_err(runtime_error)?, CodeStart { wall_ns: 0, mapped_bytes }))
    }

    /// Whether a model is as it was prepared. One that is not counts as missing from now on, and is made anew.
    fn check_model(&self, model: &ModelRef) -> Result<(), EngineError> {
        let dir = self.model_dir(&model.blob.digest);
        self.seals.check(&sealed_model(&dir, &dir)).map_err(|e| {
            if !matches!(e, SealError::Io(_)) {
                let _ = std::fs::remove_file(dir.join(vesta_nn::INFO_FILE));
            }
            model_error(&model.name, e)
        })
    }

    /// Its files were made anew: whoever loads the model from now on maps those, and not what others may still have of the old.
    pub(crate) fn forget_loaded(&self, dir: &Path) {
        self.graphs.lock().unwrap_or_else(PoisonError::into_inner).remove(dir);
    }

    /// A model, and whether it was loaded already.
    fn load_model(&self, name: &str, digest: &Digest) -> Result<(Arc<dyn Graph>, bool), EngineError> {
        let dir = self.model_dir(digest);
        // Held while loading: two functions that start at once with the same model load it once.
        let mut graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        graphs.retain(|_, graph| graph.strong_count() > 0);
        if let Some(graph) = graphs.get(&dir).and_then(Weak::upgrade) {
            return Ok((graph, true));
        }
        let failed = |e: LoadError| EngineError::Model { name: name.into(), detail: e.to_string() };
        let graph = self.backend.load(&dir).map_err(|e| {
            // Without its description a prepared model counts as missing, and is made anew.
            let _ = std::fs::remove_file(dir.join(vesta_nn::INFO_FILE));
            failed(e)
        })?;
        graphs.insert(dir, Arc::downgrade(&graph));
        Ok((graph, false))
    }
}

/// The code of a component. Named by its file, which also says what was done to it.
fn code_part(path: &Path, bytes: u64) -> Part {
    let name = blake3::hash(path.file_name().unwrap_or_default().as_encoded_bytes());
    Part { kind: Kind::Code, digest: Digest::from_bytes(*name.as_bytes()), bytes }
}

fn missing(e: std::io::Error) -> SealError {
    if e.kind() == std::io::ErrorKind::NotFound { SealError::Missing } else { SealError::Io(e) }
}

fn model_error(name: &str, e: SealError) -> EngineError {
    match e {
        SealError::Io(e) => EngineError::Io(e),
        e => EngineError::Model { name: name.into(), detail: e.to_string() },
    }
}

/// The prepared files in `dir` of the model whose place is `subject`.
pub(crate) fn sealed_model<'a>(subject: &'a Path, dir: &Path) -> Sealed<'a> {
    let files = [GRAPH_FILE, WEIGHTS_FILE, INFO_FILE].map(|name| dir.join(name)).into();
    Sealed { subject, files, seal: dir.join("mac") }
}

/// Has the kernel begin to read a file that is wanted as a whole; gives its size in bytes.
fn read_ahead(path: &Path) -> std::io::Result<u64> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    for offset in (0..size).step_by(READ_AHEAD_BYTES as usize) {
        // Advice: where it fails, the file is read when it is used.
        let _ = fadvise(&file, offset, NonZeroU64::new(READ_AHEAD_BYTES), Advice::WillNeed);
    }
    Ok(size)
}
