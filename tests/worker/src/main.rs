//! A worker in the place of the host's own, which misbehaves as its file is called: the tests link it under
//! several names.
//!
//! It is built with the profile `unchecked`, in which arithmetic wraps: the engine's first defence is off.

// As the workers' own tests use them.
#[path = "../../../host/engine/nn/src/tests/confine/attempts.rs"]
mod attempts;
mod crash;
mod failing;
mod nonsense;
mod taken_over;

use std::process::ExitCode;
use vesta_nn::worker;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    // The library of ONNX Runtime comes behind.
    let [_, command, host, library @ ..] = arguments.as_slice() else { return ExitCode::FAILURE };
    assert_eq!(command, "inference-worker");
    let host = host.parse().expect("the host's process id");
    let program = std::env::current_exe().expect("its own path");
    let name = program.file_name().and_then(|name| name.to_str()).expect("a plain name");
    ExitCode::from(match name {
        "unchecked" => worker::main_with(host, crash::engine(crash::When::Asked)),
        "crashes-at-load" => worker::main_with(host, crash::engine(crash::When::Load)),
        "crashes-at-first-run" => worker::main_with(host, crash::engine(crash::When::Run(1))),
        "crashes-at-hundredth-run" => worker::main_with(host, crash::engine(crash::When::Run(100))),
        "taken-over" => worker::main_with(host, taken_over::engine(&program, host)),
        "fails-on-onnxruntime" if library.is_empty() => worker::main(host, None),
        "fails-on-onnxruntime" => worker::main_with(host, failing::engine()),
        "nonsense" => worker::fork_server::serve(host, nonsense::main),
        "dies-as-a-spare" => worker::fork_server::serve(host, || 1),
        "dies-before-it-forks" => 1,
        other => panic!("no worker misbehaves as {other:?}"),
    })
}
