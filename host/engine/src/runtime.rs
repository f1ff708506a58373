//! The runtime of one host: it prepares uploads and starts invocations of functions that
//! [`load`] made warm.

use crate::config;
use crate::engines::{Engine, Engines};
use crate::error::{EngineError, runtime_error};
use crate::files::{Choices, CodeStore, Seals};
use crate::guest::Instance;
use crate::guest::ender::{Ender, EnderLimits};
use crate::guest::epoch::Ticker;
use crate::guest::idle::IdleOfHost;
use crate::guest::linker::linker;
use crate::imports::lookups::Lookups;
use crate::load::{self, LoadReport, Loaded, Loader, source};
use crate::meter::cpu::spending;
use crate::meter::share::{EndIdle, InstanceMemory};
use crate::models::{Inference, InferenceSlots, LoadedModels, Program, Stocks, Tier, review_tiers};
use crate::prepare::child::{CODE_FILE, ChildLimits, Job};
use crate::prepare::jobs::JobFolders;
use crate::prepared::{Children, ModelPreparer, PreparedModel};
use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use tokio::sync::Semaphore;
use vesta_core::Digest;
use vesta_core::manifest::{ModelRef, PackageManifest};
use vesta_core::memory::{Grant, Part, Reservation};
use vesta_core::slots::SlotsConfig;
use vesta_core::usage::CpuTime;
use vesta_core::vital::Vitals;
use vesta_nn::{Form, ModelLimits};

/// CPU time that a tenant's runs are granted in a round of the slots, in nanoseconds: a few runs of a usual
/// model.
const QUANTUM_NS: u64 = 100_000_000;

/// Of the memory budget and of the places of instances, what may be given to others while it is still there.
const ENDING_SHARE: u64 = 8;
/// At least so many instances.
const ENDING_MIN: u32 = 64;

/// What a runtime is made with.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// Private directory of compiled code and prepared models.
    pub cache_dir: PathBuf,
    /// Key of the MACs in it.
    pub cache_key: [u8; 32],
    /// Instances that may live at once.
    pub instances_max: u32,
    /// Runs of models at once.
    pub inference_slots: u32,
    /// Runs that may wait for a slot.
    pub inference_waiting_max: usize,
    /// The executable whose `prepare-worker` command calls [`child_main`](crate::child_main).
    pub child_program: PathBuf,
    /// The executable whose `inference-worker` command calls [`worker_main`](crate::worker_main).
    pub inference_program: PathBuf,
    /// Folder in which engines are installed.
    pub engines_dir: PathBuf,
    /// A library of ONNX Runtime in the place of an installed one.
    pub onnx_runtime: Option<PathBuf>,
    pub child_limits: ChildLimits,
    pub model_limits: ModelLimits,
    /// Networks that guests may reach although they are not public.
    pub outbound_allow_networks: Vec<IpNet>,
    /// Whom names of other hosts are looked up at. Empty: those of the system.
    pub name_servers: Vec<SocketAddr>,
    /// What is told when a thread of the runtime ends.
    pub vitals: Vitals,
}

/// The runtime of one host.
pub struct Runtime {
    loader: Arc<Loader>,
    models: ModelPreparer,
    jobs: Arc<JobFolders>,
    children: Arc<Children>,
    idle_of_host: Arc<IdleOfHost<Instance>>,
}

impl Runtime {
    /// `memory` is the host's budget, and whoever makes room in it.
    pub fn new(config: RuntimeConfig, memory: Arc<dyn Grant>) -> Result<Runtime, EngineError> {
        let ending = (config.instances_max / ENDING_SHARE as u32).max(ENDING_MIN);
        let pooled = config.instances_max.saturating_add(ending);
        let engine = wasmtime::Engine::new(&config::serving(pooled)).map_err(runtime_error)?;
        let linker = linker(&engine).map_err(runtime_error)?;
        let seals = Arc::new(Seals::new(config.cache_key));
        let code = CodeStore::new(config.cache_dir.join("code"), config::compat(&engine), seals.clone())?;
        let models_dir = config.cache_dir.join("models");
        std::fs::create_dir_all(&models_dir)?;
        let jobs = Arc::new(JobFolders::open(config.cache_dir.join("jobs"))?);
        let weak = engine.weak();
        let vital = config.vitals.hold("epoch ticker");
        let ticker = Ticker::start(move || {
            // Captured, so that it is dropped with the thread.
            let _ = &vital;
            weak.upgrade().inspect(|e| e.increment_epoch()).is_some()
        })?;
        let limits = EnderLimits { count: ending as usize, bytes: memory.memory().budget() / ENDING_SHARE };
        let ender = Ender::start(limits, config.vitals.hold("ender of instances"))?;
        let idle_of_host = IdleOfHost::new(ender);
        let memory = InstanceMemory::new(memory, idle_of_host.clone());
        let slots = SlotsConfig {
            slots: config.inference_slots,
            waiting_max: config.inference_waiting_max,
            waiting_tenant_max: (config.inference_waiting_max / 2).max(1),
            quantum_ns: QUANTUM_NS,
        };
        let engines = Arc::new(Engines::new(config.engines_dir.clone(), config.onnx_runtime.clone()));
        let inference = Arc::new(Inference {
            stocks: Stocks::open(
                Program {
                    path: config.inference_program.clone(),
                    argument: "inference-worker",
                    library: None,
                },
                engines.clone(),
                config.vitals.clone(),
            )?,
            slots: InferenceSlots::new(slots),
            slots_max: config.inference_slots.max(1),
            memory: memory.clone(),
            seals: seals.clone(),
            merged: AtomicU64::new(0),
        });
        let loader = Loader {
            engine,
            linker,
            code,
            seals,
            engines,
            choices: Choices::new(models_dir.clone()),
            models_dir,
            loaded_models: LoadedModels::default(),
            inference,
            beside: Arc::new(Semaphore::new(load::BESIDE_MAX)),
            memory,
            ticker,
            idle_of_host: idle_of_host.clone(),
            places: Arc::new(Semaphore::new(config.instances_max as usize)),
            outbound_allow_networks: config.outbound_allow_networks.clone(),
            lookups: Lookups::new(config.name_servers.clone()),
        };
        let loader = Arc::new(loader);
        let children = Arc::new(Children { program: config.child_program, limits: config.child_limits });
        let models = ModelPreparer {
            loader: loader.clone(),
            jobs: jobs.clone(),
            children: children.clone(),
            limits: config.model_limits,
        };
        Ok(Runtime { loader, models, jobs, children, idle_of_host })
    }

    /// What a function will hold while it is warm, by the sizes of its files.
    pub fn parts(&self, manifest: &PackageManifest) -> Result<Vec<Part>, EngineError> {
        self.loader.parts(manifest)
    }

    /// The cold start: maps a function's code and models, for which `held` was reserved by their
    /// [`Runtime::parts`]. Blocks for some milliseconds of file work; call it within a Tokio runtime, on a
    /// thread that may block.
    pub fn load(
        &self,
        manifest: &PackageManifest,
        held: Reservation,
    ) -> Result<(Loaded, LoadReport), EngineError> {
        self.loader.load(manifest, held)
    }

    /// Compiles a function's component in a child process and keeps the code. Done already: returns at once.
    /// The CPU time goes to `spent`.
    pub async fn prepare_component(
        &self,
        manifest: &PackageManifest,
        blob: &Path,
        spent: &CpuTime,
    ) -> Result<(), EngineError> {
        spending(spent, self.compile(manifest, blob, spent)).await
    }

    async fn compile(
        &self,
        manifest: &PackageManifest,
        blob: &Path,
        spent: &CpuTime,
    ) -> Result<(), EngineError> {
        let source = &source(manifest);
        if self.loader.code.verified(source).is_ok() {
            return Ok(());
        }
        let out = self.jobs.create()?;
        let job = Job::Compile { source: blob.into(), out: out.path().into(), snapshot: source.snapshot };
        self.children.run(job, spent).await?;
        self.loader.code.adopt(source, &out.path().join(CODE_FILE))?;
        // Loaded once here, so that what the pool cannot hold is refused at deploy.
        self.loader.load_component(source).map(drop).map_err(|e| {
            self.loader.code.discard(&source.component);
            EngineError::Refused { code: "invalid-component".into(), detail: e.to_string() }
        })
    }

    /// Checks a model in child processes, tries it with its samples, chooses its engine, and keeps its
    /// prepared form. Done already: tries it where it has samples, and else returns at once. The CPU time
    /// goes
    /// to `spent`.
    pub async fn prepare_model(
        &self,
        model: &ModelRef,
        source: &Path,
        spent: &CpuTime,
    ) -> Result<PreparedModel, EngineError> {
        self.models.prepare(model, source, spent).await
    }

    /// Removes what was prepared from a blob, be it a component or a model.
    pub fn discard(&self, digest: &Digest) {
        self.loader.code.discard(digest);
        self.loader.discard_model(digest);
    }

    /// Has each loaded model served in the tier that pays by now. Called once a second or so, within a Tokio
    /// runtime; somebody lacked `needed` bytes of memory since the last time.
    pub fn review_models(&self, needed: u64) {
        let memory = self.loader.inference.memory.memory();
        review_tiers(&self.loader.loaded_models.all(), memory, needed);
    }

    /// Loaded models whose weights are packed for the embedded engine, and those that ONNX Runtime serves.
    pub fn models_by_tier(&self) -> (usize, usize) {
        let tiers: Vec<Tier> = self.loader.loaded_models.all().iter().filter_map(|m| m.tier()).collect();
        let count = |is: fn(&Tier) -> bool| tiers.iter().filter(|tier| is(tier)).count();
        (count(|tier| tier.form == Form::Packed), count(|tier| tier.engine == Engine::OnnxRuntime))
    }

    /// Runs of models that were merged with others, since the start.
    pub fn runs_merged(&self) -> u64 {
        self.loader.inference.merged.load(Relaxed)
    }

    /// Runs of models that wait for a slot.
    pub fn runs_waiting(&self) -> usize {
        self.loader.inference.slots.waiting()
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
