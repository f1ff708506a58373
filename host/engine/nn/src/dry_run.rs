//! One run at deploy with made-up inputs: finds at upload what would otherwise fail on the first request, and says how long a run takes.

use crate::{Backend, DryRun, Graph, LoadError, ModelLimits, Port, PrepareError, Rten, Signature, Tensor};
use std::path::Path;
use std::time::Instant;

/// Values for dimensions that are open, but the first: a short text, a small and a usual image. The first is taken as the batch, 1.
const GUESSES: [u32; 3] = [16, 64, 224];

/// Loads a prepared directory and runs it with zeros. `None` where no input of a sane size could be made up.
pub fn run(dir: &Path, signature: &Signature, limits: &ModelLimits) -> Result<Option<DryRun>, PrepareError> {
    let start = Instant::now();
    let graph = Rten.load(dir).map_err(|e| match e {
        LoadError::Engine(reason) => PrepareError::Engine(reason),
        other => PrepareError::Engine(other.to_string()),
    })?;
    let load_ms = milliseconds(start);
    let mut last = None;
    for guess in GUESSES {
        let Some(inputs) = zeros(signature, guess, limits.trial_bytes_max) else { break };
        let mut trial = one(graph.as_ref(), inputs);
        trial.load_ms = load_ms;
        trial.guessed = is_guessed(signature);
        match &trial.error {
            None => return Ok(Some(trial)),
            Some(error) if !trial.guessed => {
                return Err(PrepareError::DryRun { inputs: trial.inputs, reason: error.clone() });
            }
            Some(_) => {}
        }
        last = last.or(Some(trial));
    }
    Ok(last)
}

fn one(graph: &dyn Graph, inputs: Vec<(String, Tensor)>) -> DryRun {
    let text: Vec<String> = inputs.iter().map(|(name, t)| format!("{name} {:?}", t.shape)).collect();
    let start = Instant::now();
    let result = graph.run(inputs);
    DryRun {
        load_ms: 0.0,
        ms: milliseconds(start),
        cpu_ms: result.as_ref().map_or(0.0, |r| r.cpu_ns as f64 / 1e6),
        inputs: text.join(", "),
        guessed: false,
        error: result.err().map(|e| e.to_string()),
    }
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// Whether more than the batch had to be guessed: another dimension, or a number or list, which has no batch and may steer the
/// computation, as a shape or a scale does.
fn is_guessed(signature: &Signature) -> bool {
    let open = |p: &Port| !p.ranked || p.shape.iter().skip(1).any(Option::is_none);
    signature.inputs.iter().any(|p| open(p) || p.shape.len() <= 1)
}

fn zeros(signature: &Signature, guess: u32, bytes_max: u64) -> Option<Vec<(String, Tensor)>> {
    let mut left = bytes_max;
    let mut inputs = Vec::with_capacity(signature.inputs.len());
    for port in &signature.inputs {
        let dims = port.shape.iter().enumerate();
        let shape: Vec<u32> = dims.map(|(i, d)| d.unwrap_or(if i == 0 { 1 } else { guess })).collect();
        let mut tensor = Tensor { ty: port.ty, shape, data: Vec::new() };
        let bytes = tensor.elements()?.checked_mul(port.ty.size_bytes() as u64)?;
        left = left.checked_sub(bytes)?;
        tensor.data = vec![0; bytes as usize];
        inputs.push((port.name.clone(), tensor));
    }
    Some(inputs)
}
