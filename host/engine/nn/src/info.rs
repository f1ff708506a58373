//! What is known of a prepared model, and the bounds of what is prepared.

use crate::{Labels, Signature};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Description of a prepared model; written beside it as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// [`crate::compat`] of the host that prepared it.
    pub compat: String,
    /// Name of the engine that runs it.
    pub backend: String,
    pub signature: Signature,
    /// Version of ONNX's default operator set.
    pub opset: i64,
    /// Who wrote the file, as it says itself: name and version.
    pub producer: String,
    /// Operators, those of subgraphs included.
    pub nodes: u64,
    /// Elements of all weights.
    pub parameters: u64,
    /// Size of the uploaded file.
    pub source_bytes: u64,
    /// Size of the graph, without the weights beside it.
    pub graph_bytes: u64,
    /// Size of the weights, which are mapped.
    pub weights_bytes: u64,
    /// Of these, large tables of which a run looks up a few rows; they are the file's end.
    #[serde(default)]
    pub table_bytes: u64,
    /// Which rows of the tables a run will look up can be told from its inputs.
    #[serde(default)]
    pub lookups: Vec<Lookup>,
    /// Absent until it has run.
    pub dry_run: Option<DryRun>,
    /// What packed weights would gain; absent where they gain nothing.
    #[serde(default)]
    pub packed: Option<Faster>,
    /// What runs merged into one would gain; absent where they may not be merged, or gain nothing.
    #[serde(default)]
    pub batching: Option<Batching>,
    /// Where the engine computes with fewer bits than the model says; empty where it does not. Such a model
    /// may be used only
    /// where its manifest allows it.
    #[serde(default)]
    pub reduced: Vec<String>,
    /// Names of classes, by output: of its columns, or, where the output is numbers of classes, of these.
    /// An output that the
    /// model has as strings or as a map is such a one.
    #[serde(default)]
    pub labels: BTreeMap<String, Labels>,
    /// What the preparation changed or noticed, for people.
    #[serde(default)]
    pub notes: Vec<String>,
    /// How the outputs of the trial run differ from those of another engine, if they were compared and do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<String>,
    /// What this engine would gain over that other one; absent where they were not compared, or it gains
    /// nothing. It does not say what memory it takes, which follows from the sizes of its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faster: Option<Faster>,
}

/// An input whose values are numbers of rows of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    pub input: String,
    /// Where the table begins in the file of weights, in bytes.
    pub offset: u64,
    pub rows: u64,
    pub row_bytes: u64,
}

/// A trial run at deploy, with samples for inputs or made-up ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DryRun {
    /// Wall time of loading, in milliseconds.
    pub load_ms: f64,
    /// Wall time of the run, in milliseconds; the first one of its process, thus an upper bound.
    pub ms: f64,
    /// CPU time of the run, in milliseconds.
    pub cpu_ms: f64,
    /// The inputs: `name [shape]`.
    pub inputs: String,
    /// Whether dimensions had to be guessed.
    pub guessed: bool,
    /// Whether samples gave inputs.
    #[serde(default)]
    pub sampled: bool,
}

/// A faster way to serve a model than its mapped weights in the embedded engine, as the trial at deploy
/// measured both.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Faster {
    /// CPU time that a run saves, in milliseconds.
    pub saved_cpu_ms: f64,
    /// CPU time of loading it, in milliseconds.
    pub load_cpu_ms: f64,
    /// Memory that it takes beside the mapped weights, in bytes.
    pub bytes: u64,
}

/// Runs of a model merged into one, as the trial at deploy measured it: each row came out as by itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Batching {
    /// The part of the CPU time that four rows in one run save over four runs.
    pub saved: f64,
    /// Elements of all inputs of the row that was tried: much longer rows gain less.
    pub row_elements: u64,
}

/// Bounds on what [`crate::prepare()`] takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelLimits {
    /// Size of the file.
    pub model_bytes_max: u64,
    /// Size of all weights as the engine keeps them (half floats become floats).
    pub weights_bytes_max: u64,
    /// Operators, those of subgraphs included.
    pub nodes_max: u64,
    /// Weights and other constant tensors.
    pub tensors_max: u64,
    /// Inputs, and outputs.
    pub ports_max: u64,
    /// Dimensions of a tensor.
    pub rank_max: u64,
    /// Messages in the file, empty ones included: what bounds the memory of parsing it.
    pub messages_max: u64,
    /// Operators on the longest path, as the engine runs them: a few are rewritten to several.
    pub depth_max: u64,
    /// Graphs within one another, as those of `If`.
    pub nesting_max: u64,
    /// Size of all inputs that are made up for a trial run; larger ones are not tried.
    pub trial_bytes_max: u64,
    /// Whether `Loop` is allowed, whose cost no input shape bounds.
    pub loops: bool,
}

impl Default for ModelLimits {
    fn default() -> Self {
        Self {
            // Protobuf itself ends at 2 GiB.
            model_bytes_max: 2 << 30,
            weights_bytes_max: 4 << 30,
            nodes_max: 100_000,
            tensors_max: 100_000,
            ports_max: 256,
            rank_max: 16,
            messages_max: 2_000_000,
            depth_max: 2_000,
            nesting_max: 8,
            trial_bytes_max: 64 << 20,
            loops: false,
        }
    }
}
