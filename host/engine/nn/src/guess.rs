//! Inputs for the trial run where the manifest has no samples: shapes for dimensions that a model leaves
//! open.

use crate::onnx::*;
use crate::samples::filled;
use crate::{Signature, Tensor};
use std::collections::HashSet;

/// One way to fill what is open.
struct Guess {
    dim: u32,
    /// Only the last dimension gets `dim`; the others are 1.
    only_last: bool,
    /// For inputs without a stated rank.
    unranked: &'static [u32],
    fill: f64,
}

const fn all(dim: u32, unranked: &'static [u32]) -> Guess {
    Guess { dim, only_last: false, unranked, fill: 0.0 }
}

const fn last(dim: u32) -> Guess {
    Guess { dim, only_last: true, unranked: &[1], fill: 0.0 }
}

/// The usual first: a short text, a small and a usual image, a piece of sound. The last is for numbers that
/// may not be 0.
const GUESSES: [Guess; 7] = [
    all(16, &[]),
    all(64, &[1, 16]),
    all(224, &[1, 3, 224, 224]),
    last(64),
    last(512),
    all(1, &[1, 1]),
    Guess { fill: 1.0, ..all(16, &[1]) },
];

/// What a model says of one input beside its signature.
struct Hint {
    /// Whether anything reads it.
    is_used: bool,
    /// Of each dimension, whether it is the batch by its name or its place.
    is_batch: Vec<bool>,
}

/// Makes up inputs.
pub struct Guesses<'s> {
    signature: &'s Signature,
    hints: Vec<Hint>,
}

impl<'s> Guesses<'s> {
    /// `graph` is the one that the signature is of.
    pub fn of(graph: &GraphProto, signature: &'s Signature) -> Self {
        let mut used = HashSet::new();
        add_used(graph, &mut used);
        let dims: Vec<Vec<Option<&str>>> = graph.input.iter().map(dim_names).collect();
        let batches: HashSet<&str> = dims.iter().filter_map(|dims| *dims.first()?).collect();
        let hints = graph.input.iter().zip(dims).map(|(input, dims)| {
            let is_batch =
                |(i, name): (usize, &Option<&str>)| i == 0 || name.is_some_and(|n| batches.contains(n));
            Hint {
                is_used: used.contains(input.name.as_deref().unwrap_or_default()),
                is_batch: dims.iter().enumerate().map(is_batch).collect(),
            }
        });
        Self { signature, hints: hints.collect() }
    }

    /// Inputs to try, one set after another, each no larger than `bytes_max` and no two the same. Inputs in
    /// `given` are as given.
    pub fn each<'g>(
        &'g self,
        given: &'g [Option<Tensor>],
        bytes_max: u64,
    ) -> impl Iterator<Item = Vec<(String, Tensor)>> + 'g {
        let mut tried = Vec::new();
        GUESSES.iter().filter_map(move |guess| {
            let shapes = self.shapes(guess, given);
            let is_new = !tried.contains(&(shapes.clone(), guess.fill.to_bits()));
            let inputs = is_new.then(|| self.inputs(&shapes, guess.fill, given, bytes_max))?;
            tried.push((shapes, guess.fill.to_bits()));
            inputs
        })
    }

    fn shapes(&self, guess: &Guess, given: &[Option<Tensor>]) -> Vec<Vec<u32>> {
        let ports = self.signature.inputs.iter().zip(&self.hints).zip(given);
        let shape = |((port, hint), given): ((&crate::Port, &Hint), &Option<Tensor>)| {
            if let Some(given) = given {
                return given.shape.clone();
            }
            if !port.ranked {
                return if hint.is_used { guess.unranked.to_vec() } else { Vec::new() };
            }
            let rank = port.shape.len();
            let open = |i: usize| {
                let is_one = !hint.is_used || hint.is_batch.get(i) != Some(&false);
                if is_one || (guess.only_last && i + 1 < rank) { 1 } else { guess.dim }
            };
            port.shape.iter().enumerate().map(|(i, dim)| dim.unwrap_or_else(|| open(i))).collect()
        };
        ports.map(shape).collect()
    }

    fn inputs(
        &self,
        shapes: &[Vec<u32>],
        fill: f64,
        given: &[Option<Tensor>],
        bytes_max: u64,
    ) -> Option<Vec<(String, Tensor)>> {
        let mut left = bytes_max;
        let mut inputs = Vec::with_capacity(shapes.len());
        for ((port, shape), given) in self.signature.inputs.iter().zip(shapes).zip(given) {
            let tensor = match given {
                Some(given) => given.clone(),
                None => {
                    left = left.checked_sub(crate::bytes_of(port.ty, shape)?)?;
                    filled(port.ty, shape.clone(), fill).ok()?
                }
            };
            inputs.push((port.name.clone(), tensor));
        }
        Some(inputs)
    }
}

/// Names of values that a node reads, or that are outputs.
pub fn add_used<'g>(graph: &'g GraphProto, used: &mut HashSet<&'g str>) {
    used.extend(graph.output.iter().filter_map(|output| output.name.as_deref()));
    for node in &graph.node {
        used.extend(node.input.iter().map(String::as_str));
        for attribute in &node.attribute {
            for graph in attribute.g.iter().chain(&attribute.graphs) {
                add_used(graph, used);
            }
        }
    }
}

/// Names of the open dimensions of an input.
fn dim_names(input: &ValueInfoProto) -> Vec<Option<&str>> {
    let Some(TypeValue::Tensor(tensor)) = input.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return Vec::new();
    };
    tensor.shape.as_ref().map_or_else(Vec::new, |shape| shape.dim.iter().map(param).collect())
}

fn param(dim: &Dimension) -> Option<&str> {
    match &dim.value {
        Some(DimensionValue::Param(name)) if !name.is_empty() => Some(name),
        _ => None,
    }
}
