//! Operators on 8-bit integers, so that one model gives the same numbers on every processor.
//!
//! The engine's products of 8-bit integers are exact only within bounds: processors with AVX2 and without
//! VNNI multiply unsigned
//! by signed bytes and add neighbours in 16 bits, which saturates (255 x 127 + 255 x 127 is over 32,767).
//! Its convolutions of
//! integers pad with another number than the zero point. [`product`] and [`sums`] give both a form that
//! stays within bounds.

mod conv;
mod linear;
mod product;

pub use conv::{integer as conv_integer, quantized as quantized_conv};
pub use linear::{dequantize, dynamic, quantize};
pub use product::{gemm, integer as product_integer, quantized as quantized_product};

use super::attributes::{bytes_of, floats_of, input, ints_of, only_output, output, refusal};
use super::build::{Build, FLOAT, INT8, INT32, UINT8};
use crate::PrepareError;
use crate::edit::int_attribute;
use crate::onnx::*;

/// A constant of 8-bit integers.
fn weights_of(build: &Build<'_>, name: &str) -> Option<(Vec<i64>, i64, Vec<i16>)> {
    let tensor = build.constant(name)?;
    Some((tensor.dims.clone(), i64::from(tensor.data_type?), bytes_of(tensor)?))
}

/// The numbers of a constant scale.
fn scales_of(build: &Build<'_>, name: &str) -> Option<Vec<f32>> {
    build.constant(name).filter(|t| t.data_type == Some(FLOAT as i32)).and_then(floats_of)
}

/// The optional input of a node.
fn optional(node: &NodeProto, index: usize) -> Option<&str> {
    node.input.get(index).map(String::as_str).filter(|name| !name.is_empty())
}

/// The element type of a value, which has to be known.
fn element(build: &Build<'_>, node: &NodeProto, name: &str) -> Result<i64, PrepareError> {
    let element = build.known(name).element;
    element.ok_or_else(|| refusal(node, &format!("the element type of {name:?} is not stated")))
}

/// A constant 8-bit integer.
fn byte(build: &mut Build<'_>, of: &NodeProto, element: i64, value: i64) -> Result<String, PrepareError> {
    build.tensor(of, element, &[], vec![value as u8])
}

/// The zero point of a node, or one of 0.
fn zero_point(
    build: &mut Build<'_>,
    node: &NodeProto,
    index: usize,
    element: i64,
) -> Result<String, PrepareError> {
    match optional(node, index) {
        Some(name) => Ok(name.to_owned()),
        None => byte(build, node, element, 0),
    }
}

/// A product of scales over another, by columns where one of them is. `dims` follow a list of scales, so
/// that it lies along a
/// dimension that is not the last.
fn ratio(
    build: &mut Build<'_>,
    node: &NodeProto,
    [left, right, over]: [&str; 3],
    dims: usize,
) -> Result<String, PrepareError> {
    let constants = [left, right, over].map(|name| scales_of(build, name));
    if let [Some(left), Some(right), Some(over)] = &constants
        && let ([left], [over]) = (&left[..], &over[..])
    {
        let ratios: Vec<f32> = right.iter().map(|right| left * right / over).collect();
        if ratios.len() == 1 {
            return build.floats(node, &[], &ratios);
        }
        let shape: Vec<i64> = [ratios.len() as i64].into_iter().chain(vec![1; dims]).collect();
        return build.floats(node, &shape, &ratios);
    }
    let product = build.op(node, "Mul", &[left, right], vec![])?;
    let ratio = divide(build, node, &product, over)?;
    let shape: Vec<i64> = [-1].into_iter().chain(vec![1; dims]).collect();
    build.reshape(node, &ratio, &shape)
}

/// A value over one number. The engine multiplies by the inverse where the divisor has one element, which
/// may round to another
/// float, and that to another byte: so the divisor gets as many elements as some dimension of the value
/// has, or the value another
/// dimension of two.
fn divide(build: &mut Build<'_>, of: &NodeProto, value: &str, scale: &str) -> Result<String, PrepareError> {
    let shape = build.known(value).shape.unwrap_or_default();
    let wide = shape.iter().rev().zip(0..).find_map(|(dim, after)| {
        dim.filter(|count| (2..=1 << 13).contains(count)).map(|count| (count as i64, after))
    });
    let Some((count, after)) = wide else {
        let two = build.ints(of, &[1], &[2])?;
        let shape = build.op(of, "Shape", &[value], vec![])?;
        let shape = build.op(of, "Concat", &[&two, &shape], vec![int_attribute("axis", 0)])?;
        let scales = build.op(of, "Expand", &[scale, &shape], vec![])?;
        let twice = build.op(of, "Div", &[value, &scales], vec![])?;
        let first = build.ints(of, &[], &[0])?;
        return build.op(of, "Gather", &[&twice, &first], vec![int_attribute("axis", 0)]);
    };
    let dims: Vec<i64> = [count].into_iter().chain(vec![1; after]).collect();
    let scales = match scales_of(build, scale).as_deref() {
        Some(&[one]) => build.floats(of, &dims, &vec![one; count as usize])?,
        _ => {
            let dims = build.ints(of, &[dims.len() as i64], &dims)?;
            build.op(of, "Expand", &[scale, &dims], vec![])?
        }
    };
    build.op(of, "Div", &[value, &scales], vec![])
}

/// Floats, rounded half to even, moved by the zero point and held within the bounds of its type.
fn saturated(
    build: &mut Build<'_>,
    of: &NodeProto,
    value: &str,
    zero: &str,
    output: &str,
) -> Result<(), PrepareError> {
    let mut value = value.to_owned();
    let element = element(build, of, zero)?;
    if element == UINT8 {
        // The engine rounds to 32-bit integers first, where larger numbers would turn negative.
        let low = build.floats(of, &[], &[-1e9])?;
        let high = build.floats(of, &[], &[1e9])?;
        value = build.op(of, "Clip", &[&value, &low, &high], vec![])?;
    }
    let one = build.floats(of, &[], &[1.0])?;
    build.state_element(output, element);
    build.put(of, "QuantizeLinear", &[&value, &one, zero], output, vec![])
}

/// An operator of 8-bit integers that is one of floats between a DequantizeLinear of each input and a
/// QuantizeLinear.
///
/// `inputs` are the places of each input, its scale and its zero point; `scale` is that of the output's
/// scale, whose zero point
/// comes after it.
pub fn between(
    build: &mut Build<'_>,
    node: &NodeProto,
    op: &str,
    inputs: &[usize],
    scale: usize,
    attributes: Vec<AttributeProto>,
) -> Result<(), PrepareError> {
    let mut values = Vec::new();
    for place in inputs {
        let (x, x_scale) = (input(node, *place)?, input(node, place + 1)?);
        let parts: Vec<&str> = [x, x_scale].into_iter().chain(optional(node, place + 2)).collect();
        values.push(build.op(node, "DequantizeLinear", &parts, vec![])?);
    }
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let value = build.op(node, op, &values, attributes)?;
    let kind = element(build, node, input(node, inputs[0])?)?;
    let zero = zero_point(build, node, scale + 1, kind)?;
    let scaled = divide(build, node, &value, input(node, scale)?)?;
    saturated(build, node, &scaled, &zero, only_output(node)?)
}

/// An operator that the engine has for floats alone, on 8-bit integers, which floats hold exactly.
pub fn by_floats(build: &mut Build<'_>, node: NodeProto) -> Result<(), PrepareError> {
    by(build, node, FLOAT)
}

/// Arithmetic of 8-bit integers by that of 32-bit ones, whose low bytes it is.
pub fn by_integers(build: &mut Build<'_>, node: NodeProto) -> Result<(), PrepareError> {
    by(build, node, INT32)
}

fn by(build: &mut Build<'_>, mut node: NodeProto, wider: i64) -> Result<(), PrepareError> {
    let bytes = |build: &Build<'_>, name: &str| {
        build.known(name).element.filter(|kind| matches!(*kind, UINT8 | INT8))
    };
    let kind = node.input.iter().find_map(|name| bytes(build, name));
    for index in 0..node.input.len() {
        if bytes(build, &node.input[index]).is_some() {
            node.input[index] = build.cast(&node, &node.input[index].clone(), wider)?;
        }
    }
    let compares = matches!(node.op(), "Equal" | "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual");
    let Some(kind) = kind.filter(|_| !compares) else {
        build.keep(node);
        return Ok(());
    };
    let result = only_output(&node)?.to_owned();
    let of = node.clone();
    let value = build.fresh(&result, "wide");
    node.output[0] = value.clone();
    build.keep(node);
    build.state_element(&result, kind);
    build.put(&of, "Cast", &[&value], &result, vec![int_attribute("to", kind)])
}
