//! Inference for Vesta: the check and preparation of models at deploy, and the engines that run them.
//!
//! A model passes through three stages. [`prepare`] reads an uploaded file once, refuses what is unsound or
//! cannot be run, and writes a directory from which loading costs milliseconds. [`Backend::load`] maps
//! that directory; [`Graph::run`] computes. Both traits speak in paths and plain data, and a backend reports the CPU
//! time that it used itself, so that an engine may live in a process of its own.

mod check;
mod convert;
mod dry_run;
mod edit;
mod error;
mod info;
mod mapped;
mod onnx;
mod order;
mod prepare;
mod quirks;
mod rten;
mod softmax;
mod tensor;
mod weights;
mod wire;

pub use error::{LoadError, PrepareError, RunError};
pub use info::{DryRun, Lookup, ModelInfo, ModelLimits};
pub use prepare::{compat, prepare};
pub use rten::Rten;
pub use tensor::{Port, Signature, Tensor, TensorError, TensorType};

use std::path::Path;
use std::sync::Arc;

/// Name of the graph in a prepared directory.
pub const GRAPH_FILE: &str = "graph.onnx";
/// Name of the weights in a prepared directory. The engine maps external data only from files whose
/// extension begins with `data`.
pub const WEIGHTS_FILE: &str = "weights.data";
/// Name of the description, a [`ModelInfo`], in a prepared directory.
pub const INFO_FILE: &str = "info.json";

/// What a run gave, and what it cost.
#[derive(Debug, Clone, PartialEq)]
pub struct RunOutput {
    /// All outputs, in the order of the signature.
    pub outputs: Vec<(String, Tensor)>,
    /// CPU time of the run in nanoseconds, on whichever threads it ran, conversions of tensors included.
    pub cpu_ns: u64,
}

/// A part of a model's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadAhead {
    /// What every run reads as a whole, in the order of its use.
    EveryRun,
    /// Large tables of which a run looks up a few rows.
    Tables,
}

/// A loaded model. Runs may overlap; each is independent of the others.
pub trait Graph: Send + Sync {
    fn signature(&self) -> &Signature;

    /// Computes all outputs. `inputs` name every input of the signature once, in any order.
    ///
    /// # Errors
    /// [`RunError::is_bad_input`] tells the caller's mistakes from the engine's failures.
    fn run(&self, inputs: Vec<(String, Tensor)>) -> Result<RunOutput, RunError>;

    /// Reads weights from disk that are not in memory yet; blocks meanwhile. A run may go on beside it, and waits only for what
    /// it needs. Failures show when the model runs.
    fn read_ahead(&self, part: ReadAhead);

    /// Upper bound of the memory that the loaded model holds between runs, mapped weights included, in bytes.
    fn resident_bytes(&self) -> u64;
}

/// An inference engine.
pub trait Backend: Send + Sync {
    /// The name in [`ModelInfo::backend`].
    fn name(&self) -> &'static str;

    /// Loads a directory that [`prepare`] wrote. The directory must stay unchanged as long as the graph lives.
    fn load(&self, dir: &Path) -> Result<Arc<dyn Graph>, LoadError>;
}

#[cfg(test)]
mod tests;
