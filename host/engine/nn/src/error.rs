//! What can be wrong with a model, and with a run.

use crate::{TensorError, TensorType};
use serde::{Deserialize, Serialize};
use std::io;

/// Why a run failed. Everything but [`RunError::Engine`] is the caller's to mend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RunError {
    #[error("there is no input {name:?}; the model's inputs are {known}")]
    UnknownInput { name: String, known: String },
    #[error("input {name:?} is given twice")]
    InputTwice { name: String },
    #[error("input {name:?} is missing")]
    MissingInput { name: String },
    #[error("input {name:?} must be {expected}, not {got}")]
    WrongType { name: String, expected: TensorType, got: TensorType },
    #[error("input {name:?} must be {expected}, not {got:?}")]
    WrongShape { name: String, expected: String, got: Vec<u32> },
    #[error("input {name:?}: {source}")]
    WrongLength { name: String, source: TensorError },
    #[error("input {name:?}: element {index} is {value}; the engine computes with 32-bit integers")]
    OutOfRange { name: String, index: usize, value: i64 },
    #[error("the engine failed: {0}")]
    Engine(String),
    #[error("the outputs take {bytes} bytes, for which there is no room")]
    NoSpace { bytes: u64 },
}

impl RunError {
    /// Whether the inputs were at fault, not the engine.
    pub fn is_bad_input(&self) -> bool {
        !matches!(self, Self::Engine(_) | Self::NoSpace { .. })
    }

    /// A stable name of the kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownInput { .. } => "unknown-input",
            Self::InputTwice { .. } => "input-twice",
            Self::MissingInput { .. } => "missing-input",
            Self::WrongType { .. } => "wrong-type",
            Self::WrongShape { .. } => "wrong-shape",
            Self::WrongLength { .. } => "wrong-length",
            Self::OutOfRange { .. } => "out-of-range",
            Self::Engine(_) => "engine-failed",
            Self::NoSpace { .. } => "no-space",
        }
    }
}

/// Why a prepared model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("not a description of a prepared model: {0}")]
    Info(#[from] serde_json::Error),
    #[error("prepared for {found:?}; this host reads {expected:?}")]
    Compat { found: String, expected: String },
    #[error("the engine refuses the model: {0}")]
    Engine(String),
}

/// Whether another engine may take a model that was refused with this [`code`](PrepareError::code): what is
/// wrong with the file itself is wrong for all.
pub fn another_engine_may_help(code: &str) -> bool {
    matches!(
        code,
        "operator-not-supported"
            | "engine-refused"
            | "trial-run-failed"
            | "model-untried"
            | "reduced-precision"
            // What a model is checked for depends on the engine's element types, and on its loops.
            | "operator-unbounded"
            | "element-type-not-supported"
            | "port-not-supported"
    )
}

/// Why an uploaded model was refused, or could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error("cannot {action}: {source}")]
    Io { action: &'static str, source: io::Error },
    #[error("the file is not an ONNX model: {0}")]
    NotOnnx(String),
    #[error("the file is truncated: {0}")]
    Truncated(String),
    #[error("the file has {got} bytes; a model may have {max}")]
    FileTooLarge { got: u64, max: u64 },
    #[error("the model has {got} {what}; at most {max} are allowed")]
    TooMany { what: &'static str, got: u64, max: u64 },
    #[error("opset {got} of domain {domain:?} is not supported; {min} to {max} are")]
    Opset { domain: String, got: i64, min: i64, max: i64 },
    #[error("the model imports no opset of the default domain, on which {op} (node {node:?}) depends")]
    NoOpset { op: String, node: String },
    #[error("operator not supported: {0}")]
    Operator(String),
    #[error(
        "operator {op} of node {node:?} is not allowed on this engine: a loop's cost is not bounded by the shapes of its inputs"
    )]
    Unbounded { op: String, node: String },
    #[error("{port} {name:?}: {reason}")]
    Port { port: &'static str, name: String, reason: String },
    #[error("tensor {name:?} says {dims:?} = {expected} bytes, but has {got}")]
    TensorLies { name: String, dims: Vec<i64>, expected: u64, got: u64 },
    #[error("tensor {name:?}: {dims:?} is not a shape that is allowed: {reason}")]
    Shape { name: String, dims: Vec<i64>, reason: String },
    #[error("tensor {name:?} has element type {ty}, which is not supported")]
    ElementType { name: String, ty: String },
    #[error("tensor {name:?} keeps its data in another file; upload one file with all weights inside")]
    ExternalData { name: String },
    #[error("tensor {name:?} is sparse, which is not supported")]
    Sparse { name: String },
    #[error("the graph is unsound: {0}")]
    Graph(String),
    #[error("the engine refuses the model: {0}")]
    Engine(String),
    #[error("the library of ONNX Runtime cannot be used: {0}")]
    Library(String),
    #[error("a trial run with {inputs} failed: {reason}")]
    DryRun { inputs: String, reason: String },
    #[error(
        "the model could not be tried: a run with made-up inputs ({inputs}) failed: {reason}; state inputs that it takes as \
         [[models.sample]] in vesta.toml"
    )]
    Untried { inputs: String, reason: String },
    #[error("sample for input {input:?}: {reason}")]
    Sample { input: String, reason: String },
}

impl PrepareError {
    /// A stable name of the kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "model-io",
            Self::NotOnnx(_) => "not-onnx",
            Self::Truncated(_) => "model-truncated",
            Self::FileTooLarge { .. } => "model-too-large",
            Self::TooMany { .. } => "model-too-complex",
            Self::Opset { .. } | Self::NoOpset { .. } => "opset-not-supported",
            Self::Operator(_) => "operator-not-supported",
            Self::Unbounded { .. } => "operator-unbounded",
            Self::Port { .. } => "port-not-supported",
            Self::TensorLies { .. } => "tensor-lies",
            Self::Shape { .. } => "tensor-shape",
            Self::ElementType { .. } => "element-type-not-supported",
            Self::ExternalData { .. } => "external-data",
            Self::Sparse { .. } => "sparse-tensor",
            Self::Graph(_) => "graph-unsound",
            Self::Engine(_) => "engine-refused",
            Self::Library(_) => "engine-unusable",
            Self::DryRun { .. } => "trial-run-failed",
            Self::Untried { .. } => "model-untried",
            Self::Sample { .. } => "bad-sample",
        }
    }

    /// Whether the model is at fault, not the host.
    pub fn is_bad_model(&self) -> bool {
        !matches!(self, Self::Io { .. } | Self::Library(_))
    }
}
