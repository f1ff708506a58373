//! Normalisations, and pooling by a norm.

use super::super::attributes::{float, ints, refusal};
use super::Body;
use crate::PrepareError;
use crate::edit::{int_attribute, ints_attribute};

/// (x - mean) / (deviation + 1e-9), over some axes.
pub fn mean_variance(body: &mut Body<'_, '_>) -> Result<(), PrepareError> {
    let x = body.input(0)?;
    let axes = match ints(body.node, "axes") {
        [] => vec![0, 2, 3],
        axes => axes.to_vec(),
    };
    let mean = body.build.reduce(body.node, "ReduceMean", &x, &axes, true)?;
    let moved = body.op("Sub", &[&x, &mean])?;
    let square = body.op("Mul", &[&moved, &moved])?;
    let variance = body.build.reduce(body.node, "ReduceMean", &square, &axes, true)?;
    let deviation = body.op("Sqrt", &[&variance])?;
    let little = body.float(1e-9)?;
    let deviation = body.op("Add", &[&deviation, &little])?;
    body.put("Div", &[&moved, &deviation])
}

/// Normalises groups of channels; scales and biases are those of groups before opset 21, of channels from
/// then on.
pub fn group(body: &mut Body<'_, '_>) -> Result<(), PrepareError> {
    let (x, scale, bias) = (body.input(0)?, body.input(1)?, body.input(2)?);
    let groups = body.node.int("num_groups").unwrap_or(0);
    if !(1..=1 << 20).contains(&groups) {
        return Err(refusal(body.node, &format!("num_groups is {groups}")));
    }
    let grouped = body.build.reshape(body.node, &x, &[0, groups, -1])?;
    let ones = body.build.floats(body.node, &[groups], &vec![1.0; groups as usize])?;
    let zeros = body.build.floats(body.node, &[groups], &vec![0.0; groups as usize])?;
    let epsilon = body.node.attribute("epsilon").cloned().into_iter().collect();
    let mut normal = body.op_with("InstanceNormalization", &[&grouped, &ones, &zeros], epsilon)?;
    if body.build.opset() >= 21 {
        let (same, rest) = (body.ints(&[0])?, body.ints(&[-1])?);
        let channels = body.op("Shape", &[&scale])?;
        let shape = body.along("Concat", &[&same, &channels, &rest], 0)?;
        normal = body.op("Reshape", &[&normal, &shape])?;
    }
    let scale = body.build.reshape(body.node, &scale, &[-1, 1])?;
    let bias = body.build.reshape(body.node, &bias, &[-1, 1])?;
    let scaled = body.op("Mul", &[&normal, &scale])?;
    let moved = body.op("Add", &[&scaled, &bias])?;
    let shape = body.op("Shape", &[&x])?;
    body.put("Reshape", &[&moved, &shape])
}

/// x / (bias + alpha times the mean of the squares of channels near by) ^ beta; channels beyond the ends
/// count as zero.
pub fn local_response(body: &mut Body<'_, '_>) -> Result<(), PrepareError> {
    let x = body.input(0)?;
    let size = body.node.int("size").unwrap_or(0);
    if !(1..=1 << 20).contains(&size) {
        return Err(refusal(body.node, &format!("size is {size}")));
    }
    let square = body.op("Mul", &[&x, &x])?;
    let lifted = body.build.unsqueeze(body.node, &square, &[1])?;
    let flat = body.build.reshape(body.node, &lifted, &[0, 0, 0, -1])?;
    let before = (size - 1) / 2;
    let attributes = vec![
        ints_attribute("kernel_shape", vec![size, 1]),
        ints_attribute("strides", vec![1, 1]),
        ints_attribute("pads", vec![before, 0, size - 1 - before, 0]),
        int_attribute("count_include_pad", 1),
    ];
    let mean = body.op_with("AveragePool", &[&flat], attributes)?;
    let shape = body.op("Shape", &[&x])?;
    let mean = body.op("Reshape", &[&mean, &shape])?;
    let alpha = body.float(float(body.node, "alpha", 1e-4))?;
    let beta = body.float(float(body.node, "beta", 0.75))?;
    let bias = body.float(float(body.node, "bias", 1.0))?;
    let scaled = body.op("Mul", &[&mean, &alpha])?;
    let sum = body.op("Add", &[&scaled, &bias])?;
    let power = body.op("Pow", &[&sum, &beta])?;
    body.put("Div", &[&x, &power])
}

/// The p-th root of the sum of the p-th powers in each window.
pub fn lp_pool(body: &mut Body<'_, '_>) -> Result<(), PrepareError> {
    let x = body.input(0)?;
    let p = body.node.int("p").unwrap_or(2);
    let kernel = ints(body.node, "kernel_shape");
    let count = kernel.iter().try_fold(1i64, |n, k| n.checked_mul(*k));
    let Some(count) = count.filter(|count| (1..=1 << 24).contains(count) && !kernel.is_empty()) else {
        return Err(refusal(body.node, "its kernel_shape is not sound"));
    };
    let dilated = ints(body.node, "dilations").iter().any(|d| *d != 1);
    if !(1..=1 << 20).contains(&p) || dilated || body.node.int("ceil_mode").unwrap_or(0) != 0 {
        return Err(refusal(body.node, "dilations, ceil_mode and a p below 1 are not supported"));
    }
    let mut attributes = body.node.attribute.clone();
    attributes
        .retain(|a| matches!(a.name.as_deref(), Some("kernel_shape" | "strides" | "pads" | "auto_pad")));
    attributes.push(int_attribute("count_include_pad", 1));
    let size = body.op("Abs", &[&x])?;
    let (p, root, count) = (body.float(p as f32)?, body.float(1.0 / p as f32)?, body.float(count as f32)?);
    let powers = body.op("Pow", &[&size, &p])?;
    let mean = body.op_with("AveragePool", &[&powers], attributes)?;
    let sum = body.op("Mul", &[&mean, &count])?;
    body.put("Pow", &[&sum, &root])
}
