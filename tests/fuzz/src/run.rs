//! Runs one case: prepares the model as a deploy does, loads it, and runs it several times as a worker does.

use crate::case::{Case, Input, hurt_shape};
use crate::operators;
use anyhow::Result;
use prost::Message;
use rand::RngExt;
use std::fs;
use std::io::Write;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use vesta_core::manifest::Encoding;
use vesta_core::sample::Sample;
use vesta_nn::{
    Backend, Form, Graph, ModelLimits, PrepareError, PreparedFiles, Rten, RunError, Tensor, TensorType,
    TensorView, prepare,
};

/// What came of a case.
pub struct Outcome {
    /// `prepared` is false where the model was refused.
    pub prepared: bool,
    /// `ran`, or why no run gave outputs.
    pub class: String,
    /// Operators of a model that ran.
    pub ran: Vec<String>,
}

/// Where our own code panicked, which it must not.
static OWN_PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Panics of the engine are caught and expected; those of this workspace are findings. Paths of its files are
/// relative.
/// `show` tells of all.
pub fn watch_panics(show: bool) {
    panic::set_hook(Box::new(move |info| {
        if show {
            eprintln!("{info}");
        }
        if let Some(place) = info.location().filter(|place| place.file().starts_with(['h', 't'])) {
            let mut found = OWN_PANIC.lock().unwrap_or_else(PoisonError::into_inner);
            found.get_or_insert_with(|| format!("{place}: {info}"));
        }
    }));
}

pub fn own_panic() -> Option<String> {
    OWN_PANIC.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// The case of a seed. Operators take turns at being the first one, so that each gets as many cases.
pub fn make(seed: u64) -> (Case, Vec<u8>) {
    let mut case = Case::new(seed);
    let all = operators::count();
    operators::add(&mut case, (seed % all as u64) as usize);
    for _ in 1..case.pick(&[1, 1, 1, 2, 2, 3, 4]) {
        operators::add_any(&mut case);
    }
    let bytes = case.model().encode_to_vec();
    (case, bytes)
}

/// `dir` is an existing folder for the model's files. `show` tells people of each step.
pub fn one(seed: u64, dir: &Path, show: bool) -> Result<Outcome> {
    let (mut case, bytes) = make(seed);
    let operators = case.operators.clone();
    let say = |text: String| {
        if show {
            eprintln!("{text}");
        }
    };
    say(format!("operators {operators:?}, opset {}", case.opset));
    let (source, prepared) = (dir.join("model.onnx"), dir.join("prepared"));
    fs::File::create(&source)?.write_all(&bytes)?;
    fs::remove_dir_all(&prepared).ok();
    fs::create_dir(&prepared)?;
    let refused =
        |class: String| Outcome { prepared: false, class: format!("refused: {class}"), ran: vec![] };
    // Trials of large made-up inputs would take most of the time here.
    let limits = ModelLimits { loops: true, trial_bytes_max: 256 << 10, ..ModelLimits::default() };
    let samples = samples(&mut case);
    let made = panic::catch_unwind(|| match prepare(&source, Encoding::Onnx, &samples, &prepared, &limits) {
        // No manifest can list such numbers.
        Err(PrepareError::Sample { .. }) => prepare(&source, Encoding::Onnx, &[], &prepared, &limits),
        other => other,
    });
    match made {
        Err(_) => return Ok(refused("panic".into())),
        Ok(Err(error)) => {
            say(format!("refused: {error}"));
            return Ok(refused(variant(&error)));
        }
        Ok(Ok(info)) => say(format!("prepared: {:?}, trial {:?}", info.signature, info.dry_run)),
    }
    let graph = match PreparedFiles::open(&prepared).and_then(|files| Rten.load(files, Form::Mapped)) {
        Ok(graph) => graph,
        Err(error) => return Ok(refused(format!("load {}", variant(&error)))),
    };
    let threads = case.pick(&[1, 1, 3]);
    let rounds: Vec<_> = (0..4).map(|round| inputs(&mut case, round)).collect();
    let mut results = Vec::new();
    Rten.on_threads(threads, &mut || {
        for tensors in &rounds {
            say(format!("run with {:?}", tensors.iter().map(|(_, t)| (t.ty, &t.shape)).collect::<Vec<_>>()));
            let result = panic::catch_unwind(AssertUnwindSafe(|| compute(graph.as_ref(), tensors)))
                .unwrap_or_else(|_| Err(RunError::Engine("panic in the host".into())));
            say(format!("{result:?}"));
            results.push(result);
        }
    });
    let ran = results.iter().any(Result::is_ok);
    let failure = results.iter().find_map(|result| result.as_ref().err()).map(class);
    let class = if ran { "ran".into() } else { failure.unwrap_or_default() };
    Ok(Outcome { prepared: true, class, ran: if ran { operators } else { vec![] } })
}

fn compute(graph: &dyn Graph, inputs: &[(String, Tensor)]) -> Result<(), RunError> {
    let views: Vec<(&str, TensorView<'_>)> =
        inputs.iter().map(|(name, t)| (name.as_str(), t.view())).collect();
    for output in graph.compute(&views)? {
        let mut place = vec![0; output.bytes as usize];
        output.write(&mut place);
    }
    Ok(())
}

/// The first word of how Rust shows a value of an enum.
fn variant(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}").split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().into()
}

fn class(error: &RunError) -> String {
    match error {
        RunError::Engine(text) if text.starts_with("panic") => "run: panic of the engine".into(),
        other => format!("run: {}", other.code()),
    }
}

/// Samples for the trial run: all inputs as they were made, or none.
fn samples(case: &mut Case) -> Vec<Sample> {
    if case.chance(0.5) {
        return Vec::new();
    }
    let sample = |input: &Input| Sample {
        input: input.value.name.clone(),
        shape: input.value.shape.iter().map(|d| u32::try_from(*d).unwrap_or(u32::MAX)).collect(),
        values: Some(input.data.numbers()),
        fill: None,
    };
    case.inputs.iter().map(sample).collect()
}

/// The inputs as they were made, and in later rounds others.
fn inputs(case: &mut Case, round: usize) -> Vec<(String, Tensor)> {
    let list = case.inputs.clone();
    let mut all: Vec<(String, Tensor)> =
        list.into_iter().map(|input| one_input(case, round, input)).collect();
    if round > 1 && !all.is_empty() && case.chance(0.05) {
        let place = case.below(all.len() as i64) as usize;
        let other = all[place].clone();
        match case.below(3) {
            0 => drop(all.remove(place)),
            1 => all.push(other),
            _ => all[place].0 = "no such input".into(),
        }
    }
    all
}

fn one_input(case: &mut Case, round: usize, mut input: Input) -> (String, Tensor) {
    let mut shape = input.value.shape.clone();
    if round > 0 {
        let share = [0.0, 0.02, 0.2, 0.8][round];
        if case.chance(0.4) {
            hurt_shape(&mut case.rng, &mut shape);
        }
        let count = shape.iter().fold(1i64, |n, d| n.saturating_mul(*d)).max(0) as usize;
        input.data = input.data.cycled(count);
        input.data.hurt(&mut case.rng, share);
    }
    let mut tensor = Tensor {
        ty: input.value.ty.of_guest(),
        shape: shape.iter().map(|d| u32::try_from(*d).unwrap_or(u32::MAX)).collect(),
        data: input.data.bytes(input.value.ty),
    };
    if round > 1 && case.chance(0.03) {
        match case.below(3) {
            0 => {
                let types = [TensorType::F32, TensorType::Bf16, TensorType::I32, TensorType::U8];
                tensor.ty = case.pick(&[&types[..], &[TensorType::Bool, TensorType::I8]].concat());
            }
            1 => tensor.shape = (0..case.below(5)).map(|_| case.rng.random()).collect(),
            _ => tensor.data.truncate(tensor.data.len() / 2),
        }
    }
    (input.value.name, tensor)
}
