//! Scan, where it is no loop: the distances of all rows to all others, as converters of scikit-learn write
//! them.

use super::attributes::{ints, ints_of, only_output};
use super::build::Build;
use crate::PrepareError;
use crate::onnx::*;

/// Writes a Scan whose body is the sum of the squares of the differences of each row of its state and one
/// of the others as one
/// difference of all. `Ok(false)` says that it is another, and has added nothing.
pub fn distances(build: &mut Build<'_>, node: &NodeProto) -> Result<bool, PrepareError> {
    let Some([state, rows, kept, scanned]) = parts(node) else { return Ok(false) };
    let left = build.unsqueeze(node, state, &[0])?;
    let right = build.unsqueeze(node, rows, &[1])?;
    let apart = build.op(node, "Sub", &[&left, &right], vec![])?;
    let sums = build.reduce(node, "ReduceSumSquare", &apart, &[2], false)?;
    if !kept.is_empty() {
        build.put(node, "Identity", &[state], kept, vec![])?;
    }
    if !scanned.is_empty() {
        build.put(node, "Identity", &[&sums], scanned, vec![])?;
    }
    Ok(true)
}

/// The state, the rows, and both outputs of a Scan of distances.
fn parts(node: &NodeProto) -> Option<[&str; 4]> {
    let ([state, rows], [kept, scanned]) = (&node.input[..], &node.output[..]) else { return None };
    let body = node.attribute("body")?.g.as_ref()?;
    if node.int("num_scan_inputs") != Some(1) || node.attribute.len() != 2 {
        return None;
    }
    let name = |value: &ValueInfoProto| value.name.clone();
    let ([a, b], [next, out]) = (&body.input[..], &body.output[..]) else { return None };
    let [identity, sub, reduce, result] = &body.node[..] else { return None };
    let (a, b) = (name(a)?, name(b)?);
    let is = |node: &NodeProto, op: &str, inputs: &[&str]| {
        node.is(op) && node.input.len() >= inputs.len() && node.input.iter().zip(inputs).all(|(x, y)| x == y)
    };
    let axes = match reduce.input.get(1) {
        Some(axes) => {
            let constant = body.initializer.iter().find(|t| t.name.as_deref() == Some(axes))?;
            ints_of(constant)?
        }
        None => ints(reduce, "axes").to_vec(),
    };
    let fits = is(identity, "Identity", &[&a])
        && is(sub, "Sub", &[&a, &b])
        && is(reduce, "ReduceSumSquare", &[only_output(sub).ok()?])
        && is(result, "Identity", &[only_output(reduce).ok()?])
        && (axes == [1] || axes == [-1])
        && reduce.int("keepdims") == Some(0)
        && name(next)?.as_str() == only_output(identity).ok()?
        && name(out)?.as_str() == only_output(result).ok()?;
    fits.then_some([state, rows, kept, scanned])
}
