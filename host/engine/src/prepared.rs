//! Prepares models for the engines that are to run them, and chooses among these.
//!
//! ```text
//!   engine =      rten          onnxruntime     auto
//!                  │                 │            ├─ ONNX Runtime is not installed: as rten, or refused
//!                  │                 │            │  where ONNX Runtime was chosen before
//!                  ▼                 ▼            ├─ both run it, outputs agree:  rten; ONNX Runtime, if faster, while the model is busy
//!                rten, or      ONNX Runtime,      ├─ both run it, outputs differ: ONNX Runtime
//!                refused       or refused         └─ one runs it: that one. None: refused, with both reasons
//! ```

use crate::engines::{Engine, Library};
use crate::error::EngineError;
use crate::files::{Choice, Gained, sealed_model};
use crate::load::Loader;
use crate::meter::cpu::spending;
use crate::prepare::child::{self, Answer, ChildLimits, For, Job};
use crate::prepare::jobs::JobFolders;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vesta_core::manifest::{EngineChoice, ModelRef, Precision};
use vesta_core::usage::CpuTime;
use vesta_nn::{Faster, ModelInfo, ModelLimits, TRIAL_FILE, another_engine_may_help};

/// A model that can be loaded.
#[derive(Debug)]
pub struct PreparedModel {
    pub info: ModelInfo,
    /// The engine that runs it, and why that one.
    pub engine: Engine,
    pub why: String,
    /// The engine that takes over while the model is busy, and what that gains.
    pub faster: Option<(Engine, Faster)>,
}

impl PreparedModel {
    fn of(info: ModelInfo, Choice { engine, why, faster }: Choice) -> PreparedModel {
        // Of two, the one that saves more takes over.
        let saves_more = |gained: &Gained| {
            info.packed.is_none_or(|packed| gained.gain.saved_cpu_ms >= packed.saved_cpu_ms)
        };
        let faster = faster.filter(saves_more).map(|gained| (Engine::OnnxRuntime, gained.gain));
        PreparedModel { info, engine, why, faster }
    }
}

/// How ONNX Runtime gets onto a host, for whoever reads a refusal.
const INSTALL: &str = "`vesta engines install onnxruntime`";

/// The processes that prepare uploads.
pub(crate) struct Children {
    pub program: PathBuf,
    pub limits: ChildLimits,
}

impl Children {
    /// Runs a job; what the child refuses is an error.
    pub async fn run(&self, job: Job, spent: &CpuTime) -> Result<Answer, EngineError> {
        match child::run(&self.program, "prepare-worker", self.limits, job, spent).await? {
            // The host's own affair, and not the upload's: the detail names files of the host.
            Answer::Refused { code, detail } if code == "engine-unusable" => {
                tracing::error!(%detail, "the library of ONNX Runtime cannot be used");
                Err(EngineError::Runtime("the library of ONNX Runtime cannot be used".into()))
            }
            Answer::Refused { code, detail } => Err(EngineError::Refused { code, detail }),
            answer => Ok(answer),
        }
    }
}

/// Prepares models.
pub(crate) struct ModelPreparer {
    pub loader: Arc<Loader>,
    pub jobs: Arc<JobFolders>,
    pub children: Arc<Children>,
    pub limits: ModelLimits,
}

impl ModelPreparer {
    /// Checks a model in child processes, tries it with its samples, chooses its engine, and keeps its
    /// prepared form. Done already: tries it where it has samples, and else returns at once. The CPU time
    /// goes
    /// to `spent`.
    pub async fn prepare(
        &self,
        model: &ModelRef,
        source: &Path,
        spent: &CpuTime,
    ) -> Result<PreparedModel, EngineError> {
        spending(spent, self.choose(model, source, spent)).await
    }

    async fn choose(
        &self,
        model: &ModelRef,
        source: &Path,
        spent: &CpuTime,
    ) -> Result<PreparedModel, EngineError> {
        let named = || "the manifest names it".to_owned();
        if model.engine == EngineChoice::Rten {
            let info = self.rten(model, source, None, spent).await?;
            return Ok(PreparedModel { info, engine: Engine::Rten, why: named(), faster: None });
        }
        // Reads all of it the first time.
        let engines = self.loader.engines.clone();
        let found = tokio::task::spawn_blocking(move || engines.find()).await;
        let library =
            found.map_err(|e| EngineError::Runtime(e.to_string()))?.map_err(EngineError::Runtime)?;
        let is_named = model.engine == EngineChoice::OnnxRuntime;
        match library {
            Some(library) if is_named => {
                let info = self.onnx_runtime(model, source, &library, None, spent).await?;
                Ok(PreparedModel { info, engine: Engine::OnnxRuntime, why: named(), faster: None })
            }
            None if is_named => Err(not_installed("the manifest names ONNX Runtime as its engine")),
            // The embedded engine refuses the model, or computes it otherwise.
            None if self.loader.choices.get(model).is_some_and(|c| c.engine == Engine::OnnxRuntime) => {
                Err(not_installed("ONNX Runtime was chosen as the engine of this model"))
            }
            None => {
                let info = self.rten(model, source, None, spent).await.map_err(with_hint)?;
                self.chosen(model, Engine::Rten, "ONNX Runtime is not installed".into(), info, None)
            }
            Some(library) => self.choose_one(model, source, &library, spent).await,
        }
    }

    fn chosen(
        &self,
        model: &ModelRef,
        engine: Engine,
        why: String,
        info: ModelInfo,
        faster: Option<Gained>,
    ) -> Result<PreparedModel, EngineError> {
        let choice = Choice { engine, why, faster };
        self.loader.choices.set(model, choice.clone())?;
        Ok(PreparedModel::of(info, choice))
    }

    async fn choose_one(
        &self,
        model: &ModelRef,
        source: &Path,
        library: &Library,
        spent: &CpuTime,
    ) -> Result<PreparedModel, EngineError> {
        if let Some(prepared) = self.chosen_before(model) {
            return Ok(prepared);
        }
        let trial = self.jobs.create()?;
        let (info, reason) = match self.rten(model, source, Some(trial.path()), spent).await {
            Ok(info) => (Some(info), String::new()),
            Err(EngineError::Refused { code, detail }) if another_engine_may_help(&code) => (None, detail),
            Err(e) => return Err(e),
        };
        let reference = Some(trial.path().join(TRIAL_FILE)).filter(|file| info.is_some() && file.exists());
        let is_compared = reference.is_some();
        let other = self.onnx_runtime(model, source, library, reference, spent).await;
        match (info, other) {
            (Some(_), Ok(other)) if other.difference.is_some() => {
                let difference = other.difference.as_deref().unwrap_or_default();
                let why = format!("the embedded engine's outputs differ from ONNX Runtime's ({difference})");
                self.chosen(model, Engine::OnnxRuntime, why, other, None)
            }
            (Some(info), Ok(other)) => {
                let why = match is_compared {
                    true => "it runs the model, and ONNX Runtime gives the same outputs",
                    false => {
                        "it runs the model; inputs and outputs are too large to be compared with ONNX Runtime's"
                    }
                };
                // Where the embedded engine computes with fewer bits, they agree on these inputs only.
                let faster = other.faster.filter(|_| info.reduced.is_empty());
                let engines = library.compared();
                let faster = faster.map(|gain| Gained { engines, gain, batching: other.batching });
                self.chosen(model, Engine::Rten, why.into(), info, faster)
            }
            // Only a refusal of the model says something of the model.
            (_, Err(e)) if e.is_platform() => Err(e),
            (Some(info), Err(e)) => {
                let why = format!("ONNX Runtime does not run the model: {e}");
                self.chosen(model, Engine::Rten, why, info, None)
            }
            (None, Ok(other)) => {
                let why = format!("the embedded engine does not run the model: {reason}");
                self.chosen(model, Engine::OnnxRuntime, why, other, None)
            }
            (None, Err(EngineError::Refused { code, detail })) => {
                let detail = format!("no engine runs the model. rten: {reason}. onnxruntime: {detail}");
                Err(EngineError::Refused { code, detail })
            }
            (None, Err(e)) => Err(e),
        }
    }

    /// What was chosen before for a model without samples, where it is still there.
    fn chosen_before(&self, model: &ModelRef) -> Option<PreparedModel> {
        let choice = self.loader.choices.get(model)?;
        // Chosen without the other engine, it is chosen anew with it.
        let is_of_both = self.sound_info(&self.loader.prepared_dir(model, Engine::OnnxRuntime)).is_some();
        let dir = self.loader.prepared_dir(model, choice.engine);
        let info = self.sound_info(&dir).filter(|_| is_of_both && model.samples.is_empty())?;
        Some(PreparedModel::of(info, choice))
    }

    /// The description of a prepared model whose files are sound.
    fn sound_info(&self, dir: &Path) -> Option<ModelInfo> {
        read_info(dir).filter(|_| self.loader.seals.check(&sealed_model(dir, dir)).is_ok())
    }

    async fn rten(
        &self,
        model: &ModelRef,
        source: &Path,
        keep_trial: Option<&Path>,
        spent: &CpuTime,
    ) -> Result<ModelInfo, EngineError> {
        let keep_trial = keep_trial.map(PathBuf::from);
        let dir = self.loader.prepared_dir(model, Engine::Rten);
        let info = self.prepare_in(&dir, model, source, For::Rten { keep_trial }, spent).await?;
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

    async fn onnx_runtime(
        &self,
        model: &ModelRef,
        source: &Path,
        library: &Library,
        reference: Option<PathBuf>,
        spent: &CpuTime,
    ) -> Result<ModelInfo, EngineError> {
        let engine =
            For::OnnxRuntime { library: library.path.clone(), version: library.version.clone(), reference };
        let dir = self.loader.prepared_dir(model, Engine::OnnxRuntime);
        self.prepare_in(&dir, model, source, engine, spent).await
    }

    /// Prepares a model for one engine; `dir` is the place of what comes of it.
    async fn prepare_in(
        &self,
        dir: &Path,
        model: &ModelRef,
        source: &Path,
        engine: For,
        spent: &CpuTime,
    ) -> Result<ModelInfo, EngineError> {
        let (samples, limits) = (model.samples.clone(), self.limits.clone());
        if let Some(info) = self.sound_info(dir) {
            // Others' samples are no trial of this one: where its files are gone, it is prepared without
            // them.
            let is_tried = info.dry_run.as_ref().is_some_and(|run| !run.sampled);
            if samples.is_empty() && is_tried && !engine.wants_trial() {
                return Ok(info);
            }
            return match self
                .children
                .run(Job::Try { engine, dir: dir.into(), samples, limits }, spent)
                .await?
            {
                Answer::Prepared(info) => Ok(*info),
                _ => Err(another_question()),
            };
        }
        let out = self.jobs.create()?;
        let (source, encoding) = (source.into(), model.encoding);
        let job = Job::Model { engine, source, encoding, samples, out: out.path().into(), limits };
        let Answer::Prepared(info) = self.children.run(job, spent).await? else {
            return Err(another_question());
        };
        let _ = std::fs::remove_file(out.path().join(vesta_nn::LEFT_FILE));
        let sealed = self.loader.seals.seal(&sealed_model(dir, out.path()));
        let _ = std::fs::remove_dir_all(dir);
        self.loader.loaded_models.forget(dir);
        sealed?;
        std::fs::rename(out.path(), dir)?;
        Ok(*info)
    }
}

/// A refusal by the embedded engine, where another one might not refuse.
fn with_hint(e: EngineError) -> EngineError {
    match e {
        EngineError::Refused { code, detail } if another_engine_may_help(&code) => {
            let detail = format!(
                "{detail} (the embedded engine, rten). ONNX Runtime may run it and is not installed on this host; its operator may \
                 run {INSTALL} and deploy again"
            );
            EngineError::Refused { code, detail }
        }
        e => e,
    }
}

/// A refusal of a model that wants ONNX Runtime on a host without it.
fn not_installed(why: &str) -> EngineError {
    let detail = format!(
        "{why}, which is not installed on this host; its operator may run {INSTALL}, and then it can be deployed again"
    );
    EngineError::Refused { code: "engine-not-installed".into(), detail }
}

fn another_question() -> EngineError {
    EngineError::Runtime("the child answered another question".into())
}

fn read_info(dir: &Path) -> Option<ModelInfo> {
    serde_json::from_slice(&std::fs::read(dir.join(vesta_nn::INFO_FILE)).ok()?).ok()
}
