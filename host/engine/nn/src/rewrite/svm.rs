//! SVMRegressor.

use super::attributes::{floats, input, only_output, refusal, text};
use super::build::{Build, FLOAT};
use crate::PrepareError;
use crate::onnx::NodeProto;

/// The sum of the coefficients times the kernel of each row and support vector, plus rho; or the
/// coefficients of a linear
/// machine times the rows.
pub fn regressor(build: &mut Build<'_>, node: &NodeProto) -> Result<(), PrepareError> {
    let (coefficients, rho) = (floats(node, "coefficients"), floats(node, "rho"));
    let vectors = floats(node, "support_vectors");
    let &[rho] = rho else { return Err(refusal(node, "it must have one rho")) };
    if text(node, "post_transform", "NONE") != "NONE" {
        return Err(refusal(node, "post_transform is not supported"));
    }
    let supports = usize::try_from(node.int("n_supports").unwrap_or(0)).unwrap_or(0);
    let count = if supports > 0 { supports } else { 1 };
    let features = if supports > 0 { vectors.len() / count } else { coefficients.len() };
    let of_vectors = supports > 0 && coefficients.len() == supports;
    if features == 0 || (supports > 0 && (!of_vectors || vectors.len() != features * supports)) {
        let why = format!(
            "it has {} support vectors, {} numbers of them and {} coefficients",
            supports,
            vectors.len(),
            coefficients.len()
        );
        return Err(refusal(node, &why));
    }
    let known = build.known(input(node, 0)?);
    if known.rank() != Some(2) || known.dim(1).is_some_and(|d| d != features as u64) {
        return Err(refusal(node, &format!("its input is not stated as rows of {features}")));
    }
    let x = build.as_float(node, input(node, 0)?)?;
    let by = build.floats(node, &[coefficients.len() as i64, 1], coefficients)?;
    let values = if supports > 0 { kernel(build, node, &x, vectors, supports, features)? } else { x };
    let sum = build.op(node, "MatMul", &[&values, &by], vec![])?;
    let rho = build.floats(node, &[], &[rho])?;
    let output = only_output(node)?;
    build.state(output, FLOAT, 2);
    if node.int("one_class").unwrap_or(0) == 0 {
        return build.put(node, "Add", &[&sum, &rho], output, vec![]);
    }
    let sum = build.op(node, "Add", &[&sum, &rho], vec![])?;
    let [zero, one, minus] = [0.0, 1.0, -1.0].map(|v| build.floats(node, &[], &[v]));
    let over = build.op(node, "Greater", &[&sum, &zero?], vec![])?;
    build.put(node, "Where", &[&over, &one?, &minus?], output, vec![])
}

/// The kernel of each row and support vector: [rows, vectors].
fn kernel(
    build: &mut Build<'_>,
    node: &NodeProto,
    x: &str,
    vectors: &[f32],
    count: usize,
    features: usize,
) -> Result<String, PrepareError> {
    let parameters = floats(node, "kernel_params");
    let parameter = |i: usize| parameters.get(i).copied().unwrap_or(0.0);
    let (gamma, offset, degree) = (parameter(0), parameter(1), parameter(2));
    let kind = text(node, "kernel_type", "LINEAR");
    if kind == "RBF" {
        // The distance by differences: by products it would lose digits.
        let vectors = build.floats(node, &[1, count as i64, features as i64], vectors)?;
        let rows = build.unsqueeze(node, x, &[1])?;
        let apart = build.op(node, "Sub", &[&rows, &vectors], vec![])?;
        let distance = build.reduce(node, "ReduceSumSquare", &apart, &[2], false)?;
        let scale = build.floats(node, &[], &[-gamma])?;
        let scaled = build.op(node, "Mul", &[&distance, &scale], vec![])?;
        return build.op(node, "Exp", &[&scaled], vec![]);
    }
    let vectors = build.floats(node, &[count as i64, features as i64], vectors)?;
    let columns = build.op(node, "Transpose", &[&vectors], vec![])?;
    let product = build.op(node, "MatMul", &[x, &columns], vec![])?;
    if kind == "LINEAR" {
        return Ok(product);
    }
    let scale = build.floats(node, &[], &[gamma])?;
    let offset = build.floats(node, &[], &[offset])?;
    let scaled = build.op(node, "Mul", &[&product, &scale], vec![])?;
    let moved = build.op(node, "Add", &[&scaled, &offset], vec![])?;
    match kind {
        "POLY" => {
            let degree = build.floats(node, &[], &[degree])?;
            build.op(node, "Pow", &[&moved, &degree], vec![])
        }
        "SIGMOID" => build.op(node, "Tanh", &[&moved], vec![]),
        other => Err(refusal(node, &format!("kernel_type {other} is not supported"))),
    }
}
