//! Strings of a model that only name classes: the engine computes with their numbers, and the description
//! of the model has the
//! names.

use super::attributes::{ints, only_output, refusal, strings};
use super::build::{Build, INT64, STRING};
use crate::PrepareError;
use crate::edit::{int_attribute, set_attribute};
use crate::onnx::*;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Names of classes: of the columns of an output, or of the numbers in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Labels {
    Ints(Vec<i64>),
    Strings(Vec<String>),
}

/// Bytes of all labels, at most: they are kept with the model, and told to who asks for it.
const LABELS_MAX: u64 = 4 << 20;

impl Labels {
    fn bytes(&self) -> u64 {
        match self {
            Self::Ints(list) => list.len() as u64 * 8,
            Self::Strings(list) => list.iter().map(|s| s.len() as u64 + 8).sum(),
        }
    }
}

/// Values that were strings and are numbers of strings.
#[derive(Debug, Clone, Default)]
pub struct Texts {
    of: HashMap<String, Arc<[String]>>,
}

impl Texts {
    /// Takes constant strings out of a graph: each tensor becomes the numbers of its elements, and string
    /// tensors that are
    /// attributes of `ai.onnx.ml` become lists.
    /// A tensor that does not have as many strings as its shape says stays.
    pub fn take(graph: &mut GraphProto) -> Self {
        let mut texts = Self::default();
        for tensor in graph.initializer.iter_mut().filter(|t| t.data_type == Some(STRING as i32)) {
            let count = tensor.dims.iter().try_fold(1i64, |n, d| n.checked_mul(*d));
            let got = tensor.string_data.len() as u64;
            if count.and_then(|n| u64::try_from(n).ok()) != Some(got) {
                continue;
            }
            let text = |s: &Bytes| String::from_utf8_lossy(s).into_owned();
            let list: Vec<String> = tensor.string_data.iter().map(text).collect();
            texts.add(tensor.name.as_deref().unwrap_or_default(), list);
            let numbers: Vec<u8> = (0..got as i64).flat_map(i64::to_le_bytes).collect();
            tensor.string_data.clear();
            tensor.data_type = Some(INT64 as i32);
            tensor.raw_data = Some(Bytes::from(numbers));
        }
        for node in graph.node.iter_mut().filter(|n| n.op_domain() == "ai.onnx.ml") {
            for attribute in &mut node.attribute {
                let string = attribute.t.as_ref().is_some_and(|t| t.data_type == Some(STRING as i32));
                if let Some(tensor) = attribute.t.take_if(|_| string) {
                    let name = attribute.name.take().unwrap_or_default();
                    attribute.name = Some(name.replace("_tensor", "_strings"));
                    attribute.s = tensor.string_data.first().cloned();
                    attribute.strings = tensor.string_data;
                }
            }
        }
        texts
    }

    pub fn add(&mut self, value: &str, strings: impl Into<Arc<[String]>>) {
        self.of.insert(value.to_owned(), strings.into());
    }

    pub fn get(&self, value: &str) -> Option<Arc<[String]>> {
        self.of.get(value).cloned()
    }

    /// Whether a node reads numbers of strings.
    pub fn reads(&self, node: &NodeProto) -> bool {
        !self.of.is_empty() && node.input.iter().any(|name| self.of.contains_key(name))
    }

    /// Rewrites a node of the default domain that reads numbers of strings: those that move them do so with
    /// numbers.
    pub fn pass(&mut self, build: &mut Build<'_>, mut node: NodeProto) -> Result<(), PrepareError> {
        let moves = matches!(
            node.op(),
            "Identity"
                | "Reshape"
                | "Flatten"
                | "Squeeze"
                | "Unsqueeze"
                | "Gather"
                | "Slice"
                | "Transpose"
                | "Expand"
        );
        let cast = node.op() == "Cast" && node.int("to") == Some(STRING);
        let rest_is_numbers = node.input.iter().skip(1).all(|name| !self.of.contains_key(name));
        let Some(strings) = node.input.first().and_then(|name| self.of.get(name)) else {
            return Err(computes(&node));
        };
        if !(moves || cast) || !rest_is_numbers {
            return Err(computes(&node));
        }
        let strings = Arc::clone(strings);
        self.of.insert(only_output(&node)?.to_owned(), strings);
        if cast {
            set_attribute(&mut node, int_attribute("to", INT64));
        }
        build.keep(node);
        Ok(())
    }

    /// Gives outputs that were strings the type of numbers, and adds the strings of each to `labels`.
    ///
    /// # Errors
    /// Labels that are too long to be kept.
    pub fn outputs(
        &self,
        graph: &mut GraphProto,
        labels: &mut BTreeMap<String, Labels>,
    ) -> Result<(), PrepareError> {
        let mut total: u64 = labels.values().map(Labels::bytes).sum();
        for output in &mut graph.output {
            if total > LABELS_MAX {
                break;
            }
            let Some((name, strings)) = output.name.as_ref().and_then(|name| self.of.get_key_value(name))
            else {
                continue;
            };
            if let Some(TypeValue::Tensor(tensor)) = output.r#type.as_mut().and_then(|t| t.value.as_mut()) {
                tensor.elem_type = Some(INT64 as i32);
            }
            let strings = Labels::Strings(strings.to_vec());
            total += strings.bytes();
            labels.insert(name.clone(), strings);
        }
        let (what, got, max) = ("bytes of class labels", total, LABELS_MAX);
        if got > max { Err(PrepareError::TooMany { what, got, max }) } else { Ok(()) }
    }
}

/// The refusal of a node that computes with strings.
pub fn computes(node: &NodeProto) -> PrepareError {
    refusal(node, "it computes with strings, which the engine does not have")
}

/// A ZipMap, whose output becomes the tensor of probabilities.
pub fn zip_map(
    build: &mut Build<'_>,
    graph: &mut GraphProto,
    zipped: &mut BTreeMap<String, Labels>,
    node: &NodeProto,
) -> Result<(), PrepareError> {
    let (input, name) = (super::attributes::input(node, 0)?, only_output(node)?);
    let (numbers, texts) = (ints(node, "classlabels_int64s"), strings(node, "classlabels_strings"));
    let labels = match (numbers.is_empty(), texts.is_empty()) {
        (false, true) => Labels::Ints(numbers.to_vec()),
        (true, false) => Labels::Strings(texts),
        _ => return Err(refusal(node, "it must have either integer or string class labels")),
    };
    let (got, max) = (graph.output.len() as u64, build.limits().ports_max);
    if got > max {
        return Err(PrepareError::TooMany { what: "inputs or outputs", got, max });
    }
    let Some(output) = graph.output.iter_mut().find(|o| o.name.as_deref() == Some(name)) else {
        return Err(refusal(node, "its output is not one of the model's"));
    };
    let classes = match &labels {
        Labels::Ints(list) => list.len(),
        Labels::Strings(list) => list.len(),
    };
    let dim = |value| Dimension { value, ..Dimension::default() };
    let shape = TensorShapeProto { dim: vec![dim(None), dim(Some(DimensionValue::Value(classes as i64)))] };
    let tensor = TypeTensor { elem_type: Some(1), shape: Some(shape) };
    output.r#type = Some(TypeProto { value: Some(TypeValue::Tensor(tensor)), denotation: None });
    zipped.insert(name.to_owned(), labels);
    build.put(node, "Identity", &[input], name, vec![])
}
