//! Where the engine computes something else than ONNX says, and does not tell: such nodes are given a form that it computes
//! rightly, or the model is refused. Found with ONNX's own operator tests against `rten` 0.27; [`crate::compat`] ties prepared
//! models to that version. Softmax before opset 13 has its own module.

use crate::PrepareError;
use crate::edit::{Editor, each_inner_graph, int_attribute, ints_attribute, set_attribute};
use crate::onnx::*;
use std::collections::HashMap;

/// Numbers of element types, for Cast.
const FLOAT: i64 = 1;
const BOOL: i64 = 9;

/// Rewrites a graph and the graphs in it.
pub fn rewrite(graph: &mut GraphProto) -> Result<(), PrepareError> {
    let ranks: HashMap<String, usize> =
        graph.initializer.iter().filter_map(|t| Some((t.name.clone()?, t.dims.len()))).collect();
    let mut editor = Editor::new(graph);
    for mut node in std::mem::take(&mut graph.node) {
        each_inner_graph(&mut node, rewrite)?;
        refuse(&node, graph)?;
        let weights_rank = node.input.get(1).and_then(|name| ranks.get(name)).copied();
        match (node.op(), node.input.len(), node.output.len()) {
            _ if !node.op_domain().is_empty() => editor.nodes.push(node),
            ("Sign", 1, 1) => sign(&mut editor, node),
            ("Cast", 1, 1) if node.int("to") == Some(BOOL) => {
                let (input, output) = (node.input[0].clone(), node.output[0].clone());
                to_bool(&mut editor, &node, &input, &output);
            }
            ("ArgMax", 1, 1) if node.int("select_last_index").unwrap_or(0) == 0 => {
                arg_max(&mut editor, &node)
            }
            ("MatMul", 2, 1) if weights_rank == Some(1) => times_vector(&mut editor, node),
            ("MaxPool" | "AveragePool" | "Conv" | "ConvTranspose", ..) => {
                fill_window(&mut node, weights_rank)?;
                editor.nodes.push(node);
            }
            _ => editor.nodes.push(node),
        }
    }
    graph.node = editor.nodes;
    Ok(())
}

fn refuse(node: &NodeProto, graph: &GraphProto) -> Result<(), PrepareError> {
    let why = match node.op() {
        _ if !node.op_domain().is_empty() => return Ok(()),
        "NonMaxSuppression" if has_one_class(node, graph) => return Ok(()),
        "NonMaxSuppression" => {
            "the engine does not keep classes and images apart, and the model does not state that there is one of each"
        }
        "Resize" if node.attribute("mode").and_then(|a| a.s.as_deref()) == Some(b"cubic") => {
            "the engine would resize linearly where the model says cubic"
        }
        "BitCast" => "the engine keeps 64 bits in 32",
        "SequenceErase" => "the engine may remove another element",
        _ => return Ok(()),
    };
    Err(PrepareError::Operator(format!("{} (node {:?}): {why}", node.op(), node.label())))
}

/// Whether the scores of a NonMaxSuppression, its second input, are stated as [1 image, 1 class, boxes].
fn has_one_class(node: &NodeProto, graph: &GraphProto) -> bool {
    let is_one =
        |dim: Option<&Dimension>| dim.is_some_and(|d| matches!(d.value, Some(DimensionValue::Value(1))));
    let Some(scores) = node.input.get(1) else { return false };
    graph.input.iter().chain(&graph.value_info).filter(|v| v.name.as_ref() == Some(scores)).any(|value| {
        let Some(TypeValue::Tensor(tensor)) = value.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
            return false;
        };
        tensor.shape.as_ref().is_some_and(|s| is_one(s.dim.first()) && is_one(s.dim.get(1)))
    })
}

/// The engine's Sign of 0 is 1: times 0 there, times 1 elsewhere.
fn sign(editor: &mut Editor, mut node: NodeProto) {
    let (input, output) = (node.input[0].clone(), node.output[0].clone());
    let [sign, truth, factor] = ["sign", "truth", "factor"].map(|part| editor.fresh(&output, part));
    to_bool(editor, &node, &input, &truth);
    editor.add(&node, "CastLike", &[&truth, &input], &[&factor], vec![]);
    editor.add(&node, "Mul", &[&sign, &factor], &[&output], vec![]);
    node.output = vec![sign];
    let place = editor.nodes.len() - 1;
    editor.nodes.insert(place, node);
}

/// The engine's Cast to bool truncates to an integer: 0.5 becomes false, and 2 stays 2. Here: x is not equal to x - x (which is
/// not a number where x is infinite or none, hence unequal and true). In floats, since not all integers can be subtracted.
fn to_bool(editor: &mut Editor, node: &NodeProto, input: &str, output: &str) {
    let [float, zero, is_zero] = ["float", "zero", "is_zero"].map(|part| editor.fresh(output, part));
    editor.add(node, "Cast", &[input], &[&float], vec![int_attribute("to", FLOAT)]);
    editor.add(node, "Sub", &[&float, &float], &[&zero], vec![]);
    editor.add(node, "Equal", &[&float, &zero], &[&is_zero], vec![]);
    editor.add(node, "Not", &[&is_zero], &[output], vec![]);
}

/// The engine's ArgMax takes the last of equals, ONNX the first; TopK of one is right.
fn arg_max(editor: &mut Editor, node: &NodeProto) {
    let axis = node.int("axis").unwrap_or(0);
    let keep = node.int("keepdims").unwrap_or(1) != 0;
    let output = node.output[0].clone();
    let [one, largest, place, axes] =
        ["one", "largest", "place", "axes"].map(|part| editor.fresh(&output, part));
    let list = |value| vec![ints_attribute("value_ints", vec![value])];
    editor.add(node, "Constant", &[], &[&one], list(1));
    let place = if keep { &output } else { &place };
    editor.add(node, "TopK", &[&node.input[0], &one], &[&largest, place], vec![int_attribute("axis", axis)]);
    if !keep {
        editor.add(node, "Constant", &[], &[&axes], list(axis));
        editor.add(node, "Squeeze", &[place, &axes], &[&output], vec![]);
    }
}

/// The engine leaves a dimension of 1 behind where the right side is a vector: made a column, and the dimension taken away.
fn times_vector(editor: &mut Editor, mut node: NodeProto) {
    let output = node.output[0].clone();
    let [column, product, right, last] =
        ["column", "product", "right", "last"].map(|part| editor.fresh(&output, part));
    let list = |value| vec![ints_attribute("value_ints", vec![value])];
    editor.add(&node, "Constant", &[], &[&right], list(1));
    editor.add(&node, "Constant", &[], &[&last], list(-1));
    editor.add(&node, "Unsqueeze", &[&node.input[1], &right], &[&column], vec![]);
    node.input[1] = column;
    node.output[0] = product.clone();
    editor.nodes.push(node.clone());
    editor.add(&node, "Squeeze", &[&product, &last], &[&output], vec![]);
}

/// Windows without strides step by one; the engine fails unless that is written out for as many dimensions as there are. It also
/// pads SAME_LOWER as SAME_UPPER, so the padding is written out too; with larger steps it would depend on the input's size.
fn fill_window(node: &mut NodeProto, weights_rank: Option<usize>) -> Result<(), PrepareError> {
    let auto = node.attribute("auto_pad").and_then(|a| a.s.clone()).unwrap_or_default();
    let lower = &auto[..] == b"SAME_LOWER";
    let ints = |name: &str| node.attribute(name).map(|a| a.ints.clone());
    let kernel = ints("kernel_shape");
    let rank = kernel.as_ref().map(Vec::len).or(weights_rank.and_then(|rank| rank.checked_sub(2)));
    let Some(rank) = rank.filter(|_| !lower || kernel.is_some()) else {
        return if lower { Err(same_lower(node)) } else { Ok(()) };
    };
    let strides = ints("strides").unwrap_or_else(|| vec![1; rank]);
    let dilations = ints("dilations").unwrap_or_else(|| vec![1; rank]);
    let mut pads = ints("pads");
    if lower {
        if node.op() == "ConvTranspose" || strides.iter().any(|s| *s != 1) {
            return Err(same_lower(node));
        }
        let total = |(k, d): (i64, i64)| k.saturating_sub(1).saturating_mul(d);
        let totals: Vec<i64> =
            kernel.into_iter().flatten().zip(dilations.iter().copied()).map(total).collect();
        let begin = totals.iter().map(|t| t - t / 2);
        pads = Some(begin.chain(totals.iter().map(|t| t / 2)).collect());
        node.attribute.retain(|a| a.name.as_deref() != Some("auto_pad"));
    } else if pads.is_none() && matches!(&auto[..], b"" | b"NOTSET") {
        pads = Some(vec![0; rank * 2]);
    }
    set_attribute(node, ints_attribute("strides", strides));
    if node.op().starts_with("Conv") {
        set_attribute(node, ints_attribute("dilations", dilations));
    }
    if let Some(pads) = pads {
        set_attribute(node, ints_attribute("pads", pads));
    }
    Ok(())
}

fn same_lower(node: &NodeProto) -> PrepareError {
    let why = "auto_pad SAME_LOWER is supported with a kernel_shape and strides of 1 only";
    PrepareError::Operator(format!("{} (node {:?}): {why}", node.op(), node.label()))
}
