//! Depthwise convolutions along the columns of an image that is one element wide, as models of speech have
//! them: the image is turned first, and its result back. The engine computes row by row, and gains nothing
//! where a row is one element; a model of speech took three times as long. Turned, it adds the same products
//! in the same order.

use super::attributes::{floats_of, only_output};
use super::build::{Build, FLOAT};
use crate::PrepareError;
use crate::edit::{ints_attribute, set_attribute};
use crate::onnx::*;

/// Whether a Conv is one.
pub fn is_one_wide(build: &Build<'_>, node: &NodeProto) -> bool {
    let [x, weights, ..] = &node.input[..] else { return false };
    let (image, kernel) = (build.known(x), build.known(weights));
    let is_column = kernel.rank() == Some(4) && kernel.dim(3) == Some(1) && kernel.dim(2) > Some(1);
    node.int("group").is_some_and(|group| group > 1)
        && (image.rank(), image.dim(3)) == (Some(4), Some(1))
        && is_column
        && kernel.element == Some(FLOAT)
        && build.constant(weights).is_some()
}

pub fn turned(build: &mut Build<'_>, node: &NodeProto) -> Result<(), PrepareError> {
    build.count_reads(node)?;
    let kernel = build.constant(&node.input[1]).map(|kernel| (kernel.dims.clone(), floats_of(kernel)));
    let Some((dims, Some(values))) = kernel else {
        build.keep(node.clone());
        return Ok(());
    };
    let turn = || vec![ints_attribute("perm", vec![0, 1, 3, 2])];
    let row = build.op(node, "Transpose", &[&node.input[0]], turn())?;
    let kernel = build.floats(node, &[dims[0], dims[1], dims[3], dims[2]], &values)?;
    let mut attributes = node.clone();
    for name in ["kernel_shape", "strides", "dilations", "pads"] {
        let Some(values) = node.attribute(name).map(|attribute| attribute.ints.clone()) else { continue };
        // Of pads the beginnings come first, and then the ends.
        let turned = values.chunks(2).flat_map(|pair| pair.iter().rev().copied()).collect();
        set_attribute(&mut attributes, ints_attribute(name, turned));
    }
    let mut inputs = vec![row.as_str(), &kernel];
    inputs.extend(node.input.iter().skip(2).map(String::as_str));
    let result = build.op(node, "Conv", &inputs, attributes.attribute)?;
    build.put(node, "Transpose", &[&result], only_output(node)?, turn())
}
