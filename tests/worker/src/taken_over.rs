//! An engine that an attacker has taken over: its run tries all that the worker must not be able to do, and
//! its answer is a text that tells each attempt and what came of it.

use crate::attempts;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vesta_nn::{
    Backend, Form, Graph, LoadError, Output, PreparedFiles, ReadAhead, Rten, RunError, RunOutput, Signature,
    Tensor, TensorType, TensorView,
};

struct TakenOver {
    dir: PathBuf,
    host: u32,
}

struct TakenOverGraph {
    inner: Arc<dyn Graph>,
    dir: PathBuf,
    host: u32,
}

/// The folder of the host's data lies beside the program.
pub fn engine(program: &Path, host: u32) -> &'static dyn Backend {
    let dir = program.parent().expect("a folder").to_path_buf();
    Box::leak(Box::new(TakenOver { dir, host }))
}

impl Backend for TakenOver {
    fn name(&self) -> &'static str {
        Rten.name()
    }
    fn load(&self, files: PreparedFiles, form: Form) -> Result<Arc<dyn Graph>, LoadError> {
        Ok(Arc::new(TakenOverGraph {
            inner: Rten.load(files, form)?,
            dir: self.dir.clone(),
            host: self.host,
        }))
    }
    fn on_threads(&self, threads: usize, work: &mut (dyn FnMut() + Send)) {
        Rten.on_threads(threads, work);
    }
}

impl Graph for TakenOverGraph {
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }
    fn compute(&self, _: &[(&str, TensorView<'_>)]) -> Result<Vec<Output<'_>>, RunError> {
        let data = self.dir.join("data");
        let of_host = |file: &str| PathBuf::from(format!("/proc/{}/{file}", self.host));
        let files = [
            data.join("secret"),
            data.join("vesta.db"),
            data.clone(),
            "/etc/passwd".into(),
            "/dev/mem".into(),
        ];
        let mut all = attempts::opens(&files);
        all.extend(attempts::opens(&["mem", "environ", "maps", "fd/0"].map(of_host)));
        all.extend(attempts::creates(&[self.dir.join("new"), data.join("new")]));
        all.extend(attempts::system_calls(&self.dir));
        all.extend(attempts::executable_memory());
        all.push(("signal the host".into(), attempts::signal_to(self.host)));
        let text: String = all.iter().map(|(attempt, outcome)| format!("{attempt} = {outcome}\n")).collect();
        let data = text.into_bytes();
        let tensor = Tensor { ty: TensorType::U8, shape: vec![data.len() as u32], data };
        Ok(vec![Output::of("attempts", tensor)])
    }
    fn run(&self, inputs: Vec<(String, Tensor)>) -> Result<RunOutput, RunError> {
        self.inner.run(inputs)
    }
    fn read_ahead(&self, _: ReadAhead) {}
    fn resident_bytes(&self) -> u64 {
        self.inner.resident_bytes()
    }
}
