//! Small models for the tests.

use crate::onnx::*;
use crate::{
    Backend, Form, Graph, LoadError, ModelInfo, ModelLimits, PrepareError, PreparedFiles, Rten, Tensor,
    TensorType, prepare,
};
use prost::Message;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use vesta_core::manifest::Encoding;
use vesta_core::sample::Sample;

pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(1),
        raw_data: Some(values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into()),
        ..TensorProto::default()
    }
}

/// A port; a dimension of 0 is open.
pub fn port(name: &str, element: i32, dims: &[i64]) -> ValueInfoProto {
    let dim =
        |&d: &i64| Dimension { value: (d != 0).then_some(DimensionValue::Value(d)), ..Dimension::default() };
    let tensor = TypeTensor {
        elem_type: Some(element),
        shape: Some(TensorShapeProto { dim: dims.iter().map(dim).collect() }),
    };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value: Some(TypeValue::Tensor(tensor)), denotation: None }),
    }
}

pub fn node(op: &str, input: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: Some(format!("the {op}")),
        op_type: Some(op.into()),
        input: input.iter().map(|s| (*s).into()).collect(),
        output: vec![output.into()],
        ..NodeProto::default()
    }
}

pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: Some(name.into()), i: Some(value), r#type: Some(2), ..AttributeProto::default() }
}

pub fn model(opset: i64, graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        producer_name: Some("test".into()),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(opset) }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

/// y[?, 100] = x[?, 3] * weights + bias, where weights are all 2 and the bias counts from 0.
pub fn linear() -> ModelProto {
    let bias: Vec<f32> = (0..100u8).map(f32::from).collect();
    model(
        17,
        GraphProto {
            node: vec![node("MatMul", &["x", "w"], "xw"), node("Add", &["xw", "b"], "y")],
            initializer: vec![floats("w", &[3, 100], &[2.0; 300]), floats("b", &[100], &bias)],
            input: vec![port("x", 1, &[0, 3])],
            output: vec![port("y", 1, &[0, 100])],
            ..GraphProto::default()
        },
    )
}

/// One node from x to y, both of this element type and shape.
pub fn unary(opset: i64, node: NodeProto, element: i32, dims: &[i64]) -> ModelProto {
    model(
        opset,
        GraphProto {
            node: vec![node],
            input: vec![port("x", element, dims)],
            output: vec![port("y", element, dims)],
            ..GraphProto::default()
        },
    )
}

pub struct Prepared {
    pub dir: TempDir,
    pub result: Result<ModelInfo, PrepareError>,
}

pub fn prepare_bytes(bytes: &[u8]) -> Prepared {
    prepare_with(bytes, &ModelLimits::default())
}

pub fn prepare_with(bytes: &[u8], limits: &ModelLimits) -> Prepared {
    prepare_sampled(bytes, &[], limits)
}

pub fn prepare_sampled(bytes: &[u8], samples: &[Sample], limits: &ModelLimits) -> Prepared {
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("source");
    std::fs::write(&source, bytes).expect("written");
    let result = prepare(&source, Encoding::Onnx, samples, dir.path(), limits);
    Prepared { dir, result }
}

pub fn prepare_model(model: &ModelProto) -> Prepared {
    prepare_bytes(&model.encode_to_vec())
}

/// The error for a model, which has to be refused.
pub fn refused(model: &ModelProto) -> PrepareError {
    prepare_model(model).result.expect_err("refused")
}

pub fn f32s(shape: &[u32], values: &[f32]) -> Tensor {
    let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor { ty: TensorType::F32, shape: shape.to_vec(), data }
}

pub fn i64s(shape: &[u32], values: &[i64]) -> Tensor {
    let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor { ty: TensorType::I64, shape: shape.to_vec(), data }
}

pub fn as_f32s(tensor: &Tensor) -> Vec<f32> {
    assert_eq!(tensor.ty, TensorType::F32);
    tensor.data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Loads a prepared directory.
pub fn load(dir: &Path) -> Result<Arc<dyn Graph>, LoadError> {
    Rten.load(PreparedFiles::open(dir)?, Form::Mapped)
}
