//! Given a model that means harm by its shapes or its depth, when it is prepared or run, then it is refused
//! and nothing else happens.

use super::build::*;
use crate::onnx::*;
use crate::worker::STACK_BYTES;
use crate::*;
use prost::Message;
use std::time::{Duration, Instant};
use vesta_core::sample::Sample;

fn ints(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: vec![values.len() as i64],
        data_type: Some(7),
        int64_data: values.to_vec(),
        ..TensorProto::default()
    }
}

fn text(name: &str, value: &'static str) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        s: Some(value.into()),
        r#type: Some(3),
        ..AttributeProto::default()
    }
}

/// x[1, 4] through a chain of `depth` operators.
fn chain(depth: usize) -> ModelProto {
    let name = |i: usize| match i {
        0 => "x".to_owned(),
        i if i == depth => "y".to_owned(),
        i => format!("v{i}"),
    };
    let link = |i| node("Neg", &[&name(i)], &name(i + 1));
    model(
        17,
        GraphProto {
            node: (0..depth).map(link).collect(),
            input: vec![port("x", 1, &[1, 4])],
            output: vec![port("y", 1, &[1, 4])],
            ..GraphProto::default()
        },
    )
}

fn depth_max() -> usize {
    ModelLimits::default().depth_max as usize
}

#[test]
fn a_graph_of_the_greatest_depth_runs_on_the_stack_of_a_worker() {
    let depth = depth_max();
    let run = move || {
        let prepared = prepare_model(&chain(depth));
        prepared.result.as_ref().expect("prepared");
        let graph = load(prepared.dir.path()).expect("loaded");
        let output = graph.run(vec![("x".into(), f32s(&[1, 4], &[1.0; 4]))]).expect("a run");
        assert_eq!(as_f32s(&output.outputs[0].1), [if depth.is_multiple_of(2) { 1.0 } else { -1.0 }; 4]);
    };
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run).expect("a thread");
    thread.join().expect("it ran");
}

#[test]
fn a_deeper_graph_is_refused_at_once_with_the_bound() {
    for depth in [depth_max() + 1, 100_000] {
        let bytes = chain(depth).encode_to_vec();
        let begun = Instant::now();
        let error = prepare_bytes(&bytes).result.expect_err("refused");
        assert_eq!(error.code(), "model-too-complex");
        let wanted = format!("the model has {depth} operators in a chain");
        assert!(error.to_string().starts_with(&wanted), "{error}");
        assert!(error.to_string().ends_with(&format!("at most {} are allowed", depth_max())), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}

#[test]
fn what_an_operator_is_rewritten_to_counts() {
    // Each Sign becomes a few operators.
    let mut model = chain(depth_max());
    for node in &mut model.graph.as_mut().expect("a graph").node {
        node.op_type = Some("Sign".into());
    }
    assert_eq!(refused(&model).code(), "model-too-complex");
}

/// A chain in a graph that lies in others.
fn nested(levels: u64, depth: usize) -> ModelProto {
    let mut graph = chain(depth).graph.expect("a graph");
    graph.input.clear();
    for _ in 0..levels {
        let mut choice = node("If", &["c"], "y");
        for name in ["then_branch", "else_branch"] {
            let attribute = AttributeProto {
                name: Some(name.into()),
                g: Some(graph.clone()),
                r#type: Some(5),
                ..AttributeProto::default()
            };
            choice.attribute.push(attribute);
            // One branch has it all, or there would be 2 to the power of the levels.
            graph.node = vec![node("Neg", &["x"], "y")];
        }
        graph.node = vec![choice];
    }
    graph.input = vec![port("x", 1, &[1, 4]), port("c", 9, &[])];
    model(17, graph)
}

#[test]
fn graphs_nested_too_deeply_are_refused() {
    let most = ModelLimits::default().nesting_max;
    let error = refused(&nested(most + 1, 1));
    assert_eq!(error.to_string(), "the model has 9 graphs within one another; at most 8 are allowed");
    // The condition of the trial run is false, so the other branch is the one to run.
    let prepared = prepare_model(&nested(most, depth_max() - most as usize));
    prepared.result.as_ref().expect("prepared");
    let graph = load(prepared.dir.path()).expect("loaded");
    let condition = Tensor { ty: TensorType::Bool, shape: Vec::new(), data: vec![1] };
    let output =
        graph.run(vec![("x".into(), f32s(&[1, 4], &[1.0; 4])), ("c".into(), condition)]).expect("a run");
    assert_eq!(as_f32s(&output.outputs[0].1), [1.0; 4]);
    assert_eq!(refused(&nested(most, depth_max() - most as usize + 1)).code(), "model-too-complex");
}

/// Nodes from x[4, 5] to `big`, of which a few numbers are then asked for.
fn asks_for(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>, rank: usize) -> ModelProto {
    let mut slice = node("Slice", &["big", "from", "to"], "y");
    slice.name = Some("the last".into());
    let mut graph = GraphProto {
        node: nodes,
        initializer,
        input: vec![port("x", 1, &[4, 5])],
        output: vec![port("y", 1, &vec![0; rank])],
        ..GraphProto::default()
    };
    graph.node.push(slice);
    graph.initializer.extend([ints("from", &vec![0; rank]), ints("to", &vec![3; rank])]);
    model(17, graph)
}

#[test]
fn shapes_whose_sizes_wrap_are_refused() {
    // 20 numbers as a tensor of 2^64 + 20.
    let shape = [10_827_767u64, 199_537_566, 8_538];
    assert_eq!(shape.iter().map(|d| u128::from(*d)).product::<u128>(), (1 << 64) + 20);
    let mut flatten = node("Flatten", &["reshaped"], "flat");
    flatten.attribute.push(int("axis", 1));
    let mut resize = node("Resize", &["image", "", "", "sizes"], "y");
    resize.attribute.push(text("mode", "nearest"));
    let reshaped = model(
        17,
        GraphProto {
            node: vec![
                node("Reshape", &["x", "shape"], "reshaped"),
                flatten,
                node("Unsqueeze", &["flat", "axes"], "image"),
                resize,
            ],
            initializer: vec![
                ints("shape", &shape.map(|d| d as i64)),
                ints("axes", &[0, 1]),
                ints("sizes", &[1, 1, 64, 64]),
            ],
            input: vec![port("x", 1, &[4, 5])],
            output: vec![port("y", 1, &[1, 1, 64, 64])],
            ..GraphProto::default()
        },
    );
    // A product of 2^64, which wraps to no element at all.
    let wide = [65_536i64; 4];
    let row = |op: &str| vec![node("Reshape", &["x", "row"], "flat"), node(op, &["flat", "shape"], "big")];
    let with = |shape: &[i64]| vec![ints("shape", shape), ints("row", &[1, 1, 1, 20])];
    let constant = asks_for(vec![node("ConstantOfShape", &["shape"], "big")], with(&wide), 4);
    let expanded = asks_for(
        vec![
            node("Reshape", &["x", "row"], "flat"),
            node("Slice", &["flat", "zero", "one", "last"], "number"),
            node("Expand", &["number", "shape"], "big"),
        ],
        [with(&wide), vec![ints("zero", &[0]), ints("one", &[1]), ints("last", &[3])]].concat(),
        4,
    );
    // 20 times 2^62 and more.
    let tiled = asks_for(row("Tile"), with(&[1 << 20, 1 << 21, 1 << 21, 1]), 4);
    let padded = asks_for(row("Pad"), with(&[65_535, 65_535, 65_535, 65_516, 0, 0, 0, 0]), 4);
    for (what, model) in [
        ("Reshape", reshaped),
        ("ConstantOfShape", constant),
        ("Expand", expanded),
        ("Tile", tiled),
        ("Pad", padded),
    ] {
        let error = refused(&model);
        assert_eq!(error.code(), "trial-run-failed", "{what}: {error}");
        // The engine has no check of its own there: without those of the compiler it would go on.
        assert!(
            error
                .to_string()
                .contains("does not fit into its integers, which have 32 bits in tensors (attempt to multiply with overflow)"),
            "{error}"
        );
    }
}

/// y = x * w, with x[?, ?], where w has 4 rows; `extra` is another input.
fn open(extra: ValueInfoProto) -> ModelProto {
    model(
        17,
        GraphProto {
            node: vec![node("MatMul", &["x", "w"], "y")],
            initializer: vec![floats("w", &[4, 2], &[1.0; 8])],
            input: vec![port("x", 1, &[0, 0]), extra],
            output: vec![port("y", 1, &[0, 2])],
            ..GraphProto::default()
        },
    )
}

#[test]
fn a_model_that_did_not_run_is_refused_unless_samples_have_it_run() {
    let model = open(port("unused", 1, &[0; 16])).encode_to_vec();
    let limits = ModelLimits::default();
    let error = prepare_bytes(&model).result.expect_err("refused");
    assert_eq!(error.code(), "model-untried");
    for part in ["x [1, 16]", "state inputs that it takes as [[models.sample]] in vesta.toml"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let sample =
        |shape: &[u32]| Sample { input: "x".into(), shape: shape.to_vec(), values: None, fill: Some(1.0) };
    let prepared = prepare_sampled(&model, &[sample(&[3, 4])], &limits);
    let trial = prepared.result.expect("prepared").dry_run.expect("tried");
    assert!(trial.sampled);
    assert_eq!(trial.inputs, "x [3, 4], unused [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]");
    // The same directory, tried with other samples.
    let tried = |shape: &[u32]| try_prepared(prepared.dir.path(), &[sample(shape)], &limits);
    assert!(tried(&[1, 4]).expect("tried").dry_run.expect("tried").inputs.starts_with("x [1, 4],"));
    assert_eq!(tried(&[1, 5]).expect_err("refused").code(), "model-untried");
    assert_eq!(tried(&[4]).expect_err("refused").code(), "bad-sample");
    // Where all inputs are given, a failure is the model's.
    let both = [sample(&[1, 5]), Sample { input: "unused".into(), ..sample(&[1; 16]) }];
    assert_eq!(
        prepare_sampled(&model, &both, &limits).result.expect_err("refused").code(),
        "trial-run-failed"
    );
}

#[test]
fn inputs_that_are_not_read_and_dimensions_of_the_batch_are_small() {
    let mut graph = open(port("unused", 1, &[0; 16])).graph.expect("a graph");
    graph.input[0] = port("x", 1, &[0, 4]);
    let info = prepare_model(&model(17, graph)).result.expect("prepared");
    let trial = info.dry_run.expect("tried");
    assert!(trial.inputs.starts_with("x [1, 4], unused [1, 1,") && !trial.sampled, "{trial:?}");
    // The state's second dimension is the batch by its name.
    let named = |name: &str, dims: &[(&str, i64)]| {
        let dim = |(param, size): &(&str, i64)| Dimension {
            value: Some(match *size {
                0 => DimensionValue::Param((*param).into()),
                size => DimensionValue::Value(size),
            }),
            ..Dimension::default()
        };
        let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
        let tensor = TypeTensor { elem_type: Some(1), shape: Some(shape) };
        ValueInfoProto {
            name: Some(name.into()),
            r#type: Some(TypeProto { value: Some(TypeValue::Tensor(tensor)), denotation: None }),
        }
    };
    let graph = GraphProto {
        node: vec![node("Add", &["x", "state"], "y")],
        input: vec![
            named("x", &[("batch", 0), ("length", 0)]),
            named("state", &[("", 2), ("batch", 0), ("length", 0)]),
        ],
        output: vec![port("y", 1, &[0, 0, 0])],
        ..GraphProto::default()
    };
    let info = prepare_model(&model(17, graph)).result.expect("prepared");
    assert_eq!(info.dry_run.expect("tried").inputs, "x [1, 16], state [2, 1, 16]");
}
