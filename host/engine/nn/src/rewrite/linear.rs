//! LinearRegressor and LinearClassifier.

use super::attributes::{floats, input, only_output, refusal};
use super::build::{Build, FLOAT};
use super::labels::{Labels, Texts};
use super::post::{Post, labels_of, largest, over, put_labels, score_output};
use crate::PrepareError;
use crate::edit::int_attribute;
use crate::onnx::NodeProto;

/// Scores [rows, targets]: the rows times the coefficients, plus the intercepts.
fn scores(build: &mut Build<'_>, node: &NodeProto, targets: usize) -> Result<String, PrepareError> {
    let (coefficients, intercepts) = (floats(node, "coefficients"), floats(node, "intercepts"));
    if targets == 0 || coefficients.is_empty() || !coefficients.len().is_multiple_of(targets) {
        let why = format!("it has {} coefficients for {targets} targets", coefficients.len());
        return Err(refusal(node, &why));
    }
    if !intercepts.is_empty() && intercepts.len() != targets {
        return Err(refusal(node, &format!("it has {} intercepts for {targets} targets", intercepts.len())));
    }
    let features = coefficients.len() / targets;
    let columns: Vec<f32> =
        (0..features).flat_map(|f| (0..targets).map(move |t| coefficients[t * features + f])).collect();
    let weights = build.floats(node, &[features as i64, targets as i64], &columns)?;
    let rows = input(node, 0)?;
    if build.known(rows).rank() == Some(1) {
        return Err(refusal(node, "its input is a list, not rows"));
    }
    let rows = build.as_float(node, rows)?;
    let product = build.op(node, "MatMul", &[&rows, &weights], vec![])?;
    if intercepts.is_empty() {
        return Ok(product);
    }
    let intercepts = build.floats(node, &[targets as i64], intercepts)?;
    build.op(node, "Add", &[&product, &intercepts], vec![])
}

pub fn regressor(build: &mut Build<'_>, node: &NodeProto) -> Result<(), PrepareError> {
    let targets = usize::try_from(node.int("targets").unwrap_or(1)).unwrap_or(0);
    let post = Post::of(node)?;
    if targets == 1 && post != Post::None {
        return Err(refusal(node, "runtimes differ in post_transform with one target"));
    }
    let scores = scores(build, node, targets)?;
    let output = only_output(node)?;
    build.state(output, FLOAT, 2);
    post.put(build, node, &scores, output)
}

/// As ONNX Runtime does it: with one row of coefficients and two labels, the second class is added.
pub fn classifier(build: &mut Build<'_>, texts: &mut Texts, node: &NodeProto) -> Result<(), PrepareError> {
    let labels = labels_of(node, "classlabels_ints", "classlabels_strings")?;
    let classes = match &labels {
        Labels::Ints(list) => list.len(),
        Labels::Strings(list) => list.len(),
    };
    let post = Post::of(node)?;
    let intercepts = floats(node, "intercepts").len();
    let targets = if intercepts > 0 { intercepts } else { classes };
    if targets != classes && (targets, classes) != (1, 2) {
        return Err(refusal(node, &format!("it has {targets} intercepts for {classes} classes")));
    }
    if targets == 1 && !matches!(post, Post::None | Post::Logistic) {
        return Err(refusal(node, "post_transform needs more than one class"));
    }
    let scores = scores(build, node, targets)?;
    let output = score_output(build, node);
    if (targets, classes) == (1, 2) {
        let class = over(build, node, &scores, 0.0)?;
        let one =
            if post == Post::Logistic { build.op(node, "Sigmoid", &[&scores], vec![])? } else { scores };
        let whole = build.floats(node, &[], &[1.0])?;
        let zero = build.op(node, "Sub", &[&whole, &one], vec![])?;
        build.put(node, "Concat", &[&zero, &one], &output, vec![int_attribute("axis", 1)])?;
        return put_labels(build, texts, node, &labels, &class);
    }
    let class = largest(build, node, &scores)?;
    put_labels(build, texts, node, &labels, &class)?;
    post.put(build, node, &scores, &output)
}
