//! Facts about the values of a graph that are known without running it: element types, shapes as far as
//! they are known, and small
//! constants. [`crate::table`] and [`crate::quirks`] judge nodes by them.

use crate::onnx::*;
use crate::shapes;
use std::collections::HashMap;

/// Longest list of numbers that is kept of a constant.
const CONSTANT_MAX: usize = 64;

/// A dimension, where it is known.
pub type Dim = Option<u64>;
/// Dimensions, where their number is known.
pub type Dims = Option<Vec<Dim>>;

/// What is known of a value.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fact {
    /// Element type; of a sequence, that of its tensors.
    pub element: Option<Element>,
    pub sequence: bool,
    pub dims: Dims,
    /// All elements of a small constant of whole numbers or booleans.
    pub ints: Option<Vec<i64>>,
    /// All elements of a small constant of floats.
    pub floats: Option<Vec<f32>>,
    /// Whether it is a constant of any size.
    pub constant: bool,
}

impl Fact {
    pub fn of(element: Element, dims: Dims) -> Self {
        Self { element: Some(element), dims, ..Self::default() }
    }

    pub fn rank(&self) -> Option<usize> {
        self.dims.as_ref().map(Vec::len)
    }

    pub fn of_tensor(tensor: &TensorProto) -> Self {
        let element = tensor.data_type.and_then(Element::from_number);
        let dims: Vec<Dim> = tensor.dims.iter().map(|d| u64::try_from(*d).ok()).collect();
        let count = dims.iter().try_fold(1u64, |n, d| n.checked_mul((*d)?));
        let mut fact = Self { element, dims: Some(dims), constant: true, ..Self::default() };
        if count.is_some_and(|n| n <= CONSTANT_MAX as u64) {
            match element {
                Some(Element::Float) => fact.floats = Some(floats(tensor)),
                Some(Element::Float16 | Element::Double) | None => {}
                Some(element) => fact.ints = Some(ints(tensor, element)),
            }
        }
        fact
    }

    /// What a graph states of a port or of a value.
    pub fn stated(value: &ValueInfoProto) -> Self {
        let mut sequence = false;
        let mut ty = value.r#type.as_ref().and_then(|t| t.value.as_ref());
        if let Some(TypeValue::Sequence(inner)) = ty {
            sequence = true;
            ty = inner.elem_type.as_ref().and_then(|t| t.value.as_ref());
        }
        let Some(TypeValue::Tensor(tensor)) = ty else { return Self { sequence, ..Self::default() } };
        let dim = |d: &Dimension| match d.value {
            Some(DimensionValue::Value(v)) if v > 0 => u64::try_from(v).ok(),
            _ => None,
        };
        let dims = tensor.shape.as_ref().map(|s| s.dim.iter().map(dim).collect());
        let element = tensor.elem_type.and_then(Element::from_number);
        Self { element, sequence, dims: dims.filter(|_| !sequence), ..Self::default() }
    }
}

/// Whole numbers of a tensor that was checked.
pub fn ints(tensor: &TensorProto, element: Element) -> Vec<i64> {
    match (&tensor.raw_data, element) {
        (Some(raw), Element::Int64) => {
            raw.as_chunks::<8>().0.iter().map(|c| i64::from_le_bytes(*c)).collect()
        }
        (Some(raw), Element::Int32) => {
            raw.as_chunks::<4>().0.iter().map(|c| i32::from_le_bytes(*c).into()).collect()
        }
        (Some(raw), Element::Int8) => raw.iter().map(|b| i64::from(*b as i8)).collect(),
        (Some(raw), _) => raw.iter().map(|b| i64::from(*b)).collect(),
        (None, Element::Int64) => tensor.int64_data.clone(),
        (None, _) => tensor.int32_data.iter().map(|v| i64::from(*v)).collect(),
    }
}

fn floats(tensor: &TensorProto) -> Vec<f32> {
    match &tensor.raw_data {
        Some(raw) => raw.as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect(),
        None => tensor.float_data.clone(),
    }
}

/// The tensor of a `Constant` node, or a fact of its other forms.
fn constant(node: &NodeProto) -> Fact {
    if let Some(tensor) = node.attribute("value").and_then(|a| a.t.as_ref()) {
        return Fact::of_tensor(tensor);
    }
    let mut fact = Fact { constant: true, ..Fact::default() };
    for attribute in &node.attribute {
        match attribute.name.as_deref() {
            Some("value_int") => {
                fact = Fact { ints: attribute.i.map(|i| vec![i]), ..Fact::of(Element::Int64, Some(vec![])) };
            }
            Some("value_ints") => {
                let dims = Some(vec![Some(attribute.ints.len() as u64)]);
                fact = Fact { ints: Some(attribute.ints.clone()), ..Fact::of(Element::Int64, dims) };
            }
            Some("value_float") => {
                fact =
                    Fact { floats: attribute.f.map(|f| vec![f]), ..Fact::of(Element::Float, Some(vec![])) };
            }
            Some("value_floats") => {
                let dims = Some(vec![Some(attribute.floats.len() as u64)]);
                fact = Fact { floats: Some(attribute.floats.clone()), ..Fact::of(Element::Float, dims) };
            }
            _ => {}
        }
    }
    Fact { constant: true, ..fact }
}

/// The values that a node may read, and what is known of them.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    known: HashMap<String, Fact>,
    /// What the graph states; believed where nothing else is known.
    stated: HashMap<String, Fact>,
}

impl Facts {
    /// Adds a graph's inputs and weights to those around it.
    pub fn enter(&self, graph: &GraphProto) -> Self {
        let mut facts = self.clone();
        for value in &graph.input {
            facts.known.insert(value.name.clone().unwrap_or_default(), Fact::stated(value));
        }
        for tensor in &graph.initializer {
            facts.known.insert(tensor.name.clone().unwrap_or_default(), Fact::of_tensor(tensor));
        }
        for value in graph.value_info.iter().chain(&graph.output) {
            facts.stated.insert(value.name.clone().unwrap_or_default(), Fact::stated(value));
        }
        facts
    }

    /// Adds a value that the graph did not have.
    pub fn set(&mut self, name: String, fact: Fact) {
        self.known.insert(name, fact);
    }

    pub fn get(&self, name: &str) -> Option<&Fact> {
        self.known.get(name)
    }

    /// The fact of a node's input, where it is given.
    pub fn input(&self, node: &NodeProto, index: usize) -> Option<&Fact> {
        node.input.get(index).filter(|name| !name.is_empty()).and_then(|name| self.get(name))
    }

    pub fn rank(&self, node: &NodeProto, index: usize) -> Option<usize> {
        self.input(node, index)?.rank()
    }

    /// Numbers of a small constant of whole numbers.
    pub fn ints(&self, node: &NodeProto, index: usize) -> Option<&[i64]> {
        self.input(node, index)?.ints.as_deref()
    }

    /// Adds the outputs of a node whose element types are `elements`, where they are known; `branches` are
    /// the outputs of the
    /// graphs in it.
    pub fn add(&mut self, node: &NodeProto, elements: &[Option<Element>], branches: &[Vec<Fact>]) {
        let sequence =
            matches!(node.op(), "SequenceConstruct" | "SplitToSequence" | "SequenceInsert" | "SequenceEmpty");
        let dims = shapes::of(node, self);
        for (i, name) in node.output.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            let mut fact = match (node.op(), i) {
                ("Constant", 0) => constant(node),
                ("Identity", 0) => self.input(node, 0).cloned().unwrap_or_default(),
                ("Shape", 0) => Fact { ints: shapes::known_shape(node, self), ..Fact::default() },
                ("Unsqueeze" | "Squeeze" | "Reshape", 0) => Fact {
                    ints: self.input(node, 0).and_then(|f| f.ints.clone()),
                    floats: self.input(node, 0).and_then(|f| f.floats.clone()),
                    constant: self.input(node, 0).is_some_and(|f| f.constant),
                    ..Fact::default()
                },
                ("Concat", 0) => Fact { ints: self.joined(node), ..Fact::default() },
                _ => Fact { sequence, ..Fact::default() },
            };
            fact.element = elements.get(i).copied().flatten().or(fact.element);
            fact.dims = dims.get(i).cloned().flatten().or(fact.dims);
            if let Some(stated) = self.stated.get(name) {
                fact.element = fact.element.or(stated.element);
                fact.dims = fact.dims.or_else(|| stated.dims.clone());
            }
            self.known.insert(name.clone(), fact);
        }
        if node.is("If") {
            self.add_either(node, branches);
        }
    }

    /// What is known of the outputs of a graph.
    pub fn outputs(&self, graph: &GraphProto) -> Vec<Fact> {
        let known = |output: &ValueInfoProto| self.get(output.name.as_deref().unwrap_or_default()).cloned();
        graph.output.iter().map(|output| known(output).unwrap_or_default()).collect()
    }

    /// Adds the outputs of a choice between graphs, whose outputs are these.
    fn add_either(&mut self, node: &NodeProto, branches: &[Vec<Fact>]) {
        let [then, or] = branches else { return };
        for ((name, a), b) in node.output.iter().zip(then).zip(or) {
            if a.element != b.element || a.sequence != b.sequence {
                continue;
            }
            let same = |(a, b): (&Dim, &Dim)| if a == b { *a } else { None };
            let dims = match (&a.dims, &b.dims) {
                (Some(a), Some(b)) if a.len() == b.len() => Some(a.iter().zip(b).map(same).collect()),
                _ => None,
            };
            let fact = Fact { element: a.element, sequence: a.sequence, dims, ..Fact::default() };
            self.known.insert(name.clone(), fact);
        }
    }

    fn joined(&self, node: &NodeProto) -> Option<Vec<i64>> {
        let mut all = Vec::new();
        for i in 0..node.input.len() {
            let fact = self.input(node, i)?;
            if fact.rank() != Some(1) {
                return None;
            }
            all.extend(fact.ints.as_deref()?);
        }
        Some(all).filter(|all| all.len() <= CONSTANT_MAX)
    }
}
