//! What the engine alone would compute wrongly: it is right, refused, or said to be reduced.

use super::build::{as_f32s, f32s, floats, i64s, int, model, node, port, prepare_model, refused, unary};
use super::runs::loaded;
use crate::onnx::*;
use crate::{ModelInfo, Tensor, TensorType};

fn graph(node: Vec<NodeProto>, input: Vec<ValueInfoProto>, output: ValueInfoProto) -> GraphProto {
    GraphProto { node, input, output: vec![output], ..GraphProto::default() }
}

fn info(graph: GraphProto) -> ModelInfo {
    prepare_model(&model(17, graph)).result.expect("prepared")
}

fn answer(graph: GraphProto, inputs: Vec<(&str, Tensor)>) -> Tensor {
    let graph = loaded(&prepare_model(&model(17, graph)));
    let inputs = inputs.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
    graph.run(inputs).expect("a run").outputs.remove(0).1
}

/// Of a model with one input `x`.
fn run(model: &ModelProto, x: Tensor) -> Tensor {
    let graph = loaded(&prepare_model(model));
    graph.run(vec![("x".into(), x)]).expect("a run").outputs.remove(0).1
}

#[test]
fn the_first_of_equals_is_taken() {
    let mut least = node("ArgMin", &["x"], "y");
    least.attribute = vec![int("axis", 1), int("keepdims", 0)];
    let y = answer(
        graph(vec![least], vec![port("x", 1, &[2, 3])], port("y", 7, &[2])),
        vec![("x", f32s(&[2, 3], &[4.0, 2.0, 2.0, 7.0, 7.0, 7.0]))],
    );
    assert_eq!(y, i64s(&[2], &[1, 0]));
}

#[test]
fn what_is_not_a_number_stays_none() {
    for op in ["Relu", "Clip", "Softplus", "Sign"] {
        let y = run(&unary(17, node(op, &["x"], "y"), 1, &[3]), f32s(&[3], &[f32::NAN, -1.0, 200.0]));
        let y = as_f32s(&y);
        assert!(y[0].is_nan() && !y[1].is_nan(), "{op}: {y:?}");
        assert!(y[2] == 200.0 || op == "Sign", "{op}: {y:?}");
    }
    let mut most = node("ReduceMax", &["x"], "y");
    most.attribute = vec![int("keepdims", 0)];
    let y = run(
        &model(17, graph(vec![most], vec![port("x", 1, &[3])], port("y", 1, &[]))),
        f32s(&[3], &[1.0, f32::NAN, 2.0]),
    );
    assert!(as_f32s(&y)[0].is_nan());
}

#[test]
fn large_numbers_have_logarithms() {
    for op in ["Asinh", "Acosh"] {
        let y = as_f32s(&run(&unary(17, node(op, &["x"], "y"), 1, &[2]), f32s(&[2], &[3e38, 2.0])));
        assert!((y[0] - 89.29).abs() < 0.01 && y[1] > 1.3 && y[1] < 1.5, "{op}: {y:?}");
    }
}

#[test]
fn a_vector_that_is_known_at_run_alone_adds_no_dimension() {
    let product = node("MatMul", &["a", "b"], "y");
    let inputs = || vec![port("a", 1, &[2, 2]), port("b", 1, &[2])];
    let given = || vec![("a", f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0])), ("b", f32s(&[2], &[1.0, 10.0]))];
    let y = answer(graph(vec![product.clone()], inputs(), port("y", 1, &[2])), given());
    assert_eq!((&y.shape[..], as_f32s(&y)), (&[2][..], vec![21.0, 43.0]));

    let mut hidden = product;
    hidden.input[1] = "h".into();
    let mut ports = inputs();
    ports.push(port("s", 7, &[0]));
    let nodes = vec![node("Reshape", &["b", "s"], "h"), hidden];
    for (shape, wanted) in [(vec![2], vec![2]), (vec![2, 1], vec![2, 1])] {
        let samples: Vec<f64> = shape.iter().map(|d| *d as f64).collect();
        let mut g = graph(nodes.clone(), ports.clone(), port("y", 1, &[]));
        if let Some(TypeValue::Tensor(t)) = g.output[0].r#type.as_mut().and_then(|t| t.value.as_mut()) {
            t.shape = None;
        }
        let sample = |input: &str, shape: &[u32], values: Vec<f64>| vesta_core::sample::Sample {
            input: input.into(),
            shape: shape.to_vec(),
            values: Some(values),
            fill: None,
        };
        use prost::Message;
        let prepared = super::build::prepare_sampled(
            &model(17, g).encode_to_vec(),
            &[sample("s", &[shape.len() as u32], samples)],
            &crate::ModelLimits::default(),
        );
        let mut inputs = given();
        inputs.push(("s", i64s(&[shape.len() as u32], &shape)));
        let inputs = inputs.into_iter().map(|(name, t)| (name.to_owned(), t)).collect();
        let y = loaded(&prepared).run(inputs).expect("a run").outputs.remove(0).1;
        assert_eq!((y.shape.clone(), as_f32s(&y)), (wanted, vec![21.0, 43.0]));
    }
}

#[test]
fn updates_go_where_their_indices_say() {
    let scatter = node("ScatterElements", &["x", "i", "u"], "y");
    let mut g =
        graph(vec![scatter], vec![port("x", 1, &[2, 3]), port("u", 1, &[1, 2])], port("y", 1, &[2, 3]));
    g.initializer.push(TensorProto {
        name: Some("i".into()),
        dims: vec![1, 2],
        data_type: Some(7),
        int64_data: vec![1, -2],
        ..TensorProto::default()
    });
    let y = answer(g, vec![("x", f32s(&[2, 3], &[0.0; 6])), ("u", f32s(&[1, 2], &[5.0, 6.0]))]);
    assert_eq!(as_f32s(&y), [0.0, 6.0, 0.0, 5.0, 0.0, 0.0]);
}

#[test]
fn numbers_are_quantised_by_division_and_unsigned_without_a_zero_point() {
    let mut g = graph(
        vec![node("QuantizeLinear", &["x", "scale"], "y")],
        vec![port("x", 1, &[4])],
        port("y", 2, &[4]),
    );
    g.initializer.push(floats("scale", &[], &[2.0]));
    let y = answer(g, vec![("x", f32s(&[4], &[1.0, 3.0, 900.0, -4.0]))]);
    assert_eq!((y.ty, y.data), (TensorType::U8, vec![0, 2, 255, 0]));
}

#[test]
fn padding_wider_than_the_data_fails() {
    let text = AttributeProto {
        name: Some("mode".into()),
        s: Some(b"reflect"[..].into()),
        r#type: Some(3),
        ..AttributeProto::default()
    };
    let made = |dim: i64| {
        let mut pad = node("Pad", &["x", "pads"], "y");
        pad.attribute.push(text.clone());
        let mut g = graph(vec![pad], vec![port("x", 1, &[1, dim])], port("y", 1, &[1, 0]));
        g.initializer.push(TensorProto {
            name: Some("pads".into()),
            dims: vec![4],
            data_type: Some(7),
            int64_data: vec![0, 2, 0, 0],
            ..TensorProto::default()
        });
        model(17, g)
    };
    assert_eq!(refused(&made(2)).code(), "operator-not-supported");
    let open = loaded(&prepare_model(&made(0)));
    let run = |values: &[f32]| open.run(vec![("x".into(), f32s(&[1, values.len() as u32], values))]);
    assert_eq!(as_f32s(&run(&[1.0, 2.0, 3.0]).expect("a run").outputs[0].1), [3.0, 2.0, 1.0, 2.0, 3.0]);
    run(&[1.0, 2.0]).expect_err("too wide");
}

#[test]
fn integers_that_a_model_computes_and_gives_are_reduced() {
    let x = || vec![port("x", 7, &[2])];
    let product = info(graph(vec![node("Mul", &["x", "x"], "y")], x(), port("y", 7, &[2])));
    assert!(product.reduced[0].contains("the Mul"), "{:?}", product.reduced);
    let mut cast = node("Cast", &["x"], "y");
    cast.attribute = vec![int("to", 7)];
    let cast = info(graph(vec![cast], vec![port("x", 1, &[2])], port("y", 7, &[2])));
    assert!(cast.reduced[0].contains("the Cast"), "{:?}", cast.reduced);
    // The places of words: sums of a mask are bounded, and what exceeds 32 bits finds no row.
    let mut sum = node("CumSum", &["x", "axis"], "places");
    sum.attribute = vec![];
    let mut places = graph(vec![sum, node("Gather", &["table", "places"], "y")], x(), port("y", 1, &[2]));
    places.initializer = vec![floats("table", &[3], &[0.0, 1.0, 2.0])];
    places.initializer.push(TensorProto {
        name: Some("axis".into()),
        data_type: Some(7),
        int64_data: vec![0],
        ..TensorProto::default()
    });
    assert!(info(places).reduced.is_empty());
    let least = info(graph(vec![node("Neg", &["x"], "y")], x(), port("y", 7, &[2])));
    assert!(least.reduced.is_empty(), "{:?}", least.reduced);
}

#[test]
fn doubles_are_reduced_unless_they_become_floats_at_once() {
    let found = info(graph(vec![node("Neg", &["x"], "y")], vec![port("x", 11, &[1])], port("y", 11, &[1])));
    assert_eq!(found.reduced.len(), 3, "{:?}", found.reduced);
    let value = TensorProto { data_type: Some(11), double_data: vec![0.5], ..TensorProto::default() };
    let mut constant = node("Constant", &[], "c");
    constant.attribute.push(AttributeProto {
        name: Some("value".into()),
        t: Some(value),
        r#type: Some(4),
        ..AttributeProto::default()
    });
    let mut cast = node("Cast", &["c"], "f");
    cast.attribute = vec![int("to", 1)];
    let nodes = vec![constant, cast, node("Mul", &["x", "f"], "y")];
    let found = info(graph(nodes, vec![port("x", 1, &[1])], port("y", 1, &[1])));
    assert!(found.reduced.is_empty(), "{:?}", found.reduced);
}

#[test]
fn nodes_without_names_are_called_by_operator_and_number() {
    let mut nodes = vec![node("Neg", &["x"], "a"), node("Neg", &["a"], "b"), node("Abs", &["b"], "y")];
    nodes.iter_mut().for_each(|n| n.name = None);
    nodes.push(NodeProto { name: None, ..node("Foo", &["y"], "z") });
    nodes.push(NodeProto { name: None, ..node("Foo", &["z"], "w") });
    let error = refused(&model(17, graph(nodes, vec![port("x", 1, &[1])], port("y", 1, &[1]))));
    assert!(error.to_string().contains("Foo number 1"), "{error}");
}

#[test]
fn a_model_without_an_opset_is_taken_as_meant() {
    let mut without = super::build::linear();
    without.opset_import.clear();
    let found = prepare_model(&without).result.expect("prepared");
    assert!(found.notes.iter().any(|n| n.contains("26 is assumed")), "{:?}", found.notes);
}

/// A node that casts to an element type.
fn cast(input: &str, to: i64, output: &str) -> NodeProto {
    NodeProto { attribute: vec![int("to", to)], ..node("Cast", &[input], output) }
}

#[test]
fn floats_that_become_integers_may_be_beyond_32_bits_whatever_they_come_from() {
    let whole = || vec![port("x", 7, &[2])];
    let squares = vec![cast("x", 1, "f"), node("Mul", &["f", "f"], "p"), cast("p", 7, "y")];
    let thousands = GraphProto {
        initializer: vec![floats("t", &[], &[0.001])],
        ..graph(
            vec![cast("x", 1, "f"), node("Div", &["f", "t"], "p"), cast("p", 7, "y")],
            whole(),
            port("y", 7, &[2]),
        )
    };
    let positive = GraphProto {
        initializer: vec![floats("none", &[], &[0.0])],
        ..graph(
            vec![node("Max", &["x", "none"], "p"), cast("p", 7, "y")],
            vec![port("x", 1, &[2])],
            port("y", 7, &[2]),
        )
    };
    for graph in [graph(squares, whole(), port("y", 7, &[2])), thousands, positive] {
        assert!(!info(graph).reduced.is_empty());
    }
    // Of truths and their sums everything is known.
    let bounded = GraphProto {
        initializer: vec![floats("low", &[], &[0.0]), floats("high", &[], &[9.0])],
        ..graph(
            vec![node("Greater", &["x", "low"], "t"), cast("t", 1, "f"), cast("f", 7, "y")],
            vec![port("x", 1, &[2])],
            port("y", 7, &[2]),
        )
    };
    assert_eq!(info(bounded).reduced, Vec::<String>::new());
}

#[test]
fn powers_of_integers_are_refused() {
    for (base, exponent) in [(7, 7), (6, 1), (7, 1)] {
        let power = node("Pow", &["x", "e"], "y");
        let inputs = vec![port("x", base, &[2]), port("e", exponent, &[2])];
        let error = refused(&model(17, graph(vec![power], inputs, port("y", base, &[2]))));
        assert!(error.to_string().contains("Pow"), "{error}");
    }
}
