//! Tensors as they cross the border to a guest, and the signature of a model.

use crate::TensorView;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Element types. `wasi:nn` has neither [`TensorType::Bool`] nor [`TensorType::I8`]: both cross there as
/// [`TensorType::U8`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TensorType {
    /// One byte: 0 or 1. In an input every other byte is true, too.
    Bool,
    I8,
    U8,
    I32,
    I64,
    F16,
    F32,
    F64,
    Bf16,
}

impl TensorType {
    /// Bytes of one element.
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::Bool | Self::I8 | Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::I32 | Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }

    /// The name in JSON and in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Longest name of an input or output, in bytes.
pub const PORT_NAME_BYTES_MAX: usize = 512;

/// A tensor: `data` holds the elements row-major, little-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    pub ty: TensorType,
    /// Empty for a scalar.
    pub shape: Vec<u32>,
    pub data: Vec<u8>,
}

/// A tensor whose bytes are not what its shape says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum TensorError {
    #[error("{ty}{shape:?} takes {expected} bytes, but there are {got}")]
    Length { ty: TensorType, shape: Vec<u32>, expected: u64, got: u64 },
    #[error("{ty}{shape:?} is larger than any memory")]
    Overflow { ty: TensorType, shape: Vec<u32> },
}

/// The number of elements of a shape; `None` when it does not fit into 64 bits.
pub fn elements(shape: &[u32]) -> Option<u64> {
    shape.iter().try_fold(1u64, |n, &d| n.checked_mul(u64::from(d)))
}

/// The bytes that a type and a shape ask for; `None` when they do not fit into 64 bits.
pub fn bytes(ty: TensorType, shape: &[u32]) -> Option<u64> {
    elements(shape)?.checked_mul(ty.size_bytes() as u64)
}

impl Tensor {
    /// The number of elements; `None` when it does not fit into 64 bits.
    pub fn elements(&self) -> Option<u64> {
        elements(&self.shape)
    }

    pub fn view(&self) -> TensorView<'_> {
        TensorView { ty: self.ty, shape: &self.shape, data: &self.data }
    }

    /// Checks that `data` has the length that type and shape ask for.
    pub fn check(&self) -> Result<(), TensorError> {
        self.view().check()
    }
}

impl TensorView<'_> {
    /// Checks that `data` has the length that type and shape ask for.
    pub fn check(&self) -> Result<(), TensorError> {
        let (ty, shape) = (self.ty, || self.shape.to_vec());
        let expected = bytes(ty, self.shape).ok_or_else(|| TensorError::Overflow { ty, shape: shape() })?;
        let got = self.data.len() as u64;
        if expected == got {
            return Ok(());
        }
        Err(TensorError::Length { ty, shape: shape(), expected, got })
    }
}

/// An input or output of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    pub name: String,
    #[serde(rename = "type")]
    pub ty: TensorType,
    /// `None` is a dimension that may differ from run to run. An empty list is a scalar.
    pub shape: Vec<Option<u32>>,
    /// False when the model does not state a shape at all: then `shape` is empty and any shape is taken.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub ranked: bool,
}

fn yes() -> bool {
    true
}

fn is_true(b: &bool) -> bool {
    *b
}

impl Port {
    /// Whether a tensor of this type may go in as far as bytes are concerned: [`TensorType::U8`] stands for
    /// the types of one byte, since guests of `wasi:nn` know no other.
    pub fn takes_bytes_of(&self, ty: TensorType) -> bool {
        ty == self.ty || (ty == TensorType::U8 && self.ty.size_bytes() == 1)
    }

    /// Whether a tensor of this shape may go in.
    pub fn accepts(&self, shape: &[u32]) -> bool {
        !self.ranked
            || (shape.len() == self.shape.len()
                && self.shape.iter().zip(shape).all(|(want, got)| want.is_none_or(|w| w == *got)))
    }

    /// The shape as text, with `?` for a variable dimension: `[?, 64]`.
    pub fn shape_text(&self) -> String {
        if !self.ranked {
            return "of any shape".into();
        }
        let dims: Vec<String> =
            self.shape.iter().map(|d| d.map_or_else(|| "?".into(), |d| d.to_string())).collect();
        format!("[{}]", dims.join(", "))
    }
}

/// What a model takes and gives, in the order of its file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Signature {
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_must_have_the_bytes_of_its_shape() {
        let mut t = Tensor { ty: TensorType::F32, shape: vec![2, 3], data: vec![0; 24] };
        assert_eq!(t.check(), Ok(()));
        t.data.pop();
        assert_eq!(t.check().expect_err("short").to_string(), "f32[2, 3] takes 24 bytes, but there are 23");
        t.shape = vec![u32::MAX; 3];
        assert!(matches!(t.check(), Err(TensorError::Overflow { .. })));
        t.shape = vec![u32::MAX, 0];
        t.data.clear();
        assert_eq!(t.check(), Ok(()));
    }

    #[test]
    fn a_port_takes_what_its_shape_leaves_open() {
        let mut port =
            Port { name: "x".into(), ty: TensorType::F32, shape: vec![None, Some(4)], ranked: true };
        assert!(port.accepts(&[7, 4]) && !port.accepts(&[7, 5]) && !port.accepts(&[4]));
        assert_eq!(port.shape_text(), "[?, 4]");
        port.ranked = false;
        assert!(port.accepts(&[1, 2, 3]));
    }

    #[test]
    fn types_are_written_in_lower_case() {
        assert_eq!(serde_json::to_string(&TensorType::Bf16).expect("json"), "\"bf16\"");
        assert_eq!(serde_json::to_string(&TensorType::Bool).expect("json"), "\"bool\"");
        assert_eq!(serde_json::to_string(&TensorType::I8).expect("json"), "\"i8\"");
        let port: Port = serde_json::from_str(r#"{"name":"x","type":"f32","shape":[null,2]}"#).expect("port");
        assert_eq!(port.shape, vec![None, Some(2)]);
    }
}
