//! Where the engine computes something else than ONNX says, and does not tell: such nodes are given a form
//! that it computes rightly. What cannot be given one, the table of operators refuses. Found with the
//! conformance suite against `rten` 0.27; [`crate::compat`] ties prepared models to that version. Softmax
//! before opset 13 has its own module.

mod indices;
mod norm;
mod numbers;
mod quantize;
mod widen;
mod windows;

use crate::PrepareError;
use crate::edit::{Editor, each_inner_graph, float_attribute, ints_attribute, set_attribute};
use crate::facts::{Fact, Facts};
use crate::onnx::*;
use crate::table::{self, Place};

/// Numbers of element types, for Cast.
const FLOAT: i64 = 1;
const BOOL: i64 = 9;

/// Checks a graph and those in it against the table of operators, and rewrites them.
///
/// # Errors
/// The first node that the engine would not compute rightly.
pub fn rewrite(graph: &mut GraphProto, opset: i64) -> Result<(), PrepareError> {
    rewrite_in(graph, opset, &Facts::default()).map(drop)
}

/// Gives what is known of the graph's outputs.
fn rewrite_in(graph: &mut GraphProto, opset: i64, outer: &Facts) -> Result<Vec<Fact>, PrepareError> {
    let mut facts = outer.enter(graph);
    let mut editor = Editor::new(graph);
    for mut node in std::mem::take(&mut graph.node) {
        let place = Place { node: &node, label: node.label().to_owned() };
        let elements = table::check(&place, opset, &facts)?;
        let mut branches = Vec::new();
        each_inner_graph(&mut node, |inner| {
            branches.push(rewrite_in(inner, opset, &facts)?);
            Ok::<_, PrepareError>(())
        })?;
        facts.add(&node, &elements, &branches);
        whole(&mut editor, node, &mut facts)?;
    }
    graph.node = editor.nodes;
    Ok(facts.outputs(graph))
}

/// Adds a node, in element types that the engine has.
fn whole(editor: &mut Editor, mut node: NodeProto, facts: &mut Facts) -> Result<(), PrepareError> {
    if !is_whole(&node) {
        // The engine says what it misses.
        editor.nodes.push(node);
        return Ok(());
    }
    let back = widen::widen(editor, &mut node, facts);
    let widened = node.clone();
    one(editor, node, facts)?;
    if let Some((output, element)) = back {
        widen::narrow(editor, &widened, &output, element);
    }
    Ok(())
}

/// Adds a node, or those that stand for it.
fn one(editor: &mut Editor, mut node: NodeProto, facts: &Facts) -> Result<(), PrepareError> {
    let first = facts.input(&node, 0).and_then(|f| f.element);
    let is_float = matches!(first, None | Some(Element::Float | Element::Float16 | Element::Double));
    let is_bool = |i: usize| facts.input(&node, i).is_some_and(|f| f.element == Some(Element::Bool));
    match (node.op(), node.op_domain()) {
        ("Sign", "") => numbers::sign(editor, node),
        ("Relu", "") => {
            // The engine's Relu makes 0 of what is not a number.
            node.op_type = Some("Elu".into());
            set_attribute(&mut node, float_attribute("alpha", -0.0));
            editor.nodes.push(node);
        }
        ("Clip", "") if is_float => numbers::clip(editor, node, first),
        ("Softplus", "") => numbers::softplus(editor, node),
        ("Asinh" | "Acosh", "") => numbers::large_logarithm(editor, node),
        ("MaxPool" | "GlobalMaxPool", "") => {
            if node.op() == "MaxPool" {
                windows::fill(&mut node, None)?;
            }
            numbers::largest(editor, node);
        }
        ("ReduceMax" | "ReduceMin" | "ReduceLogSumExp", "") if is_float => numbers::extreme(editor, node),
        ("ReduceMax" | "ReduceMin", "") => numbers::extreme_of_some(editor, node, facts),
        ("Cast", "") if node.int("to") == Some(BOOL) => {
            let (input, output) = (node.input[0].clone(), node.output[0].clone());
            numbers::to_bool(editor, &node, &input, &output);
        }
        ("Pow", "") if facts.rank(&node, 1) != Some(0) => {
            let (base, exponent) = (facts.rank(&node, 0), facts.rank(&node, 1));
            if base.is_none() || exponent.is_none() || base < exponent {
                numbers::power(editor, &mut node);
            }
            editor.nodes.push(node);
        }
        ("IsInf", "") => numbers::is_infinite(editor, node),
        ("LayerNormalization", "") if node.output.len() > 1 => match facts.rank(&node, 0) {
            Some(rank) => norm::layer(editor, node, rank),
            None => editor.nodes.push(node),
        },
        ("CastLike", "") if is_bool(1) => {
            let (input, output) = (node.input[0].clone(), node.output[0].clone());
            numbers::to_bool(editor, &node, &input, &output);
        }
        ("ArgMax" | "ArgMin", "") => indices::arg(editor, node),
        ("MatMul", "") => match facts.rank(&node, 1) {
            Some(1) => indices::times_vector(editor, node),
            Some(_) => editor.nodes.push(node),
            None => indices::times_unknown(editor, node),
        },
        ("Scatter" | "ScatterElements", "") => indices::scatter(editor, node, facts),
        ("Pad", "") => windows::pad(editor, node, facts),
        ("QuantizeLinear", "") => quantize::linear(editor, node, facts),
        ("DynamicQuantizeLinear", "") => quantize::dynamic(editor, &node),
        ("AveragePool" | "Conv" | "ConvTranspose", "") => {
            let weights_rank = facts.rank(&node, 1);
            windows::fill(&mut node, weights_rank)?;
            editor.nodes.push(node);
        }
        ("SkipLayerNormalization" | "SkipSimplifiedLayerNormalization", "com.microsoft")
            if node.attribute("epsilon").is_none() =>
        {
            set_attribute(&mut node, float_attribute("epsilon", 1e-12));
            editor.nodes.push(node);
        }
        _ => editor.nodes.push(node),
    }
    Ok(())
}

/// Whether a node has the inputs that its operator cannot do without, and an output.
fn is_whole(node: &NodeProto) -> bool {
    let needed = match node.op() {
        "Scatter" | "ScatterElements" => 3,
        "MatMul" | "QuantizeLinear" | "CastLike" | "Pow" => 2,
        "Pad" if node.attribute("pads").is_none() => 2,
        _ => 1,
    };
    let outputs = match node.op() {
        "DynamicQuantizeLinear" | "LayerNormalization" => 1..=3,
        "TopK" => 1..=2,
        _ => 1..=1,
    };
    let given = node.input.iter().take_while(|name| !name.is_empty()).count();
    given >= needed && outputs.contains(&node.output.len()) && !node.output[0].is_empty()
}

fn ints(value: &[i64]) -> Vec<AttributeProto> {
    vec![ints_attribute("value_ints", value.to_vec())]
}
