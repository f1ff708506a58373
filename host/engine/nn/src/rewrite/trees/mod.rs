//! TreeEnsembleRegressor and TreeEnsembleClassifier, as ONNX Runtime computes them.

mod nodes;
mod scores;
mod walk;

use super::attributes::{floats, only_output, refusal, text, without};
use super::build::{Build, FLOAT};
use super::labels::{Labels, Texts};
use super::post::{Post, labels_of, largest, over, put_labels, score_output};
use crate::PrepareError;
use crate::edit::int_attribute;
use crate::onnx::NodeProto;
use nodes::{Trees, WeightNames};
use scores::{Aggregate, Scores};

/// Attributes that hold doubles.
const DOUBLES: [&str; 3] = ["nodes_values_as_tensor", "nodes_hitrates_as_tensor", "base_values_as_tensor"];

pub fn regressor(build: &mut Build<'_>, node: &NodeProto) -> Result<(), PrepareError> {
    const NAMES: WeightNames = WeightNames {
        trees: "target_treeids",
        nodes: "target_nodeids",
        ids: "target_ids",
        weights: "target_weights",
    };
    without(node, &DOUBLES)?;
    without(node, &["target_weights_as_tensor"])?;
    let targets = usize::try_from(node.int("n_targets").unwrap_or(1)).ok().filter(|n| *n > 0);
    let targets = targets.ok_or_else(|| refusal(node, "n_targets is not positive"))?;
    let aggregate = match text(node, "aggregate_function", "SUM") {
        "SUM" => Aggregate::Sum,
        "AVERAGE" => Aggregate::Average,
        "MIN" => Aggregate::Min,
        "MAX" => Aggregate::Max,
        other => return Err(refusal(node, &format!("aggregate_function {other} is not supported"))),
    };
    let post = Post::of(node)?;
    let trees = Trees::read(node, &NAMES, targets)?;
    let base = base_values(node, targets)?;
    if targets == 1 && post != Post::None {
        return Err(refusal(node, "runtimes differ in post_transform with one target"));
    }
    let scores = Scores::new(node, &trees, targets, aggregate)?.put(build, node, &base)?;
    if scores.scored.is_some() && !base.is_empty() {
        return Err(refusal(
            node,
            "runtimes differ in base_values of a target for which no leaf has a weight",
        ));
    }
    let scores = scores.total;
    let output = only_output(node)?;
    build.state(output, FLOAT, 2);
    post.put(build, node, &scores, output)
}

pub fn classifier(build: &mut Build<'_>, texts: &mut Texts, node: &NodeProto) -> Result<(), PrepareError> {
    const NAMES: WeightNames = WeightNames {
        trees: "class_treeids",
        nodes: "class_nodeids",
        ids: "class_ids",
        weights: "class_weights",
    };
    without(node, &DOUBLES)?;
    without(node, &["class_weights_as_tensor"])?;
    let labels = labels_of(node, "classlabels_int64s", "classlabels_strings")?;
    let classes = match &labels {
        Labels::Ints(list) => list.len(),
        Labels::Strings(list) => list.len(),
    };
    let post = Post::of(node)?;
    let trees = Trees::read(node, &NAMES, classes)?;
    if classes == 2 {
        return binary(build, texts, node, &trees, &labels, post);
    }
    if classes < 2 {
        return Err(refusal(node, "it has one class"));
    }
    let base = base_values(node, classes)?;
    let scores = Scores::new(node, &trees, classes, Aggregate::Sum)?.put(build, node, &base)?;
    // A class to which no leaf that was reached gives a score is not chosen.
    let chosen = match &scores.scored {
        Some(scored) if base.is_empty() => {
            let zero = build.floats(node, &[], &[0.0])?;
            let lowest = build.floats(node, &[], &[f32::NEG_INFINITY])?;
            let has = build.op(node, "Greater", &[scored, &zero], vec![])?;
            build.op(node, "Where", &[&has, &scores.total, &lowest], vec![])?
        }
        _ => scores.total.clone(),
    };
    let class = largest(build, node, &chosen)?;
    put_labels(build, texts, node, &labels, &class)?;
    let output = score_output(build, node);
    post.put(build, node, &scores.total, &output)
}

/// Two classes. Where all weights are of the first class, their sum is the score of the second: a
/// probability where no weight is
/// negative, else a number that is positive for the second class.
fn binary(
    build: &mut Build<'_>,
    texts: &mut Texts,
    node: &NodeProto,
    trees: &Trees,
    labels: &Labels,
    post: Post,
) -> Result<(), PrepareError> {
    let weights = || trees.nodes.iter().flat_map(|n| &n.weights);
    if weights().any(|w| w.0 != 0) {
        return Err(refusal(node, "it has two classes and weights of the second, where runtimes differ"));
    }
    let probability = weights().all(|w| w.1 >= 0.0);
    let base = floats(node, "base_values").to_vec();
    if base.len() > 1 {
        return Err(refusal(node, "it has base_values for both classes and weights for one"));
    }
    if probability && post != Post::None || !matches!(post, Post::None | Post::Logistic) {
        return Err(refusal(node, "runtimes differ in post_transform of one score that is never negative"));
    }
    let score = Scores::new(node, trees, 1, Aggregate::Sum)?.put(build, node, &base)?.total;
    let class = over(build, node, &score, if probability { 0.5 } else { 0.0 })?;
    put_labels(build, texts, node, labels, &class)?;
    let output = score_output(build, node);
    let first = if probability {
        let one = build.floats(node, &[], &[1.0])?;
        build.op(node, "Sub", &[&one, &score], vec![])?
    } else {
        build.op(node, "Neg", &[&score], vec![])?
    };
    let both = build.op(node, "Concat", &[&first, &score], vec![int_attribute("axis", 1)])?;
    post.put(build, node, &both, &output)
}

fn base_values(node: &NodeProto, targets: usize) -> Result<Vec<f32>, PrepareError> {
    let base = floats(node, "base_values");
    if base.is_empty() || base.len() == targets {
        return Ok(base.to_vec());
    }
    Err(refusal(node, &format!("it has {} base_values for {targets} targets", base.len())))
}
