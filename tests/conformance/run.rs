//! Gives cases to the preparation and to an engine as a deploy and an invocation do, and says of each whether
//! its numbers are right. `just conformance` makes the cases and reads the answers.
//!
//! `conformance FILE [--from N] [--library LIBRARY]`: a line of JSON for each case: its place, its verdict,
//! and the reason. The engine is the embedded one, or ONNX Runtime where its library is given.

use serde::Deserialize;
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use vesta_core::manifest::Encoding;
use vesta_core::sample::Sample;
use vesta_nn::{
    Backend, Form, ModelInfo, ModelLimits, OnnxRuntime, PrepareError, PreparedFiles, Rten, Tensor,
    TensorType, prepare,
};

type Failure = Box<dyn Error>;

#[derive(Deserialize)]
struct Header {
    name: String,
    about: serde_json::Value,
    model: usize,
    inputs: Vec<Array>,
    /// Sets of outputs; each of them is right.
    expected: Vec<Vec<Array>>,
    /// Sets that are right of ONNX Runtime, too.
    #[serde(default)]
    own: Vec<Vec<Array>>,
}

#[derive(Deserialize)]
struct Array {
    name: String,
    #[serde(rename = "type")]
    ty: String,
    shape: Vec<u32>,
    bytes: usize,
    #[serde(skip)]
    data: Vec<u8>,
}

enum Engine {
    Rten,
    OnnxRuntime(OnnxRuntime),
}

impl Engine {
    fn backend(&self) -> &dyn Backend {
        match self {
            Engine::Rten => &Rten,
            Engine::OnnxRuntime(engine) => engine,
        }
    }

    fn prepare(&self, source: &Path, samples: &[Sample], dir: &Path) -> Result<ModelInfo, PrepareError> {
        let limits = ModelLimits::default();
        match self {
            Engine::Rten => prepare(source, Encoding::Onnx, samples, dir, &limits),
            Engine::OnnxRuntime(engine) => {
                engine.prepare("conformance", (source, Encoding::Onnx), samples, None, dir, &limits)
            }
        }
    }
}

enum Verdict {
    Right,
    RefusedAtDeploy(String),
    RefusedAtRun(String),
    Wrong(String),
}

fn main() -> Result<(), Failure> {
    let usage = "usage: conformance FILE [--from N] [--library LIBRARY]";
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or(usage)?;
    let (mut from, mut engine) = (0, Engine::Rten);
    while let Some(option) = args.next() {
        let value = args.next().ok_or(usage)?;
        match option.as_str() {
            "--from" => from = value.parse()?,
            "--library" => engine = Engine::OnnxRuntime(OnnxRuntime::open(Path::new(&value))?),
            _ => return Err(usage.into()),
        }
    }
    std::panic::set_hook(Box::new(|_| {}));
    let scratch = tempfile::Builder::new().prefix("conformance").tempdir_in(scratch())?;
    let mut file = BufReader::new(File::open(path)?);
    let mut line = String::new();
    for index in 0usize.. {
        line.clear();
        if file.read_line(&mut line)? == 0 {
            break;
        }
        let mut header: Header = serde_json::from_str(&line)?;
        let mut model = vec![0; header.model];
        file.read_exact(&mut model)?;
        let outputs = header.expected.iter_mut().chain(&mut header.own).flatten();
        for array in header.inputs.iter_mut().chain(outputs) {
            array.data = vec![0; array.bytes];
            file.read_exact(&mut array.data)?;
        }
        if index < from {
            continue;
        }
        let dir = scratch.path().join("case");
        std::fs::create_dir_all(&dir)?;
        let verdict = catch_unwind(AssertUnwindSafe(|| judge(&engine, &header, &model, &dir)))
            .unwrap_or_else(|_| Ok(Verdict::Wrong("the preparation panicked".into())))?;
        std::fs::remove_dir_all(&dir)?;
        let (verdict, reason) = match verdict {
            Verdict::Right => ("right", String::new()),
            Verdict::RefusedAtDeploy(reason) => ("refused", reason),
            Verdict::RefusedAtRun(reason) => ("failed", reason),
            Verdict::Wrong(reason) => ("wrong", reason),
        };
        let line = serde_json::json!({
            "index": index, "name": header.name, "verdict": verdict, "reason": reason, "about": header.about,
        });
        writeln!(std::io::stdout().lock(), "{line}")?;
    }
    Ok(())
}

/// In memory, where that is possible: each preparation waits until its files are stored.
fn scratch() -> &'static Path {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory } else { Path::new("/tmp") }
}

fn judge(engine: &Engine, header: &Header, model: &[u8], dir: &Path) -> Result<Verdict, Failure> {
    let source = dir.join("source");
    std::fs::write(&source, model)?;
    let samples: Vec<Sample> = header.inputs.iter().map(sample).collect();
    let prepared = match engine.prepare(&source, &samples, dir) {
        Ok(info) if !info.reduced.is_empty() => {
            return Ok(Verdict::RefusedAtDeploy(format!("reduced-precision: {}", info.reduced.join("; "))));
        }
        Ok(info) => info,
        Err(e) => return Ok(Verdict::RefusedAtDeploy(format!("{}: {e}", e.code()))),
    };
    let own = match engine {
        Engine::Rten => &[][..],
        Engine::OnnxRuntime(_) => &header.own,
    };
    let graph = engine.backend().load(PreparedFiles::open(dir)?, Form::Mapped)?;
    let mut inputs = Vec::new();
    for array in &header.inputs {
        let Some(port) = prepared.signature.inputs.iter().find(|p| p.name == array.name) else { continue };
        inputs.push((
            array.name.clone(),
            Tensor { ty: port.ty, shape: array.shape.clone(), data: array.data.clone() },
        ));
    }
    let mut result = None;
    engine.backend().on_threads(1, &mut || result = Some(graph.run(inputs.clone())));
    let outputs = match result.ok_or("the engine did not run")? {
        Ok(run) => run.outputs,
        Err(e) => return Ok(Verdict::RefusedAtRun(format!("{}: {e}", e.code()))),
    };
    let mut why = "nothing is expected, but it runs".to_owned();
    for (place, expected) in header.expected.iter().chain(own).enumerate() {
        match compare(expected, &outputs) {
            Ok(()) => return Ok(Verdict::Right),
            Err(reason) if place == 0 => why = reason,
            Err(_) => {}
        }
    }
    Ok(Verdict::Wrong(why))
}

/// The input as the manifest would state it: its numbers where a manifest can hold them.
fn sample(array: &Array) -> Sample {
    let values = array.numbers();
    let within = match array.ty.as_str() {
        "float" | "float16" | "double" => f64::INFINITY,
        _ => 2_147_483_647.0,
    };
    let stated = values.iter().all(|v| v.is_finite() && v.abs() <= within);
    // A port of int8 takes the same bits as uint8: its samples are none of its numbers.
    let stated = stated && array.ty != "int8";
    Sample {
        input: array.name.clone(),
        shape: array.shape.clone(),
        values: stated.then_some(values),
        fill: None,
    }
}

impl Array {
    fn numbers(&self) -> Vec<f64> {
        numbers(&self.ty, &self.data)
    }
}

fn numbers(ty: &str, data: &[u8]) -> Vec<f64> {
    fn each<const N: usize>(data: &[u8], of: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        data.as_chunks::<N>().0.iter().map(|b| of(*b)).collect()
    }
    match ty {
        "float" => each(data, |b| f32::from_le_bytes(b).into()),
        "float16" => each(data, |b| half::f16::from_le_bytes(b).into()),
        "bfloat16" => each(data, |b| half::bf16::from_le_bytes(b).into()),
        "double" => each(data, f64::from_le_bytes),
        "int8" => each(data, |b| i8::from_le_bytes(b).into()),
        "int16" => each(data, |b| i16::from_le_bytes(b).into()),
        "int32" => each(data, |b| i32::from_le_bytes(b).into()),
        "int64" => each(data, |b| i64::from_le_bytes(b) as f64),
        "uint16" => each(data, |b| u16::from_le_bytes(b).into()),
        "uint32" => each(data, |b| u32::from_le_bytes(b).into()),
        "uint64" => each(data, |b| u64::from_le_bytes(b) as f64),
        _ => each(data, |b| u8::from_le_bytes(b).into()),
    }
}

fn compare(expected: &[Array], outputs: &[(String, Tensor)]) -> Result<(), String> {
    if expected.len() != outputs.len() {
        return Err(format!("{} outputs instead of {}", outputs.len(), expected.len()));
    }
    for (want, (name, got)) in expected.iter().zip(outputs) {
        if want.shape != got.shape {
            return Err(format!("{name} has the shape {:?} instead of {:?}", got.shape, want.shape));
        }
        if want.data.len() != got.data.len() {
            return Err(format!("{name} is {} instead of {}", got.ty, want.ty));
        }
        let float = matches!(got.ty, TensorType::F32 | TensorType::F64 | TensorType::F16 | TensorType::Bf16);
        if !float {
            if want.data == got.data {
                continue;
            }
            let at = numbers(&want.ty, &want.data);
            let is = numbers(&want.ty, &got.data);
            return Err(differing(name, &at, &is, |a, b| a == b));
        }
        let (at, is) = (want.numbers(), numbers(&want.ty, &got.data));
        let relative = match want.ty.as_str() {
            "float16" => 4e-3,
            "bfloat16" => 3e-2,
            _ => 1e-4,
        };
        let mut sizes: Vec<f64> = at.iter().filter(|v| v.is_finite()).map(|v| v.abs()).collect();
        sizes.sort_by(f64::total_cmp);
        let scale = sizes.get(sizes.len() / 2).copied().unwrap_or(0.0).min(1e3);
        let alike = |a: f64, b: f64| {
            a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= relative * (a.abs() + scale) + 1e-6
        };
        if !at.iter().zip(&is).all(|(a, b)| alike(*a, *b)) {
            return Err(differing(name, &at, &is, alike));
        }
    }
    Ok(())
}

fn differing(name: &str, want: &[f64], got: &[f64], alike: impl Fn(f64, f64) -> bool) -> String {
    let first = want.iter().zip(got).position(|(a, b)| !alike(*a, *b)).unwrap_or(0);
    let count = want.iter().zip(got).filter(|(a, b)| !alike(**a, **b)).count();
    format!(
        "{name}: {count} of {} differ; number {first} is {} instead of {}",
        want.len(),
        got[first],
        want[first]
    )
}
