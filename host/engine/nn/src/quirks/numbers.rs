//! Numbers at the edges: infinities, what is not a number, and nothing at all.

use super::{BOOL, FLOAT, ints};
use crate::edit::{Editor, float_attribute, int_attribute};
use crate::facts::Facts;
use crate::onnx::*;

/// A scalar constant.
fn number(editor: &mut Editor, node: &NodeProto, part: &str, value: f32) -> String {
    let name = editor.fresh(&node.output[0], part);
    editor.add(node, "Constant", &[], &[&name], vec![float_attribute("value_float", value)]);
    name
}

/// Takes the node's output away from it, for others to give: the name that was, and the new one.
fn take_output(editor: &mut Editor, node: &mut NodeProto, part: &str) -> (String, String) {
    let output = node.output[0].clone();
    let own = editor.fresh(&output, part);
    node.output[0] = own.clone();
    (output, own)
}

/// Where a tensor is not a number, the result is not, and elsewhere 0: the sigmoid is within bounds
/// everywhere else.
fn nothing_or_nan(editor: &mut Editor, node: &NodeProto) -> String {
    let [bounded, nothing] = ["bounded", "nothing"].map(|part| editor.fresh(&node.output[0], part));
    let zero = number(editor, node, "zero", 0.0);
    editor.add(node, "Sigmoid", &[&node.input[0]], &[&bounded], vec![]);
    editor.add(node, "Mul", &[&bounded, &zero], &[&nothing], vec![]);
    nothing
}

/// The engine's Sign of 0 is 1: times 0 there, times 1 elsewhere.
pub fn sign(editor: &mut Editor, mut node: NodeProto) {
    let input = node.input[0].clone();
    let (output, sign) = take_output(editor, &mut node, "sign");
    let [truth, factor] = ["truth", "factor"].map(|part| editor.fresh(&output, part));
    to_bool(editor, &node, &input, &truth);
    editor.add(&node, "CastLike", &[&truth, &input], &[&factor], vec![]);
    editor.nodes.push(node.clone());
    editor.add(&node, "Mul", &[&sign, &factor], &[&output], vec![]);
}

/// The engine's Cast to bool truncates to an integer: 0.5 becomes false, and 2 stays 2. Here: x is not
/// equal to x - x (which is
/// not a number where x is infinite or none, hence unequal and true). In floats, since not all integers can
/// be subtracted.
pub fn to_bool(editor: &mut Editor, node: &NodeProto, input: &str, output: &str) {
    let [float, zero, is_zero] = ["float", "zero", "is_zero"].map(|part| editor.fresh(output, part));
    editor.add(node, "Cast", &[input], &[&float], vec![int_attribute("to", FLOAT)]);
    editor.add(node, "Sub", &[&float, &float], &[&zero], vec![]);
    editor.add(node, "Equal", &[&float, &zero], &[&is_zero], vec![]);
    editor.add(node, "Not", &[&is_zero], &[output], vec![]);
    debug_assert_eq!(BOOL, 9);
}

/// The engine's Clip makes a bound of what is not a number, and knows no bounds of half floats where none
/// are given.
pub fn clip(editor: &mut Editor, mut node: NodeProto, element: Option<Element>) {
    let nothing = nothing_or_nan(editor, &node);
    if element == Some(Element::Float16) {
        for (index, name, bound) in [(1, "min", -65504.0), (2, "max", 65504.0)] {
            let absent = node.input.get(index).is_none_or(String::is_empty) && node.attribute(name).is_none();
            if absent && node.attribute("min").is_none() && node.attribute("max").is_none() {
                node.input.resize(node.input.len().max(index + 1), String::new());
                node.input[index] = number(editor, &node, name, bound);
            }
        }
    }
    let (output, clipped) = take_output(editor, &mut node, "clipped");
    editor.nodes.push(node.clone());
    editor.add(&node, "Add", &[&clipped, &nothing], &[&output], vec![]);
}

/// The engine's Softplus takes e to the power of x, which is infinite past 88. From 20 on it is x.
pub fn softplus(editor: &mut Editor, mut node: NodeProto) {
    let input = node.input[0].clone();
    let limit = number(editor, &node, "limit", 20.0);
    let (output, soft) = take_output(editor, &mut node, "soft");
    let large = editor.fresh(&output, "large");
    editor.add(&node, "Greater", &[&input, &limit], &[&large], vec![]);
    editor.nodes.push(node.clone());
    editor.add(&node, "Where", &[&large, &input, &soft], &[&output], vec![]);
}

/// The engine squares x for Asinh and Acosh. From 10^9 on they are log(|x|) + log(2), with the sign of x.
pub fn large_logarithm(editor: &mut Editor, mut node: NodeProto) {
    let input = node.input[0].clone();
    let [limit, log_two, zero] = [("limit", 1e9), ("log_two", std::f32::consts::LN_2), ("zero", 0.0)]
        .map(|(part, value)| number(editor, &node, part, value));
    let odd = node.op() == "Asinh";
    let (output, small) = take_output(editor, &mut node, "small");
    let [size, large, log, sum, minus, negative, signed] =
        ["size", "large", "log", "sum", "minus", "negative", "signed"]
            .map(|part| editor.fresh(&output, part));
    editor.nodes.push(node.clone());
    if odd {
        editor.add(&node, "Abs", &[&input], &[&size], vec![]);
    }
    let of = if odd { &size } else { &input };
    editor.add(&node, "Greater", &[of, &limit], &[&large], vec![]);
    editor.add(&node, "Log", &[of], &[&log], vec![]);
    editor.add(&node, "Add", &[&log, &log_two], &[&sum], vec![]);
    if odd {
        editor.add(&node, "Neg", &[&sum], &[&minus], vec![]);
        editor.add(&node, "Less", &[&input, &zero], &[&negative], vec![]);
        editor.add(&node, "Where", &[&negative, &minus, &sum], &[&signed], vec![]);
    }
    let far = if odd { &signed } else { &sum };
    editor.add(&node, "Where", &[&large, far, &small], &[&output], vec![]);
}

/// The engine's ReduceMax, ReduceMin and ReduceLogSumExp pass over what is not a number: a sum of it is
/// added.
pub fn extreme(editor: &mut Editor, mut node: NodeProto) {
    let nothing = nothing_or_nan(editor, &node);
    let (output, extreme) = take_output(editor, &mut node, "extreme");
    let sum = editor.fresh(&output, "sum");
    let mut sums = node.clone();
    sums.op_type = Some("ReduceSum".into());
    sums.input[0] = nothing;
    sums.output[0] = sum.clone();
    editor.nodes.push(sums);
    editor.nodes.push(node.clone());
    editor.add(&node, "Add", &[&extreme, &sum], &[&output], vec![]);
}

/// The engine's Pow by one number has no more dimensions than the base, also where the exponent has: the
/// base gets them first.
pub fn power(editor: &mut Editor, node: &mut NodeProto) {
    let [shape, base] = ["shape", "base"].map(|part| editor.fresh(&node.output[0], part));
    editor.add(node, "Shape", &[&node.input[1]], &[&shape], vec![]);
    editor.add(node, "Expand", &[&node.input[0], &shape], &[&base], vec![]);
    node.input[0] = base;
}

/// The engine's IsInf finds both infinities: the sign tells them apart.
pub fn is_infinite(editor: &mut Editor, mut node: NodeProto) {
    let wants = |name: &str| node.int(name).unwrap_or(1) != 0;
    let sign = match (wants("detect_negative"), wants("detect_positive")) {
        (true, false) => "Less",
        (false, true) => "Greater",
        _ => {
            editor.nodes.push(node);
            return;
        }
    };
    node.attribute.clear();
    let zero = number(editor, &node, "zero", 0.0);
    let input = node.input[0].clone();
    let (output, both) = take_output(editor, &mut node, "both");
    let signed = editor.fresh(&output, "signed");
    editor.add(&node, sign, &[&input, &zero], &[&signed], vec![]);
    editor.nodes.push(node.clone());
    editor.add(&node, "And", &[&both, &signed], &[&output], vec![]);
}

/// The engine's pooling passes over what is not a number: where there is any in a window, the result is none.
pub fn largest(editor: &mut Editor, mut node: NodeProto) {
    let (zero, none) = (number(editor, &node, "zero", 0.0), number(editor, &node, "none", f32::NAN));
    let input = node.input[0].clone();
    let (output, largest) = take_output(editor, &mut node, "largest");
    let [is_nan, nans, count, any] =
        ["is_nan", "nans", "count", "any"].map(|part| editor.fresh(&output, part));
    editor.add(&node, "IsNaN", &[&input], &[&is_nan], vec![]);
    editor.add(&node, "Cast", &[&is_nan], &[&nans], vec![int_attribute("to", FLOAT)]);
    let mut counts = node.clone();
    counts.input[0] = nans;
    counts.output = vec![count.clone()];
    editor.nodes.push(counts);
    editor.add(&node, "Greater", &[&count, &zero], &[&any], vec![]);
    editor.nodes.push(node.clone());
    editor.add(&node, "Where", &[&any, &none, &largest], &[&output], vec![]);
}

/// The largest of no integers is the least of 64 bits, which the engine does not have: where there may be
/// none, the first element
/// is looked at, so that the run fails.
pub fn extreme_of_some(editor: &mut Editor, mut node: NodeProto, facts: &Facts) {
    let dims = facts.input(&node, 0).and_then(|f| f.dims.as_deref());
    if dims.is_some_and(|dims| dims.iter().all(|d| d.is_some_and(|d| d > 0))) {
        editor.nodes.push(node);
        return;
    }
    let input = node.input[0].clone();
    let (output, extreme) = take_output(editor, &mut node, "extreme");
    let [all, list, place, first, zero] =
        ["all", "list", "place", "first", "zero"].map(|part| editor.fresh(&output, part));
    editor.add(&node, "Constant", &[], &[&all], ints(&[-1]));
    editor.add(&node, "Constant", &[], &[&place], vec![int_attribute("value_int", 0)]);
    editor.add(&node, "Reshape", &[&input, &all], &[&list], vec![]);
    editor.add(&node, "Gather", &[&list, &place], &[&first], vec![]);
    editor.add(&node, "Sub", &[&first, &first], &[&zero], vec![]);
    editor.nodes.push(node.clone());
    editor.add(&node, "Add", &[&extreme, &zero], &[&output], vec![]);
}
