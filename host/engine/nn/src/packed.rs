//! Whether packed weights are worth having: both forms run at deploy, with the inputs of the trial.

use crate::{Backend, Form, Graph, PackedForm, PreparedFiles, Rten, Tensor, heap};
use rustix::time::{ClockId, clock_gettime};
use std::path::Path;

/// A model whose run takes longer is not measured, in milliseconds: what packing saves does not grow with a
/// run's inputs, and three
/// more runs would make the deploy slow.
const RUN_MAX_MS: f64 = 1_000.0;
/// A model with larger weights is not measured, in bytes: the packed ones come on top of the mapped ones, and this process has a
/// limit. (It may not ask the kernel for that: it is confined.)
const WEIGHTS_BYTES_MAX: u64 = 1 << 30;
/// Runs of each form, of which the shortest counts: others may use the processors meanwhile.
const RUNS: usize = 25;
/// No more runs once they have taken so long, in nanoseconds.
const RUNS_MAX_NS: u64 = 300_000_000;
/// Of a run, the part that packing must save at least: less is noise.
const SAVED_MIN: f64 = 0.03;

/// What the packed form gains over the mapped one. `None` where it gains too little, does not load, or
/// gives other outputs.
pub fn measure(
    dir: &Path,
    mapped: &dyn Graph,
    inputs: &[(String, Tensor)],
    outputs: &[(String, Tensor)],
    first_ms: f64,
) -> Option<PackedForm> {
    if first_ms > RUN_MAX_MS || mapped.resident_bytes() > WEIGHTS_BYTES_MAX {
        return None;
    }
    let (before, begun) = (heap::in_use(), process_cpu_ns());
    let packed = PreparedFiles::open(dir).and_then(|files| Rten.load(files, Form::Packed)).ok()?;
    // The engine packs on threads of its own.
    let load_cpu_ms = process_cpu_ns().saturating_sub(begun) as f64 / 1e6;
    let bytes = heap::in_use()?.saturating_sub(before?);
    if packed.run(inputs.to_vec()).ok()?.outputs != outputs {
        return None;
    }
    let (mut mapped_ns, mut packed_ns) = (u64::MAX, u64::MAX);
    let begun = process_cpu_ns();
    for run in 0..RUNS {
        if run > 0 && process_cpu_ns().saturating_sub(begun) > RUNS_MAX_NS {
            break;
        }
        mapped_ns = mapped_ns.min(mapped.run(inputs.to_vec()).ok()?.cpu_ns);
        packed_ns = packed_ns.min(packed.run(inputs.to_vec()).ok()?.cpu_ns);
    }
    let saved_ns = mapped_ns.saturating_sub(packed_ns) as f64;
    (saved_ns >= SAVED_MIN * mapped_ns as f64 && bytes > 0).then_some(PackedForm {
        saved_cpu_ms: saved_ns / 1e6,
        load_cpu_ms,
        bytes,
    })
}

fn process_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
