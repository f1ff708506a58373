//! Losses: models that were exported with one compute it at the end.

use super::super::attributes::{only_output, output, refusal, text};
use super::super::build::FLOAT;
use super::Body;
use crate::PrepareError;
use crate::edit::int_attribute;

/// Minus the weighted log probabilities of the targets.
pub fn negative_log_likelihood(body: &mut Body<'_, '_>) -> Result<(), PrepareError> {
    let (x, target, weights) = (body.input(0)?, body.input(1)?, body.optional(2));
    loss(body, &x, &target, weights)
}

/// The same, of scores before a softmax over the classes.
pub fn softmax_cross_entropy(body: &mut Body<'_, '_>) -> Result<(), PrepareError> {
    let (x, target, weights) = (body.input(0)?, body.input(1)?, body.optional(2));
    if body.build.opset() < 13 && body.build.known(&x).rank() != Some(2) {
        return Err(refusal(body.node, "before opset 13 it is supported for matrices alone"));
    }
    let log = body.along("LogSoftmax", &[&x], if body.build.opset() < 13 { -1 } else { 1 })?;
    if let Some(output) = output(body.node, 1) {
        body.build.put(body.node, "Identity", &[&log], output, vec![])?;
    }
    loss(body, &log, &target, weights)
}

fn loss(body: &mut Body<'_, '_>, x: &str, target: &str, weights: Option<String>) -> Result<(), PrepareError> {
    let ignore = body.node.int("ignore_index");
    let (mut target, mut counts) = (target.to_owned(), None);
    if let Some(ignore) = ignore {
        let (ignore, zero) = (body.int(ignore)?, body.int(0)?);
        let ignored = body.op("Equal", &[&target, &ignore])?;
        target = body.op("Where", &[&ignored, &zero, &target])?;
        counts = Some(body.op("Not", &[&ignored])?);
    }
    let place = body.build.unsqueeze(body.node, &target, &[1])?;
    let found = body.along("GatherElements", &[x, &place], 1)?;
    let shape = body.op("Shape", &[&target])?;
    let found = body.op("Reshape", &[&found, &shape])?;
    let mut weight = match weights {
        Some(weights) => Some(body.along("Gather", &[&weights, &target], 0)?),
        None => None,
    };
    if let Some(counts) = &counts {
        let counts = body.build.cast(body.node, counts, FLOAT)?;
        weight = Some(match weight {
            Some(weight) => body.op("Mul", &[&weight, &counts])?,
            None => counts,
        });
    }
    let mut each = body.op("Neg", &[&found])?;
    if let Some(weight) = &weight {
        each = body.op("Mul", &[&each, weight])?;
    }
    if let Some(counts) = counts {
        // What is ignored may be infinite, and no number times 0 then.
        let zero = body.float(0.0)?;
        each = body.op("Where", &[&counts, &each, &zero])?;
    }
    let output = only_output(body.node)?.to_owned();
    let whole = vec![int_attribute("keepdims", 0)];
    match (text(body.node, "reduction", "mean"), weight) {
        ("none", _) => body.put("Identity", &[&each]),
        ("sum", _) => body.build.put(body.node, "ReduceSum", &[&each], &output, whole),
        ("mean", None) => body.build.put(body.node, "ReduceMean", &[&each], &output, whole),
        ("mean", Some(weight)) => {
            let sum = body.op_with("ReduceSum", &[&each], whole.clone())?;
            let weights = body.op_with("ReduceSum", &[&weight], whole)?;
            body.put("Div", &[&sum, &weights])
        }
        (other, _) => Err(refusal(body.node, &format!("reduction {other} is not supported"))),
    }
}
