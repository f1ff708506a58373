//! Attributes and constant tensors of a model that nobody vouches for.

use crate::PrepareError;
use crate::onnx::*;
use half::f16;

/// The refusal of a node.
pub fn refusal(node: &NodeProto, why: &str) -> PrepareError {
    PrepareError::Operator(format!("{} (node {:?}): {why}", node.op(), node.label()))
}

/// A list of floats; empty where it is not given.
pub fn floats<'n>(node: &'n NodeProto, name: &str) -> &'n [f32] {
    node.attribute(name).map_or(&[], |a| &a.floats)
}

/// A list of integers; empty where it is not given.
pub fn ints<'n>(node: &'n NodeProto, name: &str) -> &'n [i64] {
    node.attribute(name).map_or(&[], |a| &a.ints)
}

/// A list of strings; empty where it is not given.
pub fn strings(node: &NodeProto, name: &str) -> Vec<String> {
    let list = node.attribute(name).map_or(&[][..], |a| &a.strings);
    list.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect()
}

/// A string, or the default where it is not given.
pub fn text<'n>(node: &'n NodeProto, name: &str, default: &'n str) -> &'n str {
    let given = node.attribute(name).and_then(|a| a.s.as_deref());
    given.map_or(default, |s| std::str::from_utf8(s).unwrap_or("(not UTF-8)"))
}

/// A float, or the default where it is not given.
pub fn float(node: &NodeProto, name: &str, default: f32) -> f32 {
    node.attribute(name).and_then(|a| a.f).unwrap_or(default)
}

/// Refuses a node that has one of these attributes.
pub fn without(node: &NodeProto, names: &[&str]) -> Result<(), PrepareError> {
    match names.iter().find(|name| node.attribute(name).is_some()) {
        None => Ok(()),
        Some(name) => Err(refusal(node, &format!("attribute {name} is not supported"))),
    }
}

/// An input's name, which must be there.
pub fn input(node: &NodeProto, index: usize) -> Result<&str, PrepareError> {
    match node.input.get(index) {
        Some(name) if !name.is_empty() => Ok(name),
        _ => Err(refusal(node, &format!("input {index} is missing"))),
    }
}

/// An output's name, where it is used.
pub fn output(node: &NodeProto, index: usize) -> Option<&str> {
    node.output.get(index).map(String::as_str).filter(|name| !name.is_empty())
}

/// The only output.
pub fn only_output(node: &NodeProto) -> Result<&str, PrepareError> {
    output(node, 0).ok_or_else(|| refusal(node, "it has no output"))
}

/// Elements of a tensor of integers or booleans whose length was checked.
pub fn ints_of(tensor: &TensorProto) -> Option<Vec<i64>> {
    let element = Element::from_number(tensor.data_type?)?;
    let values = match (&tensor.raw_data, element) {
        (Some(raw), Element::Int64) => raw.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        (Some(raw), Element::Int32) => {
            raw.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect()
        }
        (Some(raw), Element::Uint8 | Element::Bool) => raw.iter().map(|b| i64::from(*b)).collect(),
        (Some(raw), Element::Int8) => raw.iter().map(|b| i64::from(*b as i8)).collect(),
        (None, Element::Int64) => tensor.int64_data.clone(),
        (None, Element::Uint8 | Element::Bool) => {
            tensor.int32_data.iter().map(|v| i64::from(*v as u8)).collect()
        }
        (None, Element::Int8) => tensor.int32_data.iter().map(|v| i64::from(*v as i8)).collect(),
        (None, Element::Int32) => tensor.int32_data.iter().map(|v| i64::from(*v)).collect(),
        _ => return None,
    };
    Some(values)
}

/// Elements of a tensor of floats, or of half or double ones rounded to floats, whose length was checked.
pub fn floats_of(tensor: &TensorProto) -> Option<Vec<f32>> {
    let element = Element::from_number(tensor.data_type?)?;
    let values = match (&tensor.raw_data, element) {
        (Some(raw), Element::Float) => raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        (Some(raw), Element::Double) => {
            raw.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect()
        }
        (Some(raw), Element::Float16) => {
            raw.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect()
        }
        (None, Element::Float) => tensor.float_data.clone(),
        (None, Element::Double) => tensor.double_data.iter().map(|v| *v as f32).collect(),
        (None, Element::Float16) => {
            tensor.int32_data.iter().map(|v| f16::from_bits(*v as u16).to_f32()).collect()
        }
        _ => return None,
    };
    Some(values)
}

/// Elements of a tensor of 8-bit integers whose length was checked.
pub fn bytes_of(tensor: &TensorProto) -> Option<Vec<i16>> {
    let signed = match Element::from_number(tensor.data_type?)? {
        Element::Uint8 => false,
        Element::Int8 => true,
        _ => return None,
    };
    let one = |byte: u8| if signed { i16::from(byte as i8) } else { i16::from(byte) };
    Some(match &tensor.raw_data {
        Some(raw) => raw.iter().map(|byte| one(*byte)).collect(),
        None => tensor.int32_data.iter().map(|v| one(*v as u8)).collect(),
    })
}
