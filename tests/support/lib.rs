//! What the integration tests and the benchmarks stand on: the real binary, real guests, real sockets.

pub mod api;
pub mod books;
pub mod cli;
pub mod cores;
pub mod guests;
pub mod host;
pub mod load;
pub mod neighbour;
pub mod package;
pub mod peer;
pub mod plain;
pub mod process;
pub mod wat;

pub use api::{Api, Reply};
pub use host::Host;
pub use neighbour::Neighbour;
pub use package::Package;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent")
}

/// A path below the root of the repository.
pub fn in_root(path: &str) -> PathBuf {
    root().join(path)
}

/// The pinned ONNX Runtime, as `.ci/run` installs it for the tests: `vesta engines install onnxruntime --data
/// target/engines-of-tests`. The variable `VESTA_TEST_ONNX_RUNTIME` names another.
pub fn onnx_runtime() -> Option<PathBuf> {
    let installed = in_root("target/engines-of-tests/engines/onnxruntime-1.32.0/libonnxruntime.so");
    let library = std::env::var_os("VESTA_TEST_ONNX_RUNTIME").map_or(installed, PathBuf::from);
    library.exists().then_some(library)
}

/// A real component (a model from a registry, …) is not on this machine. In CI that is a failure; on a
/// developer's machine the test says so and does nothing.
pub fn skip(why: &str) {
    let ci = std::env::var("CI").is_ok_and(|v| v == "true");
    assert!(!ci, "CI has everything, but: {why}");
    eprintln!("SKIPPED: {why}");
}

/// Asks again and again until there is an answer. Panics with `what` when `within` is over.
pub fn wait_for<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < within, "waited {within:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Long enough for anything on a busy machine of two cores.
pub const PATIENCE: Duration = Duration::from_secs(60);
