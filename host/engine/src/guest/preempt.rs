//! What happens to a guest that computes when the epoch ticks: its limits are looked at, and others get their
//! turn.

use super::state::State;
use crate::meter::Stop;
use crate::meter::turns::let_others_run;
use std::time::Instant;
use tokio::runtime::Handle;
use wasmtime::{StoreContextMut, UpdateDeadline};

/// CPU time after which a guest that computes lets others run on its thread, in nanoseconds, where every
/// worker is running a guest: looked at with each tick of the epoch, so that it yields within two of them.
const SLICE_NS: u64 = 500_000;
/// The same while a worker is free: at the tenth tick.
const LONG_SLICE_NS: u64 = 9_500_000;

/// Looks at the limits of the invocation that runs.
pub(crate) fn at_epoch(store: StoreContextMut<'_, State>) -> wasmtime::Result<UpdateDeadline> {
    let State { meter, deadline, cpu_ns_max, ticker, .. } = store.data();
    let (this_poll_ns, in_all_ns) = meter.guest_cpu_within_poll_ns();
    if in_all_ns >= *cpu_ns_max {
        meter.stop(Stop::CpuLimit);
        return Ok(UpdateDeadline::Interrupt);
    }
    if Instant::now() >= *deadline {
        meter.stop(Stop::WallLimit);
        return Ok(UpdateDeadline::Interrupt);
    }
    // While another worker is free, it does what comes up. Each yield costs the platform some ten
    // microseconds.
    let workers = Handle::try_current().map_or(1, |tokio| tokio.metrics().num_workers());
    let slice_ns =
        if ticker.as_ref().is_some_and(|t| t.polled() < workers) { LONG_SLICE_NS } else { SLICE_NS };
    if this_poll_ns < slice_ns {
        return Ok(UpdateDeadline::Continue(1));
    }
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(let_others_run(meter.clone()))))
}
