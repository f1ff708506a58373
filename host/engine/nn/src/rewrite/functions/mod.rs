//! Operators of the default domain that ONNX defines by others.

mod activations;
mod layout;
mod loss;
mod norms;
mod recurrent;

use super::attributes::{input, only_output};
use super::build::Build;
use crate::PrepareError;
use crate::edit::int_attribute;
use crate::onnx::{AttributeProto, NodeProto};

/// Writes a node as others, where this knows how. `Ok(false)` says that it does not, and has added nothing.
pub fn rewrite(build: &mut Build<'_>, node: &NodeProto) -> Result<bool, PrepareError> {
    let mut body = Body { build, node };
    match node.op() {
        "Selu" => activations::selu(&mut body),
        "Celu" => activations::celu(&mut body),
        "Mish" => activations::mish(&mut body),
        "ThresholdedRelu" => activations::thresholded_relu(&mut body),
        "Shrink" => activations::shrink(&mut body),
        "Hardmax" => activations::hardmax(&mut body),
        "MeanVarianceNormalization" => norms::mean_variance(&mut body),
        "GroupNormalization" => norms::group(&mut body),
        "LRN" => norms::local_response(&mut body),
        "LpPool" => norms::lp_pool(&mut body),
        "SpaceToDepth" => layout::space_to_depth(&mut body),
        "Pad" if node.input.get(3).is_some_and(|axes| !axes.is_empty()) => layout::pad(&mut body),
        "Compress" => layout::compress(&mut body),
        "NegativeLogLikelihoodLoss" => loss::negative_log_likelihood(&mut body),
        "SoftmaxCrossEntropyLoss" => loss::softmax_cross_entropy(&mut body),
        _ if recurrent::is_missing(node) => recurrent::unrolled(&mut body),
        _ => return Ok(false),
    }?;
    Ok(true)
}

/// A node that is being written as others.
struct Body<'b, 'l> {
    build: &'b mut Build<'l>,
    node: &'b NodeProto,
}

type Named = Result<String, PrepareError>;

impl Body<'_, '_> {
    fn input(&self, index: usize) -> Named {
        input(self.node, index).map(str::to_owned)
    }

    /// An input that may be left out.
    fn optional(&self, index: usize) -> Option<String> {
        self.node.input.get(index).filter(|name| !name.is_empty()).cloned()
    }

    fn op(&mut self, op: &str, input: &[&str]) -> Named {
        self.build.op(self.node, op, input, vec![])
    }

    fn op_with(&mut self, op: &str, input: &[&str], attributes: Vec<AttributeProto>) -> Named {
        self.build.op(self.node, op, input, attributes)
    }

    fn along(&mut self, op: &str, input: &[&str], axis: i64) -> Named {
        self.op_with(op, input, vec![int_attribute("axis", axis)])
    }

    fn float(&mut self, value: f32) -> Named {
        self.build.floats(self.node, &[], &[value])
    }

    fn ints(&mut self, values: &[i64]) -> Named {
        self.build.ints(self.node, &[values.len() as i64], values)
    }

    fn int(&mut self, value: i64) -> Named {
        self.build.ints(self.node, &[], &[value])
    }

    /// The node's only output, by an operator.
    fn put(&mut self, op: &str, input: &[&str]) -> Result<(), PrepareError> {
        self.put_with(op, input, vec![])
    }

    fn put_with(
        &mut self,
        op: &str,
        input: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> Result<(), PrepareError> {
        self.build.put(self.node, op, input, only_output(self.node)?, attributes)
    }

    /// Some dimensions of a value, as a list.
    fn dims(&mut self, value: &str, from: i64, to: i64) -> Named {
        let shape = self.op("Shape", &[value])?;
        let [from, to] = [self.ints(&[from])?, self.ints(&[to])?];
        self.op("Slice", &[&shape, &from, &to])
    }
}
