//! The weights of a prepared graph as tensors over the mapped file, so that the library copies none of them.

use super::value::Value;
use crate::onnx::{ModelProto, TensorProto, element_bits};
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
    let number = tensor.data_type?;
    let bits = usize::try_from(element_bits(number)?).ok()?;
    let elements =
        tensor.dims.iter().try_fold(1usize, |n, &dim| n.checked_mul(usize::try_from(dim).ok()?))?;
    let bytes = elements.checked_mul(bits)?.div_ceil(8);
    (bytes == length).then_some((element_type(number)?, data))
}

/// The library's element type for one of ONNX.
fn element_type(number: i32) -> Option<Type> {
    Some(match number {
        1 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        2 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        3 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        4 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        5 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        6 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        7 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        9 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        10 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        11 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        12 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        13 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        16 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        17 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN,
        18 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FNUZ,
        19 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E5M2,
        20 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E5M2FNUZ,
        21 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT4,
        22 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4,
        _ => return None,
    })
}
