//! Models with inputs and expected outputs in folders, as `classic.py` and `quantized.py` in
//! `tests/conformance` make them.

use super::build::*;
use super::onnx_runtime::engine;
use crate::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use vesta_core::manifest::Encoding;
use vesta_core::sample::Sample;

/// How far an output may be from what is expected, of the larger of 1 and its size.
const TOLERANCE: f64 = 1e-5;

fn tensor(value: &Value) -> Tensor {
    let shape: Vec<u32> = value["shape"]
        .as_array()
        .expect("a shape")
        .iter()
        .map(|d| d.as_u64().expect("a dim") as u32)
        .collect();
    let data = value["data"].as_array().expect("data");
    // JSON has no NaN and no infinities.
    let real = |v: &Value| match v {
        Value::Null => f64::NAN,
        Value::String(text) => text.parse().expect("a number"),
        number => number.as_f64().expect("a number"),
    };
    let whole = |v: &Value| v.as_i64().unwrap_or_else(|| i64::from(v.as_bool().expect("an integer")));
    let (ty, data): (TensorType, Vec<u8>) = match value["type"].as_str().expect("a type") {
        "f32" => (TensorType::F32, data.iter().flat_map(|v| (real(v) as f32).to_le_bytes()).collect()),
        "i64" => (TensorType::I64, data.iter().flat_map(|v| whole(v).to_le_bytes()).collect()),
        "i32" => (TensorType::I32, data.iter().flat_map(|v| (whole(v) as i32).to_le_bytes()).collect()),
        _ => (TensorType::U8, data.iter().map(|v| whole(v) as u8).collect()),
    };
    Tensor { ty, shape, data }
}

/// Numbers of a tensor; 8-bit ones without their sign.
fn numbers(tensor: &Tensor) -> Vec<f64> {
    match tensor.ty {
        TensorType::F32 => as_f32s(tensor).into_iter().map(f64::from).collect(),
        TensorType::I64 => tensor.data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
        TensorType::I32 => tensor.data.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect(),
        _ => tensor.data.iter().map(|b| f64::from(*b)).collect(),
    }
}

/// Prepares a model for an engine, and loads it. ONNX Runtime's is the one of `engine`.
fn loaded(model: &[u8], engine: Option<&OnnxRuntime>) -> Result<(TempDir, Arc<dyn Graph>), String> {
    let limits = ModelLimits::default();
    let refused = |e: &PrepareError| format!("refused: {e}");
    let Some(engine) = engine else {
        let prepared = prepare_sampled(model, &Vec::<Sample>::new(), &limits);
        prepared.result.as_ref().map_err(refused)?;
        let graph = load(prepared.dir.path()).map_err(|e| e.to_string())?;
        return Ok((prepared.dir, graph));
    };
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("source");
    std::fs::write(&source, model).expect("written");
    let prepared = engine.prepare("test", (&source, Encoding::Onnx), &[], None, dir.path(), &limits);
    prepared.map_err(|e| refused(&e))?;
    let files = PreparedFiles::open(dir.path()).expect("files");
    let graph = engine.load(files, Form::Mapped).map_err(|e| e.to_string())?;
    Ok((dir, graph))
}

/// Runs a case. `Ok` says how far the outputs are from what is expected, and how long a run took.
fn run(folder: &Path, engine: Option<&OnnxRuntime>) -> Result<(f64, f64), String> {
    let model = std::fs::read(folder.join("model.onnx")).expect("a model");
    let case: Value =
        serde_json::from_slice(&std::fs::read(folder.join("case.json")).expect("a case")).expect("JSON");
    let given = |part: &str| {
        let values = case[part].as_object().expect("values").iter();
        values.map(|(name, value)| (name.clone(), tensor(value))).collect::<Vec<_>>()
    };
    let (_dir, graph) = loaded(&model, engine)?;
    let run = graph.run(given("inputs")).map_err(|e| format!("failed: {e}"))?;
    let again = graph.run(given("inputs")).map_err(|e| format!("failed: {e}"))?;
    let outputs: BTreeMap<_, _> = run.outputs.into_iter().collect();
    let mut worst = 0f64;
    for (name, want) in given("expected") {
        let got = outputs.get(&name).ok_or_else(|| format!("no output {name}"))?;
        if got.shape != want.shape {
            return Err(format!("DIFFERS: {name} has shape {:?}, not {:?}", got.shape, want.shape));
        }
        for (place, (got, want)) in numbers(got).into_iter().zip(numbers(&want)).enumerate() {
            let off = if got == want || (got.is_nan() && want.is_nan()) {
                0.0
            } else {
                (got - want).abs() / want.abs().max(1.0)
            };
            if off.is_nan() || off > TOLERANCE {
                return Err(format!("DIFFERS: {name} at {place} is {got}, not {want}"));
            }
            worst = worst.max(off);
        }
    }
    Ok((worst, again.cpu_ns as f64 / 1e6))
}

/// Runs all cases of a folder; prints a table. Gives how many are right, refused and wrong.
fn run_all(folder: &Path, engine: Option<&OnnxRuntime>) -> [u32; 3] {
    let mut folders: Vec<_> =
        std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    folders.sort();
    let mut counts = [0; 3];
    for folder in folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (place, text) = match run(&folder, engine) {
            Ok((off, ms)) => (0, format!("right   {off:.1e}, {ms:.3} ms")),
            Err(reason) => (if reason.starts_with("refused") { 1 } else { 2 }, reason),
        };
        counts[place] += 1;
        println!("{name:30} {text}");
    }
    println!("{} right, {} refused, {} wrong", counts[0], counts[1], counts[2]);
    counts
}

/// `VESTA_CASES` names the folder of folders.
#[test]
#[ignore = "needs folders of cases"]
fn exported_models() {
    let folder = std::env::var("VESTA_CASES").expect("VESTA_CASES");
    println!("rten:");
    assert_eq!(run_all(Path::new(&folder), None)[2], 0);
    if let Some(engine) = engine() {
        println!("onnxruntime:");
        assert_eq!(run_all(Path::new(&folder), Some(engine))[2], 0);
    }
}

#[test]
fn small_exported_models_give_the_answers_of_their_libraries() {
    assert_eq!(run_all(&made("classic"), None), [13, 0, 0]);
    if let Some(engine) = engine() {
        // It gives text and maps as outputs, which are refused; the default engine has numbers for them.
        assert_eq!(run_all(&made("classic"), Some(engine)), [8, 5, 0]);
    }
}

#[test]
fn quantised_networks_give_the_answers_of_onnx_runtime() {
    assert_eq!(run_all(&made("quantized"), None), [12, 0, 0]);
    if let Some(engine) = engine() {
        assert_eq!(run_all(&made("quantized"), Some(engine)), [12, 0, 0]);
    }
}

/// A folder that a script of the same name made.
fn made(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/conformance").join(name)
}
