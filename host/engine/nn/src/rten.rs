//! The default engine: `rten`, pure Rust, safe with models that nobody vouches for, and the fastest from
//! nothing to a first answer.

use crate::convert::{to_output, to_value};
use crate::inputs::sorted;
use crate::mapped::{MappedWeights, bytes_in};
use crate::prepare::read_info;
use crate::{
    Backend, Form, GRAPH_FILE, Graph, LoadError, Output, PreparedFiles, ReadAhead, RunError, RunOutput,
    Signature, Tensor, TensorView, WEIGHTS_FILE,
};
use ::rten::{DataType, Model, ModelOptions, NodeId, RunOptions, ThreadPool, ValueType, thread_pool};
use std::cell::OnceCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The engine's name in descriptions of models.
pub const NAME: &str = "rten";

/// The engine's version, as in the workspace's manifest.
pub const VERSION: &str = "0.27";

/// The engine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rten;

/// A variable of the environment, and its value: the pool that the engine makes for itself and that no run
/// uses has one thread.
pub const ENVIRONMENT: (&str, &str) = ("RTEN_NUM_THREADS", "1");

/// How models are loaded: without the engine's optimiser, the same for all.
///
/// Measured on prepared directories, optimiser off / on: MiniLM loads in 0.33 / 1.5 ms and runs in 19.8 /
/// 19.8 ms at 64 tokens, magika loads in 0.18 / 0.59 ms and runs in 10.1 / 10.1 ms (best of 25 on a busy
/// machine; medians of loads). What it would fuse is a small part of a run, and it computes constants on
/// threads that nobody meters. Packed weights save MiniLM 4 ms a run, but cost 22 ms a load and a private
/// copy of the weights.
fn options(form: Form) -> ModelOptions {
    let mut options = ModelOptions::with_all_ops();
    options.enable_optimization(false).prepack_weights(form == Form::Packed);
    options
}

impl Backend for Rten {
    fn name(&self) -> &'static str {
        NAME
    }

    fn load(&self, files: PreparedFiles, form: Form) -> Result<Arc<dyn Graph>, LoadError> {
        let info = read_info(&files.info)?;
        let failed = |what: &str| {
            let what = what.to_owned();
            move |source| LoadError::Io { what, source }
        };
        let weights = MappedWeights::map(&files.weights, &info).map_err(failed(WEIGHTS_FILE))?;
        let graph = bytes_in(&files.graph).map_err(failed(GRAPH_FILE))?;
        // SAFETY: the engine maps files by itself, but then nobody else can tell the kernel how they are
        // read. The bytes live as long as `weights`, which `RtenGraph` drops after the model; nothing of the
        // model leaves it but copies.
        #[allow(unsafe_code)]
        let bytes: &'static [u8] = unsafe { std::mem::transmute(weights.bytes()) };
        let model = guarded(|| options(form).external_data_static(WEIGHTS_FILE, bytes).load(graph))
            .map_err(LoadError::Engine)?
            .map_err(|e| LoadError::Engine(e.to_string()))?;
        let resident = info.weights_bytes + info.graph_bytes;
        Ok(Arc::new(RtenGraph::new(weights, model, info.signature, resident)?))
    }

    fn on_threads(&self, threads: usize, work: &mut (dyn FnMut() + Send)) {
        // A run makes this pool even where it has another one. So it is made before there is a run.
        thread_pool();
        let pool = Arc::new(ThreadPool::with_num_threads(threads));
        let inside = Arc::clone(&pool);
        pool.run(move || {
            POOL.with(|p| p.set(inside)).ok();
            work();
        });
    }
}

struct RtenGraph {
    // Dropped in this order: the model points into the weights.
    model: Model,
    weights: MappedWeights,
    signature: Signature,
    /// Node and engine type of each input, in the order of the signature.
    inputs: Vec<(NodeId, DataType)>,
    resident: u64,
}

impl RtenGraph {
    /// `weights` comes before `model`, so that it is dropped after it here, too.
    fn new(
        weights: MappedWeights,
        model: Model,
        signature: Signature,
        resident: u64,
    ) -> Result<Self, LoadError> {
        let mut inputs = Vec::with_capacity(signature.inputs.len());
        for port in &signature.inputs {
            let node = model.node_id(&port.name).map_err(|e| LoadError::Engine(e.to_string()))?;
            let dtype = model.node_info(node).and_then(|n| n.dtype());
            let Some(ValueType::Tensor(dtype)) = dtype else {
                return Err(LoadError::Engine(format!("input {:?} is not a tensor", port.name)));
            };
            inputs.push((node, dtype));
        }
        if model.input_ids().len() != inputs.len() || model.output_ids().len() != signature.outputs.len() {
            return Err(LoadError::Engine(
                "the graph has other inputs or outputs than its description".into(),
            ));
        }
        Ok(Self { model, weights, signature, inputs, resident })
    }

    fn compute_in(
        &self,
        inputs: &[TensorView<'_>],
        pool: &Arc<ThreadPool>,
    ) -> Result<Vec<Output<'_>>, RunError> {
        let mut values = Vec::with_capacity(inputs.len());
        for ((port, (node, dtype)), tensor) in self.signature.inputs.iter().zip(&self.inputs).zip(inputs) {
            values.push((*node, to_value(port, *dtype, *tensor)?.into()));
        }
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(pool)));
        let outputs = self
            .model
            .run(values, self.model.output_ids(), Some(options))
            .map_err(|e| RunError::Engine(e.to_string()))?;
        self.signature.outputs.iter().zip(outputs).map(|(port, value)| to_output(port, value)).collect()
    }

    /// Computes on the threads of a pool: on the calling one, where it is the pool's only one.
    fn compute_on(
        &self,
        inputs: &[(&str, TensorView<'_>)],
        pool: &Arc<ThreadPool>,
    ) -> Result<Vec<Output<'_>>, RunError> {
        let inputs = sorted(&self.signature, inputs)?;
        self.weights.fetch_rows_of(&self.signature, &inputs);
        guarded(|| self.compute_in(&inputs, pool)).unwrap_or_else(|panic| Err(RunError::Engine(panic)))
    }
}

thread_local! {
    /// The engine insists on a pool of its own. A thread of [`Backend::on_threads`] has the pool that it
    /// belongs to; inside of that a run with one thread stays on the very same thread. Any other thread has
    /// one that ends with it.
    static POOL: OnceCell<Arc<ThreadPool>> = const { OnceCell::new() };
}

fn pool() -> Arc<ThreadPool> {
    POOL.with(|p| Arc::clone(p.get_or_init(|| Arc::new(ThreadPool::with_num_threads(1)))))
}

impl Graph for RtenGraph {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn compute(&self, inputs: &[(&str, TensorView<'_>)]) -> Result<Vec<Output<'_>>, RunError> {
        self.compute_on(inputs, &pool())
    }

    fn run(&self, inputs: Vec<(String, Tensor)>) -> Result<RunOutput, RunError> {
        let pool = pool();
        pool.run(|| {
            let start = thread_cpu_ns();
            let views: Vec<_> = inputs.iter().map(|(name, t)| (name.as_str(), t.view())).collect();
            let outputs = self.compute_on(&views, &pool)?.into_iter().map(Output::copied).collect();
            Ok(RunOutput { outputs, cpu_ns: thread_cpu_ns().saturating_sub(start) })
        })
    }

    fn read_ahead(&self, part: ReadAhead) {
        self.weights.read_ahead(part);
    }

    fn resident_bytes(&self) -> u64 {
        self.resident
    }
}

/// Runs a part of the engine; a panic there becomes a message.
pub fn guarded<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        if text.contains("overflow") {
            return format!(
                "a number or a size does not fit into its integers, which have 32 bits in tensors ({text})"
            );
        }
        format!("it stopped at a check of its own ({text})")
    })
}

/// CPU time of this thread so far, in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
