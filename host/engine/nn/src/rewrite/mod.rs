//! Operators that the engine lacks, written as others that it has, which compute exactly the same.
//!
//! This runs before the check of operators, on a model that is sound in itself; see [`crate::quirks`] for
//! operators that the
//! engine has and computes otherwise than ONNX says.

mod attributes;
mod build;
mod columns;
mod dequantized;
mod encode;
mod functions;
mod known;
mod labels;
mod linear;
mod post;
mod quantized;
mod scale;
mod scan;
mod svm;
mod trees;

pub use labels::{Labels, Texts};

use crate::edit::each_inner_graph;
use crate::onnx::*;
use crate::{ModelLimits, PrepareError};
use attributes::refusal;
use build::{Build, FLOAT, INT8, Left, UINT8};
use std::collections::BTreeMap;

/// The version of the default operator set that a model gets which imports none and needs none.
const OPSET: i64 = 18;

/// What was done to a model.
#[derive(Debug, Default)]
pub struct Rewritten {
    /// For people.
    pub notes: Vec<String>,
    /// Names of classes, by output: of its columns, or of the numbers in it.
    pub labels: BTreeMap<String, Labels>,
}

/// Makes a model that the check of soundness reads: strings become numbers, an operator set is imported,
/// and Scan is replaced
/// where it is no loop.
///
/// # Errors
/// A model that becomes too large.
pub fn begin(model: &mut ModelProto, limits: &ModelLimits) -> Result<Texts, PrepareError> {
    let Some(graph) = &mut model.graph else { return Ok(Texts::default()) };
    let is_default = |o: &OperatorSetIdProto| matches!(o.domain.as_deref(), None | Some("" | "ai.onnx"));
    let needs_none = graph.node.iter().all(|n| !n.op_domain().is_empty());
    if needs_none && !model.opset_import.is_empty() && !model.opset_import.iter().any(is_default) {
        model.opset_import.push(OperatorSetIdProto { domain: None, version: Some(OPSET) });
    }
    if graph.node.iter().any(|n| n.is("Scan")) {
        let opset = model.opset_import.iter().find(|o| is_default(o)).and_then(|o| o.version);
        let nodes = std::mem::take(&mut graph.node);
        let mut build = Build::new(graph, &nodes, opset.unwrap_or_default(), limits, Left::of(limits, 0));
        for node in nodes {
            if !node.is("Scan") || !scan::distances(&mut build, &node)? {
                build.keep(node);
            }
        }
        build.finish(graph);
    }
    Ok(Texts::take(graph))
}

/// Rewrites a model that was checked. `nodes` and `bytes` are what it has already, of what `limits` allow.
///
/// # Errors
/// Nodes that this should be able to rewrite, and cannot: each names its operator, itself, and the reason.
pub fn rewrite(
    model: &mut ModelProto,
    mut texts: Texts,
    opset: i64,
    nodes: u64,
    limits: &ModelLimits,
) -> Result<Rewritten, PrepareError> {
    let mut found = Rewritten::default();
    let Some(graph) = &mut model.graph else { return Ok(found) };
    let dequantized = dequantized::make(graph);
    if dequantized > 0 {
        found.notes.push(format!("{dequantized} weights of 8 bits are stored as the floats that runs need"));
    }
    let mut left = Left::of(limits, nodes);
    let mut counts = BTreeMap::new();
    let mut pass = Pass { texts: &mut texts, labels: &mut found.labels, counts: &mut counts, opset, limits };
    pass.graph(graph, &mut left, true)?;
    texts.outputs(graph, &mut found.labels)?;
    if !counts.is_empty() {
        let list: Vec<String> = counts.iter().map(|(op, count)| format!("{count} {op}")).collect();
        found.notes.push(format!("written as other operators: {}", list.join(", ")));
    }
    for (output, labels) in &found.labels {
        let what = match labels {
            Labels::Ints(_) => "columns are the classes",
            Labels::Strings(_) => "numbers or columns stand for the names of classes",
        };
        found.notes.push(format!("output {output:?}: {what} in the model's labels"));
    }
    Ok(found)
}

struct Pass<'p> {
    texts: &'p mut Texts,
    labels: &'p mut BTreeMap<String, Labels>,
    counts: &'p mut BTreeMap<String, u64>,
    opset: i64,
    limits: &'p ModelLimits,
}

impl Pass<'_> {
    fn graph(
        &mut self,
        graph: &mut GraphProto,
        left: &mut Left,
        outermost: bool,
    ) -> Result<(), PrepareError> {
        let nodes = std::mem::take(&mut graph.node);
        let mut build = Build::new(graph, &nodes, self.opset, self.limits, *left);
        for mut node in nodes {
            each_inner_graph(&mut node, |inner| self.graph(inner, &mut build.left, false))?;
            self.node(&mut build, graph, node, outermost)?;
        }
        *left = build.finish(graph);
        Ok(())
    }

    fn node(
        &mut self,
        build: &mut Build<'_>,
        graph: &mut GraphProto,
        node: NodeProto,
        outermost: bool,
    ) -> Result<(), PrepareError> {
        let texts = &mut *self.texts;
        if node.op().contains("Integer") || node.op().contains("Linear") || node.op() == "QGemm" {
            build.count_reads(&node)?;
        }
        match (node.op_domain(), node.op()) {
            ("ai.onnx.ml", "ArrayFeatureExtractor") if outermost => encode::extractor(build, texts, &node),
            ("ai.onnx.ml", "LabelEncoder") if outermost => encode::labels(build, texts, &node),
            _ if texts.reads(&node) && outermost && node.op_domain().is_empty() => {
                return texts.pass(build, node);
            }
            _ if texts.reads(&node) => return Err(labels::computes(&node)),
            ("ai.onnx.ml", "LinearRegressor") => linear::regressor(build, &node),
            ("ai.onnx.ml", "LinearClassifier") if outermost => linear::classifier(build, texts, &node),
            ("ai.onnx.ml", "TreeEnsembleRegressor") => trees::regressor(build, &node),
            ("ai.onnx.ml", "TreeEnsembleClassifier") if outermost => trees::classifier(build, texts, &node),
            ("ai.onnx.ml", "SVMRegressor") => svm::regressor(build, &node),
            ("ai.onnx.ml", "Scaler") => scale::scaler(build, &node),
            ("ai.onnx.ml", "Normalizer") => scale::normalizer(build, &node),
            ("ai.onnx.ml", "Binarizer") => scale::binarizer(build, &node),
            ("ai.onnx.ml", "Imputer") => scale::imputer(build, &node),
            ("ai.onnx.ml", "OneHotEncoder") => encode::one_hot(build, &node),
            ("ai.onnx.ml", "FeatureVectorizer") => encode::vectorizer(build, &node),
            ("ai.onnx.ml", "ZipMap") if outermost => labels::zip_map(build, graph, self.labels, &node),
            ("", "Cast")
                if node.int("to") == Some(FLOAT)
                    && node.input.first().is_some_and(|x| build.integral(x).is_some()) =>
            {
                let floats =
                    node.input.first().and_then(|x| build.integral(x)).unwrap_or_default().to_owned();
                return build.put(&node, "Identity", &[&floats], attributes::only_output(&node)?, vec![]);
            }
            ("", "Conv") if columns::is_one_wide(build, &node) => columns::turned(build, &node),
            ("", "MatMulInteger") => quantized::product_integer(build, &node),
            ("", "ConvInteger") => quantized::conv_integer(build, &node),
            ("", "QLinearMatMul") => quantized::quantized_product(build, &node),
            ("", "QLinearConv") => quantized::quantized_conv(build, &node),
            ("", "QuantizeLinear") => return quantized::quantize(build, node),
            ("", "DequantizeLinear") => return quantized::dequantize(build, node),
            ("", "DynamicQuantizeLinear") => return quantized::dynamic(build, node),
            ("com.microsoft", op) => match contributed(op) {
                Some("Gemm") => quantized::gemm(build, &node),
                Some(float_op) => contributed_between(build, &node, float_op),
                None => {
                    build.keep(node);
                    return Ok(());
                }
            },
            ("", "MaxPool" | "Relu" | "Max" | "Min" | "ReduceMax" | "ReduceMin")
                if node
                    .input
                    .first()
                    .is_some_and(|x| matches!(build.known(x).element, Some(UINT8 | INT8))) =>
            {
                return quantized::by_floats(build, node);
            }
            (
                "",
                "Add" | "Sub" | "Mul" | "Div" | "Sum" | "Neg" | "Abs" | "Where" | "Clip" | "Equal"
                | "Greater" | "Less",
            )
            | ("", "GreaterOrEqual" | "LessOrEqual")
                if node.input.iter().any(|x| matches!(build.known(x).element, Some(UINT8 | INT8))) =>
            {
                return quantized::by_integers(build, node);
            }
            ("", _) if functions::rewrite(build, &node)? => Ok(()),
            _ => {
                build.keep(node);
                return Ok(());
            }
        }?;
        *self.counts.entry(node.op().to_owned()).or_default() += 1;
        Ok(())
    }
}

/// The operator of floats that one of ONNX Runtime's on 8-bit integers stands for.
fn contributed(op: &str) -> Option<&'static str> {
    Some(match op {
        "QGemm" => "Gemm",
        "QLinearAdd" => "Add",
        "QLinearMul" => "Mul",
        "QLinearAveragePool" => "AveragePool",
        "QLinearGlobalAveragePool" => "GlobalAveragePool",
        "QLinearLeakyRelu" => "LeakyRelu",
        "QLinearSigmoid" => "Sigmoid",
        "QLinearSoftmax" => "Softmax",
        "QLinearConcat" => "Concat",
        _ => return None,
    })
}

fn contributed_between(build: &mut Build<'_>, node: &NodeProto, op: &str) -> Result<(), PrepareError> {
    if node.int("channels_last").unwrap_or(0) != 0 {
        return Err(refusal(node, "channels_last is not supported"));
    }
    let mut attributes = node.attribute.clone();
    attributes.retain(|a| !matches!(a.name.as_deref(), Some("channels_last" | "opset")));
    if op == "Softmax" && (build.opset() < 13 || node.int("opset").is_some_and(|opset| opset < 13)) {
        return Err(refusal(node, "it, or the model around it, is of an opset before 13"));
    }
    match op {
        "Concat" => {
            let inputs: Vec<usize> = (2..node.input.len()).step_by(3).collect();
            quantized::between(build, node, op, &inputs, 0, attributes)
        }
        "Add" | "Mul" => quantized::between(build, node, op, &[0, 3], 6, attributes),
        _ => quantized::between(build, node, op, &[0], 3, attributes),
    }
}
