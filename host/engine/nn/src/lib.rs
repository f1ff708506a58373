//! Inference for Vesta: the check and preparation of models at deploy, and the engines that run them.
//!
//! A model passes through three stages. [`prepare()`] reads an uploaded file once, refuses what is unsound or
//! cannot be run, and writes a directory from which loading costs milliseconds. [`Backend::load`] maps
//! its files; [`Graph::compute`] computes. The host does neither: a [`worker`] does, a process for each
//! model.

mod batching;
mod check;
mod conditions;
pub mod confine;
mod convert;
mod depth;
mod dry_run;
mod edit;
mod error;
mod facts;
mod faster;
mod guess;
pub mod heap;
mod info;
mod inline;
mod inputs;
mod mapped;
mod names;
pub mod onnx;
mod onnx_runtime;
mod order;
mod precision;
mod prepare;
mod quirks;
mod rewrite;
mod rten;
mod samples;
mod shapes;
mod softmax;
mod table;
mod tensor;
mod weights;
mod wire;
pub mod worker;

pub use error::{LoadError, PrepareError, RunError, another_engine_may_help};
pub use info::{Batching, DryRun, Faster, Lookup, ModelInfo, ModelLimits};
pub use onnx_runtime::{
    ENVIRONMENT as ONNX_RUNTIME_ENVIRONMENT, LEFT_FILE, NAME as ONNX_RUNTIME, OnnxRuntime, TRIAL_FILE,
    compat as onnx_runtime_compat,
};
pub use prepare::{compat, parse_info, prepare, prepare_kept, try_kept, try_prepared};
pub use rewrite::Labels;
pub use rten::{ENVIRONMENT, NAME as RTEN, Rten, VERSION as RTEN_VERSION};
pub use tensor::{PORT_NAME_BYTES_MAX, Port, Signature, Tensor, TensorError, TensorType, bytes as bytes_of};

use serde::{Deserialize, Serialize};
use std::fs::File;
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
    /// CPU time of the run in nanoseconds, conversions of tensors included. Right for models that run on one
    /// thread.
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

/// A tensor whose bytes lie elsewhere; as [`Tensor`].
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    pub ty: TensorType,
    pub shape: &'a [u32],
    pub data: &'a [u8],
}

/// Writes a tensor's elements into a place.
type Write<'a> = Box<dyn FnOnce(&mut [u8]) + 'a>;

/// One output of a run, which can be written where it is wanted.
pub struct Output<'a> {
    pub name: &'a str,
    pub ty: TensorType,
    pub shape: Vec<u32>,
    /// What it takes, in bytes.
    pub bytes: u64,
    write: Write<'a>,
}

impl<'a> Output<'a> {
    /// A tensor that is there already.
    pub fn of(name: &'a str, tensor: Tensor) -> Output<'a> {
        let Tensor { ty, shape, data } = tensor;
        Output {
            name,
            ty,
            shape,
            bytes: data.len() as u64,
            write: Box::new(move |place| place.copy_from_slice(&data)),
        }
    }

    /// Name and elements.
    fn copied(self) -> (String, Tensor) {
        let mut data = vec![0; self.bytes as usize];
        let (name, ty, shape) = (self.name.to_owned(), self.ty, self.shape.clone());
        self.write(&mut data);
        (name, Tensor { ty, shape, data })
    }

    /// Writes the elements, row-major and little-endian, into a place of exactly [`Output::bytes`].
    pub fn write(self, place: &mut [u8]) {
        (self.write)(place);
    }
}

/// A loaded model. Runs may overlap; each is independent of the others.
pub trait Graph: Send + Sync {
    fn signature(&self) -> &Signature;

    /// Computes all outputs. `inputs` name every input of the signature once, in any order. Within
    /// [`Backend::on_threads`] it computes on the threads of that; elsewhere on one that it finds by itself.
    ///
    /// # Errors
    /// [`RunError::is_bad_input`] tells the caller's mistakes from the engine's failures.
    fn compute(&self, inputs: &[(&str, TensorView<'_>)]) -> Result<Vec<Output<'_>>, RunError>;

    /// Computes, and copies the outputs.
    fn run(&self, inputs: Vec<(String, Tensor)>) -> Result<RunOutput, RunError>;

    /// Reads weights from disk that are not in memory yet; blocks meanwhile. A run may go on beside it, and
    /// waits only for what it needs. Failures show when the model runs.
    fn read_ahead(&self, part: ReadAhead);

    /// Upper bound of the memory that the loaded model holds between runs, mapped weights included, in bytes.
    fn resident_bytes(&self) -> u64;
}

/// The files of a directory that [`prepare()`] wrote, open.
pub struct PreparedFiles {
    pub graph: File,
    pub weights: File,
    pub info: File,
}

impl PreparedFiles {
    pub fn open(dir: &Path) -> Result<PreparedFiles, LoadError> {
        let open = |name: &str| {
            let path = dir.join(name);
            File::open(&path).map_err(|source| LoadError::Io { what: name.into(), source })
        };
        Ok(PreparedFiles { graph: open(GRAPH_FILE)?, weights: open(WEIGHTS_FILE)?, info: open(INFO_FILE)? })
    }
}

/// In which form an engine has a model's weights in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// As they are in the prepared file, which is mapped: loaded at once, and no memory beside it.
    #[default]
    Mapped,
    /// Also in the layout in which the engine's kernels read them: private memory, and faster runs.
    Packed,
}

/// An inference engine.
pub trait Backend: Send + Sync {
    /// The name in [`ModelInfo::backend`].
    fn name(&self) -> &'static str;

    /// Loads what [`prepare()`] wrote. The files must stay unchanged as long as the graph lives.
    fn load(&self, files: PreparedFiles, form: Form) -> Result<Arc<dyn Graph>, LoadError>;

    /// The same for runs that `threads` compute each. Where the engine's threads belong to a model, they are
    /// made here.
    fn load_for(
        &self,
        files: PreparedFiles,
        threads: usize,
        form: Form,
    ) -> Result<Arc<dyn Graph>, LoadError> {
        let _ = threads;
        self.load(files, form)
    }

    /// Calls `work` on a thread of the engine's own with `threads` of them; runs within it compute on these,
    /// and on the calling one alone where there is one. Blocks until `work` returns.
    fn on_threads(&self, threads: usize, work: &mut (dyn FnMut() + Send));
}

#[cfg(test)]
mod tests;
