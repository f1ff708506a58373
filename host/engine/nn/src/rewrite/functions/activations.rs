//! Activations, each by cases, so that NaN stays NaN and no branch that is not taken matters.

use super::super::attributes::{float, refusal};
use super::Body;
use crate::PrepareError;
use crate::edit::int_attribute;

/// gamma x where x is positive, else gamma (alpha e^x - alpha).
pub fn selu(body: &mut Body<'_, '_>) -> Result<(), PrepareError> {
    let alpha = float(body.node, "alpha", 1.673_263_2);
    let gamma = float(body.node, "gamma", 1.050_701);
    let x = body.input(0)?;
    let (alpha, gamma) = (body.float(alpha)?, body.float(gamma)?);
    let raised = body.op("Exp", &[&x])?;
    let scaled = body.op("Mul", &[&raised, &alpha])?;
    let low = body.op("Sub", &[&scaled, &alpha])?;
    let chosen = positive_or(body, &x, &low)?;
    body.put("Mul", &[&chosen, &gamma])
}

/// x where it is positive, else alpha (e^(x / alpha) - 1).
pub fn celu(body: &mut Body<'_, '_>) -> Result<(), PrepareError> {
    let x = body.input(0)?;
    let alpha = body.float(float(body.node, "alpha", 1.0))?;
    let one = body.float(1.0)?;
    let scaled = body.op("Div", &[&x, &alpha])?;
    let raised = body.op("Exp", &[&scaled])?;
    let less = body.op("Sub", &[&raised, &one])?;
    let low = body.op("Mul", &[&less, &alpha])?;
    let zero = body.float(0.0)?;
    let over = body.op("Greater", &[&x, &zero])?;
    body.put("Where", &[&over, &x, &low])
}

fn positive_or(body: &mut Body<'_, '_>, x: &str, low: &str) -> super::Named {
    let zero = body.float(0.0)?;
    let over = body.op("Greater", &[x, &zero])?;
    body.op("Where", &[&over, x, low])
}

/// x tanh(ln(1 + e^x)), where the tangent is n / (n + 2) for n = e^x (e^x + 2); over 20 it is 1.
pub fn mish(body: &mut Body<'_, '_>) -> Result<(), PrepareError> {
    let x = body.input(0)?;
    let (two, large) = (body.float(2.0)?, body.float(20.0)?);
    let raised = body.op("Exp", &[&x])?;
    let more = body.op("Add", &[&raised, &two])?;
    let n = body.op("Mul", &[&raised, &more])?;
    let below = body.op("Add", &[&n, &two])?;
    let tangent = body.op("Div", &[&n, &below])?;
    let low = body.op("Mul", &[&x, &tangent])?;
    let over = body.op("Greater", &[&x, &large])?;
    body.put("Where", &[&over, &x, &low])
}

/// x where it is over alpha, else 0.
pub fn thresholded_relu(body: &mut Body<'_, '_>) -> Result<(), PrepareError> {
    let x = body.input(0)?;
    let alpha = body.float(float(body.node, "alpha", 1.0))?;
    let zero = body.float(0.0)?;
    let over = body.op("Greater", &[&x, &alpha])?;
    body.put("Where", &[&over, &x, &zero])
}

/// x + bias below -lambd, x - bias over lambd, else 0.
pub fn shrink(body: &mut Body<'_, '_>) -> Result<(), PrepareError> {
    let x = body.input(0)?;
    let lambd = float(body.node, "lambd", 0.5);
    let bias = body.float(float(body.node, "bias", 0.0))?;
    let (low, high, zero) = (body.float(-lambd)?, body.float(lambd)?, body.float(0.0)?);
    let raised = body.op("Add", &[&x, &bias])?;
    let lowered = body.op("Sub", &[&x, &bias])?;
    let below = body.op("Less", &[&x, &low])?;
    let over = body.op("Greater", &[&x, &high])?;
    let rest = body.op("Where", &[&over, &lowered, &zero])?;
    body.put("Where", &[&below, &raised, &rest])
}

/// 1 at the first of the largest along an axis, else 0.
pub fn hardmax(body: &mut Body<'_, '_>) -> Result<(), PrepareError> {
    let x = body.input(0)?;
    let rank = body.build.known(&x).rank();
    let mut axis = body.node.int("axis").unwrap_or(-1);
    if body.build.opset() < 13 {
        // Then, all dimensions from the axis on are one.
        axis = body.node.int("axis").unwrap_or(1);
        let last = axis == -1 || rank.is_some_and(|rank| axis == rank as i64 - 1);
        if !last {
            return Err(refusal(body.node, "before opset 13 it is supported along the last dimension alone"));
        }
    }
    if !(-16..16).contains(&axis) {
        return Err(refusal(body.node, &format!("there is no axis {axis}")));
    }
    let attributes = vec![int_attribute("axis", axis), int_attribute("keepdims", 0)];
    let place = body.op_with("ArgMax", &[&x], attributes)?;
    let count = body.dims(&x, axis, if axis == -1 { i64::from(i32::MAX) } else { axis + 1 })?;
    let values = body.build.floats(body.node, &[2], &[0.0, 1.0])?;
    body.put_with("OneHot", &[&place, &count, &values], vec![int_attribute("axis", axis)])
}
