//! What is known of values before they are computed: enough to choose among forms of which each is right.

use super::attributes::ints_of;
use super::build::{FLOAT, INT32};
use crate::onnx::*;

/// Dimensions of a value; an open one is `None`.
pub type Shape = Vec<Option<u64>>;

/// Of values with more dimensions no shape is kept.
pub const RANK_MAX: usize = 16;

/// The element type and shape of a value, as far as they are known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known {
    pub element: Option<i64>,
    pub shape: Option<Shape>,
}

impl Known {
    pub fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(Vec::len)
    }

    pub fn dim(&self, index: usize) -> Option<u64> {
        *self.shape.as_ref()?.get(index)?
    }

    /// What a graph states of an input, output or value.
    pub fn stated(value: &ValueInfoProto) -> Self {
        let Some(TypeValue::Tensor(tensor)) = value.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
            return Self::default();
        };
        let dim = |d: &Dimension| match d.value {
            Some(DimensionValue::Value(v)) if v > 0 => Some(v as u64),
            _ => None,
        };
        Self {
            element: tensor.elem_type.map(i64::from),
            shape: tensor
                .shape
                .as_ref()
                .filter(|s| s.dim.len() <= RANK_MAX)
                .map(|s| s.dim.iter().map(dim).collect()),
        }
    }

    /// What is known of a constant.
    pub fn of(tensor: &TensorProto) -> Self {
        let shape = tensor.dims.iter().map(|d| u64::try_from(*d).ok()).collect();
        Self { element: tensor.data_type.map(i64::from), shape: Some(shape) }
    }
}

/// An operator of the default domain, and what is known of its inputs.
pub struct Seen<'s> {
    pub op: &'s str,
    pub inputs: Vec<Known>,
    /// The second input, where it is constant.
    pub second: Option<&'s TensorProto>,
    pub attributes: &'s [AttributeProto],
}

/// Operators whose output has elements of the first input, in another shape.
const MOVES: [&str; 11] = [
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Slice",
    "Pad",
    "Expand",
    "Tile",
    "Split",
    "DepthToSpace",
    "GatherElements",
    "GatherND",
];

impl Seen<'_> {
    fn input(&self, index: usize) -> Known {
        self.inputs.get(index).cloned().unwrap_or_default()
    }

    fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.attributes.iter().find(|a| a.name.as_deref() == Some(name))
    }

    fn int(&self, name: &str) -> Option<i64> {
        self.attribute(name).and_then(|a| a.i)
    }

    /// What is known of the first output.
    pub fn output(&self) -> Known {
        let first = self.input(0);
        let with_shape = |shape| Known { element: first.element, shape };
        match self.op {
            "Identity" | "Relu" | "Neg" | "Abs" | "Sigmoid" | "Tanh" | "Softmax" | "BatchNormalization"
            | "LayerNormalization" | "LeakyRelu" | "Clip" | "Dropout" | "Erf" | "Sqrt" | "Exp" | "Gelu"
            | "HardSwish" | "HardSigmoid" | "Round" | "Floor" => first,
            "Cast" => Known { element: self.int("to"), ..first },
            "DequantizeLinear" => Known { element: Some(FLOAT), ..first },
            "QuantizeLinear" => Known { element: self.input(2).element, ..first },
            "Add" | "Sub" | "Mul" | "Div" | "Pow" if self.inputs.len() == 2 => {
                let element = first.element.or(self.input(1).element);
                Known { element, shape: broadcast(first.shape, self.input(1).shape) }
            }
            "MatMul" => with_shape(product(first.shape.clone(), self.input(1).shape)),
            "MatMulInteger" => {
                Known { element: Some(INT32), shape: product(first.shape, self.input(1).shape) }
            }
            "Gemm" => with_shape(self.gemm()),
            "Conv" => with_shape(self.channels(self.input(1).shape, 0)),
            "MaxPool" | "AveragePool" | "GlobalAveragePool" => {
                with_shape(self.channels(first.shape.clone(), 1))
            }
            "Concat" => with_shape(self.concat()),
            "Gather" => with_shape(self.gather()),
            "Reshape" => with_shape(self.reshape()),
            "Transpose" => with_shape(self.transpose()),
            op if MOVES.contains(&op) => with_shape(None),
            _ => Known::default(),
        }
    }

    fn gemm(&self) -> Option<Shape> {
        let right = self.input(1).shape.filter(|shape| shape.len() == 2)?;
        Some(vec![None, right[if self.int("transB") == Some(1) { 0 } else { 1 }]])
    }

    /// [batch, channels, ...] where the channels are a dimension of another shape of the same rank.
    fn channels(&self, like: Option<Shape>, index: usize) -> Option<Shape> {
        let like = like.filter(|shape| shape.len() >= 3)?;
        let mut shape = vec![None; like.len()];
        shape[1] = like[index];
        Some(shape)
    }

    /// All inputs have the same dimensions but for one.
    fn concat(&self) -> Option<Shape> {
        let mut shape = self.inputs.iter().find_map(|input| input.shape.clone())?;
        let axis = self.int("axis")?;
        let axis = if axis < 0 { axis + shape.len() as i64 } else { axis };
        *shape.get_mut(usize::try_from(axis).ok()?)? = None;
        Some(shape)
    }

    fn gather(&self) -> Option<Shape> {
        let (data, places) = (self.input(0).shape?, self.input(1).shape?);
        let axis = self.int("axis").unwrap_or(0) == 0;
        axis.then(|| places.into_iter().chain(data.into_iter().skip(1)).collect())
    }

    fn reshape(&self) -> Option<Shape> {
        let few = |t: &&TensorProto| matches!(t.dims[..], [count] if count <= RANK_MAX as i64);
        let dims = self.second.filter(few).and_then(ints_of)?;
        let before = self.input(0).shape.unwrap_or_default();
        let keeps = self.int("allowzero").unwrap_or(0) == 0;
        let dim = |(index, dim): (usize, &i64)| match dim {
            0 if keeps => before.get(index).copied().flatten(),
            dim => u64::try_from(*dim).ok(),
        };
        Some(dims.iter().enumerate().map(dim).collect())
    }

    fn transpose(&self) -> Option<Shape> {
        let before = self.input(0).shape?;
        let perm = self.attribute("perm").map(|a| a.ints.clone());
        let Some(perm) = perm else { return Some(before.into_iter().rev().collect()) };
        perm.iter().map(|axis| before.get(usize::try_from(*axis).ok()?).copied()).collect()
    }
}

/// The shape of a product of matrices.
fn product(left: Option<Shape>, right: Option<Shape>) -> Option<Shape> {
    let (mut left, mut right) = (left?, right?);
    let (columns, _) = (right.pop()?, right.pop()?);
    let (_, rows) = (left.pop()?, left.pop()?);
    let mut shape = broadcast(Some(left), Some(right))?;
    shape.extend([rows, columns]);
    Some(shape)
}

/// The shape of two values that are broadcast: dimensions that are known to be more than 1 in either.
fn broadcast(left: Option<Shape>, right: Option<Shape>) -> Option<Shape> {
    let (mut long, short) = (left?, right?);
    if short.len() > long.len() {
        return broadcast(Some(short), Some(long));
    }
    for (long, short) in long.iter_mut().rev().zip(short.into_iter().rev()) {
        *long = match (*long, short) {
            (Some(dim), _) | (_, Some(dim)) if dim > 1 => Some(dim),
            (Some(1), other) | (other, Some(1)) => other,
            _ => None,
        };
    }
    Some(long)
}
