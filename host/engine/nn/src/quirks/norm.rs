//! Normalisation.

use super::ints;
use crate::edit::{Editor, float_attribute, int_attribute, set_attribute};
use crate::onnx::*;

/// The engine gives the result of LayerNormalization alone: mean and inverse deviation are computed beside
/// it, in the same axes.
pub fn layer(editor: &mut Editor, mut node: NodeProto, rank: usize) {
    let axis = node.int("axis").unwrap_or(-1);
    let axis = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    let epsilon = node.attribute("epsilon").and_then(|a| a.f).unwrap_or(1e-5);
    let input = node.input[0].clone();
    let more: Vec<String> = node.output.drain(1..).collect();
    let output = node.output[0].clone();
    let mut name = |part: &str| editor.fresh(&output, part);
    let [axes, own_mean, apart, squares, variance] =
        ["axes", "mean", "apart", "squares", "variance"].map(&mut name);
    let [small, sum, root, own_inverse] = ["small", "sum", "root", "inverse"].map(&mut name);
    let given = |i: usize, own: String| more.get(i).filter(|n| !n.is_empty()).cloned().unwrap_or(own);
    let (mean, inverse) = (given(0, own_mean), given(1, own_inverse));
    set_attribute(&mut node, int_attribute("axis", axis));
    editor.nodes.push(node.clone());
    let all: Vec<i64> = (axis..rank as i64).collect();
    editor.add(&node, "Constant", &[], &[&axes], ints(&all));
    editor.add(&node, "Constant", &[], &[&small], vec![float_attribute("value_float", epsilon)]);
    editor.add(&node, "ReduceMean", &[&input, &axes], &[&mean], vec![]);
    editor.add(&node, "Sub", &[&input, &mean], &[&apart], vec![]);
    editor.add(&node, "Mul", &[&apart, &apart], &[&squares], vec![]);
    editor.add(&node, "ReduceMean", &[&squares, &axes], &[&variance], vec![]);
    editor.add(&node, "Add", &[&variance, &small], &[&sum], vec![]);
    editor.add(&node, "Sqrt", &[&sum], &[&root], vec![]);
    editor.add(&node, "Reciprocal", &[&root], &[&inverse], vec![]);
}
