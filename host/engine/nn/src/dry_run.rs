//! One run at deploy: finds at upload what would otherwise fail on the first request, and says how long a run
//! takes. Inputs are the manifest's samples, and made up where it has none. A model that did not run is
//! refused.

use crate::guess::Guesses;
use crate::onnx::{GraphProto, ModelProto};
use crate::worker::STACK_BYTES;
use crate::{
    Backend, Batching, DryRun, Faster, Form, GRAPH_FILE, Graph, LoadError, ModelLimits, Port, PrepareError,
    PreparedFiles, Rten, Signature, Tensor, batching, faster, onnx_runtime, rten, samples,
};
use prost::Message;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;
use vesta_core::sample::Sample;

/// What is known of the inputs before the trial.
pub enum Given<'a> {
    /// Those of a manifest; what they leave out is made up.
    Samples(&'a [Sample]),
    /// All of them.
    Tensors(Vec<(String, Tensor)>),
}

/// A run at deploy, with what went in and what came out.
pub struct Trial {
    pub run: DryRun,
    pub inputs: Vec<(String, Tensor)>,
    pub outputs: Vec<(String, Tensor)>,
}

impl Trial {
    /// Keeps it in a file of the folder `keep_in`, with the CPU time that such a run of what was prepared in
    /// `dir` takes on the default engine.
    pub fn keep(self, dir: &Path, keep_in: &Path) -> Result<(), PrepareError> {
        let cpu_ms = on_stack(|| {
            let graph = load(&Rten, dir)?;
            Ok(faster::run_cpu_ms(graph.as_ref(), &self.inputs, self.run.cpu_ms))
        })?;
        onnx_runtime::keep(keep_in, &self.run, cpu_ms, self.inputs, self.outputs)
    }
}

/// Loads a prepared directory and runs it, on a stack as large as those of a worker.
pub fn run(
    engine: &dyn Backend,
    dir: &Path,
    signature: &Signature,
    given: Given<'_>,
    limits: &ModelLimits,
) -> Result<Trial, PrepareError> {
    on_stack(|| trial(engine, dir, signature, given, limits))
}

/// What may make a model's runs cheaper.
#[derive(Default)]
pub struct Gains {
    /// Packed weights, where the engine has that form.
    pub packed: Option<Faster>,
    /// Merged runs.
    pub batching: Option<Batching>,
}

/// What packed weights and merged runs would gain on an engine. It depends on the model alone: inputs are
/// made up, whatever samples there are, since whoever deploys the same model later shares what is found here.
/// `may_merge` says whether rows may be independent at all.
pub fn measure(
    engine: &dyn Backend,
    dir: &Path,
    signature: &Signature,
    may_merge: bool,
    limits: &ModelLimits,
) -> Result<Gains, PrepareError> {
    on_stack(|| {
        let graph = load(engine, dir)?;
        let prepared = graph_of(dir)?;
        let guesses = Guesses::of(&prepared, signature);
        let none = vec![None; signature.inputs.len()];
        for inputs in guesses.each(&none, limits.trial_bytes_max) {
            let Ok(trial) = one(graph.as_ref(), inputs) else { continue };
            let (graph, took_ms) = (graph.as_ref(), trial.run.cpu_ms);
            let packs = engine.name() == rten::NAME;
            let packed = || faster::packed(dir, graph, &trial.inputs, &trial.outputs, took_ms);
            let batching = || batching::measure(signature, graph, &trial.inputs, took_ms);
            return Ok(Gains {
                packed: packs.then(packed).flatten(),
                batching: may_merge.then(batching).flatten(),
            });
        }
        Ok(Gains::default())
    })
}

/// What an engine would gain over another one, whose runs with these inputs take `other_ms` of CPU time; a
/// first run on the engine took `first_ms`.
pub fn gain_over(
    engine: &dyn Backend,
    dir: &Path,
    inputs: &[(String, Tensor)],
    first_ms: f64,
    other_ms: f64,
) -> Result<Option<Faster>, PrepareError> {
    on_stack(|| Ok(faster::over(engine, dir, inputs, first_ms, other_ms)))
}

/// Works on a stack as large as those of a worker.
fn on_stack<T: Send>(work: impl FnOnce() -> Result<T, PrepareError> + Send) -> Result<T, PrepareError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        let thread = thread.map_err(|source| PrepareError::Io { action: "start a thread", source })?;
        thread.join().unwrap_or_else(|_| Err(PrepareError::Engine("the trial run broke off".into())))
    })
}

fn load(engine: &dyn Backend, dir: &Path) -> Result<Arc<dyn Graph>, PrepareError> {
    PreparedFiles::open(dir).and_then(|files| engine.load(files, Form::Mapped)).map_err(|e| match e {
        LoadError::Engine(reason) => PrepareError::Engine(reason),
        other => PrepareError::Engine(other.to_string()),
    })
}

fn trial(
    engine: &dyn Backend,
    dir: &Path,
    signature: &Signature,
    given: Given<'_>,
    limits: &ModelLimits,
) -> Result<Trial, PrepareError> {
    let given = match given {
        Given::Samples(samples) => samples::tensors(signature, samples)?,
        Given::Tensors(mut tensors) => {
            let mut take = |port: &Port| {
                let at = tensors.iter().position(|(name, _)| *name == port.name)?;
                Some(tensors.swap_remove(at).1)
            };
            signature.inputs.iter().map(&mut take).collect()
        }
    };
    let start = Instant::now();
    let graph = load(engine, dir)?;
    let load_ms = milliseconds(start);
    let guessed = is_guessed(signature, &given);
    let sampled = given.iter().any(Option::is_some);
    let prepared = graph_of(dir)?;
    let guesses = Guesses::of(&prepared, signature);
    let mut first = None;
    for inputs in guesses.each(&given, limits.trial_bytes_max) {
        match one(graph.as_ref(), inputs) {
            Ok(trial) => {
                return Ok(Trial { run: DryRun { load_ms, guessed, sampled, ..trial.run }, ..trial });
            }
            Err((inputs, reason)) if !guessed => return Err(PrepareError::DryRun { inputs, reason }),
            Err(failure) => first = first.or(Some(failure)),
        }
    }
    let (inputs, reason) = first.unwrap_or_else(|| {
        ("of any size".into(), format!("they take more than {} bytes", limits.trial_bytes_max))
    });
    Err(PrepareError::Untried { inputs, reason })
}

pub fn read_graph(dir: &Path) -> io::Result<ModelProto> {
    let bytes = std::fs::read(dir.join(GRAPH_FILE))?;
    ModelProto::decode(&bytes[..]).map_err(io::Error::other)
}

fn graph_of(dir: &Path) -> Result<GraphProto, PrepareError> {
    let model =
        read_graph(dir).map_err(|source| PrepareError::Io { action: "read the prepared model", source })?;
    Ok(model.graph.unwrap_or_default())
}

/// Runs once; where that fails, gives the inputs and the reason.
fn one(graph: &dyn Graph, inputs: Vec<(String, Tensor)>) -> Result<Trial, (String, String)> {
    let text: Vec<String> = inputs.iter().map(|(name, t)| format!("{name} {:?}", t.shape)).collect();
    let inputs_text = text.join(", ");
    let start = Instant::now();
    match graph.run(inputs.clone()) {
        Ok(run) => Ok(Trial {
            run: DryRun {
                load_ms: 0.0,
                ms: milliseconds(start),
                cpu_ms: run.cpu_ns as f64 / 1e6,
                inputs: inputs_text,
                guessed: false,
                sampled: false,
            },
            inputs,
            outputs: run.outputs,
        }),
        Err(e) => Err((inputs_text, e.to_string())),
    }
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// Whether more than the batch has to be guessed: another dimension, or a number or list, which has no batch
/// and may steer the computation, as a shape or a scale does.
fn is_guessed(signature: &Signature, given: &[Option<Tensor>]) -> bool {
    let open = |p: &Port| !p.ranked || p.shape.iter().skip(1).any(Option::is_none);
    let made_up = signature.inputs.iter().zip(given).filter(|(_, given)| given.is_none());
    made_up.into_iter().any(|(p, _)| open(p) || p.shape.len() <= 1)
}
