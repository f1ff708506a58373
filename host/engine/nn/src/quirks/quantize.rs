//! Quantisation: the engine multiplies by the inverse of the scale, which may round otherwise than the
//! division that ONNX asks for.

use super::ints;
use crate::edit::{Editor, float_attribute, int_attribute};
use crate::facts::{Fact, Facts};
use crate::onnx::*;

/// Divides first; the scale is 1 then.
pub fn linear(editor: &mut Editor, mut node: NodeProto, facts: &Facts) {
    let is_one = |fact: &Fact| fact.floats.as_ref().is_some_and(|all| all.iter().all(|scale| *scale == 1.0));
    if node.input.get(2).is_some_and(|zero| !zero.is_empty()) && facts.input(&node, 1).is_some_and(is_one) {
        // Nothing is divided.
        editor.nodes.push(node);
        return;
    }
    let (input, scale, output) = (node.input[0].clone(), node.input[1].clone(), node.output[0].clone());
    let many = facts
        .input(&node, 1)
        .and_then(|f| f.dims.as_ref())
        .is_some_and(|d| matches!(d[..], [n] if n != Some(1)));
    let [divisor, quotient, one] = ["divisor", "quotient", "one"].map(|part| editor.fresh(&output, part));
    let mut by = scale.clone();
    if many {
        let rank = facts.rank(&node, 0).unwrap_or(1) as i64;
        let axis = node.int("axis").unwrap_or(1);
        let axis = if axis < 0 { axis.saturating_add(rank) } else { axis };
        let after: Vec<i64> = (1..rank.saturating_sub(axis)).collect();
        if !after.is_empty() {
            let axes = editor.fresh(&output, "axes");
            editor.add(&node, "Constant", &[], &[&axes], ints(&after));
            editor.add(&node, "Unsqueeze", &[&scale, &axes], &[&divisor], vec![]);
            by = divisor;
        }
        editor.add(&node, "Div", &[&scale, &scale], &[&one], vec![]);
    } else {
        // One element in a list would add a dimension to a scalar.
        let shape = editor.fresh(&output, "shape");
        let single = editor.fresh(&output, "single");
        editor.add(&node, "Constant", &[], &[&shape], ints(&[]));
        editor.add(&node, "Reshape", &[&scale, &shape], &[&single], vec![]);
        editor.add(&node, "Constant", &[], &[&one], vec![float_attribute("value_float", 1.0)]);
        by = as_large(editor, &node, &single, &input);
    }
    editor.add(&node, "Div", &[&input, &by], &[&quotient], vec![]);
    node.input[0] = quotient;
    node.input[1] = one;
    if node.input.get(2).is_none_or(String::is_empty) {
        node.input.truncate(2);
        // Without a zero point the result is unsigned.
        node.input.push(zero(editor, &node, &output));
    }
    let zero = &node.input[2];
    if !many {
        let shape = editor.fresh(&output, "zero_shape");
        let single = editor.fresh(&output, "zero_point");
        editor.add(&node, "Constant", &[], &[&shape], ints(&[]));
        editor.add(&node, "Reshape", &[zero, &shape], &[&single], vec![]);
        node.input[2] = single;
    }
    editor.nodes.push(node);
}

/// A scalar in the shape of a tensor: by a scalar the engine divides with its inverse.
fn as_large(editor: &mut Editor, node: &NodeProto, scalar: &str, tensor: &str) -> String {
    let [size, large] = ["size", "large"].map(|part| editor.fresh(&node.output[0], part));
    editor.add(node, "Shape", &[tensor], &[&size], vec![]);
    editor.add(node, "Expand", &[scalar, &size], &[&large], vec![]);
    large
}

/// 0 in eight bits.
fn zero(editor: &mut Editor, node: &NodeProto, output: &str) -> String {
    let zero = editor.fresh(output, "zero");
    let value =
        TensorProto { data_type: Some(2), raw_data: Some(vec![0u8].into()), ..TensorProto::default() };
    let attribute = AttributeProto {
        name: Some("value".into()),
        t: Some(value),
        r#type: Some(ATTRIBUTE_TENSOR),
        ..AttributeProto::default()
    };
    editor.add(node, "Constant", &[], &[&zero], vec![attribute]);
    zero
}

/// As ONNX defines it: the range is made to contain 0, its 255th part is the scale, and the zero point is
/// rounded.
pub fn dynamic(editor: &mut Editor, node: &NodeProto) {
    let input = &node.input[0];
    let output = &node.output[0];
    let mut name = |part: &str| editor.fresh(output, part);
    let names =
        ["none", "steps", "one", "least", "most", "low", "high", "range", "scale", "flat", "below", "shift"];
    let [none, steps, one, least, most, low, high, range, scale, flat, below, shift] = names.map(&mut name);
    let [byte, quotient] = ["byte", "quotient"].map(&mut name);
    let own =
        |i: usize, other: &String| node.output.get(i).filter(|n| !n.is_empty()).unwrap_or(other).clone();
    let (scale_out, zero_out) = (own(1, &scale), own(2, &byte));
    let [spread, spreads, pair, all_steps, first, lows, low_scales] =
        ["spread", "spreads", "pair", "all_steps", "first", "lows", "low_scales"].map(&mut name);
    for (part, value) in [(&none, 0.0), (&steps, 255.0), (&one, 1.0)] {
        editor.add(node, "Constant", &[], &[part], vec![float_attribute("value_float", value)]);
    }
    let keep = || vec![int_attribute("keepdims", 0)];
    editor.add(node, "ReduceMin", &[input], &[&least], keep());
    editor.add(node, "ReduceMax", &[input], &[&most], keep());
    editor.add(node, "Min", &[&least, &none], &[&low], vec![]);
    editor.add(node, "Max", &[&most, &none], &[&high], vec![]);
    editor.add(node, "Sub", &[&high, &low], &[&range], vec![]);
    editor.add(node, "Constant", &[], &[&pair], ints(&[2]));
    editor.add(node, "Expand", &[&steps, &pair], &[&all_steps], vec![]);
    editor.add(node, "Div", &[&range, &all_steps], &[&spreads], vec![]);
    editor.add(node, "Constant", &[], &[&first], vec![int_attribute("value_int", 0)]);
    editor.add(node, "Gather", &[&spreads, &first], &[&spread], vec![]);
    // Where all is 0 any scale would do; ONNX Runtime says 1.
    editor.add(node, "Equal", &[&range, &none], &[&flat], vec![]);
    editor.add(node, "Where", &[&flat, &one, &spread], &[&scale_out], vec![]);
    // Two elements, so that the engine divides.
    editor.add(node, "Expand", &[&scale_out, &pair], &[&low_scales], vec![]);
    editor.add(node, "Div", &[&low, &low_scales], &[&lows], vec![]);
    editor.add(node, "Gather", &[&lows, &first], &[&below], vec![]);
    editor.add(node, "Neg", &[&below], &[&shift], vec![]);
    let zero = zero(editor, node, output);
    editor.add(node, "QuantizeLinear", &[&shift, &one, &zero], &[&zero_out], vec![]);
    let by = as_large(editor, node, &scale_out, input);
    editor.add(node, "Div", &[input, &by], &[&quotient], vec![]);
    editor.add(node, "QuantizeLinear", &[&quotient, &one, &zero_out], &[output], vec![]);
}
