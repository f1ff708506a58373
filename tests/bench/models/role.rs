//! What the processes do in which a model is prepared or run.

use super::list::read_inputs;
use std::io::BufRead;
use std::path::Path;
use vesta_core::manifest::Encoding;
use vesta_core::sample::Sample;
use vesta_nn::{Backend, Form, ModelLimits, OnnxRuntime, PreparedFiles, Rten, heap};

/// The version that `vesta engines install` brings.
const ONNX_RUNTIME_VERSION: &str = "1.32.0";

pub fn reference(role: &str, arguments: &[String]) {
    let [engine, library, rest @ ..] = arguments else { panic!("{role} needs an engine and a library") };
    // As in a worker.
    heap::keep_in_one();
    match (role, rest) {
        ("reference-prepare", [source, out, samples]) => {
            if let Err(reason) = prepare(engine, library, Path::new(source), Path::new(out), samples) {
                println!("{reason}");
            }
        }
        ("reference-model", [prepared, inputs]) => {
            answer(engine, library, Path::new(prepared), Path::new(inputs));
        }
        _ => panic!("{role} has other arguments"),
    }
}

fn open(library: &str) -> OnnxRuntime {
    OnnxRuntime::open(Path::new(library)).expect("ONNX Runtime opens")
}

fn prepare(engine: &str, library: &str, source: &Path, out: &Path, samples: &str) -> Result<(), String> {
    let samples: Vec<Sample> = serde_json::from_str(samples).expect("samples");
    let limits = ModelLimits::default();
    let prepared = match engine {
        "rten" => vesta_nn::prepare(source, Encoding::Onnx, &samples, out, &limits),
        _ => {
            let source = (source, Encoding::Onnx);
            open(library).prepare(ONNX_RUNTIME_VERSION, source, &samples, None, out, &limits)
        }
    };
    prepared.map(drop).map_err(|e| e.to_string())
}

/// Answers each line, a number of runs, with their CPU nanoseconds.
fn answer(engine: &str, library: &str, prepared: &Path, inputs: &Path) {
    let (engine, form): (Box<dyn Backend>, Form) = match engine {
        "rten-mapped" => (Box::new(Rten), Form::Mapped),
        "rten-packed" => (Box::new(Rten), Form::Packed),
        _ => (Box::new(open(library)), Form::Mapped),
    };
    let files = PreparedFiles::open(prepared).expect("prepared files");
    let graph = engine.load_for(files, 1, form).expect("the prepared model loads");
    let inputs = read_inputs(inputs);
    engine.on_threads(1, &mut || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let runs: usize = line.parse().expect("a number of runs");
            let run = |_| graph.run(inputs.clone()).expect("the model runs").cpu_ns;
            println!("{}", (0..runs).map(run).sum::<u64>());
        }
    });
}
