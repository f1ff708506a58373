//! Scaler, Normalizer, Binarizer and Imputer.

use super::attributes::{float, floats, input, ints, only_output, refusal, text};
use super::build::{Build, FLOAT, INT64};
use crate::PrepareError;
use crate::edit::int_attribute;
use crate::onnx::NodeProto;

/// (x - offset) * scale, by columns.
pub fn scaler(build: &mut Build<'_>, node: &NodeProto) -> Result<(), PrepareError> {
    let x = build.as_float(node, input(node, 0)?)?;
    let (offset, scale) = (floats(node, "offset"), floats(node, "scale"));
    if offset.is_empty() || offset.len() != scale.len() {
        let why = format!("it has {} offsets and {} scales", offset.len(), scale.len());
        return Err(refusal(node, &why));
    }
    let offset = per_column(build, node, offset)?;
    let scale = per_column(build, node, scale)?;
    let moved = build.op(node, "Sub", &[&x, &offset], vec![])?;
    put(build, node, "Mul", &[&moved, &scale])
}

/// Each row over its norm; a row of zeros stays.
pub fn normalizer(build: &mut Build<'_>, node: &NodeProto) -> Result<(), PrepareError> {
    let x = build.as_float(node, input(node, 0)?)?;
    let norm = match text(node, "norm", "MAX") {
        "MAX" => build.reduce(node, "ReduceMax", &x, &[-1], true)?,
        "L1" => build.reduce(node, "ReduceL1", &x, &[-1], true)?,
        "L2" => build.reduce(node, "ReduceL2", &x, &[-1], true)?,
        other => return Err(refusal(node, &format!("norm {other} is not one of MAX, L1 and L2"))),
    };
    let zero = build.floats(node, &[], &[0.0])?;
    let one = build.floats(node, &[], &[1.0])?;
    let none = build.op(node, "Equal", &[&norm, &zero], vec![])?;
    let norm = build.op(node, "Where", &[&none, &one, &norm], vec![])?;
    put(build, node, "Div", &[&x, &norm])
}

/// 1 where an element is over the threshold, else 0.
pub fn binarizer(build: &mut Build<'_>, node: &NodeProto) -> Result<(), PrepareError> {
    let given = input(node, 0)?;
    let element = build.known(given).element.unwrap_or(FLOAT);
    let x = build.as_float(node, given)?;
    let threshold = build.floats(node, &[], &[float(node, "threshold", 0.0)])?;
    let over = build.op(node, "Greater", &[&x, &threshold], vec![])?;
    let output = only_output(node)?;
    build.put(node, "Cast", &[&over], output, vec![int_attribute("to", element)])
}

/// Replaces one value, often NaN, by another, by columns.
pub fn imputer(build: &mut Build<'_>, node: &NodeProto) -> Result<(), PrepareError> {
    let x = input(node, 0)?;
    let whole = ints(node, "imputed_value_int64s");
    let by = floats(node, "imputed_value_floats");
    let (missing, by) = if whole.is_empty() && !by.is_empty() {
        let from = float(node, "replaced_value_float", 0.0);
        let missing = if from.is_nan() {
            build.op(node, "IsNaN", &[x], vec![])?
        } else {
            let from = build.floats(node, &[], &[from])?;
            build.op(node, "Equal", &[x, &from], vec![])?
        };
        (missing, per_column(build, node, by)?)
    } else if by.is_empty() && !whole.is_empty() {
        let from = build.ints(node, &[], &[node.int("replaced_value_int64").unwrap_or(0)])?;
        let missing = build.op(node, "Equal", &[x, &from], vec![])?;
        (missing, build.ints(node, &[whole.len() as i64], whole)?)
    } else {
        return Err(refusal(node, "it must have either floats or integers to put in"));
    };
    let element = if whole.is_empty() { FLOAT } else { INT64 };
    if build.known(x).element.is_some_and(|known| known != element) {
        return Err(refusal(node, "its input has another element type than what it puts in"));
    }
    let rank = build.known(x).rank();
    let output = only_output(node)?;
    if let Some(rank) = rank {
        build.state(output, element, rank);
    }
    build.put(node, "Where", &[&missing, &by, x], output, vec![])
}

/// A list with an element for each column, or for all.
fn per_column(build: &mut Build<'_>, node: &NodeProto, list: &[f32]) -> Result<String, PrepareError> {
    build.floats(node, &[list.len() as i64], list)
}

fn put(build: &mut Build<'_>, node: &NodeProto, op: &str, values: &[&str]) -> Result<(), PrepareError> {
    let output = only_output(node)?;
    if let Some(rank) = build.known(input(node, 0)?).rank() {
        build.state(output, FLOAT, rank);
    }
    build.put(node, op, values, output, vec![])
}
