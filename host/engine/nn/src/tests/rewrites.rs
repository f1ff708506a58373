//! Given operators that the engine lacks, when a model is prepared, then others compute the same, or the
//! reason is told.

use super::build::*;
use crate::onnx::*;
use crate::*;
use std::time::{Duration, Instant};

pub(super) fn run(model: &ModelProto, x: Tensor) -> Vec<Tensor> {
    let prepared = prepare_model(model);
    prepared.result.as_ref().expect("prepared");
    let graph = load(prepared.dir.path()).expect("loaded");
    graph.run(vec![("x".into(), x)]).expect("a run").outputs.into_iter().map(|o| o.1).collect()
}

pub(super) fn as_i64s(tensor: &Tensor) -> Vec<i64> {
    assert_eq!(tensor.ty, TensorType::I64);
    tensor.data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()
}

fn ml(op: &str, input: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto { domain: Some("ai.onnx.ml".into()), attribute, ..node(op, input, output) }
}

fn named(name: &str) -> AttributeProto {
    AttributeProto { name: Some(name.into()), ..AttributeProto::default() }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), r#type: Some(7), ..named(name) }
}

fn reals(name: &str, values: &[f32]) -> AttributeProto {
    AttributeProto { floats: values.to_vec(), r#type: Some(6), ..named(name) }
}

fn texts(name: &str, values: &[&'static str]) -> AttributeProto {
    let strings = values.iter().map(|v| v.as_bytes().into()).collect();
    AttributeProto { strings, r#type: Some(8), ..named(name) }
}

fn text(name: &str, value: &'static str) -> AttributeProto {
    AttributeProto { s: Some(value.as_bytes().into()), r#type: Some(3), ..named(name) }
}

/// From x [?, 2] of floats to `outputs`.
fn classic(nodes: Vec<NodeProto>, outputs: Vec<ValueInfoProto>) -> ModelProto {
    let graph = GraphProto {
        node: nodes,
        input: vec![port("x", 1, &[0, 2])],
        output: outputs,
        ..GraphProto::default()
    };
    let mut model = model(18, graph);
    model.opset_import.push(OperatorSetIdProto { domain: Some("ai.onnx.ml".into()), version: Some(3) });
    model
}

/// A node of a tree: tree, number, mode, column, value, child where it holds, child where it does not.
type TreeNode = (i64, i64, &'static str, i64, f32, i64, i64);

fn tree_lists(nodes: &[TreeNode]) -> Vec<AttributeProto> {
    let list =
        |name: &str, of: &dyn Fn(&TreeNode) -> i64| ints(name, &nodes.iter().map(of).collect::<Vec<_>>());
    vec![
        list("nodes_treeids", &|n| n.0),
        list("nodes_nodeids", &|n| n.1),
        texts("nodes_modes", &nodes.iter().map(|n| n.2).collect::<Vec<_>>()),
        list("nodes_featureids", &|n| n.3),
        reals("nodes_values", &nodes.iter().map(|n| n.4).collect::<Vec<_>>()),
        list("nodes_truenodeids", &|n| n.5),
        list("nodes_falsenodeids", &|n| n.6),
    ]
}

/// A weight: tree, node, target, value.
type Weight = (i64, i64, i64, f32);

fn tree_regressor(nodes: &[TreeNode], weights: &[Weight]) -> NodeProto {
    let list =
        |name: &str, of: &dyn Fn(&Weight) -> i64| ints(name, &weights.iter().map(of).collect::<Vec<_>>());
    let mut attributes = tree_lists(nodes);
    attributes.extend([
        list("target_treeids", &|w| w.0),
        list("target_nodeids", &|w| w.1),
        list("target_ids", &|w| w.2),
        reals("target_weights", &weights.iter().map(|w| w.3).collect::<Vec<_>>()),
        int("n_targets", 1),
    ]);
    ml("TreeEnsembleRegressor", &["x"], "y", attributes)
}

const STUMP: [TreeNode; 3] =
    [(0, 0, "BRANCH_LEQ", 1, 0.5, 1, 2), (0, 1, "LEAF", 0, 0.0, 0, 0), (0, 2, "LEAF", 0, 0.0, 0, 0)];
const STUMP_WEIGHTS: [Weight; 2] = [(0, 1, 0, 10.0), (0, 2, 0, 20.0)];

fn y() -> Vec<ValueInfoProto> {
    vec![port("y", 1, &[0, 1])]
}

#[test]
fn every_comparison_of_a_tree_and_missing_values() {
    let x = f32s(&[5, 2], &[0.0, 0.0, 0.0, 0.5, 0.0, 1.0, 0.0, f32::NAN, 0.0, f32::NEG_INFINITY]);
    // For -inf, below, at and above the value, and NaN: whether the comparison holds.
    for (mode, holds) in [
        ("BRANCH_LEQ", [true, true, false, false, true]),
        ("BRANCH_LT", [true, false, false, false, true]),
        ("BRANCH_GTE", [false, true, true, false, false]),
        ("BRANCH_GT", [false, false, true, false, false]),
        ("BRANCH_EQ", [false, true, false, false, false]),
        ("BRANCH_NEQ", [true, false, true, true, true]),
    ] {
        for tracks in [false, true] {
            let mut nodes = STUMP;
            nodes[0].2 = mode;
            let mut tree = tree_regressor(&nodes, &STUMP_WEIGHTS);
            tree.attribute.push(ints("nodes_missing_value_tracks_true", &[tracks.into(), 0, 0]));
            let got = as_f32s(&run(&classic(vec![tree], y()), x.clone())[0]);
            let mut holds = holds;
            holds[3] |= tracks;
            assert_eq!(got, holds.map(|h| if h { 10.0 } else { 20.0 }), "{mode} {tracks}");
        }
    }
}

#[test]
fn two_trees_are_summed_with_a_base() {
    let nodes = [&STUMP[..], &[(7, 5, "LEAF", 0, 0.0, 0, 0)]].concat();
    let weights = [&STUMP_WEIGHTS[..], &[(7, 5, 0, 0.25)]].concat();
    for (aggregate, expected) in [("SUM", 11.25), ("AVERAGE", 6.125), ("MIN", 1.25), ("MAX", 11.0)] {
        let mut tree = tree_regressor(&nodes, &weights);
        tree.attribute.extend([reals("base_values", &[1.0]), text("aggregate_function", aggregate)]);
        let got = as_f32s(&run(&classic(vec![tree], y()), f32s(&[1, 2], &[0.0, 0.0]))[0]);
        assert_eq!(got, [expected], "{aggregate}");
    }
}

#[test]
fn trees_that_lie_are_refused() {
    let refused_with = |nodes: &[TreeNode], weights: &[_], part: &str| {
        let error = refused(&classic(vec![tree_regressor(nodes, weights)], y())).to_string();
        let named = error.contains("TreeEnsembleRegressor") && error.contains("the TreeEnsembleRegressor");
        assert!(named && error.contains(part), "{error:?} does not contain {part:?}");
    };
    let changed = |change: &dyn Fn(&mut [TreeNode; 3])| {
        let mut nodes = STUMP;
        change(&mut nodes);
        nodes
    };
    refused_with(&changed(&|n| n[0].5 = 9), &STUMP_WEIGHTS, "no child 9");
    refused_with(&changed(&|n| n[0].5 = -1), &STUMP_WEIGHTS, "no child -1");
    refused_with(&changed(&|n| n[0].5 = 2), &STUMP_WEIGHTS, "the child of two");
    refused_with(&changed(&|n| n[2].1 = 1), &STUMP_WEIGHTS, "two nodes 1");
    refused_with(&changed(&|n| n[0].2 = "BRANCH_MEMBER"), &STUMP_WEIGHTS, "BRANCH_MEMBER");
    refused_with(&changed(&|n| n[0].2 = "LEAF"), &STUMP_WEIGHTS, "two roots");
    refused_with(&changed(&|n| n[0].3 = -1), &STUMP_WEIGHTS, "no column -1");
    refused_with(&changed(&|n| n[0].3 = 2), &STUMP_WEIGHTS, "column 2 of 2");
    refused_with(&changed(&|n| n[0].3 = i64::MAX), &STUMP_WEIGHTS, "no column");
    refused_with(&changed(&|n| n[0].4 = f32::NAN), &STUMP_WEIGHTS, "NaN");
    let cycle = changed(&|n| n[0].5 = 0);
    refused_with(&cycle, &STUMP_WEIGHTS, "cycle");
    // Two inner nodes that are each other's children, beside a whole tree.
    let ring = [
        STUMP[0],
        STUMP[1],
        STUMP[2],
        (1, 0, "BRANCH_LEQ", 0, 0.0, 1, 2),
        (1, 1, "BRANCH_LEQ", 0, 0.0, 0, 3),
        (1, 2, "LEAF", 0, 0.0, 0, 0),
        (1, 3, "LEAF", 0, 0.0, 0, 0),
    ];
    refused_with(&ring, &STUMP_WEIGHTS, "cycle");
    refused_with(&STUMP, &[(0, 9, 0, 1.0)], "node 9 of tree 0");
    refused_with(&STUMP, &[(0, 1, 1, 1.0)], "target 1, of 1");
    refused_with(&STUMP, &[(0, 1, -1, 1.0)], "target -1");

    let mut short = tree_regressor(&STUMP, &STUMP_WEIGHTS);
    short.attribute[4].floats.pop();
    let error = refused(&classic(vec![short], y())).to_string();
    assert!(error.contains("differ in length"), "{error}");
    let mut doubles = tree_regressor(&STUMP, &STUMP_WEIGHTS);
    let tensor = TensorProto { data_type: Some(11), dims: vec![0], ..TensorProto::default() };
    doubles.attribute.push(AttributeProto { t: Some(tensor), ..named("nodes_values_as_tensor") });
    let error = refused(&classic(vec![doubles], y())).to_string();
    assert!(error.contains("nodes_values_as_tensor"), "{error}");
}

#[test]
fn trees_of_many_nodes_take_time_in_proportion() {
    let leaf = |id| (0, id, "LEAF", 0, 0.0, 0, 0);
    // A chain: each inner node has a leaf and the next.
    let count = 400_000;
    let inner = |id: i64| (0, 2 * id, "BRANCH_EQ", 0, id as f32, 2 * id + 1, 2 * id + 2);
    let chain: Vec<TreeNode> =
        (0..count).flat_map(|id| [inner(id), leaf(2 * id + 1)]).chain([leaf(2 * count)]).collect();
    let start = Instant::now();
    let error = refused(&classic(vec![tree_regressor(&chain, &[])], y())).to_string();
    assert!(error.contains("levels"), "{error}");
    // As many trees of one leaf.
    let forest: Vec<TreeNode> = (0..600_000).map(|tree| (tree, 0, "LEAF", 0, 0.0, 0, 0)).collect();
    let model = classic(vec![tree_regressor(&forest, &[(5, 0, 0, 2.0)])], y());
    assert_eq!(as_f32s(&run(&model, f32s(&[1, 2], &[0.0; 2]))[0]), [2.0]);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

/// A classifier of three named classes with scores x0, x1 and 0, then `rest`.
fn named_classes(rest: Vec<NodeProto>, outputs: Vec<ValueInfoProto>) -> ModelProto {
    let attributes = vec![
        reals("coefficients", &[1.0, 0.0, 0.0, 1.0, 0.0, 0.0]),
        texts("classlabels_strings", &["cat", "dog", "eel"]),
    ];
    let mut classifier = ml("LinearClassifier", &["x"], "label", attributes);
    classifier.output.push("scores".into());
    classic([vec![classifier], rest].concat(), outputs)
}

#[test]
fn names_of_classes_are_numbers_with_the_names_beside() {
    let zip = ml("ZipMap", &["scores"], "zipped", vec![texts("classlabels_strings", &["cat", "dog", "eel"])]);
    let sequence = ValueInfoProto {
        name: Some("zipped".into()),
        r#type: Some(TypeProto { value: Some(TypeValue::Sequence(Box::default())), denotation: None }),
    };
    let model =
        named_classes(vec![node("Identity", &["label"], "name"), zip], vec![port("name", 8, &[0]), sequence]);
    let prepared = prepare_model(&model);
    let info = prepared.result.as_ref().expect("prepared");
    let names = Labels::Strings(["cat", "dog", "eel"].map(String::from).to_vec());
    assert_eq!(info.labels.get("name"), Some(&names));
    assert_eq!(info.labels.get("zipped"), Some(&names));
    assert!(info.notes.iter().any(|n| n.contains("\"name\"")), "{:?}", info.notes);
    assert_eq!(info.signature.outputs[1].shape, [None, Some(3)]);
    let outputs = run(&model, f32s(&[3, 2], &[1.0, 2.0, 2.0, 1.0, -1.0, -1.0]));
    assert_eq!(as_i64s(&outputs[0]), [1, 0, 2]);
    assert_eq!(as_f32s(&outputs[1]), [1.0, 2.0, 0.0, 2.0, 1.0, 0.0, -1.0, -1.0, 0.0]);
}

#[test]
fn what_computes_with_strings_is_refused() {
    let error = |rest: NodeProto, element| {
        let output = rest.output[0].clone();
        refused(&named_classes(vec![rest], vec![port(&output, element, &[])])).to_string()
    };
    let text = error(node("Equal", &["label", "label"], "same"), 9);
    assert!(text.contains("the Equal") && text.contains("strings"), "{text}");
    let text = error(ml("Imputer", &["label"], "same", vec![]), 8);
    assert!(text.contains("the Imputer") && text.contains("strings"), "{text}");
    let not_last = ml("ZipMap", &["scores"], "zipped", vec![ints("classlabels_int64s", &[0, 1, 2])]);
    let hidden = named_classes(vec![not_last], vec![port("scores", 1, &[0, 3])]);
    assert!(refused(&hidden).to_string().contains("not one of the model's"));
}

#[test]
fn a_label_encoder_has_a_default_for_what_it_does_not_know() {
    let attributes =
        vec![reals("keys_floats", &[2.0, 3.0]), ints("values_int64s", &[20, 30]), int("default_int64", 7)];
    let encoder = ml("LabelEncoder", &["x"], "y", attributes);
    let got = run(&classic(vec![encoder], vec![port("y", 7, &[0, 2])]), f32s(&[1, 2], &[3.0, f32::NAN]));
    assert_eq!(as_i64s(&got[0]), [30, 7]);
    // From names to numbers.
    let attributes = vec![texts("keys_strings", &["eel", "cat"]), ints("values_int64s", &[5, 6])];
    let encoder = ml("LabelEncoder", &["label"], "y", attributes);
    let model = named_classes(vec![encoder], vec![port("y", 7, &[0])]);
    let got = run(&model, f32s(&[3, 2], &[1.0, 2.0, 2.0, 1.0, -1.0, -1.0]));
    assert_eq!(as_i64s(&got[0]), [-1, 6, 5]);
    let attributes = vec![reals("keys_floats", &[2.0, 3.0]), ints("values_int64s", &[20])];
    let error = refused(&classic(vec![ml("LabelEncoder", &["x"], "y", attributes)], y())).to_string();
    assert!(error.contains("2 keys and 1 values"), "{error}");
}

#[test]
fn columns_are_scaled_filled_and_normalised() {
    let nodes = vec![
        ml(
            "Imputer",
            &["x"],
            "full",
            vec![
                reals("imputed_value_floats", &[5.0, 8.0]),
                AttributeProto { f: Some(f32::NAN), ..named("replaced_value_float") },
            ],
        ),
        ml("Scaler", &["full"], "even", vec![reals("offset", &[2.0, 4.0]), reals("scale", &[1.0, 1.0])]),
        ml("Normalizer", &["even"], "y", vec![text("norm", "L2")]),
    ];
    let got =
        run(&classic(nodes, vec![port("y", 1, &[0, 2])]), f32s(&[2, 2], &[f32::NAN, f32::NAN, 2.0, 4.0]));
    assert_eq!(as_f32s(&got[0]), [0.6, 0.8, 0.0, 0.0]);
    let scaler =
        |offset: &[f32]| ml("Scaler", &["x"], "y", vec![reals("offset", offset), reals("scale", &[1.0])]);
    let error = refused(&classic(vec![scaler(&[1.0, 2.0])], y())).to_string();
    assert!(error.contains("2 offsets and 1 scales"), "{error}");
}

#[test]
fn coefficients_that_do_not_fit_are_refused() {
    let regressor = |coefficients: &[f32], targets| {
        ml("LinearRegressor", &["x"], "y", vec![reals("coefficients", coefficients), int("targets", targets)])
    };
    for (coefficients, targets, part) in [
        (&[1.0, 2.0, 3.0][..], 2, "3 coefficients for 2 targets"),
        (&[], 1, "0 coefficients"),
        (&[1.0], -1, "for 0 targets"),
    ] {
        let error = refused(&classic(vec![regressor(coefficients, targets)], y())).to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn what_is_made_counts_against_the_limits() {
    let model = classic(vec![tree_regressor(&STUMP, &STUMP_WEIGHTS)], y());
    let bytes = prost::Message::encode_to_vec(&model);
    let limits = ModelLimits { nodes_max: 3, ..ModelLimits::default() };
    let error = prepare_with(&bytes, &limits).result.expect_err("refused");
    assert_eq!(error.code(), "model-too-complex", "{error}");
    let limits = ModelLimits { weights_bytes_max: 40, ..ModelLimits::default() };
    let error = prepare_with(&bytes, &limits).result.expect_err("refused");
    assert_eq!(error.code(), "model-too-complex", "{error}");
}

/// `y = x * (float(w) * scale)` with square weights of 8 bits and a scale a column; and an x whose only
/// element that is not 0 is a 1 in the second place.
pub(super) fn scaled_weights(side: usize) -> (GraphProto, Tensor) {
    let weights = TensorProto {
        name: Some("w".into()),
        dims: vec![side as i64; 2],
        data_type: Some(3),
        raw_data: Some((0..side * side).map(|i| (i % 251) as u8).collect::<Vec<u8>>().into()),
        ..TensorProto::default()
    };
    let scales: Vec<f32> = (0..side).map(|column| 0.1 + column as f32).collect();
    let nodes = vec![
        NodeProto { attribute: vec![int("to", 1)], ..node("Cast", &["w"], "floats") },
        node("Mul", &["scales", "floats"], "scaled"),
        node("MatMul", &["x", "scaled"], "y"),
    ];
    let graph = GraphProto {
        node: nodes,
        initializer: vec![weights, floats("scales", &[1, side as i64], &scales)],
        input: vec![port("x", 1, &[1, side as i64])],
        output: vec![port("y", 1, &[1, side as i64])],
        ..GraphProto::default()
    };
    let mut x = vec![0.0; side];
    x[1] = 1.0;
    (graph, f32s(&[1, side as u32], &x))
}

/// What comes out: the second row of the weights, each times its column's scale.
pub(super) fn scaled_product(side: usize) -> Vec<f32> {
    let weight = |column: usize| f32::from(((side + column) % 251) as u8 as i8);
    (0..side).map(|column| weight(column) * (0.1 + column as f32)).collect()
}

#[test]
fn weights_of_8_bits_and_their_scales_become_floats_at_deploy() {
    let (graph, x) = scaled_weights(20);
    let model = model(17, graph);
    assert_eq!(as_f32s(&run(&model, x)[0]), scaled_product(20));
    let prepared = prepare_model(&model);
    let info = prepared.result.expect("prepared");
    assert_eq!(info.weights_bytes, 4 * 400, "{info:?}");
    assert!(info.notes.iter().any(|note| note.starts_with("1 weights of 8 bits")), "{:?}", info.notes);
}

#[test]
fn scales_of_other_shapes_are_those_of_their_rows() {
    let (mut graph, x) = scaled_weights(20);
    // A scale a row: the second row has the second.
    graph.initializer[1].dims = vec![20, 1];
    let expected: Vec<f32> = (0..20).map(|column| f32::from((20 + column) as u8 as i8) * 1.1).collect();
    assert_eq!(as_f32s(&run(&model(17, graph), x)[0]), expected);
}

#[test]
fn weights_of_8_bits_that_others_read_stay() {
    let (mut graph, x) = scaled_weights(20);
    graph.output.push(port("floats", 1, &[20, 20]));
    let outputs = run(&model(17, graph), x);
    assert_eq!(as_f32s(&outputs[0]), scaled_product(20));
    assert_eq!(as_f32s(&outputs[1])[21], 21.0);
}

#[test]
fn convolutions_along_one_column_are_turned_and_give_the_same() {
    // Two channels of six elements below two from before, kernels of three, every other element.
    let conv = NodeProto {
        attribute: vec![
            int("group", 2),
            ints("kernel_shape", &[3, 1]),
            ints("dilations", &[2, 1]),
            ints("pads", &[1, 0, 2, 0]),
            ints("strides", &[2, 1]),
        ],
        ..node("Conv", &["all", "kernels", "bias"], "y")
    };
    let concat = NodeProto { attribute: vec![int("axis", 2)], ..node("Concat", &["before", "x"], "all") };
    let kernels = floats("kernels", &[2, 1, 3, 1], &[1.0, 10.0, 100.0, -1.0, 0.5, 2.0]);
    let before = floats("before", &[1, 2, 2, 1], &[1.0, 2.0, 3.0, 4.0]);
    let graph = GraphProto {
        node: vec![concat, conv],
        initializer: vec![kernels, before, floats("bias", &[2], &[0.25, -7.0])],
        input: vec![port("x", 1, &[1, 2, 0, 1])],
        output: vec![port("y", 1, &[1, 2, 0, 1])],
        ..GraphProto::default()
    };
    let model = model(17, graph);
    let x: Vec<f32> = (0..12u8).map(|i| f32::from(i) - 3.0).collect();
    let outputs = run(&model, f32s(&[1, 2, 6, 1], &x));
    // By hand: each channel has eight elements, from -1 to 9 with zeros outside.
    let channels = [[&[1.0, 2.0], &x[..6]].concat(), [&[3.0, 4.0], &x[6..]].concat()];
    let taps = [([1.0, 10.0, 100.0], 0.25), ([-1.0, 0.5, 2.0], -7.0)];
    let expected = channels.iter().zip(taps).flat_map(|(channel, (taps, bias))| {
        let at =
            |place: i64| usize::try_from(place).ok().and_then(|at| channel.get(at)).copied().unwrap_or(0.0);
        let one = move |from: i64| bias + (0..3).map(|k| at(from + 2 * k as i64) * taps[k]).sum::<f32>();
        [-1, 1, 3, 5].map(one)
    });
    assert_eq!(outputs[0].shape, [1, 2, 4, 1]);
    assert_eq!(as_f32s(&outputs[0]), expected.collect::<Vec<f32>>());
    let notes = prepare_model(&model).result.expect("prepared").notes;
    assert!(notes.iter().any(|note| note.contains("1 Conv")), "{notes:?}");
}
