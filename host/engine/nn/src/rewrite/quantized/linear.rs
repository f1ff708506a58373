//! QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear.

use super::*;

/// Scales of one node, at most.
const SCALES_MAX: usize = 1 << 18;

/// The engine multiplies by the inverse of the scale, where ONNX divides: the division comes first, unless
/// the inverse is exact.
pub fn quantize(build: &mut Build<'_>, node: NodeProto) -> Result<(), PrepareError> {
    let (x, scale) = (input(&node, 0)?, input(&node, 1)?);
    let stated = node.int("output_dtype").filter(|t| *t != 0);
    if node.int("block_size").unwrap_or(0) != 0 || node.int("precision").unwrap_or(0) != 0 {
        build.keep(node);
        return Ok(());
    }
    let zero = match optional(&node, 2) {
        Some(name) => name.to_owned(),
        None => {
            let dims: Vec<i64> = match build.known(scale).shape {
                Some(shape) if shape.len() <= 1 => {
                    let dims = shape.iter().map(|d| d.and_then(|d| i64::try_from(d).ok()));
                    dims.collect::<Option<_>>().ok_or_else(|| unknown(&node))?
                }
                _ => return Err(unknown(&node)),
            };
            let count = dims.first().copied().unwrap_or(1);
            let count =
                usize::try_from(count).ok().filter(|n| *n <= SCALES_MAX).ok_or_else(|| unknown(&node))?;
            build.tensor(&node, stated.unwrap_or(UINT8), &dims, vec![0; count])?
        }
    };
    let shape = build.known(scale).shape.ok_or_else(|| unknown(&node))?;
    let x = build.as_float(&node, x)?;
    let one_scale = shape.is_empty() || shape == [Some(1)];
    if one_scale {
        let exact = |scales: Vec<f32>| scales[0].is_normal() && scales[0].to_bits() & 0x7f_ffff == 0;
        let value = if scales_of(build, scale).is_some_and(exact) {
            let inverse = scales_of(build, scale).map_or(1.0, |s| 1.0 / s[0]);
            let inverse = build.floats(&node, &[], &[inverse])?;
            build.op(&node, "Mul", &[&x, &inverse], vec![])?
        } else {
            divide(build, &node, &x, scale)?
        };
        return saturated(build, &node, &value, &zero, only_output(&node)?);
    }
    let axis = node.int("axis").unwrap_or(1);
    let [Some(count)] = shape[..] else { return Err(unknown(&node)) };
    let count = usize::try_from(count).ok().filter(|n| *n <= SCALES_MAX).ok_or_else(|| unknown(&node))?;
    let after = match build.known(&x).rank() {
        _ if axis < 0 => axis.unsigned_abs() as usize - 1,
        Some(rank) if (axis as usize) < rank => rank - 1 - axis as usize,
        _ => return Err(unknown(&node)),
    };
    let column: Vec<i64> = [-1].into_iter().chain(vec![1; after.min(16)]).collect();
    let scale = build.reshape(&node, scale, &column)?;
    let value = build.op(&node, "Div", &[&x, &scale], vec![])?;
    // With several scales the engine holds floats within the bounds of bytes as they are.
    let ones = build.floats(&node, &[count as i64], &vec![1.0; count])?;
    let kind = element(build, &node, &zero)?;
    let output = only_output(&node)?;
    build.state_element(output, kind);
    let along = vec![int_attribute("axis", axis)];
    build.put(&node, "QuantizeLinear", &[&value, &ones, &zero], output, along)
}

fn unknown(node: &NodeProto) -> PrepareError {
    refusal(node, "the shape of its scale or input is not stated, or too large")
}

/// The engine's scale and zero point; the numbers are quantised by them with a division.
pub fn dynamic(build: &mut Build<'_>, mut node: NodeProto) -> Result<(), PrepareError> {
    let of = node.clone();
    let quantized = only_output(&node)?.to_owned();
    node.output.resize(3, String::new());
    node.output[0] = build.fresh(&quantized, "inverse");
    for (place, part) in [(1, "scale"), (2, "zero")] {
        if node.output[place].is_empty() {
            node.output[place] = build.fresh(&quantized, part);
        }
    }
    let (scale, zero) = (node.output[1].clone(), node.output[2].clone());
    build.state(&scale, FLOAT, 0);
    build.state(&zero, UINT8, 0);
    let x = input(&node, 0)?.to_owned();
    // The smallest and the largest number have the same scale and zero point as all.
    let mut ends = Vec::new();
    for op in ["ReduceMin", "ReduceMax"] {
        let end = build.op(&of, op, &[&x], vec![int_attribute("keepdims", 0)])?;
        ends.push(build.reshape(&of, &end, &[1])?);
    }
    node.input[0] = build.op(&of, "Concat", &[&ends[0], &ends[1]], vec![int_attribute("axis", 0)])?;
    build.keep(node);
    let value = divide(build, &of, &x, &scale)?;
    let one = build.floats(&of, &[], &[1.0])?;
    // Within 255 of zero: not held within bounds before.
    build.put(&of, "QuantizeLinear", &[&value, &one, &zero], &quantized, vec![])
}

/// Weights are made floats once, where there is room for them, not in every run.
pub fn dequantize(build: &mut Build<'_>, node: NodeProto) -> Result<(), PrepareError> {
    if let Some((dims, values)) = constant(build, &node)
        && (values.len() as u64).saturating_mul(4) <= build.left.bytes / 2
    {
        return build.constant_as(&node, &dims, &values, only_output(&node)?);
    }
    if let Some(output) = output(&node, 0) {
        build.state_element(output, FLOAT);
    }
    build.keep(node);
    Ok(())
}

fn constant(build: &Build<'_>, node: &NodeProto) -> Option<(Vec<i64>, Vec<f32>)> {
    let (x, scale) = (optional(node, 0)?, optional(node, 1)?);
    let tensor = build.constant(x)?;
    if !matches!(i64::from(tensor.data_type?), UINT8 | INT8 | INT32)
        || node.int("block_size").unwrap_or(0) != 0
    {
        return None;
    }
    let scales = scales_of(build, scale)?;
    let zeros = match optional(node, 2) {
        Some(zero) => ints_of(build.constant(zero)?)?,
        None => vec![0; scales.len()],
    };
    let values: Vec<i32> = match bytes_of(tensor) {
        Some(bytes) => bytes.into_iter().map(i32::from).collect(),
        None => ints_of(tensor)?.into_iter().map(|v| v as i32).collect(),
    };
    let dims = tensor.dims.clone();
    if zeros.len() != scales.len() || scales.is_empty() || values.is_empty() {
        return None;
    }
    let one = |value: i32, place: usize| (i64::from(value) - zeros[place]) as f32 * scales[place];
    if scales.len() == 1 {
        return Some((dims, values.into_iter().map(|v| one(v, 0)).collect()));
    }
    let axis = node.int("axis").unwrap_or(1);
    let axis = if axis < 0 { axis + dims.len() as i64 } else { axis };
    let axis = usize::try_from(axis).ok().filter(|axis| *axis < dims.len())?;
    let inner: usize = dims[axis + 1..].iter().map(|d| *d as usize).product();
    if dims[axis] as usize != scales.len() || inner == 0 {
        return None;
    }
    let place = |index: usize| index / inner % scales.len();
    Some((dims, values.into_iter().enumerate().map(|(i, v)| one(v, place(i))).collect()))
}
