//! A graph that is written anew: nodes, and constants beside them, each counted against the limits.

use super::attributes::refusal;
use super::known::{Known, RANK_MAX, Seen};
use crate::edit::{Editor, int_attribute, ints_attribute};
use crate::onnx::*;
use crate::{ModelLimits, PrepareError};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};

/// Numbers of element types.
pub const FLOAT: i64 = 1;
pub const UINT8: i64 = 2;
pub const INT8: i64 = 3;
pub const INT32: i64 = 6;
pub const INT64: i64 = 7;
pub const STRING: i64 = 8;

/// The nodes and weights of a graph that replace those of a model, and what is known of its values.
pub struct Build<'l> {
    editor: Editor,
    /// The model's weights, and those that were made.
    given: Vec<TensorProto>,
    made: Vec<TensorProto>,
    places: HashMap<String, Place>,
    known: HashMap<String, Known>,
    /// Integers that were computed as floats, and the floats.
    integral: HashMap<String, String>,
    limits: &'l ModelLimits,
    opset: i64,
    /// Nodes and bytes that may still be made, in this graph and those after it.
    pub left: Left,
}

/// Where a constant is.
enum Place {
    Given(usize),
    Made(usize),
    Node(Box<TensorProto>),
}

/// Elements of the tensor of a Constant node, at most, that are looked at.
const CONSTANT_MAX: usize = 1 << 16;

/// What may still be made of a model.
#[derive(Debug, Clone, Copy)]
pub struct Left {
    pub nodes: u64,
    pub bytes: u64,
    /// Elements of weights that may still be looked at.
    pub reads: u64,
}

impl Left {
    /// What limits leave to a model that has some nodes.
    pub fn of(limits: &ModelLimits, nodes: u64) -> Self {
        let bytes = limits.weights_bytes_max;
        Self { nodes: limits.nodes_max.saturating_sub(nodes), bytes, reads: bytes }
    }
}

impl<'l> Build<'l> {
    /// Takes the weights of a graph, whose nodes have been taken, out of it; [`Build::finish`] puts all back.
    pub fn new(
        graph: &mut GraphProto,
        nodes: &[NodeProto],
        opset: i64,
        limits: &'l ModelLimits,
        left: Left,
    ) -> Self {
        let editor = Editor::of(graph, nodes);
        let mut known = HashMap::new();
        for value in graph.input.iter().chain(&graph.output).chain(&graph.value_info) {
            if let Some(name) = &value.name {
                known.insert(name.clone(), Known::stated(value));
            }
        }
        let mut places = HashMap::new();
        let given = std::mem::take(&mut graph.initializer);
        for (index, tensor) in given.iter().enumerate() {
            let name = tensor.name.clone().unwrap_or_default();
            known.insert(name.clone(), Known::of(tensor));
            places.insert(name, Place::Given(index));
        }
        for node in nodes.iter().filter(|n| n.is("Constant")) {
            let tensor = node.attribute("value").and_then(|a| a.t.as_ref());
            let Some((name, tensor)) = node.output.first().zip(tensor) else { continue };
            known.insert(name.clone(), Known::of(tensor));
            // A copy shares raw bytes; it is made of small ones of the other kind alone.
            if tensor.raw_data.is_some() || prost::Message::encoded_len(tensor) <= CONSTANT_MAX {
                places.insert(name.clone(), Place::Node(Box::new(tensor.clone())));
            }
        }
        Self { editor, given, made: Vec::new(), places, known, integral: HashMap::new(), limits, opset, left }
    }

    pub fn finish(self, graph: &mut GraphProto) -> Left {
        graph.node = self.editor.nodes;
        graph.initializer = self.given;
        if !self.made.is_empty() {
            // Weights whose only readers were replaced.
            let mut used = HashSet::new();
            add_used(graph, &mut used);
            let is_used = |tensor: &TensorProto| tensor.name.as_ref().is_none_or(|name| used.contains(name));
            let keep: Vec<bool> = graph.initializer.iter().map(is_used).collect();
            let mut keep = keep.into_iter();
            graph.initializer.retain(|_| keep.next().unwrap_or(true));
        }
        graph.initializer.extend(self.made);
        self.left
    }

    pub fn limits(&self) -> &ModelLimits {
        self.limits
    }

    /// The version of the default operator set.
    pub fn opset(&self) -> i64 {
        self.opset
    }

    /// A node as it is.
    pub fn keep(&mut self, node: NodeProto) {
        if let Some(output) = node.output.first().filter(|_| node.op_domain().is_empty()) {
            let inputs: Vec<&str> = node.input.iter().map(String::as_str).collect();
            self.infer(node.op(), &inputs, output, &node.attribute);
        }
        self.editor.nodes.push(node);
    }

    fn infer(&mut self, op: &str, inputs: &[&str], output: &str, attributes: &[AttributeProto]) {
        let second = inputs.get(1).and_then(|name| self.constant(name));
        let inputs = inputs.iter().map(|name| self.known(name)).collect();
        let known = Seen { op, inputs, second, attributes }.output();
        let stated = self.known.entry(output.to_owned()).or_default();
        stated.element = stated.element.or(known.element);
        stated.shape = stated.shape.take().or(known.shape.filter(|shape| shape.len() <= RANK_MAX));
    }

    /// What is known of a value.
    pub fn known(&self, name: &str) -> Known {
        self.known.get(name).cloned().unwrap_or_default()
    }

    /// States the element type and rank of a value, where the model did not.
    pub fn state(&mut self, name: &str, element: i64, rank: usize) {
        let known = Known { element: Some(element), shape: Some(vec![None; rank]) };
        let stated = self.known.entry(name.to_owned()).or_insert_with(|| known.clone());
        stated.element = stated.element.or(known.element);
        stated.shape = stated.shape.take().or(known.shape);
    }

    /// States the element type of a value, where the model did not.
    pub fn state_element(&mut self, name: &str, element: i64) {
        self.known.entry(name.to_owned()).or_default().element.get_or_insert(element);
    }

    /// Counts the constants among a node's inputs as looked at.
    ///
    /// # Errors
    /// Where many nodes read large weights, so that looking at them takes too long.
    pub fn count_reads(&mut self, node: &NodeProto) -> Result<(), PrepareError> {
        let count = |name: &String| self.known(name).shape.filter(|_| self.places.contains_key(name));
        let elements =
            |shape: Vec<Option<u64>>| shape.into_iter().fold(1u64, |n, d| n.saturating_mul(d.unwrap_or(1)));
        let total = node.input.iter().filter_map(count).map(elements).fold(0u64, u64::saturating_add);
        let Some(left) = self.left.reads.checked_sub(total) else {
            let max = self.limits.weights_bytes_max;
            return Err(PrepareError::TooMany {
                what: "elements of weights that nodes share",
                got: max + 1,
                max,
            });
        };
        self.left.reads = left;
        Ok(())
    }

    /// The tensor behind a name, where it is constant.
    pub fn constant(&self, name: &str) -> Option<&TensorProto> {
        Some(match self.places.get(name)? {
            Place::Given(index) => self.given.get(*index)?,
            Place::Made(index) => self.made.get(*index)?,
            Place::Node(tensor) => tensor,
        })
    }

    /// Adds a node whose output gets a name of its own, which is returned.
    pub fn op(
        &mut self,
        of: &NodeProto,
        op: &str,
        input: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> Result<String, PrepareError> {
        let base = of.output.iter().find(|o| !o.is_empty()).map_or("value", String::as_str).to_owned();
        let output = self.editor.fresh(&base, op);
        self.put(of, op, input, &output, attributes)?;
        Ok(output)
    }

    /// Adds a node with a given output.
    pub fn put(
        &mut self,
        of: &NodeProto,
        op: &str,
        input: &[&str],
        output: &str,
        attributes: Vec<AttributeProto>,
    ) -> Result<(), PrepareError> {
        self.put_all(of, op, input, &[output], attributes)
    }

    /// Adds a node with several given outputs.
    pub fn put_all(
        &mut self,
        of: &NodeProto,
        op: &str,
        input: &[&str],
        output: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> Result<(), PrepareError> {
        let Some(left) = self.left.nodes.checked_sub(1) else {
            let max = self.limits.nodes_max;
            return Err(PrepareError::TooMany { what: "operators", got: max + 1, max });
        };
        self.left.nodes = left;
        if let Some(output) = output.first() {
            self.infer(op, input, output, &attributes);
        }
        self.editor.add(of, op, input, output, attributes);
        Ok(())
    }

    /// A name that nothing has.
    pub fn fresh(&mut self, base: &str, part: &str) -> String {
        self.editor.fresh(base, part)
    }

    /// A constant of floats; returns its name.
    pub fn floats(&mut self, of: &NodeProto, dims: &[i64], values: &[f32]) -> Result<String, PrepareError> {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        self.tensor(of, FLOAT, dims, bytes)
    }

    /// A constant of 64-bit integers; returns its name.
    ///
    /// # Errors
    /// One that the engine does not hold in its 32 bits.
    pub fn ints(&mut self, of: &NodeProto, dims: &[i64], values: &[i64]) -> Result<String, PrepareError> {
        if let Some(value) = values.iter().find(|v| i32::try_from(**v).is_err()) {
            return Err(refusal(of, &format!("{value} is more than the engine's 32-bit integers hold")));
        }
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        self.tensor(of, INT64, dims, bytes)
    }

    /// A constant of 32-bit integers; returns its name.
    pub fn ints32(&mut self, of: &NodeProto, dims: &[i64], values: &[i32]) -> Result<String, PrepareError> {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        self.tensor(of, INT32, dims, bytes)
    }

    /// A constant of bytes of any element type; returns its name.
    pub fn tensor(
        &mut self,
        of: &NodeProto,
        element: i64,
        dims: &[i64],
        bytes: Vec<u8>,
    ) -> Result<String, PrepareError> {
        let Some(left) = self.left.bytes.checked_sub(bytes.len() as u64) else {
            let max = self.limits.weights_bytes_max;
            return Err(PrepareError::TooMany { what: "bytes of weights", got: max + 1, max });
        };
        self.left.bytes = left;
        let base = of.output.iter().find(|o| !o.is_empty()).map_or("value", String::as_str).to_owned();
        let name = self.editor.fresh(&base, "constant");
        let tensor = TensorProto {
            name: Some(name.clone()),
            dims: dims.to_vec(),
            data_type: Some(element as i32),
            raw_data: Some(Bytes::from(bytes)),
            ..TensorProto::default()
        };
        self.known.insert(name.clone(), Known::of(&tensor));
        self.places.insert(name.clone(), Place::Made(self.made.len()));
        self.made.push(tensor);
        Ok(name)
    }

    /// A constant of floats in the place of a value that was computed.
    pub fn constant_as(
        &mut self,
        of: &NodeProto,
        dims: &[i64],
        values: &[f32],
        name: &str,
    ) -> Result<(), PrepareError> {
        let made = self.floats(of, dims, values)?;
        if let Some(tensor) = self.made.last_mut() {
            tensor.name = Some(name.to_owned());
        }
        let place = self.places.remove(&made);
        self.places.extend(place.map(|place| (name.to_owned(), place)));
        let known = self.known.remove(&made).unwrap_or_default();
        self.known.insert(name.to_owned(), known);
        Ok(())
    }

    /// The value as floats: itself where it is known to be, else cast.
    pub fn as_float(&mut self, of: &NodeProto, value: &str) -> Result<String, PrepareError> {
        if self.known(value).element == Some(FLOAT) {
            return Ok(value.to_owned());
        }
        self.op(of, "Cast", &[value], vec![int_attribute("to", FLOAT)])
    }

    /// Makes the output of a node that is 32-bit integers of floats that are integers; readers that want
    /// floats get these.
    pub fn put_integral(&mut self, of: &NodeProto, floats: &str, output: &str) -> Result<(), PrepareError> {
        self.put(of, "Cast", &[floats], output, vec![int_attribute("to", INT32)])?;
        self.integral.insert(output.to_owned(), floats.to_owned());
        Ok(())
    }

    /// The floats behind a value that is 32-bit integers.
    pub fn integral(&self, value: &str) -> Option<&str> {
        self.integral.get(value).map(String::as_str)
    }

    /// Casts to an element type.
    pub fn cast(&mut self, of: &NodeProto, value: &str, element: i64) -> Result<String, PrepareError> {
        if element == FLOAT
            && let Some(floats) = self.integral(value)
        {
            return Ok(floats.to_owned());
        }
        self.op(of, "Cast", &[value], vec![int_attribute("to", element)])
    }

    /// Sums over an axis.
    pub fn sum(
        &mut self,
        of: &NodeProto,
        value: &str,
        axis: i64,
        keep: bool,
    ) -> Result<String, PrepareError> {
        self.reduce(of, "ReduceSum", value, &[axis], keep)
    }

    /// Reduces over axes.
    pub fn reduce(
        &mut self,
        of: &NodeProto,
        op: &str,
        value: &str,
        axes: &[i64],
        keep: bool,
    ) -> Result<String, PrepareError> {
        let keep = int_attribute("keepdims", keep.into());
        if self.opset < if op == "ReduceSum" { 13 } else { 18 } {
            return self.op(of, op, &[value], vec![ints_attribute("axes", axes.to_vec()), keep]);
        }
        let axes = self.ints(of, &[axes.len() as i64], axes)?;
        self.op(of, op, &[value, &axes], vec![keep])
    }

    /// Adds dimensions of one.
    pub fn unsqueeze(&mut self, of: &NodeProto, value: &str, axes: &[i64]) -> Result<String, PrepareError> {
        if self.opset < 13 {
            return self.op(of, "Unsqueeze", &[value], vec![ints_attribute("axes", axes.to_vec())]);
        }
        let axes = self.ints(of, &[axes.len() as i64], axes)?;
        self.op(of, "Unsqueeze", &[value, &axes], vec![])
    }

    /// Another shape, constant.
    pub fn reshape(&mut self, of: &NodeProto, value: &str, shape: &[i64]) -> Result<String, PrepareError> {
        let shape = self.ints(of, &[shape.len() as i64], shape)?;
        self.op(of, "Reshape", &[value, &shape], vec![])
    }
}

/// Names of values that nodes read, those of graphs within included, or that are outputs.
fn add_used(graph: &GraphProto, used: &mut HashSet<String>) {
    used.extend(graph.output.iter().filter_map(|output| output.name.clone()));
    for node in &graph.node {
        used.extend(node.input.iter().cloned());
        for inner in node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)) {
            add_used(inner, used);
        }
    }
}
