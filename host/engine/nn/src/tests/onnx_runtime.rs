//! Models through the second engine. Without its library these tests are skipped, and say so; in CI it has to
//! be there.

use super::build::*;
use super::rewrites::{scaled_product, scaled_weights};
use crate::onnx::*;
use crate::{
    Backend, Graph, ModelInfo, ModelLimits, OnnxRuntime, PrepareError, PreparedFiles, RunError, TRIAL_FILE,
    Tensor, TensorType, prepare_kept,
};
use bytes::Bytes;
use prost::Message;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use tempfile::TempDir;
use vesta_core::manifest::Encoding;
use vesta_core::sample::Sample;

/// The engine, where its library is installed for the tests: `vesta engines install onnxruntime --data
/// target/engines-of-tests`.
pub fn engine() -> Option<&'static OnnxRuntime> {
    static ENGINE: OnceLock<Option<OnnxRuntime>> = OnceLock::new();
    let open = || {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
        let installed = root.join("target/engines-of-tests/engines/onnxruntime-1.32.0/libonnxruntime.so");
        let library = std::env::var_os("VESTA_TEST_ONNX_RUNTIME").map_or(installed, PathBuf::from);
        if library.exists() {
            let (variable, value) = crate::ONNX_RUNTIME_ENVIRONMENT;
            // SAFETY: nothing in this process reads the environment but through the standard library, and the
            // library of the engine, which this thread is about to open.
            #[allow(unsafe_code, clippy::disallowed_methods)]
            unsafe {
                std::env::set_var(variable, value);
            }
            return Some(OnnxRuntime::open(&library).expect("ONNX Runtime opens"));
        }
        assert!(std::env::var_os("CI").is_none(), "{} is missing", library.display());
        eprintln!("SKIPPED: no ONNX Runtime at {}", library.display());
        None
    };
    ENGINE.get_or_init(open).as_ref()
}

pub struct Loaded {
    _dir: TempDir,
    info: ModelInfo,
    pub graph: Arc<dyn Graph>,
}

pub fn prepare(
    engine: &OnnxRuntime,
    model: &ModelProto,
    samples: &[Sample],
) -> (TempDir, Result<ModelInfo, PrepareError>) {
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("source");
    std::fs::write(&source, model.encode_to_vec()).expect("written");
    let limits = ModelLimits::default();
    let info = engine.prepare("test", (&source, Encoding::Onnx), samples, None, dir.path(), &limits);
    (dir, info)
}

pub fn load(engine: &OnnxRuntime, model: &ModelProto) -> Loaded {
    let (dir, info) = prepare(engine, model, &[]);
    let info = info.expect("prepared");
    let graph =
        engine.load(PreparedFiles::open(dir.path()).expect("files"), crate::Form::Mapped).expect("loaded");
    Loaded { _dir: dir, info, graph }
}

pub fn run(graph: &dyn Graph, inputs: Vec<(&str, Tensor)>) -> Result<Vec<Tensor>, RunError> {
    let inputs = inputs.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
    Ok(graph.run(inputs)?.outputs.into_iter().map(|(_, tensor)| tensor).collect())
}

fn doubles(shape: &[u32], values: &[f64]) -> Tensor {
    let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor { ty: TensorType::F64, shape: shape.to_vec(), data }
}

fn bytes(shape: &[u32], values: &[u8]) -> Tensor {
    Tensor { ty: TensorType::U8, shape: shape.to_vec(), data: values.to_vec() }
}

#[test]
fn a_model_runs_with_its_weights_mapped() {
    let Some(engine) = engine() else { return };
    let loaded = load(engine, &linear());
    assert_eq!(
        (loaded.info.backend.as_str(), loaded.info.compat.as_str()),
        ("onnxruntime", "2-onnxruntime-test")
    );
    assert!(loaded.info.weights_bytes >= 1_600, "{:?}", loaded.info);
    let outputs =
        run(&*loaded.graph, vec![("x", f32s(&[2, 3], &[1.0, 2.0, 3.0, 0.0, 0.0, 1.0]))]).expect("a run");
    assert_eq!(outputs[0].shape, [2, 100]);
    let values = as_f32s(&outputs[0]);
    assert_eq!((values[0], values[99], values[100], values[199]), (12.0, 111.0, 2.0, 101.0));
}

#[test]
fn doubles_and_long_integers_are_computed_as_what_they_are() {
    let Some(engine) = engine() else { return };
    let sum = |element| {
        let mut model = unary(17, node("Add", &["x", "x"], "y"), element, &[2]);
        model.graph.as_mut().expect("a graph").name = None;
        load(engine, &model)
    };
    let precise = 1.0 + f64::EPSILON;
    let outputs = run(&*sum(11).graph, vec![("x", doubles(&[2], &[precise, 0.1]))]).expect("a run");
    assert_eq!(outputs[0], doubles(&[2], &[2.0 * precise, 0.2]));
    let outputs = run(&*sum(7).graph, vec![("x", i64s(&[2], &[1 << 40, -3]))]).expect("a run");
    assert_eq!(outputs[0], i64s(&[2], &[1 << 41, -6]));
}

#[test]
fn booleans_and_8_bit_integers_come_out_as_what_they_are_and_may_come_in_as_bytes() {
    let Some(engine) = engine() else { return };
    let not = load(engine, &unary(17, node("Not", &["x"], "y"), 9, &[3]));
    let outputs = run(&*not.graph, vec![("x", bytes(&[3], &[0, 1, 7]))]).expect("a run");
    assert_eq!(outputs[0], Tensor { ty: TensorType::Bool, ..bytes(&[3], &[1, 0, 0]) });
    let negative = load(engine, &unary(17, node("Neg", &["x"], "y"), 3, &[2]));
    let outputs = run(&*negative.graph, vec![("x", bytes(&[2], &[5, 251]))]).expect("a run");
    assert_eq!(outputs[0], Tensor { ty: TensorType::I8, ..bytes(&[2], &[251, 5]) });
}

/// Computes, and gives the outputs after the memory of the input was written over.
fn run_over_its_input(graph: &dyn Graph, mut x: Tensor) -> Vec<(String, Tensor)> {
    let outputs = graph.compute(&[("x", x.view())]).expect("a run");
    x.data.fill(0xEE);
    outputs.into_iter().map(crate::Output::copied).collect()
}

#[test]
fn an_input_that_is_handed_on_as_an_output_outlives_the_memory_of_the_input() {
    let Some(engine) = engine() else { return };
    let handed_on = |op: &str, element| {
        let mut graph = unary(17, node(op, &["x"], "y"), element, &[0]).graph.expect("a graph");
        graph.output.push(port("x", element, &[0]));
        load(engine, &model(17, graph))
    };
    let x = || f32s(&[3], &[1.0, -2.0, 3.0]);
    let outputs = run_over_its_input(&*handed_on("Neg", 1).graph, x());
    let expected = [("y".to_owned(), f32s(&[3], &[-1.0, 2.0, -3.0])), ("x".into(), x())];
    assert_eq!(outputs, expected);
    // Booleans that are neither 0 nor 1 reach the library as a copy, which is gone after the run.
    for values in [[0, 1, 7], [0, 1, 1]] {
        let outputs = run_over_its_input(&*handed_on("Not", 9).graph, bytes(&[3], &values));
        let booleans = |values| Tensor { ty: TensorType::Bool, ..bytes(&[3], values) };
        let expected = [("y".to_owned(), booleans(&[1, 0, 0])), ("x".into(), booleans(&[0, 1, 1]))];
        assert_eq!(outputs, expected);
    }
}

#[test]
fn a_callers_mistakes_are_told_from_the_engines_failures() {
    let Some(engine) = engine() else { return };
    let loaded = load(engine, &linear());
    let graph = &*loaded.graph;
    let x = || f32s(&[1, 3], &[0.0; 3]);
    for (inputs, code) in [
        (vec![], "missing-input"),
        (vec![("z", x())], "unknown-input"),
        (vec![("x", x()), ("x", x())], "input-twice"),
        (vec![("x", doubles(&[1, 3], &[0.0; 3]))], "wrong-type"),
        (vec![("x", f32s(&[1, 4], &[0.0; 4]))], "wrong-shape"),
        (vec![("x", f32s(&[3], &[0.0; 3]))], "wrong-shape"),
        (vec![("x", f32s(&[2, 3], &[0.0; 3]))], "wrong-length"),
    ] {
        let error = run(graph, inputs).expect_err(code);
        assert_eq!((error.code(), error.is_bad_input()), (code, true), "{error}");
    }
    let outputs = run(graph, vec![("x", f32s(&[0, 3], &[]))]).expect("an empty batch");
    assert_eq!(outputs[0].shape, [0, 100]);
}

#[test]
fn a_run_that_fails_is_the_engines_failure() {
    let Some(engine) = engine() else { return };
    let mut graph = unary(17, node("Gather", &["w", "x"], "y"), 7, &[0]).graph.expect("a graph");
    graph.initializer.push(floats("w", &[3], &[1.0, 2.0, 3.0]));
    graph.output[0] = port("y", 1, &[0]);
    let loaded = load(engine, &model(17, graph));
    let error = run(&*loaded.graph, vec![("x", i64s(&[1], &[7]))]).expect_err("out of bounds");
    assert_eq!((error.code(), error.is_bad_input()), ("engine-failed", false), "{error}");
    let outputs = run(&*loaded.graph, vec![("x", i64s(&[1], &[1]))]).expect("a run");
    assert_eq!(as_f32s(&outputs[0]), [2.0]);
}

#[test]
fn runs_may_overlap() {
    let Some(engine) = engine() else { return };
    let loaded = load(engine, &linear());
    std::thread::scope(|scope| {
        for n in 0..4u8 {
            let graph = &loaded.graph;
            scope.spawn(move || {
                for _ in 0..200 {
                    let x = f32s(&[1, 3], &[f32::from(n); 3]);
                    let outputs = run(&**graph, vec![("x", x)]).expect("a run");
                    assert_eq!(as_f32s(&outputs[0])[0], 6.0 * f32::from(n));
                }
            });
        }
    });
}

#[test]
fn a_model_cannot_be_taken_for_the_librarys_other_format() {
    let Some(engine) = engine() else { return };
    // The bytes 4 to 8 of a file say that it is a flatbuffer of ONNX Runtime.
    let mut model = linear();
    model.producer_name = Some("ORTM".into());
    assert_eq!(&model.encode_to_vec()[4..8], b"ORTM");
    let outputs = run(&*load(engine, &model).graph, vec![("x", f32s(&[1, 3], &[1.0; 3]))]).expect("a run");
    assert_eq!(as_f32s(&outputs[0])[0], 6.0);
}

#[test]
fn what_the_check_refuses_is_refused_for_this_engine_too() {
    let Some(engine) = engine() else { return };
    let refused = |model: &ModelProto| prepare(engine, model, &[]).1.expect_err("refused").code();
    let mut external = linear();
    let tensor = &mut external.graph.as_mut().expect("a graph").initializer[0];
    tensor.raw_data = None;
    tensor.data_location = Some(EXTERNAL);
    let entry =
        |key: &str, value: &str| StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) };
    tensor.external_data = vec![entry("location", "/etc/passwd")];
    assert_eq!(refused(&external), "external-data");
    let mut lies = linear();
    lies.graph.as_mut().expect("a graph").initializer[0].dims = vec![3, 1_000_000];
    assert_eq!(refused(&lies), "tensor-lies");
    assert_eq!(refused(&unary(17, node("NoSuchOperator", &["x"], "y"), 1, &[1])), "engine-refused");
    // A function of the model has another body than the operator that it is called after.
    let mut own = unary(17, node("Mine", &["x"], "y"), 1, &[1]);
    let constant = NodeProto { attribute: vec![], ..node("Mine", &["a"], "b") };
    own.functions.push(FunctionProto {
        name: Some("Mine".into()),
        input: vec!["a".into()],
        output: vec!["b".into()],
        node: vec![constant],
        ..FunctionProto::default()
    });
    assert_eq!(refused(&own), "operator-not-supported");
}

#[test]
fn outputs_are_compared_with_those_of_the_default_engine() {
    let Some(engine) = engine() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    for folder in [&first, &second] {
        std::fs::create_dir(folder).expect("made");
    }
    let limits = ModelLimits::default();
    let compare = |model: &ModelProto, samples: &[Sample]| {
        let source = dir.path().join("source");
        std::fs::write(&source, model.encode_to_vec()).expect("written");
        prepare_kept(&source, Encoding::Onnx, samples, &first, &first, &limits).expect("prepared");
        let reference = first.join(TRIAL_FILE);
        let info = engine
            .prepare("test", (&source, Encoding::Onnx), &[], Some(&reference), &second, &limits)
            .expect("prepared");
        let tried = info.dry_run.expect("tried");
        assert_eq!(tried.sampled, !samples.is_empty());
        let again = engine.try_prepared(&second, &[], Some(&reference), &limits).expect("tried");
        assert_eq!(again.difference, info.difference);
        info.difference
    };
    assert_eq!(compare(&linear(), &[]), None);
    // The default engine computes this in single precision.
    let sample =
        |value: f64| Sample { input: "x".into(), shape: vec![2], values: Some(vec![value, 0.0]), fill: None };
    let difference = unary(17, node("Sub", &["x", "w"], "y"), 11, &[2]);
    let mut graph = difference.graph.expect("a graph");
    graph.initializer.push(TensorProto {
        name: Some("w".into()),
        dims: vec![],
        data_type: Some(11),
        raw_data: Some(1f64.to_le_bytes().to_vec().into()),
        ..TensorProto::default()
    });
    graph.output[0] = port("y", 11, &[2]);
    let mut tiny = sample(1.0 + 1e-12);
    tiny.values.as_mut().expect("values")[1] = 1.0;
    let text = compare(&model(17, graph), &[tiny]).expect("a difference");
    assert!(text.contains("output \"y\""), "{text}");
}

/// A regression by two trees of one split each, over one feature: 1 or 2, and 10 or 20.
#[test]
fn trees_of_the_machine_learning_operators_are_computed() {
    let Some(engine) = engine() else { return };
    let ints = |name: &str, values: &[i64]| AttributeProto {
        name: Some(name.into()),
        ints: values.to_vec(),
        r#type: Some(7),
        ..AttributeProto::default()
    };
    let floats = |name: &str, values: &[f32]| AttributeProto {
        name: Some(name.into()),
        floats: values.to_vec(),
        r#type: Some(6),
        ..AttributeProto::default()
    };
    let modes = ["BRANCH_LEQ", "LEAF", "LEAF"]
        .repeat(2)
        .iter()
        .map(|text| Bytes::from_static(text.as_bytes()))
        .collect();
    let modes = AttributeProto {
        name: Some("nodes_modes".into()),
        strings: modes,
        r#type: Some(8),
        ..AttributeProto::default()
    };
    let tree = NodeProto {
        domain: Some("ai.onnx.ml".into()),
        attribute: vec![
            int("n_targets", 1),
            ints("nodes_treeids", &[0, 0, 0, 1, 1, 1]),
            ints("nodes_nodeids", &[0, 1, 2, 0, 1, 2]),
            ints("nodes_featureids", &[0; 6]),
            floats("nodes_values", &[0.5, 0.0, 0.0, 1.5, 0.0, 0.0]),
            modes,
            ints("nodes_truenodeids", &[1, 0, 0, 1, 0, 0]),
            ints("nodes_falsenodeids", &[2, 0, 0, 2, 0, 0]),
            ints("target_treeids", &[0, 0, 1, 1]),
            ints("target_nodeids", &[1, 2, 1, 2]),
            ints("target_ids", &[0; 4]),
            floats("target_weights", &[1.0, 2.0, 10.0, 20.0]),
        ],
        ..node("TreeEnsembleRegressor", &["x"], "y")
    };
    let mut model = unary(17, tree, 1, &[0, 1]);
    model.opset_import.push(OperatorSetIdProto { domain: Some("ai.onnx.ml".into()), version: Some(3) });
    let loaded = load(engine, &model);
    let outputs = run(&*loaded.graph, vec![("x", f32s(&[3, 1], &[0.0, 1.0, 2.0]))]).expect("a run");
    assert_eq!(as_f32s(&outputs[0]), [11.0, 12.0, 22.0]);
}

#[test]
fn a_graph_as_deep_as_is_allowed_runs_on_the_stack_of_a_worker() {
    let Some(engine) = engine() else { return };
    let depth = ModelLimits::default().depth_max as usize;
    let name = |n: usize| match n {
        0 => "x".to_owned(),
        n if n == depth => "y".into(),
        n => format!("h{n}"),
    };
    let mut graph = unary(17, node("Neg", &["x"], "y"), 1, &[2]).graph.expect("a graph");
    // The optimiser would take away two negations, one after the other.
    let op = |n: usize| if n.is_multiple_of(2) { "Sin" } else { "Cos" };
    graph.node = (0..depth).map(|n| node(op(n), &[&name(n)], &name(n + 1))).collect();
    let model = model(17, graph);
    let work = || {
        let loaded = load(engine, &model);
        let outputs = run(&*loaded.graph, vec![("x", f32s(&[2], &[0.0, 1.0]))]).expect("a run");
        assert_eq!(outputs[0].shape, [2]);
    };
    let mut work = work;
    engine.on_threads(1, &mut work);
}

/// A constant tensor of these 16-bit floats, as a node.
fn halves(name: &str, values: &[f32]) -> NodeProto {
    let data: Vec<u8> = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    let tensor = TensorProto {
        dims: vec![values.len() as i64],
        data_type: Some(10),
        raw_data: Some(data.into()),
        ..TensorProto::default()
    };
    let value = AttributeProto {
        name: Some("value".into()),
        t: Some(tensor),
        r#type: Some(4),
        ..AttributeProto::default()
    };
    NodeProto { attribute: vec![value], ..node("Constant", &[], name) }
}

#[test]
fn constants_and_half_floats_are_kept_as_they_are() {
    let Some(engine) = engine() else { return };
    let mut graph = unary(17, node("Add", &["x", "c"], "y"), 10, &[0, 200]).graph.expect("a graph");
    graph.node.insert(0, halves("c", &[0.5; 200]));
    let loaded = load(engine, &model(17, graph));
    assert!((400..1_000).contains(&loaded.info.weights_bytes), "{:?}", loaded.info);
    let data: Vec<u8> = half::f16::from_f32(2.0).to_le_bytes().repeat(200);
    let x = Tensor { ty: TensorType::F16, shape: vec![1, 200], data };
    let outputs = run(&*loaded.graph, vec![("x", x)]).expect("a run");
    assert_eq!(outputs[0].data, half::f16::from_f32(2.5).to_le_bytes().repeat(200));
}

#[test]
fn a_weight_that_nothing_reads_is_left_out() {
    let Some(engine) = engine() else { return };
    let mut graph = unary(17, node("Add", &["x", "c"], "y"), 1, &[1]).graph.expect("a graph");
    graph.initializer = vec![floats("c", &[1], &[1.0]), floats("forgotten", &[200], &[1.0; 200])];
    let loaded = load(engine, &model(17, graph));
    let outputs = run(&*loaded.graph, vec![("x", f32s(&[1], &[2.0]))]).expect("a run");
    assert_eq!(as_f32s(&outputs[0]), [3.0]);
}

#[test]
fn weights_of_8_bits_may_become_floats() {
    let Some(engine) = engine() else { return };
    // Nine megabytes: more than a few that any model may grow by.
    let (graph, x) = scaled_weights(3_000);
    let loaded = load(engine, &model(17, graph));
    let outputs = run(&*loaded.graph, vec![("x", x)]).expect("a run");
    assert_eq!(as_f32s(&outputs[0]), scaled_product(3_000));
}

#[test]
fn a_small_file_does_not_become_a_large_one() {
    let Some(engine) = engine() else { return };
    // Twenty million numbers, and then their sum with an input.
    let mut graph = unary(17, node("Add", &["x", "many"], "y"), 1, &[1]).graph.expect("a graph");
    let shape = TensorProto {
        name: Some("shape".into()),
        dims: vec![1],
        data_type: Some(7),
        raw_data: Some(20_000_000i64.to_le_bytes().to_vec().into()),
        ..TensorProto::default()
    };
    graph.initializer.push(shape);
    graph.node.insert(0, node("ConstantOfShape", &["shape"], "many"));
    graph.output[0] = port("y", 1, &[0]);
    let (_dir, result) = prepare(engine, &model(17, graph), &[]);
    match result {
        Err(error) => assert_eq!(error.code(), "model-too-complex", "{error}"),
        // The library itself does not store it.
        Ok(info) => assert!(info.weights_bytes < 1 << 20, "{info:?}"),
    }
}
