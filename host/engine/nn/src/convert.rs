//! Tensors of a guest to the engine's values and back.
//!
//! The engine computes with f32, i32, u8 and i8 alone: 64-bit integers become i32 (refused where they do not
//! fit), booleans i32, all floats f32. Outputs get the type that the model states.

use crate::{Output, Port, RunError, TensorType, TensorView, Write, tensor};
use half::{bf16, f16};
use rten::{DataType, Value};
use rten_tensor::prelude::*;

/// The engine's value for an input; `wants` is the type that the engine takes there.
pub fn to_value(port: &Port, wants: DataType, tensor: TensorView<'_>) -> Result<Value, RunError> {
    let name = || port.name.clone();
    tensor.check().map_err(|source| RunError::WrongLength { name: name(), source })?;
    if !port.accepts(tensor.shape) {
        let expected = port.shape_text();
        return Err(RunError::WrongShape { name: name(), expected, got: tensor.shape.to_vec() });
    }
    let shape: Vec<usize> = tensor.shape.iter().map(|&d| d as usize).collect();
    let data = tensor.data;
    let wrong = || RunError::WrongType { name: name(), expected: port.ty, got: tensor.ty };
    let value = match (wants, tensor.ty) {
        (DataType::Float, TensorType::F32) => value_of(&shape, each(data, f32::from_le_bytes)),
        (DataType::Float, TensorType::F16) => {
            value_of(&shape, each(data, |b| f16::from_le_bytes(b).to_f32()))
        }
        (DataType::Float, TensorType::Bf16) => {
            value_of(&shape, each(data, |b| bf16::from_le_bytes(b).to_f32()))
        }
        // Precision is lost only where the model asks for a precision that the engine does not have.
        (DataType::Float, TensorType::F64) if port.ty == TensorType::F64 => {
            value_of(&shape, each(data, |b| f64::from_le_bytes(b) as f32))
        }
        // Everything but 0 is true.
        (DataType::Int32, ty) if port.ty == TensorType::Bool && port.takes_bytes_of(ty) => {
            value_of(&shape, each(data, |[b]| i32::from(b != 0)))
        }
        (DataType::Int32, TensorType::I32) if port.ty != TensorType::Bool => {
            value_of(&shape, each(data, i32::from_le_bytes))
        }
        (DataType::Int32, TensorType::I64) if port.ty != TensorType::Bool => value_of(
            &shape,
            narrow(data).map_err(|(index, value)| RunError::OutOfRange { name: name(), index, value })?,
        ),
        (DataType::UInt8, TensorType::U8) => value_of(&shape, data.to_vec()),
        (DataType::Int8, ty) if port.takes_bytes_of(ty) => value_of(&shape, each(data, i8::from_le_bytes)),
        _ => return Err(wrong()),
    };
    value.map_err(|e| RunError::Engine(format!("input {:?}: {e}", port.name)))
}

fn value_of<T>(shape: &[usize], data: Vec<T>) -> Result<Value, String>
where
    Value: From<rten_tensor::Tensor<T>>,
{
    rten_tensor::Tensor::try_from_data(shape, data).map(Value::from).map_err(|e| format!("{e:?}"))
}

fn each<T, const N: usize>(data: &[u8], of: impl Fn([u8; N]) -> T) -> Vec<T> {
    data.as_chunks::<N>().0.iter().map(|b| of(*b)).collect()
}

/// 64-bit integers as 32-bit ones, or the first that does not fit.
fn narrow(data: &[u8]) -> Result<Vec<i32>, (usize, i64)> {
    let narrow_one = |(index, bytes): (usize, &[u8; 8])| {
        let value = i64::from_le_bytes(*bytes);
        i32::try_from(value).map_err(|_| (index, value))
    };
    data.as_chunks::<8>().0.iter().enumerate().map(narrow_one).collect()
}

/// Whether an engine that has both types takes elements of the type `from` where a port has the type `to`.
/// The embedded engine, which has fewer types, takes them as they are: a request must not depend on the
/// engine.
pub fn is_convertible(to: TensorType, from: TensorType) -> bool {
    use TensorType::{Bf16, F16, F32, F64, I32, I64};
    match to {
        I64 => from == I32,
        I32 => from == I64,
        F32 => matches!(from, F16 | Bf16),
        F16 | F64 => matches!(from, F32 | F16 | Bf16) && from != to,
        _ => false,
    }
}

/// The elements of an input in the type of its port; `None` where they are of that type.
///
/// # Errors
/// An integer that does not fit.
pub fn to_type(port: &Port, tensor: TensorView<'_>) -> Result<Option<Vec<u8>>, RunError> {
    if !is_convertible(port.ty, tensor.ty) {
        return Ok(None);
    }
    let data = tensor.data;
    let floats = || match tensor.ty {
        TensorType::F16 => each(data, |b| f16::from_le_bytes(b).to_f32()),
        TensorType::Bf16 => each(data, |b| bf16::from_le_bytes(b).to_f32()),
        _ => each(data, f32::from_le_bytes),
    };
    Ok(Some(match port.ty {
        TensorType::I64 => bytes(each(data, i32::from_le_bytes), |v| i64::from(v).to_le_bytes()),
        TensorType::I32 => {
            let name = || port.name.clone();
            let narrowed = narrow(data);
            let narrowed =
                narrowed.map_err(|(index, value)| RunError::OutOfRange { name: name(), index, value })?;
            bytes(narrowed, i32::to_le_bytes)
        }
        TensorType::F16 => bytes(floats(), |v| f16::from_f32(v).to_le_bytes()),
        TensorType::F64 => bytes(floats(), |v| f64::from(v).to_le_bytes()),
        _ => bytes(floats(), f32::to_le_bytes),
    }))
}

fn bytes<T, const N: usize>(values: Vec<T>, of: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.into_iter().flat_map(of).collect()
}

/// The output for a value, in the type that its port states.
pub fn to_output(port: &Port, value: Value) -> Result<Output<'_>, RunError> {
    let mut shape = Vec::with_capacity(value.ndim());
    for &dim in value.shape().iter() {
        let dim = u32::try_from(dim)
            .map_err(|_| RunError::Engine(format!("output {:?} has a dimension of {dim}", port.name)))?;
        shape.push(dim);
    }
    let write: Write<'_> = match (value, port.ty) {
        (Value::FloatTensor(t), TensorType::F32) => writer(t, |v: f32| v.to_le_bytes()),
        (Value::FloatTensor(t), TensorType::F64) => writer(t, |v: f32| f64::from(v).to_le_bytes()),
        (Value::FloatTensor(t), TensorType::F16) => writer(t, |v: f32| f16::from_f32(v).to_le_bytes()),
        (Value::Int32Tensor(t), TensorType::I32) => writer(t, |v: i32| v.to_le_bytes()),
        (Value::Int32Tensor(t), TensorType::I64) => writer(t, |v: i32| i64::from(v).to_le_bytes()),
        (Value::Int32Tensor(t), TensorType::Bool) => writer(t, |v: i32| [u8::from(v != 0)]),
        (Value::UInt8Tensor(t), TensorType::U8) => writer(t, |v: u8| [v]),
        (Value::Int8Tensor(t), TensorType::I8) => writer(t, |v: i8| v.to_le_bytes()),
        (value, ty) => {
            let got = value.dtype();
            return Err(RunError::Engine(format!(
                "output {:?} is {got}, where the model says {ty}",
                port.name
            )));
        }
    };
    let bytes = tensor::bytes(port.ty, &shape)
        .ok_or_else(|| RunError::Engine(format!("output {:?} is larger than any memory", port.name)))?;
    Ok(Output { name: &port.name, ty: port.ty, shape, bytes, write })
}

fn writer<T: Copy + 'static, const N: usize>(
    tensor: rten_tensor::Tensor<T>,
    of: impl Fn(T) -> [u8; N] + 'static,
) -> Write<'static> {
    Box::new(move |place| {
        let places = place.as_chunks_mut::<N>().0.iter_mut();
        match tensor.data() {
            Some(data) => places.zip(data).for_each(|(place, v)| *place = of(*v)),
            None => places.zip(tensor.iter()).for_each(|(place, v)| *place = of(*v)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(to: TensorType, from: TensorType, data: &[u8]) -> Result<Option<Vec<u8>>, RunError> {
        let port = Port { name: "x".into(), ty: to, shape: vec![None], ranked: true };
        let elements = (data.len() / from.size_bytes()) as u32;
        to_type(&port, TensorView { ty: from, shape: &[elements], data })
    }

    fn little(values: &[i64]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn elements_become_those_of_the_port() {
        use TensorType::{F16, F32, F64, I32, I64, U8};
        let data: Vec<u8> = [-1i32, 7].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(converted(I64, I32, &data), Ok(Some(little(&[-1, 7]))));
        assert_eq!(converted(I32, I64, &little(&[-1, 7])), Ok(Some(data)));
        let half = f16::from_f32(1.5).to_le_bytes();
        assert_eq!(converted(F32, F16, &half), Ok(Some(1.5f32.to_le_bytes().into())));
        assert_eq!(converted(F64, F32, &1.5f32.to_le_bytes()), Ok(Some(1.5f64.to_le_bytes().into())));
        assert_eq!(converted(F16, F32, &1.5f32.to_le_bytes()), Ok(Some(half.into())));
        assert_eq!(converted(I64, I64, &little(&[1])), Ok(None));
        assert!(!is_convertible(F32, F64) && !is_convertible(I64, U8) && !is_convertible(F32, I64));
    }

    #[test]
    fn an_integer_that_does_not_fit_is_named() {
        let refused = converted(TensorType::I32, TensorType::I64, &little(&[1, 1 << 40]));
        assert_eq!(refused, Err(RunError::OutOfRange { name: "x".into(), index: 1, value: 1 << 40 }));
    }
}
