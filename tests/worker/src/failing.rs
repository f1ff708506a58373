//! An engine that loads every model and fails each run.

use std::sync::Arc;
use vesta_nn::{
    Backend, Form, Graph, LoadError, ONNX_RUNTIME, Output, PreparedFiles, ReadAhead, Rten, RunError,
    RunOutput, Signature, Tensor, TensorView, parse_info,
};

struct Failing;

struct FailingGraph(Signature);

pub fn engine() -> &'static dyn Backend {
    &Failing
}

fn failure() -> RunError {
    RunError::Engine("it always fails".into())
}

impl Backend for Failing {
    fn name(&self) -> &'static str {
        ONNX_RUNTIME
    }
    fn load(&self, files: PreparedFiles, _: Form) -> Result<Arc<dyn Graph>, LoadError> {
        Ok(Arc::new(FailingGraph(parse_info(&files.info)?.signature)))
    }
    fn on_threads(&self, threads: usize, work: &mut (dyn FnMut() + Send)) {
        Rten.on_threads(threads, work);
    }
}

impl Graph for FailingGraph {
    fn signature(&self) -> &Signature {
        &self.0
    }
    fn compute(&self, _: &[(&str, TensorView<'_>)]) -> Result<Vec<Output<'_>>, RunError> {
        Err(failure())
    }
    fn run(&self, _: Vec<(String, Tensor)>) -> Result<RunOutput, RunError> {
        Err(failure())
    }
    fn read_ahead(&self, _: ReadAhead) {}
    fn resident_bytes(&self) -> u64 {
        0
    }
}
