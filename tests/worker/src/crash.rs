//! An engine that ends its process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use vesta_nn::{
    Backend, Form, Graph, LoadError, Output, PreparedFiles, ReadAhead, Rten, RunError, RunOutput, Signature,
    Tensor, TensorView,
};

#[derive(Clone, Copy)]
pub enum When {
    Load,
    /// The number of the run.
    Run(u32),
    /// A run whose first input begins with [`ASKED`].
    Asked,
}

/// A float that asks for a crash.
const ASKED: f32 = 666.0;

struct Crashing(When);

struct CrashingGraph {
    inner: Arc<dyn Graph>,
    when: When,
    runs: AtomicU32,
}

pub fn engine(when: When) -> &'static dyn Backend {
    Box::leak(Box::new(Crashing(when)))
}

/// As a stray pointer would.
fn crash() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::SEGV);
    std::process::abort()
}

impl Backend for Crashing {
    fn name(&self) -> &'static str {
        Rten.name()
    }
    fn load(&self, files: PreparedFiles, form: Form) -> Result<Arc<dyn Graph>, LoadError> {
        let inner = Rten.load(files, form)?;
        match self.0 {
            When::Load => crash(),
            when => Ok(Arc::new(CrashingGraph { inner, when, runs: AtomicU32::new(0) })),
        }
    }
    fn on_threads(&self, threads: usize, work: &mut (dyn FnMut() + Send)) {
        Rten.on_threads(threads, work);
    }
}

impl Graph for CrashingGraph {
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }
    fn compute(&self, inputs: &[(&str, TensorView<'_>)]) -> Result<Vec<Output<'_>>, RunError> {
        let run = self.runs.fetch_add(1, Ordering::Relaxed) + 1;
        let is_asked = || inputs.iter().any(|(_, tensor)| tensor.data.starts_with(&ASKED.to_le_bytes()));
        match self.when {
            When::Run(at) if run >= at => crash(),
            When::Asked if is_asked() => crash(),
            _ => {}
        }
        self.inner.compute(inputs)
    }
    fn run(&self, inputs: Vec<(String, Tensor)>) -> Result<RunOutput, RunError> {
        self.inner.run(inputs)
    }
    fn read_ahead(&self, part: ReadAhead) {
        self.inner.read_ahead(part);
    }
    fn resident_bytes(&self) -> u64 {
        self.inner.resident_bytes()
    }
}
