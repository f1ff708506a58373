//! The cold start: a function's files become mapped code and models, side by side; weights that are not in
//! memory yet are read while the guest begins.

use crate::engines::{Engine, Engines};
use crate::error::{EngineError, runtime_error};
use crate::files::{Choices, CodeStore, Gained, SealError, Seals, Source, sealed_model};
use crate::guest::epoch::Ticker;
use crate::guest::idle::IdleOfHost;
use crate::guest::state::{State, World};
use crate::guest::template::Template;
use crate::guest::{Instance, Invocation, Run};
use crate::imports::lookups::Lookups;
use crate::imports::outbound::OutboundPolicy;
use crate::meter::cpu;
use crate::meter::share::InstanceMemory;
use crate::models::{
    FasterTier, Inference, LoadedModels, Model, Models, Settings, StartError, Tier, private_bytes,
};
use bytes::Bytes;
use http_body::Body;
use ipnet::IpNet;
use rustix::fs::{Advice, fadvise};
use std::collections::HashMap;
use std::fs::File;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use vesta_core::Digest;
use vesta_core::lifecycle::{CodeStart, ColdStartParts, ModelStart, SetAside};
use vesta_core::limits::Limits;
use vesta_core::manifest::{EngineChoice, ModelRef, PackageManifest};
use vesta_core::memory::{Grant, Kind, Part, Reservation};
use vesta_nn::{Faster, GRAPH_FILE, INFO_FILE, WEIGHTS_FILE};
use wasmtime::component::{Component, Linker};
use wasmtime_wasi_http::p2::bindings::ProxyPre;

/// A kernel reads no more at one request than its read-ahead window, at least this much where it matters, in
/// bytes.
const READ_AHEAD_BYTES: u64 = 512 << 10;

/// Most cold starts that load their models on a thread of their own, while another waits for it: less than
/// the runtime has threads that may block (512), since else all of them could be waiting and none be left to
/// load.
pub(crate) const BESIDE_MAX: usize = 64;

/// How long an instance waits for another request where the manifest states no keep-alive.
const INSTANCE_IDLE_MAX: Duration = Duration::from_secs(60);

/// A function in memory, ready to run. Dropping the last reference takes code and models out of the process.
pub struct Loaded {
    template: Arc<Template>,
    parts: ColdStartParts,
}

impl Loaded {
    /// An invocation; nothing runs before it is polled. `request` is what the guest sees; `tls` is the scheme
    /// it is told.
    pub fn run<B>(&self, request: http::Request<B>, tls: bool, invocation: Invocation) -> Run
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<wasmtime_wasi_http::Error>,
    {
        Run::start(self.template.clone(), request, tls, invocation)
    }

    /// What the function holds of the host's memory while it is warm: mapped code and models.
    pub fn reservation(&self) -> &Reservation {
        &self.template.held
    }

    /// What its cold start consisted of, as far as is known by now.
    pub fn cold_start(&self) -> ColdStartParts {
        let known = |ns: &AtomicU64| Some(ns.load(Relaxed)).filter(|ns| *ns > 0);
        ColdStartParts { instance_ns: known(&self.template.instance_ns), ..self.parts.clone() }
    }

    /// Those of its models that are not run for a while, since their workers ended again and again.
    pub fn models_set_aside(&self) -> Vec<SetAside> {
        let aside = |(name, model): (&String, &Arc<Model>)| {
            let (retry_after, reason) = model.set_aside()?;
            Some(SetAside { model: name.clone(), reason, retry_after })
        };
        let mut all: Vec<_> = self.template.world.models.by_name.iter().filter_map(aside).collect();
        all.sort_by(|a, b| a.model.cmp(&b.model));
        all
    }
}

/// What a cold start cost. Code and models are loaded at the same time.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadReport {
    pub code_ns: u64,
    pub models_ns: u64,
    /// CPU time of the loading threads. Reading ahead is not in it: what the page cache lacks is the host's
    /// affair.
    pub cpu_ns: u64,
}

/// Models as their thread hands them over.
#[derive(Default)]
struct Handed {
    models: HashMap<String, Arc<Model>>,
    parts: Vec<ModelStart>,
    wall_ns: u64,
    cpu_ns: u64,
}

/// What cold starts are made with.
pub(crate) struct Loader {
    pub engine: wasmtime::Engine,
    pub linker: Linker<State>,
    pub code: CodeStore,
    pub seals: Arc<Seals>,
    pub engines: Arc<Engines>,
    pub choices: Choices,
    pub models_dir: PathBuf,
    pub loaded_models: LoadedModels,
    pub inference: Arc<Inference>,
    /// Places of threads that load models beside a cold start.
    pub beside: Arc<Semaphore>,
    pub memory: Arc<InstanceMemory>,
    pub ticker: Arc<Ticker>,
    pub idle_of_host: Arc<IdleOfHost<Instance>>,
    /// Of instances.
    pub places: Arc<Semaphore>,
    pub outbound_allow_networks: Vec<IpNet>,
    pub lookups: Arc<Lookups>,
}

impl Loader {
    /// The engine that runs a model, and the place of what was prepared for it.
    ///
    /// # Errors
    /// An engine that was to be chosen and of which nothing is known: preparing the model chooses it anew.
    fn served(&self, model: &ModelRef) -> Result<(Engine, PathBuf), EngineError> {
        let engine = match model.engine {
            EngineChoice::Rten => Engine::Rten,
            EngineChoice::OnnxRuntime => Engine::OnnxRuntime,
            EngineChoice::Auto => match self.choices.get(model) {
                Some(choice) => choice.engine,
                None => {
                    let detail = "no engine was chosen for it".into();
                    return Err(EngineError::Model { name: model.name.clone(), detail });
                }
            },
        };
        Ok((engine, self.prepared_dir(model, engine)))
    }

    /// The engine that may take over from the one that was chosen, where one was faster at deploy and is
    /// there.
    fn other_tier(&self, model: &ModelRef, engine: Engine) -> Option<FasterTier> {
        if model.engine != EngineChoice::Auto || engine != Engine::Rten {
            return None;
        }
        let Gained { engines, gain, batching } = self.choices.get(model)?.faster?;
        if engines != self.engines.library()?.compared() {
            return None;
        }
        let tier = Tier::first(Engine::OnnxRuntime);
        let dir = self.prepared_dir(model, tier.engine);
        let size = |file: &str| std::fs::metadata(dir.join(file)).ok().map(|file| file.len());
        let (graph, weights) = (size(GRAPH_FILE)?, size(WEIGHTS_FILE)?);
        let bytes = private_bytes(tier.engine, graph, weights).saturating_add(weights);
        Some(FasterTier { tier, dir, gain: Faster { bytes, ..gain }, batching })
    }

    /// The place of what is prepared of a model for an engine.
    pub fn prepared_dir(&self, model: &ModelRef, engine: Engine) -> PathBuf {
        let compat = match engine {
            Engine::Rten => vesta_nn::compat(),
            // Without the library nothing is there, and what is made anew says so.
            Engine::OnnxRuntime => {
                self.engines.library().map_or_else(|| "none".into(), |library| library.compat())
            }
        };
        self.models_dir.join(format!("{}-{compat}", model.blob.digest.hex()))
    }

    /// Removes what was prepared of a model, by any version of any engine.
    pub fn discard_model(&self, digest: &Digest) {
        self.choices.discard(digest);
        let prefix = format!("{}-", digest.hex());
        let entries = std::fs::read_dir(&self.models_dir).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)) {
            self.seals.forget(&entry.path());
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }

    /// What a function will hold while it is warm, by the sizes of its files.
    pub fn parts(&self, manifest: &PackageManifest) -> Result<Vec<Part>, EngineError> {
        let size = |path: &Path| Ok(std::fs::metadata(path)?.len());
        let code = self.code.path(&source(manifest));
        let mut parts = vec![code_part(&code, size(&code).map_err(missing)?)];
        parts.extend(self.model_parts(manifest)?);
        Ok(parts)
    }

    /// Of each model the weights, which all who use its bytes share, and its worker, which is another one
    /// where the limits are others.
    fn model_parts(&self, manifest: &PackageManifest) -> Result<Vec<Part>, EngineError> {
        let mut parts = Vec::with_capacity(2 * manifest.models.len());
        for model in &manifest.models {
            let (engine, dir) = self.served(model)?;
            let digest = model.blob.digest;
            let size = |file: &str| match std::fs::metadata(dir.join(file)) {
                Ok(metadata) => Ok(metadata.len()),
                Err(e) => Err(model_error(&model.name, missing(e))),
            };
            let (weights, graph) = (size(WEIGHTS_FILE)?, size(GRAPH_FILE)?);
            let other = self.other_tier(model, engine);
            let settings = self.settings(model, engine, other.is_some(), &manifest.limits);
            let worker = format!("{} {settings:?}", digest.hex());
            let worker = Digest::from_bytes(*blake3::hash(worker.as_bytes()).as_bytes());
            // Each engine has a file of weights of its own.
            let file = match engine {
                Engine::Rten => digest,
                Engine::OnnxRuntime => {
                    Digest::from_bytes(*blake3::hash(dir.as_os_str().as_encoded_bytes()).as_bytes())
                }
            };
            parts.push(Part { kind: Kind::Models, digest: file, bytes: weights });
            let bytes = private_bytes(engine, graph, weights);
            parts.push(Part { kind: Kind::Models, digest: worker, bytes });
        }
        Ok(parts)
    }

    /// The cold start: maps a function's code and models, for which `held` was reserved by their
    /// [`Loader::parts`]. Blocks for some milliseconds of file work; call it within a Tokio runtime, on a
    /// thread that may block.
    pub fn load(
        self: &Arc<Self>,
        manifest: &PackageManifest,
        held: Reservation,
    ) -> Result<(Loaded, LoadReport), EngineError> {
        let cpu = cpu::thread_cpu_ns();
        let begun = Instant::now();
        let models = self.load_models_beside(manifest);
        let (pre, code) = self.load_component(&source(manifest))?;
        let code_ns = begun.elapsed().as_nanos() as u64;
        let models = match models {
            Some(models) => models
                .blocking_recv()
                .map_err(|_| EngineError::Runtime("loading a model failed".into()))??,
            None => Handed::default(),
        };
        let outbound = OutboundPolicy {
            hosts: manifest.outbound.clone(),
            allow_networks: self.outbound_allow_networks.clone(),
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
        };
        let code_path = self.code.path(&source(manifest));
        let mut actual = vec![code_part(&code_path, code.mapped_bytes)];
        actual.extend(self.model_parts(manifest)?);
        held.settle(&actual)?;
        let held = Arc::new(held);
        let reuse = manifest.scaling.reuse;
        let longest = manifest.scaling.keep_alive_ms.map_or(INSTANCE_IDLE_MAX, Duration::from_millis);
        let idle = || self.idle_of_host.of_function(manifest.limits.concurrency as usize, longest);
        let world = World {
            limits: manifest.limits,
            variables: manifest.variables.clone().into_iter().collect(),
            models: Arc::new(Models { by_name: models.models, held: Some(held.clone()) }),
            memory: self.memory.clone(),
            outbound: Arc::new(outbound),
            lookups: self.lookups.clone(),
            ticker: self.ticker.clone(),
        };
        let template = Template {
            pre,
            world,
            reuse,
            idle: (reuse > 1).then(idle),
            idle_of_host: self.idle_of_host.clone(),
            places: self.places.clone(),
            instance_ns: AtomicU64::new(0),
            held,
        };
        let loaded = Loaded { template: Arc::new(template), parts };
        Ok((loaded, report))
    }

    /// Loads models on another thread. With too many cold starts at once, it is done here and now.
    fn load_models_beside(
        self: &Arc<Self>,
        manifest: &PackageManifest,
    ) -> Option<oneshot::Receiver<Result<Handed, EngineError>>> {
        if manifest.models.is_empty() {
            return None;
        }
        let (hand_over, handed_over) = oneshot::channel();
        let (loader, models, limits) = (self.clone(), manifest.models.clone(), manifest.limits);
        let permit = self.beside.clone().try_acquire_owned().ok();
        let is_permitted = permit.is_some();
        let work = move || {
            let _ = hand_over.send(loader.load_models(&models, &limits));
            drop(permit);
        };
        if is_permitted {
            Handle::current().spawn_blocking(work);
        } else {
            work();
        }
        Some(handed_over)
    }

    fn load_models(&self, models: &[ModelRef], limits: &Limits) -> Result<Handed, EngineError> {
        // The first check reads all of a model, which is the host's affair and no part of the bill.
        for model in models {
            self.check_model(model)?;
        }
        let cpu = cpu::thread_cpu_ns();
        let begun = Instant::now();
        let mut loaded = Handed::default();
        for model in models {
            let begun = Instant::now();
            let (served, shared, worker_cpu_ns) = self.load_model(model, limits)?;
            loaded.parts.push(ModelStart {
                name: model.name.clone(),
                wall_ns: begun.elapsed().as_nanos() as u64,
                mapped_bytes: served.resident_bytes(),
                shared,
            });
            loaded.cpu_ns += worker_cpu_ns;
            loaded.models.insert(model.name.clone(), served);
        }
        loaded.wall_ns = begun.elapsed().as_nanos() as u64;
        loaded.cpu_ns += cpu::thread_cpu_ns() - cpu;
        Ok(loaded)
    }

    pub fn load_component(&self, source: &Source) -> Result<(ProxyPre<State>, CodeStart), EngineError> {
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

    /// Whether a model is as it was prepared. One that is not counts as missing from now on, and is made
    /// anew.
    fn check_model(&self, model: &ModelRef) -> Result<(), EngineError> {
        let (_, dir) = self.served(model)?;
        self.seals.check(&sealed_model(&dir, &dir)).map_err(|e| {
            if !matches!(e, SealError::Io(_)) {
                let _ = std::fs::remove_file(dir.join(vesta_nn::INFO_FILE));
            }
            model_error(&model.name, e)
        })
    }

    fn settings(
        &self,
        model: &ModelRef,
        engine: Engine,
        has_faster_engine: bool,
        limits: &Limits,
    ) -> Settings {
        Settings {
            engine,
            has_faster_engine,
            // More than the host may use would have the kernel end the worker instead.
            memory_bytes: limits.model_memory_bytes.min(self.memory.memory().budget()),
            inference_ns: limits.inference_ms.saturating_mul(1_000_000),
            threads: model.threads.clamp(1, self.inference.slots_max),
            batch: model.batch,
        }
    }

    /// A model, whether it was loaded already, and the CPU time that its worker took, in nanoseconds.
    fn load_model(&self, model: &ModelRef, limits: &Limits) -> Result<(Arc<Model>, bool, u64), EngineError> {
        let (engine, dir) = self.served(model)?;
        let other = self.other_tier(model, engine);
        let settings = self.settings(model, engine, other.is_some(), limits);
        let place = self.loaded_models.place(&dir, settings);
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(served) = place.upgrade() {
            return Ok((served, true, 0));
        }
        let (served, cpu_ns) =
            Model::load(self.inference.clone(), dir.clone(), settings, other).map_err(|e| match e {
                StartError::Refused(_) => {
                    // Without its description a prepared model counts as missing, and is made anew.
                    let _ = std::fs::remove_file(dir.join(INFO_FILE));
                    EngineError::Model { name: model.name.clone(), detail: e.to_string() }
                }
                e => EngineError::Worker { name: model.name.clone(), detail: e.to_string() },
            })?;
        *place = Arc::downgrade(&served);
        Ok((served, false, cpu_ns))
    }
}

/// What a function's code is compiled from.
pub(crate) fn source(manifest: &PackageManifest) -> Source {
    Source { component: manifest.component.digest, snapshot: manifest.snapshot }
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
