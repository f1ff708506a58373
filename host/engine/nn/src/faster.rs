//! Whether a faster way to serve a model is worth having: both ways run at deploy, with the inputs of the
//! trial.

use crate::{Backend, Faster, Form, Graph, PreparedFiles, Rten, Tensor, heap};
use rustix::time::{ClockId, clock_gettime};
use std::path::Path;

/// A model whose run takes longer is not measured with packed weights, in milliseconds: what packing saves
/// does not grow with a run's inputs, and more runs would make the deploy slow.
const RUN_MAX_MS: f64 = 1_000.0;
/// The same for another engine, which gains the more the longer a run takes.
const RUN_OF_ENGINE_MAX_MS: f64 = 10_000.0;
/// A model with larger weights is not measured, in bytes: the packed ones come on top of the mapped ones, and
/// this process has a limit. (It may not ask the kernel for that: it is confined.)
const WEIGHTS_BYTES_MAX: u64 = 1 << 30;
/// Most runs of each way, of which the shortest counts: others may use the processors meanwhile.
const RUNS: usize = 25;
/// No more runs once they have taken so long, in nanoseconds.
const RUNS_MAX_NS: u64 = 300_000_000;
/// Of a run, the part that must be saved at least: less is noise.
const SAVED_MIN: f64 = 0.03;

type Named = [(String, Tensor)];

/// What the packed form gains over the mapped one. `None` where it gains too little, does not load, or
/// gives other outputs. The first run of the mapped one took `first_ms`.
pub fn packed(
    dir: &Path,
    mapped: &dyn Graph,
    inputs: &Named,
    outputs: &Named,
    first_ms: f64,
) -> Option<Faster> {
    if first_ms > RUN_MAX_MS || mapped.resident_bytes() > WEIGHTS_BYTES_MAX {
        return None;
    }
    let before = heap::in_use()?;
    let (packed, load_cpu_ms) = load(&Rten, dir, Form::Packed)?;
    let bytes = heap::in_use()?.saturating_sub(before);
    if packed.run(inputs.to_vec()).ok()?.outputs != outputs {
        return None;
    }
    let [mapped_ms, packed_ms] = shortest([mapped, packed.as_ref()], inputs)?;
    let saved_cpu_ms = saved(mapped_ms, packed_ms)?;
    (bytes > 0).then_some(Faster { saved_cpu_ms, load_cpu_ms, bytes })
}

/// What an engine gains over another one, whose runs with these inputs take `other_ms`; without its memory.
/// `None` where it gains too little. Its first run took `first_ms`.
pub fn over(
    engine: &dyn Backend,
    dir: &Path,
    inputs: &Named,
    first_ms: f64,
    other_ms: f64,
) -> Option<Faster> {
    if first_ms > RUN_OF_ENGINE_MAX_MS {
        return None;
    }
    let (graph, load_cpu_ms) = load(engine, dir, Form::Mapped)?;
    let [own_ms] = shortest([graph.as_ref()], inputs)?;
    Some(Faster { saved_cpu_ms: saved(other_ms, own_ms)?, load_cpu_ms, bytes: 0 })
}

/// The CPU time of a run, in milliseconds; `None` where that is not measured.
pub fn run_cpu_ms(graph: &dyn Graph, inputs: &Named, first_ms: f64) -> Option<f64> {
    if first_ms > RUN_OF_ENGINE_MAX_MS {
        return None;
    }
    shortest([graph], inputs).map(|[ms]| ms)
}

/// A loaded model, and the CPU time that loading it took, in milliseconds.
fn load(engine: &dyn Backend, dir: &Path, form: Form) -> Option<(std::sync::Arc<dyn Graph>, f64)> {
    let begun = process_cpu_ns();
    let graph = PreparedFiles::open(dir).and_then(|files| engine.load(files, form)).ok()?;
    // Engines pack on threads of their own.
    Some((graph, process_cpu_ns().saturating_sub(begun) as f64 / 1e6))
}

/// The shortest CPU time of each one's runs, in milliseconds. They take turns.
fn shortest<const N: usize>(graphs: [&dyn Graph; N], inputs: &Named) -> Option<[f64; N]> {
    let mut shortest = [u64::MAX; N];
    let begun = process_cpu_ns();
    for run in 0..RUNS {
        if run > 0 && process_cpu_ns().saturating_sub(begun) > RUNS_MAX_NS {
            break;
        }
        for (graph, shortest) in graphs.iter().zip(&mut shortest) {
            *shortest = (*shortest).min(graph.run(inputs.to_vec()).ok()?.cpu_ns);
        }
    }
    Some(shortest.map(|ns| ns as f64 / 1e6))
}

fn saved(slower_ms: f64, faster_ms: f64) -> Option<f64> {
    let saved_ms = slower_ms - faster_ms;
    (saved_ms >= SAVED_MIN * slower_ms).then_some(saved_ms)
}

fn process_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
