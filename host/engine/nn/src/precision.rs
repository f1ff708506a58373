//! Where a model computes with numbers that the engine does not have: it keeps integers of 64 bits in 32,
//! and doubles as floats.
//!
//! As indices, shapes and token ids 32 bits are enough: an input beyond them is refused at run. Sums and
//! products of integers that do
//! not fit fail at run, too; casts from floats and constants do not. So this finds what may silently be
//! another number, and integers
//! that the model gives as an answer after it computed them. For doubles: everything but constants that
//! become floats.

mod bounds;

use crate::PrepareError;
use crate::facts::{Fact, Facts};
use crate::onnx::*;
use crate::table::{self, Place};
use bounds::{Bounds, of_node};
use std::collections::{BTreeSet, HashMap};

/// Most places that are named.
const NAMED_MAX: usize = 3;

/// How a value may differ from what ONNX says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Doubt {
    /// A run in which it would differ fails.
    Fails(String),
    /// Nothing tells that it differs.
    Silent(String),
}

/// What is known of a value of whole numbers, or of a double.
#[derive(Debug, Clone, Default)]
struct Value {
    /// `None`: any number of 64 bits.
    bounds: Option<Bounds>,
    /// It comes from shapes and constants alone.
    of_shapes: bool,
    doubt: Option<Doubt>,
    /// Of a double: it was rounded to a float before, or is a constant.
    rounded_once: bool,
}

/// The places of a model where the engine's numbers are narrower than the model's, for people; empty where
/// none are.
///
/// # Errors
/// What the table of operators refuses.
pub fn of(graph: &GraphProto, opset: i64) -> Result<Vec<String>, PrepareError> {
    let mut pass = Pass { opset, found: BTreeSet::new() };
    pass.graph(graph, &Facts::default(), &HashMap::new(), true)?;
    let more = pass.found.len().saturating_sub(NAMED_MAX);
    let mut named: Vec<String> = pass.found.into_iter().take(NAMED_MAX).collect();
    if more > 0 {
        named.push(format!("{more} more"));
    }
    Ok(named)
}

struct Pass {
    opset: i64,
    found: BTreeSet<String>,
}

type Values = HashMap<String, Value>;

impl Pass {
    /// Gives what is known of the graph's outputs.
    fn graph(
        &mut self,
        graph: &GraphProto,
        outer: &Facts,
        around: &Values,
        outermost: bool,
    ) -> Result<(Vec<Value>, Vec<Fact>), PrepareError> {
        let mut facts = outer.enter(graph);
        let mut values = around.clone();
        for input in &graph.input {
            let name = input.name.clone().unwrap_or_default();
            if facts.get(&name).is_some_and(|f| f.element == Some(Element::Double)) {
                self.found.insert(format!("input {name:?} is in double precision"));
            }
            let bounds = facts.get(&name).and_then(|f| Bounds::of_element(f.element));
            // 64 bits are checked at run.
            let bounds = bounds.map(Bounds::within_32);
            values.insert(name, Value { bounds, ..Value::default() });
        }
        for tensor in &graph.initializer {
            values.insert(tensor.name.clone().unwrap_or_default(), constant(tensor));
        }
        for node in &graph.node {
            let place = Place { node, label: node.label().to_owned() };
            let elements = table::check(&place, self.opset, &facts)?;
            let (mut branches, mut known) = (Vec::new(), Vec::new());
            for inner in node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)) {
                let (values, facts) = self.graph(inner, &facts, &values, false)?;
                branches.push(values);
                known.push(facts);
            }
            facts.add(node, &elements, &known);
            self.node(node, &facts, &mut values, &branches);
        }
        let mut outputs = Vec::new();
        for output in &graph.output {
            let name = output.name.as_deref().unwrap_or_default();
            let value = values.get(name).cloned().unwrap_or_default();
            let element = facts.get(name).and_then(|f| f.element);
            if outermost {
                match (&value.doubt, element) {
                    (_, Some(Element::Double)) => {
                        self.found.insert(format!("output {name:?} is in double precision"));
                    }
                    (Some(Doubt::Fails(place) | Doubt::Silent(place)), Some(Element::Int64)) => {
                        self.integers(place)
                    }
                    _ => {}
                }
            }
            outputs.push(value);
        }
        Ok((outputs, facts.outputs(graph)))
    }

    fn integers(&mut self, place: &str) {
        self.found.insert(format!("{place} computes integers that may exceed 32 bits"));
    }

    fn node(&mut self, node: &NodeProto, facts: &Facts, values: &mut Values, branches: &[Vec<Value>]) {
        let place = format!("{} (node {:?})", node.op(), node.label());
        let is_double = |name: &String| facts.get(name).is_some_and(|f| f.element == Some(Element::Double));
        let doubles = node.input.iter().any(is_double) || node.output.iter().any(is_double);
        if doubles && !self.is_exact_double(node, facts, values) {
            self.found.insert(format!("{place} computes in double precision"));
        }
        let inputs: Vec<Option<&Value>> = node.input.iter().map(|name| values.get(name)).collect();
        let silent =
            inputs.iter().enumerate().find_map(|(i, value)| match value.and_then(|v| v.doubt.as_ref()) {
                Some(Doubt::Silent(place)) if !steers(node, i) && !passes_on(node) => Some(place.clone()),
                _ => None,
            });
        let mut given = Vec::new();
        for (i, name) in node.output.iter().enumerate() {
            let mut value = match branches {
                [] => self.value(node, i, &place, facts, &inputs, name),
                // The first output of a loop's body says whether it goes on.
                _ => join(branches.iter().map(|outputs| outputs.get(i + usize::from(node.is("Loop"))))),
            };
            let element = facts.get(name).and_then(|f| f.element);
            value.rounded_once =
                node.is("Constant") || node.is("Cast") || inputs.iter().flatten().all(|v| v.rounded_once);
            if !matches!(element, Some(Element::Int64 | Element::Int32)) {
                value.doubt = None;
            }
            given.push((name.clone(), value));
        }
        if let Some(place) = silent {
            self.integers(&place);
        }
        values.extend(given);
    }

    /// Doubles that lose nothing: constants, and floats in between, that become floats again.
    fn is_exact_double(&self, node: &NodeProto, facts: &Facts, values: &Values) -> bool {
        let element = |name: &String| facts.get(name).and_then(|f| f.element);
        let from = node.input.first().and_then(element);
        let to = node.output.first().and_then(element);
        match node.op() {
            "Constant" | "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" => true,
            "Cast" if from == Some(Element::Double) => {
                to == Some(Element::Float) && values.get(&node.input[0]).is_some_and(|v| v.rounded_once)
            }
            "Cast" => from == Some(Element::Float),
            _ => false,
        }
    }

    fn value(
        &self,
        node: &NodeProto,
        output: usize,
        place: &str,
        facts: &Facts,
        inputs: &[Option<&Value>],
        name: &str,
    ) -> Value {
        let element = facts.get(name).and_then(|f| f.element);
        if let (true, Some(tensor)) =
            (node.is("Constant"), node.attribute("value").and_then(|a| a.t.as_ref()))
        {
            return constant(tensor);
        }
        if let Some(ints) = facts.get(name).and_then(|f| f.ints.as_ref()) {
            return Value { bounds: Bounds::of_all(ints), of_shapes: true, ..Value::default() }
                .in_doubt(place, true);
        }
        let bounds = of_node(node, output, facts, inputs, element);
        let known = |v: &&Value| v.of_shapes;
        let data = inputs.iter().enumerate().filter(|(i, _)| !steers(node, *i)).filter_map(|(_, v)| *v);
        let of_shapes = matches!(node.op(), "Shape" | "Size")
            || (!node.input.is_empty() && data.clone().all(|v| known(&v)));
        let inherited =
            data.clone().map(|v| v.doubt.clone()).fold(None, graver).filter(|_| !is_comparison(node));
        let mut value = Value { bounds, of_shapes, ..Value::default() };
        if element == Some(Element::Int64) {
            value = value.in_doubt(place, casts_floats(node, facts));
        }
        if inherited.is_some() && !value.bounds.is_some_and(Bounds::fits_32) {
            value.doubt = inherited;
        }
        value
    }
}

impl Value {
    /// Marks it where its numbers may exceed 32 bits.
    fn in_doubt(mut self, place: &str, silent: bool) -> Self {
        let fits = self.bounds.is_some_and(Bounds::fits_32);
        if !fits && (silent || !self.of_shapes) {
            let place = place.to_owned();
            self.doubt = Some(if silent { Doubt::Silent(place) } else { Doubt::Fails(place) });
        }
        self
    }
}

fn constant(tensor: &TensorProto) -> Value {
    let element = tensor.data_type.and_then(Element::from_number);
    let bounds = match element {
        Some(Element::Int64 | Element::Int32 | Element::Uint8 | Element::Int8 | Element::Bool) => {
            element.and_then(|element| Bounds::of_all(&crate::facts::ints(tensor, element)))
        }
        _ => None,
    };
    let value = Value { bounds, of_shapes: true, rounded_once: true, ..Value::default() };
    match element {
        Some(Element::Int64) => value.in_doubt(&format!("constant {:?}", tensor.label()), true),
        _ => value,
    }
}

fn join<'v>(of: impl Iterator<Item = Option<&'v Value>>) -> Value {
    let mut joined: Option<Value> = None;
    for value in of {
        let value = value.cloned().unwrap_or_default();
        joined = Some(match joined {
            None => value,
            Some(before) => Value {
                bounds: before.bounds.zip(value.bounds).map(|(a, b)| a.or(b)),
                of_shapes: before.of_shapes && value.of_shapes,
                doubt: graver(before.doubt, value.doubt),
                rounded_once: before.rounded_once && value.rounded_once,
            },
        });
    }
    joined.unwrap_or_default()
}

/// What nothing tells of counts more than what fails.
fn graver(one: Option<Doubt>, other: Option<Doubt>) -> Option<Doubt> {
    match (one, other) {
        (Some(silent @ Doubt::Silent(_)), _) | (_, Some(silent @ Doubt::Silent(_))) => Some(silent),
        (one, other) => one.or(other),
    }
}

fn casts_floats(node: &NodeProto, facts: &Facts) -> bool {
    let from = facts.input(node, 0).and_then(|f| f.element);
    matches!(node.op(), "Cast" | "CastLike")
        && matches!(from, Some(Element::Float | Element::Float16 | Element::Double))
}

fn is_comparison(node: &NodeProto) -> bool {
    matches!(node.op(), "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual")
}

/// Whether a node gives its input's numbers as they are, or computes with them in a way whose bounds are
/// known.
fn passes_on(node: &NodeProto) -> bool {
    !is_comparison(node)
        && !matches!(
            node.op(),
            "Cast" | "CastLike" | "Sign" | "ArgMax" | "ArgMin" | "TopK" | "NonZero" | "Mod" | "Div"
        )
}

/// Whether an input says where or how many, and its numbers do not become those of the output.
fn steers(node: &NodeProto, input: usize) -> bool {
    match node.op() {
        "Reshape" | "Expand" | "Gather" | "GatherND" | "GatherElements" | "Tile" | "Squeeze"
        | "Unsqueeze" | "Split" | "TopK" | "ReverseSequence" | "CumSum" | "Trilu" | "SequenceAt" | "DFT"
        | "Scatter" | "ScatterElements" | "ScatterND" | "Resize" => {
            input >= 1 && !(input == 2 && node.op().starts_with("Scatter"))
        }
        "Slice" => input >= 1,
        "Pad" => input == 1 || input == 3,
        "OneHot" => input <= 1,
        "ConstantOfShape" | "EyeLike" | "Shape" | "Size" | "NonZero" => true,
        "Where" => input == 0,
        "STFT" => input == 1 || input == 3,
        "RotaryEmbedding" => input == 3,
        op => op.starts_with("Reduce") && input == 1,
    }
}
