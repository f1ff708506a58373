//! The weights of a prepared graph as tensors over the mapped file, so that the library copies none of them.

use super::value::Value;
use crate::onnx::{Element, ModelProto, TensorProto};
use ort::memory::MemoryInfo;
use ort::sys::ONNXTensorElementDataType as Type;
use prost::Message;
use std::ffi::CString;

/// Weights that a graph names and does not have.
pub struct External<'w> {
    pub names: Vec<CString>,
    pub values: Vec<Value<'w>>,
}

impl<'w> External<'w> {
    pub fn none() -> External<'static> {
        External { names: Vec::new(), values: Vec::new() }
    }

    /// Of a graph that this host has written, over its file of weights.
    pub fn of(graph: &[u8], weights: &'w [u8], memory: &MemoryInfo<'_>) -> Result<External<'w>, String> {
        let mut external = External::none();
        let model = ModelProto::decode(graph).map_err(|e| e.to_string())?;
        for tensor in model.graph.iter().flat_map(|graph| &graph.initializer) {
            if tensor.external_data.is_empty() {
                continue;
            }
            let name = tensor.name.clone().unwrap_or_default();
            let wrong = || format!("weight {name:?} lies outside of its file");
            let (element, data) = place(tensor, weights).ok_or_else(wrong)?;
            external.values.push(Value::over(memory, data, &tensor.dims, element)?);
            external.names.push(CString::new(name.as_str()).map_err(|e| e.to_string())?);
        }
        Ok(external)
    }
}

/// The element type and the bytes of a tensor in the file.
fn place<'w>(tensor: &TensorProto, weights: &'w [u8]) -> Option<(Type, &'w [u8])> {
    let number = |key: &str| -> Option<usize> {
        let entry = tensor.external_data.iter().find(|entry| entry.key.as_deref() == Some(key))?;
        entry.value.as_ref()?.parse().ok()
    };
    let (from, length) = (number("offset")?, number("length")?);
    let data = weights.get(from..from.checked_add(length)?)?;
    let (element, size) = match Element::from_number(tensor.data_type?)? {
        Element::Float => (Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 4),
        Element::Uint8 => (Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, 1),
        Element::Int8 => (Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, 1),
        Element::Int32 => (Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, 4),
        Element::Int64 => (Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, 8),
        Element::Bool => (Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, 1),
        Element::Float16 => (Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, 2),
        Element::Double => (Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, 8),
    };
    let elements =
        tensor.dims.iter().try_fold(1usize, |n, &dim| n.checked_mul(usize::try_from(dim).ok()?))?;
    (elements.checked_mul(size)? == length).then_some((element, data))
}
