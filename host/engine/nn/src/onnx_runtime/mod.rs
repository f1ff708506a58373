//! The second engine: ONNX Runtime, a library in C++ that is opened at run time.
//!
//! It knows nearly all of ONNX and is faster than the default engine, and takes longer to load a model. It is
//! opened in workers and preparing children only, before they are confined: afterwards they can open no file.
//! Weights are given to it as memory that this process has mapped, so that it needs no file of its own.
//!
//! A model has no say in how it is run. Everything that decides is set here: no file is named by the model
//! ([`check`](crate::check) refuses external data, and what is loaded was written by this host), no library
//! of
//! operators is loaded, no option is read from the model, nothing is logged or reported.

mod compare;
mod external;
mod graph;
mod prepare;
mod rewrites;
mod rules;
mod unsigned;
mod value;

pub use compare::{TRIAL_FILE, keep};
pub use prepare::LEFT_FILE;
#[cfg(test)]
pub use rules::apply as apply_rules;

use crate::mapped::{MappedWeights, bytes_in};
use crate::onnx::*;
use crate::prepare::parse_info;
use crate::rten::guarded;
use crate::worker::STACK_BYTES;
use crate::{Backend, Form, GRAPH_FILE, Graph, LoadError, PreparedFiles, WEIGHTS_FILE, heap};
use external::External;
use graph::OnnxRuntimeGraph;
use ort::AsPointer;
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use prost::Message;
use std::path::Path;
use std::sync::Arc;
use value::Value;

/// The engine's name in descriptions of models.
pub const NAME: &str = "onnxruntime";

/// A variable of the environment, and its value: the library of 1.32 reports its use over the network and
/// starts a thread for that, unless it finds this when it is set up. An option that comes later is too late.
pub const ENVIRONMENT: (&str, &str) = ("ORT_DISABLE_TELEMETRY", "1");

/// Number of the format of prepared directories.
const FORMAT: &str = "2";

/// A name for what directories that are prepared for this version of the library depend on.
pub fn compat(version: &str) -> String {
    format!("{FORMAT}-{NAME}-{version}")
}

/// The library, opened. There is one in a process.
pub struct OnnxRuntime {
    environment: Environment,
}

/// How a session is made.
struct Settings<'a> {
    threads: usize,
    level: GraphOptimizationLevel,
    /// Where the optimised model is written, with its weights inside.
    save: Option<&'a Path>,
}

impl OnnxRuntime {
    /// Opens the library and has it set up all that it sets up once, by a run of a tiny model. Starts no
    /// thread. To be called before the process is confined, in an environment with [`ENVIRONMENT`].
    ///
    /// # Errors
    /// A file that is not ONNX Runtime, or of a release before 1.24; another environment.
    pub fn open(library: &Path) -> Result<OnnxRuntime, LoadError> {
        let (variable, value) = ENVIRONMENT;
        let open = || -> Result<OnnxRuntime, String> {
            if std::env::var_os(variable).is_none_or(|found| found != value) {
                return Err(format!("it is not opened without {variable}={value} in the environment"));
            }
            let builder = ort::init_from(library).map_err(|e| e.to_string())?;
            // Without a pool of threads.
            let environment =
                builder.with_name("vesta").with_telemetry(false).build().map_err(|e| e.to_string())?;
            environment.set_log_level(LogLevel::Fatal);
            let engine = OnnxRuntime { environment };
            engine.rehearse()?;
            Ok(engine)
        };
        guarded(open).and_then(|opened| opened).map_err(LoadError::Engine)
    }

    /// The library looks at the processor, and at the files in which Linux describes it, at its first use.
    fn rehearse(&self) -> Result<(), String> {
        let float = |name: &str| ValueInfoProto {
            name: Some(name.into()),
            r#type: Some(TypeProto {
                value: Some(TypeValue::Tensor(TypeTensor {
                    elem_type: Some(1),
                    shape: Some(TensorShapeProto { dim: vec![two(), two()] }),
                })),
                denotation: None,
            }),
        };
        let product = NodeProto {
            op_type: Some("MatMul".into()),
            input: vec!["x".into(), "x".into()],
            output: vec!["y".into()],
            ..NodeProto::default()
        };
        let model = ModelProto {
            ir_version: Some(8),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
            graph: Some(GraphProto {
                name: Some("rehearsal".into()),
                node: vec![product],
                input: vec![float("x")],
                output: vec![float("y")],
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        };
        let settings = Settings { threads: 1, level: GraphOptimizationLevel::All, save: None };
        let session = self.session(&model.encode_to_vec(), &External::none(), &settings)?;
        let data: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let outputs = graph::run_once(&session, c"x", &data, &[2, 2], c"y")?;
        let product: Vec<f32> = outputs.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        if product == [7.0, 10.0, 15.0, 22.0] {
            return Ok(());
        }
        Err(format!("the library multiplies wrongly: {product:?}"))
    }

    /// A session over a model and its weights, which have to outlive it.
    fn session(
        &self,
        graph: &[u8],
        weights: &External<'_>,
        settings: &Settings<'_>,
    ) -> Result<Session, String> {
        let build = || -> ort::Result<SessionBuilder> {
            let builder = Session::builder(&self.environment)?
                .with_no_environment_execution_providers()?
                // With one, a run stays on the thread that asks for it, and there is no pool.
                .with_intra_threads(settings.threads)?
                .with_inter_threads(1)?
                .with_parallel_execution(false)?
                // A waiting thread that spins is billed to somebody.
                .with_intra_op_spinning(false)?
                // Plans of memory are kept for each shape that was ever seen.
                .with_memory_pattern(false)?
                .with_optimization_level(settings.level)?
                // A model is never taken for the library's other format, whatever bytes it has.
                .with_config_entry("session.load_model_format", "ONNX")?
                .with_log_level(LogLevel::Fatal)?;
            match settings.save {
                Some(path) => Ok(builder.with_optimized_model_path(path)?),
                // Constants were computed at deploy, where they are bounded.
                None => Ok(builder.with_disabled_optimizers("ConstantFolding")?),
            }
        };
        let mut builder = build().map_err(|e| e.to_string())?;
        let options = builder.ptr_mut();
        // Without an arena of its own, memory comes from the process's allocator and goes back to it
        // (`heap.rs`).
        // SAFETY: the options are valid as long as the builder.
        #[allow(unsafe_code)]
        value::ok(unsafe { (ort::api().DisableCpuMemArena)(options) })?;
        if !weights.names.is_empty() {
            let names: Vec<_> = weights.names.iter().map(|name| name.as_ptr()).collect();
            let values: Vec<_> = weights.values.iter().map(Value::ptr).collect();
            // The first is for the optimiser. By itself it has the library copy what it does not pack: the
            // second is for the runs, and has it use what is there.
            // SAFETY: there are as many names as values; names are copied. The library reads the values as
            // long as the session lives, and never writes to them, since initialisers are constant.
            #[allow(unsafe_code)]
            value::ok(unsafe {
                (ort::api().AddExternalInitializers)(options, names.as_ptr(), values.as_ptr(), names.len())
            })?;
            for (name, value) in names.iter().zip(&values) {
                // SAFETY: as above.
                #[allow(unsafe_code)]
                value::ok(unsafe { (ort::api().AddInitializer)(options, *name, *value) })?;
            }
        }
        builder.commit_from_memory(graph).map_err(|e| {
            let reason = e.to_string();
            end_if_out_of_memory(&reason);
            reason
        })
    }

    fn load_mapped(
        &self,
        files: &PreparedFiles,
        threads: usize,
        save: Option<&Path>,
    ) -> Result<OnnxRuntimeGraph, LoadError> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |source| LoadError::Io { what, source }
        };
        let info = parse_info(&files.info)?;
        if info.backend != NAME {
            return Err(LoadError::Compat { found: info.backend, expected: NAME.into() });
        }
        let weights = MappedWeights::map(&files.weights, &info).map_err(failed(WEIGHTS_FILE))?;
        let graph = bytes_in(&files.graph).map_err(failed(GRAPH_FILE))?;
        // What is saved is the same on every processor; what depends on it is done at each load.
        let level = if save.is_some() { GraphOptimizationLevel::Level2 } else { GraphOptimizationLevel::All };
        let settings = Settings { threads, level, save };
        // SAFETY: the graph that is returned drops its session first, then these tensors, and the mapping
        // that
        // they lie in after them; nothing of the model leaves it but copies.
        #[allow(unsafe_code)]
        let bytes: &'static [u8] = unsafe { std::mem::transmute(weights.bytes()) };
        let load = || {
            let external = External::of(&graph, bytes, &graph::cpu_memory()?)?;
            Ok((self.session(&graph, &external, &settings)?, external))
        };
        let (session, external) = guarded(load).and_then(|loaded| loaded).map_err(LoadError::Engine)?;
        OnnxRuntimeGraph::new(session, external, weights, info)
    }
}

impl Backend for OnnxRuntime {
    fn name(&self) -> &'static str {
        NAME
    }

    /// Packs weights by itself; there is one form.
    fn load(&self, files: PreparedFiles, form: Form) -> Result<Arc<dyn Graph>, LoadError> {
        self.load_for(files, 1, form)
    }

    fn load_for(&self, files: PreparedFiles, threads: usize, _: Form) -> Result<Arc<dyn Graph>, LoadError> {
        Ok(Arc::new(self.load_mapped(&files, threads, None)?))
    }

    /// Sessions have their threads; this is the one that waits for them, or the only one.
    fn on_threads(&self, _threads: usize, work: &mut (dyn FnMut() + Send)) {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
            if let Ok(thread) = thread {
                let _ = thread.join();
            }
        });
    }
}

fn two() -> Dimension {
    Dimension { value: Some(DimensionValue::Value(2)), ..Dimension::default() }
}

/// Where the library was refused memory, the process ends as it does where Rust is refused memory: what a
/// half-done run has left behind is nobody's, and the host knows this end.
fn end_if_out_of_memory(reason: &str) {
    if ["bad_alloc", "Failed to allocate memory", "bad allocation"].iter().any(|text| reason.contains(text)) {
        heap::end_out_of_memory();
    }
}
