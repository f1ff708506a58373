//! The runtime of one host: it prepares uploads and starts invocations of functions that
//! [`load`] made warm.

use crate::config;
use crate::error::{EngineError, runtime_error};
use crate::files::{CodeStore, Seals};
use crate::guest::Instance;
use crate::guest::ender::{Ender, EnderLimits};
use crate::guest::epoch::Ticker;
use crate::guest::idle::IdleOfHost;
use crate::guest::linker::linker;
use crate::imports::lookups::Lookups;
use crate::load::{self, LoadReport, Loaded, Loader, sealed_model, source};
use crate::meter::cpu::spending;
use crate::meter::share::{EndIdle, InstanceMemory};
use crate::models::{Inference, InferenceSlots, LoadedModels, Program, Stock, review_forms};
use crate::prepare::child::{self, Answer, CODE_FILE, ChildLimits, Job};
use crate::prepare::jobs::JobFolders;
use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use tokio::sync::Semaphore;
use vesta_core::Digest;
use vesta_core::manifest::{ModelRef, PackageManifest, Precision};
use vesta_core::memory::{Grant, Part, Reservation};
use vesta_core::slots::SlotsConfig;
use vesta_core::usage::CpuTime;
use vesta_core::vital::Vitals;
use vesta_nn::{ModelInfo, ModelLimits};

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
    jobs: JobFolders,
    idle_of_host: Arc<IdleOfHost<Instance>>,
    config: RuntimeConfig,
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
        let jobs = JobFolders::open(config.cache_dir.join("jobs"))?;
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
        let inference = Arc::new(Inference {
            stock: Stock::open(
                Program { path: config.inference_program.clone(), argument: "inference-worker" },
                config.vitals.hold("stock of workers"),
            )?,
            slots: InferenceSlots::new(slots),
            slots_max: config.inference_slots.max(1),
            memory: memory.clone(),
            merged: AtomicU64::new(0),
        });
        let loader = Loader {
            engine,
            linker,
            code,
            seals,
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
        Ok(Runtime { loader: Arc::new(loader), jobs, idle_of_host, config })
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
        self.child(job, spent).await?;
        self.loader.code.adopt(source, &out.path().join(CODE_FILE))?;
        // Loaded once here, so that what the pool cannot hold is refused at deploy.
        self.loader.load_component(source).map(drop).map_err(|e| {
            self.loader.code.discard(&source.component);
            EngineError::Refused { code: "invalid-component".into(), detail: e.to_string() }
        })
    }

    /// Checks a model in a child process, tries it with its samples, and keeps its prepared form. Done
    /// already: tries it where it has samples, and else returns at once. The CPU time goes to `spent`.
    pub async fn prepare_model(
        &self,
        model: &ModelRef,
        source: &Path,
        spent: &CpuTime,
    ) -> Result<ModelInfo, EngineError> {
        let info = spending(spent, self.check_model(model, source, spent)).await?;
        if model.precision == Precision::Full && !info.reduced.is_empty() {
            let detail = format!(
                "the engine keeps 64-bit integers in 32 bits and doubles in single precision, which changes what this model \
                 computes: {}; write precision = \"reduced\" for the model in vesta.toml to allow it",
                info.reduced.join("; ")
            );
            return Err(EngineError::Refused { code: "reduced-precision".into(), detail });
        }
        Ok(info)
    }

    async fn check_model(
        &self,
        model: &ModelRef,
        source: &Path,
        spent: &CpuTime,
    ) -> Result<ModelInfo, EngineError> {
        let dir = self.loader.model_dir(&model.blob.digest);
        let (samples, limits) = (model.samples.clone(), self.config.model_limits.clone());
        if let Some(info) = read_info(&dir)
            && self.loader.seals.check(&sealed_model(&dir, &dir)).is_ok()
        {
            // Others' samples are no trial of this one: where its files are gone, it is prepared without
            // them.
            let is_tried = info.dry_run.as_ref().is_some_and(|run| !run.sampled);
            if samples.is_empty() && is_tried {
                return Ok(info);
            }
            return match self.child(Job::Try { dir, samples, limits }, spent).await? {
                Answer::Prepared(info) => Ok(*info),
                _ => Err(another_question()),
            };
        }
        let out = self.jobs.create()?;
        let (source, encoding) = (source.into(), model.encoding);
        let job = Job::Model { source, encoding, samples, out: out.path().into(), limits };
        let Answer::Prepared(info) = self.child(job, spent).await? else {
            return Err(another_question());
        };
        let sealed = self.loader.seals.seal(&sealed_model(&dir, out.path()));
        let _ = std::fs::remove_dir_all(&dir);
        self.loader.loaded_models.forget(&dir);
        sealed?;
        std::fs::rename(out.path(), &dir)?;
        Ok(*info)
    }

    async fn child(&self, job: Job, spent: &CpuTime) -> Result<Answer, EngineError> {
        let c = &self.config;
        match child::run(&c.child_program, "prepare-worker", c.child_limits, job, spent).await? {
            Answer::Refused { code, detail } => Err(EngineError::Refused { code, detail }),
            answer => Ok(answer),
        }
    }

    /// Removes what was prepared from a blob, be it a component or a model.
    pub fn discard(&self, digest: &Digest) {
        self.loader.code.discard(digest);
        self.loader.seals.forget(&self.loader.model_dir(digest));
        let _ = std::fs::remove_dir_all(self.loader.model_dir(digest));
    }

    /// Has each loaded model served in the form that pays by now. Called once a second or so, within a Tokio
    /// runtime; somebody lacked `needed` bytes of memory since the last time.
    pub fn review_models(&self, needed: u64) {
        let memory = self.loader.inference.memory.memory();
        review_forms(&self.loader.loaded_models.all(), memory, needed);
    }

    /// Loaded models whose weights are packed.
    pub fn models_packed(&self) -> usize {
        self.loader.loaded_models.all().iter().filter(|model| model.is_packed()).count()
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

fn another_question() -> EngineError {
    EngineError::Runtime("the child answered another question".into())
}

fn read_info(dir: &Path) -> Option<ModelInfo> {
    vesta_nn::read_info(&std::fs::File::open(dir.join(vesta_nn::INFO_FILE)).ok()?).ok()
}
