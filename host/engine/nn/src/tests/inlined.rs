//! A model's own functions: their calls are replaced by their bodies.

use super::build::*;
use super::runs::loaded;
use crate::onnx::*;
use crate::{ModelLimits, inline};

const DOMAIN: &str = "mine";

fn function(name: &str, input: &[&str], output: &[&str], node: Vec<NodeProto>) -> FunctionProto {
    let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    FunctionProto {
        name: Some(name.into()),
        domain: Some(DOMAIN.into()),
        input: strings(input),
        output: strings(output),
        node,
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        ..FunctionProto::default()
    }
}

fn call(name: &str, input: &[&str], output: &str) -> NodeProto {
    NodeProto { domain: Some(DOMAIN.into()), ..node(name, input, output) }
}

fn number(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        f: Some(value),
        r#type: Some(ATTRIBUTE_FLOAT),
        ..AttributeProto::default()
    }
}

/// y = slope * x below 0; the slope is an attribute of the call, 0.5 where it is not given.
fn leaky() -> FunctionProto {
    let mut leaky = node("LeakyRelu", &["a"], "b");
    let slope = AttributeProto { ref_attr_name: Some("slope".into()), ..number("alpha", 0.0) };
    leaky.attribute.push(AttributeProto { f: None, ..slope });
    let body = vec![leaky, node("Identity", &["b"], "r")];
    FunctionProto { attribute_proto: vec![number("slope", 0.5)], ..function("Leaky", &["a"], &["r"], body) }
}

fn with(functions: Vec<FunctionProto>, nodes: Vec<NodeProto>) -> ModelProto {
    let mut graph = unary(17, nodes[0].clone(), 1, &[3]).graph.expect("a graph");
    graph.node = nodes;
    let mut model = model(17, graph);
    model.functions = functions;
    model.opset_import.push(OperatorSetIdProto { domain: Some(DOMAIN.into()), version: Some(1) });
    model
}

fn run(model: &ModelProto) -> Vec<f32> {
    let graph = loaded(&prepare_model(model));
    let x = f32s(&[3], &[-4.0, 0.0, 4.0]);
    let outputs = graph.run(vec![("x".into(), x)]).expect("a run").outputs;
    as_f32s(&outputs[0].1).clone()
}

#[test]
fn calls_take_their_attributes_or_the_defaults_of_the_function() {
    let mut given = call("Leaky", &["h"], "y");
    given.attribute.push(number("slope", 0.25));
    let nodes = vec![call("Leaky", &["x"], "h"), given];
    assert_eq!(run(&with(vec![leaky()], nodes)), [-0.5, 0.0, 4.0]);
}

#[test]
fn functions_call_others_and_hand_on_what_they_are_given() {
    // The names of the bodies are those of the graph, too.
    let twice =
        function("Twice", &["x"], &["h", "x"], vec![call("Leaky", &["x"], "y"), call("Leaky", &["y"], "h")]);
    let mut first = call("Twice", &["x"], "h");
    first.output.push("same".into());
    let nodes = vec![first, node("Add", &["h", "same"], "y")];
    assert_eq!(run(&with(vec![twice, leaky()], nodes)), [-5.0, 0.0, 8.0]);
}

#[test]
fn calls_in_graphs_within_and_graphs_in_functions_keep_names_apart() {
    let branch = |name: &str, op: &str| {
        let graph = GraphProto {
            node: vec![node(op, &["x"], "v"), call("Leaky", &["v"], "u")],
            output: vec![port("u", 1, &[3])],
            ..GraphProto::default()
        };
        AttributeProto {
            name: Some(name.into()),
            g: Some(graph),
            r#type: Some(5),
            ..AttributeProto::default()
        }
    };
    let mut choice = node("If", &["c"], "t");
    choice.attribute = vec![branch("then_branch", "Neg"), branch("else_branch", "Abs")];
    let sum = node("ReduceSum", &["x"], "s");
    let body = vec![sum, node("Cast", &["s"], "c"), choice];
    let mut choose = function("Choose", &["x"], &["t"], body);
    choose.node[1].attribute.push(int("to", 9));
    // The sum is 0, so that the second branch counts: the largest is 4 at both ends.
    let nodes = vec![call("Choose", &["x"], "t"), node("Neg", &["t"], "y")];
    assert_eq!(run(&with(vec![choose, leaky()], nodes)), [-4.0, 0.0, -4.0]);
}

#[test]
fn functions_that_call_themselves_or_grow_without_bound_are_refused() {
    let endless = function("Endless", &["a"], &["b"], vec![call("Endless", &["a"], "b")]);
    let model = with(vec![endless], vec![call("Endless", &["x"], "y")]);
    assert_says(&prepare_model(&model).result.expect_err("refused"), "it calls itself");
    let other = FunctionProto {
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(18) }],
        ..leaky()
    };
    let model = with(vec![other], vec![call("Leaky", &["x"], "y")]);
    assert_says(&prepare_model(&model).result.expect_err("refused"), "written for operator set 18");
    // Each doubles the next, and the last is empty.
    let name = |n: usize| format!("F{n}");
    let mut functions: Vec<_> = (0..60)
        .map(|n| {
            let next = name(n + 1);
            function(&name(n), &["a"], &["b"], vec![call(&next, &["a"], "c"), call(&next, &["a"], "b")])
        })
        .collect();
    functions.push(function(&name(60), &["a"], &["b"], vec![]));
    let model = with(functions, vec![call("F0", &["x"], "y")]);
    assert_says(&prepare_model(&model).result.expect_err("refused"), "operators; at most 100000");
    let chain =
        (0..200).map(|n| function(&name(n), &["a"], &["b"], vec![call(&name(n + 1), &["a"], "b")])).collect();
    let model = with(chain, vec![call("F0", &["x"], "y")]);
    assert_says(&prepare_model(&model).result.expect_err("refused"), "within one another");
}

fn assert_says(error: &crate::PrepareError, text: &str) {
    assert!(error.to_string().contains(text), "{error}");
}

#[test]
fn what_is_checked_of_a_graph_is_checked_of_a_function() {
    let mut body = leaky();
    let tensor = TensorProto { dims: vec![1_000_000], data_type: Some(1), ..TensorProto::default() };
    let lies = AttributeProto {
        name: Some("value".into()),
        t: Some(tensor),
        r#type: Some(ATTRIBUTE_TENSOR),
        ..AttributeProto::default()
    };
    body.node.push(NodeProto { attribute: vec![lies], ..node("Constant", &[], "large") });
    let refused = |function: FunctionProto| {
        let model = with(vec![function], vec![call("Leaky", &["x"], "y")]);
        prepare_model(&model).result.expect_err("refused").code()
    };
    assert_eq!(refused(body), "tensor-lies");
    let unknown = vec![node("Foo", &["a"], "r")];
    assert_eq!(refused(function("Leaky", &["a"], &["r"], unknown)), "operator-not-supported");
    assert_eq!(refused(function("Leaky", &[], &["r"], leaky().node)), "operator-not-supported");
    let nothing = vec![node("Neg", &["elsewhere"], "r")];
    assert_eq!(refused(function("Leaky", &["a"], &["r"], nothing)), "graph-unsound");
}

#[test]
fn new_names_are_none_that_the_graph_has() {
    let nodes = vec![node("Neg", &["x"], "inlined1/b"), call("Leaky", &["inlined1/b"], "y")];
    let mut model = with(vec![leaky()], nodes);
    inline::functions(&mut model, &ModelLimits::default()).expect("inlined");
    let graph = model.graph.as_ref().expect("a graph");
    let names: Vec<_> = graph.node.iter().map(|n| n.output[0].as_str()).collect();
    assert_eq!(names, ["inlined1/b", "inlined'1/b", "y"]);
    assert!(model.functions.is_empty());
}
