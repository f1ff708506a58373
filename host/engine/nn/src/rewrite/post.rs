//! What `ai.onnx.ml` does with scores: transforms, and labels.

use super::attributes::{ints, only_output, output, refusal, strings, text};
use super::build::{Build, INT64};
use super::labels::{Labels, Texts};
use crate::PrepareError;
use crate::edit::int_attribute;
use crate::onnx::NodeProto;

/// `post_transform`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Post {
    None,
    Logistic,
    Softmax,
    SoftmaxZero,
}

impl Post {
    pub fn of(node: &NodeProto) -> Result<Self, PrepareError> {
        Ok(match text(node, "post_transform", "NONE") {
            "NONE" => Self::None,
            "LOGISTIC" => Self::Logistic,
            "SOFTMAX" => Self::Softmax,
            "SOFTMAX_ZERO" => Self::SoftmaxZero,
            other => return Err(refusal(node, &format!("post_transform {other} is not supported"))),
        })
    }

    /// The scores [rows, classes], transformed; what a node's output is to be.
    pub fn put(
        self,
        build: &mut Build<'_>,
        of: &NodeProto,
        scores: &str,
        output: &str,
    ) -> Result<(), PrepareError> {
        match self {
            Self::None => build.put(of, "Identity", &[scores], output, vec![])?,
            Self::Logistic => build.put(of, "Sigmoid", &[scores], output, vec![])?,
            Self::Softmax => {
                build.put(of, "Softmax", &[scores], output, vec![int_attribute("axis", -1)])?;
            }
            Self::SoftmaxZero => softmax_zero(build, of, scores, output)?,
        }
        Ok(())
    }
}

/// Scores of zero (within 1e-7) are left out of the sum: they stay nearly zero.
fn softmax_zero(
    build: &mut Build<'_>,
    of: &NodeProto,
    scores: &str,
    output: &str,
) -> Result<(), PrepareError> {
    let largest = build.reduce(of, "ReduceMax", scores, &[-1], true)?;
    let below = build.op(of, "Sub", &[scores, &largest], vec![])?;
    let raised = build.op(of, "Exp", &[&below], vec![])?;
    let tiny = build.floats(of, &[], &[1e-7])?;
    let size = build.op(of, "Abs", &[scores], vec![])?;
    let counts = build.op(of, "Greater", &[&size, &tiny], vec![])?;
    let zero = build.floats(of, &[], &[0.0])?;
    let counted = build.op(of, "Where", &[&counts, &raised, &zero], vec![])?;
    let sum = build.sum(of, &counted, -1, true)?;
    let negative = build.op(of, "Neg", &[&largest], vec![])?;
    let scale = build.op(of, "Exp", &[&negative], vec![])?;
    let kept = build.op(of, "Mul", &[scores, &scale], vec![])?;
    let each = build.op(of, "Where", &[&counts, &raised, &kept], vec![])?;
    build.put(of, "Div", &[&each, &sum], output, vec![])
}

/// The labels of a classifier: integers or strings.
pub fn labels_of(node: &NodeProto, int_name: &str, text_name: &str) -> Result<Labels, PrepareError> {
    let (numbers, texts) = (ints(node, int_name), strings(node, text_name));
    match (numbers.is_empty(), texts.is_empty()) {
        (false, true) => Ok(Labels::Ints(numbers.to_vec())),
        (true, false) => Ok(Labels::Strings(texts)),
        (true, true) => Err(refusal(node, "it has no class labels")),
        (false, false) => Err(refusal(node, "it has both integer and string class labels")),
    }
}

/// The label output [rows], from the number of the class of each row [rows]. Strings become numbers.
pub fn put_labels(
    build: &mut Build<'_>,
    texts: &mut Texts,
    of: &NodeProto,
    labels: &Labels,
    class: &str,
) -> Result<(), PrepareError> {
    let output = only_output(of)?.to_owned();
    let class = build.cast(of, class, INT64)?;
    build.state(&output, INT64, 1);
    match labels {
        Labels::Ints(numbers) if !numbers.iter().enumerate().all(|(i, n)| *n == i as i64) => {
            let table = build.ints(of, &[numbers.len() as i64], numbers)?;
            build.put(of, "Gather", &[&table, &class], &output, vec![int_attribute("axis", 0)])
        }
        _ => {
            if let Labels::Strings(strings) = labels {
                texts.add(&output, strings.clone());
            }
            build.put(of, "Identity", &[&class], &output, vec![])
        }
    }
}

/// The number of the largest score of each row, the first of equals: [rows, classes] to [rows].
pub fn largest(build: &mut Build<'_>, of: &NodeProto, scores: &str) -> Result<String, PrepareError> {
    let attributes = vec![int_attribute("axis", 1), int_attribute("keepdims", 0)];
    build.op(of, "ArgMax", &[scores], attributes)
}

/// Class 1 where the score of a row is over a threshold, else class 0: [rows, 1] to [rows].
pub fn over(
    build: &mut Build<'_>,
    of: &NodeProto,
    score: &str,
    threshold: f32,
) -> Result<String, PrepareError> {
    let threshold = build.floats(of, &[], &[threshold])?;
    let over = build.op(of, "Greater", &[score, &threshold], vec![])?;
    let flat = build.reshape(of, &over, &[-1])?;
    build.cast(of, &flat, INT64)
}

/// The output for scores, or one that nothing reads.
pub fn score_output(build: &mut Build<'_>, of: &NodeProto) -> String {
    let name = output(of, 1).map_or_else(|| build.fresh("scores", "unused"), str::to_owned);
    build.state(&name, super::build::FLOAT, 2);
    name
}
