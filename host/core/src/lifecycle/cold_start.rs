//! What a cold start consisted of, for people.

use serde::{Deserialize, Serialize};

/// What a cold start of a function consisted of. Code and models are loaded at the same time. Times are
/// wall-clock nanoseconds unless they say otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColdStartParts {
    /// From the files to a function that can run.
    pub wall_ns: u64,
    /// CPU time of that, as it was billed.
    pub cpu_ns: u64,
    pub code: CodeStart,
    /// In the order of the manifest.
    pub models: Vec<ModelStart>,
    /// Making the first instance. None before.
    pub instance_ns: Option<u64>,
}

/// A function's code in a cold start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeStart {
    pub wall_ns: u64,
    /// Compiled code with the initial contents of its memory, mapped.
    pub mapped_bytes: u64,
}

/// One model in a cold start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelStart {
    /// As the function calls it.
    pub name: String,
    pub wall_ns: u64,
    /// Its weights, mapped, and its graph.
    pub mapped_bytes: u64,
    /// Whether another function had it in memory already.
    pub shared: bool,
}
