//! Operators that move elements.

use super::super::attributes::{refusal, text};
use super::super::build::INT64;
use super::Body;
use crate::PrepareError;
use crate::edit::{int_attribute, ints_attribute};

/// Blocks of pixels become channels.
pub fn space_to_depth(body: &mut Body<'_, '_>) -> Result<(), PrepareError> {
    let x = body.input(0)?;
    let size = body.node.int("blocksize").unwrap_or(0);
    if !(1..=1 << 20).contains(&size) {
        return Err(refusal(body.node, &format!("blocksize is {size}")));
    }
    let size = body.ints(&[size])?;
    let mut blocks = Vec::new();
    for axis in [2, 3] {
        let dim = body.dims(&x, axis, axis + 1)?;
        blocks.push(body.op("Div", &[&dim, &size])?);
    }
    let same = body.ints(&[0, 0])?;
    let shape = body.along("Concat", &[&same, &blocks[0], &size, &blocks[1], &size], 0)?;
    let apart = body.op("Reshape", &[&x, &shape])?;
    let perm = match text(body.node, "mode", "DCR") {
        "DCR" => vec![0, 3, 5, 1, 2, 4],
        "CRD" => vec![0, 1, 3, 5, 2, 4],
        other => return Err(refusal(body.node, &format!("mode {other} is not supported"))),
    };
    let turned = body.op_with("Transpose", &[&apart], vec![ints_attribute("perm", perm)])?;
    let rest = body.ints(&[0, -1])?;
    let shape = body.along("Concat", &[&rest, &blocks[0], &blocks[1]], 0)?;
    body.put("Reshape", &[&turned, &shape])
}

/// Pad with axes: the padding of each axis that is named, 0 for the others.
pub fn pad(body: &mut Body<'_, '_>) -> Result<(), PrepareError> {
    let (x, pads, axes) = (body.input(0)?, body.input(1)?, body.input(3)?);
    let shape = body.op("Shape", &[&x])?;
    let rank = body.op("Size", &[&shape])?;
    let (zero, one) = (body.int(0)?, body.int(1)?);
    let range = body.op("Range", &[&zero, &rank, &one])?;
    let negative = body.op("Less", &[&axes, &zero])?;
    let from_end = body.op("Add", &[&axes, &rank])?;
    let axes = body.op("Where", &[&negative, &from_end, &axes])?;
    let column = body.build.reshape(body.node, &axes, &[-1, 1])?;
    let same = body.op("Equal", &[&column, &range])?;
    let same = body.build.cast(body.node, &same, INT64)?;
    // Begins, then ends: [2, axes, 1] times [axes, rank], summed over the axes.
    let pairs = body.build.reshape(body.node, &pads, &[2, -1, 1])?;
    let each = body.op("Mul", &[&pairs, &same])?;
    let both = body.build.sum(body.node, &each, 1, false)?;
    let pads = body.build.reshape(body.node, &both, &[-1])?;
    let value = body.optional(2).unwrap_or_default();
    let inputs = if value.is_empty() { vec![&x[..], &pads] } else { vec![&x[..], &pads, &value] };
    let mode = body.node.attribute("mode").cloned().into_iter().collect();
    body.put_with("Pad", &inputs, mode)
}

/// The parts along an axis, or the elements, for which the condition holds.
pub fn compress(body: &mut Body<'_, '_>) -> Result<(), PrepareError> {
    let (mut x, condition) = (body.input(0)?, body.input(1)?);
    let axis = body.node.int("axis");
    if axis.is_none() {
        x = body.build.reshape(body.node, &x, &[-1])?;
    }
    let places = body.op("NonZero", &[&condition])?;
    let places = body.build.reshape(body.node, &places, &[-1])?;
    body.put_with("Gather", &[&x, &places], vec![int_attribute("axis", axis.unwrap_or(0))])
}
