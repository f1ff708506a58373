//! Operators that choose elements, and products with vectors.

use super::ints;
use crate::edit::{Editor, int_attribute};
use crate::facts::Facts;
use crate::onnx::*;

/// The engine's ArgMax and ArgMin take the last of equals; ONNX takes the first unless the node says
/// otherwise. TopK of one takes
/// the first.
pub fn arg(editor: &mut Editor, mut node: NodeProto) {
    let last = node.int("select_last_index").unwrap_or(0) != 0;
    node.attribute.retain(|a| a.name.as_deref() != Some("select_last_index"));
    if last {
        editor.nodes.push(node);
        return;
    }
    let axis = node.int("axis").unwrap_or(0);
    let keep = node.int("keepdims").unwrap_or(1) != 0;
    let output = node.output[0].clone();
    let [one, value, place, axes] = ["one", "value", "place", "axes"].map(|part| editor.fresh(&output, part));
    editor.add(&node, "Constant", &[], &[&one], ints(&[1]));
    let place = if keep { &output } else { &place };
    let largest = int_attribute("largest", i64::from(node.op() == "ArgMax"));
    let attributes = vec![int_attribute("axis", axis), largest];
    editor.add(&node, "TopK", &[&node.input[0], &one], &[&value, place], attributes);
    if !keep {
        editor.add(&node, "Constant", &[], &[&axes], ints(&[axis]));
        editor.add(&node, "Squeeze", &[place, &axes], &[&output], vec![]);
    }
}

/// The engine leaves a dimension of 1 behind where the right side is a vector: made a column, and the
/// dimension taken away.
pub fn times_vector(editor: &mut Editor, mut node: NodeProto) {
    let output = node.output[0].clone();
    let [column, product, right, last] =
        ["column", "product", "right", "last"].map(|part| editor.fresh(&output, part));
    editor.add(&node, "Constant", &[], &[&right], ints(&[1]));
    editor.add(&node, "Constant", &[], &[&last], ints(&[-1]));
    editor.add(&node, "Unsqueeze", &[&node.input[1], &right], &[&column], vec![]);
    node.input[1] = column;
    node.output[0] = product.clone();
    editor.nodes.push(node.clone());
    editor.add(&node, "Squeeze", &[&product, &last], &[&output], vec![]);
}

/// As [`times_vector`] where only the run tells whether the right side is a vector: the result has the
/// dimensions of the left side
/// without its last one then, and all that the engine gives otherwise.
pub fn times_unknown(editor: &mut Editor, mut node: NodeProto) {
    let output = node.output[0].clone();
    let (left, right) = (node.input[0].clone(), node.input[1].clone());
    let mut name = |part: &str| editor.fresh(&output, part);
    let [product, shape, start, one, all] = ["product", "shape", "start", "one", "all"].map(&mut name);
    let [right_shape, right_rank, is_vector] = ["right_shape", "right_rank", "is_vector"].map(&mut name);
    let [left_shape, left_rank, fewer, end, cut] =
        ["left_shape", "left_rank", "fewer", "end", "cut"].map(&mut name);
    node.output[0] = product.clone();
    editor.nodes.push(node.clone());
    for (part, value) in [(&start, 0), (&one, 1), (&all, i64::from(i32::MAX))] {
        editor.add(&node, "Constant", &[], &[part], ints(&[value]));
    }
    for (of, shape, rank) in [(&left, &left_shape, &left_rank), (&right, &right_shape, &right_rank)] {
        editor.add(&node, "Shape", &[of], &[shape], vec![]);
        editor.add(&node, "Shape", &[shape], &[rank], vec![]);
    }
    editor.add(&node, "Equal", &[&right_rank, &one], &[&is_vector], vec![]);
    editor.add(&node, "Sub", &[&left_rank, &one], &[&fewer], vec![]);
    editor.add(&node, "Where", &[&is_vector, &fewer, &all], &[&end], vec![]);
    editor.add(&node, "Shape", &[&product], &[&shape], vec![]);
    editor.add(&node, "Slice", &[&shape, &start, &end, &start], &[&cut], vec![]);
    editor.add(&node, "Reshape", &[&product, &cut], &[&output], vec![]);
}

/// The engine's ScatterElements is right only where the indices are as large as the data in all dimensions
/// but the axis. Elsewhere
/// each update is given its whole place, for ScatterND.
pub fn scatter(editor: &mut Editor, mut node: NodeProto, facts: &Facts) {
    let dims = |i: usize| facts.input(&node, i).and_then(|f| f.dims.clone()).unwrap_or_default();
    let (data, indices) = (dims(0), dims(1));
    let rank = indices.len() as i64;
    let axis = node.int("axis").unwrap_or(0);
    let axis = if axis < 0 { axis.saturating_add(rank) } else { axis };
    let same =
        |(i, (a, b)): (usize, (&Option<u64>, &Option<u64>))| i as i64 == axis || (a.is_some() && a == b);
    if data.len() == indices.len() && data.iter().zip(&indices).enumerate().all(same) {
        editor.nodes.push(node);
        return;
    }
    let output = node.output[0].clone();
    let index = node.input[1].clone();
    let [shape, last, zero, one, whole] =
        ["shape", "last", "zero", "one", "whole"].map(|part| editor.fresh(&output, part));
    editor.add(&node, "Shape", &[&index], &[&shape], vec![]);
    editor.add(&node, "Constant", &[], &[&last], ints(&[-1]));
    editor.add(&node, "Constant", &[], &[&zero], vec![int_attribute("value_int", 0)]);
    editor.add(&node, "Constant", &[], &[&one], vec![int_attribute("value_int", 1)]);
    let mut places = Vec::new();
    for dim in 0..rank {
        let [number, size, range, axes, row, all, place] =
            ["number", "size", "range", "axes", "row", "all", "place"]
                .map(|part| editor.fresh(&output, &format!("{part}{dim}")));
        if dim == axis {
            editor.add(&node, "Unsqueeze", &[&index, &last], &[&place], vec![]);
        } else {
            editor.add(&node, "Constant", &[], &[&number], vec![int_attribute("value_int", dim)]);
            editor.add(&node, "Gather", &[&shape, &number], &[&size], vec![]);
            editor.add(&node, "Range", &[&zero, &size, &one], &[&range], vec![]);
            let others: Vec<i64> = (0..rank).filter(|d| *d != dim).collect();
            editor.add(&node, "Constant", &[], &[&axes], ints(&others));
            let row = if others.is_empty() { &range } else { &row };
            if !others.is_empty() {
                editor.add(&node, "Unsqueeze", &[&range, &axes], &[row], vec![]);
            }
            editor.add(&node, "Expand", &[row, &shape], &[&all], vec![]);
            editor.add(&node, "Unsqueeze", &[&all, &last], &[&place], vec![]);
        }
        places.push(place);
    }
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    editor.add(&node, "Concat", &places, &[&whole], vec![int_attribute("axis", -1)]);
    node.attribute.retain(|a| a.name.as_deref() == Some("reduction"));
    node.op_type = Some("ScatterND".into());
    node.input[1] = whole;
    editor.nodes.push(node);
}
