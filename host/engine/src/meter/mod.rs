//! What one invocation used, measured while it runs.
//!
//! Guest CPU time is the thread's CPU clock around each poll of the guest, so that waiting is free and a
//! busy neighbour costs nothing. Work that goes on beside the guest (a running model, a cold start) adds to
//! the same meter from its own thread and is waited for before the bill is written.

use cpu::{Mark, add_billed, thread_cpu_ns};
pub mod cpu;
pub mod handler;
pub(crate) mod outbound;
pub mod processes;
pub(crate) mod share;
pub(crate) mod turns;
pub(crate) mod waits;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Notify;

/// How long an invocation may have a thread of Tokio wait for answers of models before others get it, in
/// nanoseconds: as long as a guest that computes, where others may be waiting.
const WAIT_SLICE_NS: u64 = 500_000;

/// Why the host ended a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stop {
    CpuLimit = 1,
    WallLimit = 2,
}

/// Why a run of a model was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ModelFailure {
    /// It needed more memory than `limits.model_memory`.
    Memory = 1,
    /// It used more CPU time than `limits.inference`.
    InferenceLimit = 2,
    /// Its process ended unexpectedly.
    Crashed = 3,
}

/// The meter of one invocation. All times in nanoseconds, all sizes in bytes.
#[derive(Debug, Default)]
pub struct Meter {
    guest_cpu_ns: AtomicU64,
    poll_start_ns: AtomicU64,
    inference_cpu_ns: AtomicU64,
    inference_wall_ns: AtomicU64,
    /// How long models computed: their CPU time over their threads.
    inference_run_ns: AtomicU64,
    inference_queue_ns: AtomicU64,
    inferences: AtomicU32,
    cold_start_cpu_ns: AtomicU64,
    outbound_cpu_ns: AtomicU64,
    /// How long the guest waited for its own input and output.
    own_wait_ns: AtomicU64,
    /// Greater than 0 while the guest waits for something else: a slot, a model's run, its turn.
    away: AtomicU32,
    /// The bill is closed.
    closed: AtomicBool,
    /// What the instance holds now, and the most that it has held.
    memory: AtomicU64,
    memory_peak: AtomicU64,
    model_memory_peak: AtomicU64,
    memory_refused: AtomicBool,
    host_memory_lacks: AtomicBool,
    /// CPU time of the poll under way that is the host's own.
    spared_ns: AtomicU64,
    /// How long threads of Tokio waited for answers since the invocation last let others have one.
    waited_ns: AtomicU64,
    stop: AtomicU8,
    /// The first [`ModelFailure`]; 0 where there was none.
    model_failure: AtomicU8,
    beside: AtomicU32,
    beside_ended: Notify,
}

impl Meter {
    /// Polls a guest and bills the thread's CPU time to it.
    pub(crate) fn poll<F: Future + ?Sized>(
        &self,
        guest: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<F::Output> {
        let start = Mark::now();
        self.poll_start_ns.store(start.cpu_ns(), Relaxed);
        let result = guest.poll(cx);
        let spent = start.own_ns().saturating_sub(self.spared_ns.swap(0, Relaxed));
        self.guest_cpu_ns.fetch_add(spent, Relaxed);
        add_billed(spent);
        result
    }

    /// A thread of Tokio has waited for an answer of a model. Returns whether others should have it now.
    pub(crate) fn waited(&self, time: Duration) -> bool {
        let waited_ns = self.waited_ns.load(Relaxed) + time.as_nanos() as u64;
        let is_enough = waited_ns >= WAIT_SLICE_NS;
        self.waited_ns.store(if is_enough { 0 } else { waited_ns }, Relaxed);
        is_enough
    }

    /// Guest CPU time up to now: of the poll under way, and in all. Call it from within a poll, on its
    /// thread.
    pub(crate) fn guest_cpu_within_poll_ns(&self) -> (u64, u64) {
        let not_the_guests = self.poll_start_ns.load(Relaxed).saturating_add(self.spared_ns.load(Relaxed));
        let this_poll = thread_cpu_ns().saturating_sub(not_the_guests);
        (this_poll, self.guest_cpu_ns.load(Relaxed) + this_poll)
    }

    pub(crate) fn stop(&self, why: Stop) {
        self.stop.store(why as u8, Relaxed);
    }
    pub(crate) fn stopped(&self) -> Option<Stop> {
        match self.stop.load(Relaxed) {
            1 => Some(Stop::CpuLimit),
            2 => Some(Stop::WallLimit),
            _ => None,
        }
    }

    /// A run of a model was ended. The first failure is kept.
    pub fn model_failed(&self, why: ModelFailure) {
        let _ = self.model_failure.compare_exchange(0, why as u8, Relaxed, Relaxed);
    }
    /// The first failure of a run of a model.
    pub fn model_failure(&self) -> Option<ModelFailure> {
        match self.model_failure.load(Relaxed) {
            1 => Some(ModelFailure::Memory),
            2 => Some(ModelFailure::InferenceLimit),
            3 => Some(ModelFailure::Crashed),
            _ => None,
        }
    }

    /// The instance holds so much more: linear memory, or tensors at the host.
    pub(crate) fn memory_grows(&self, bytes: u64) {
        let held = self.memory.fetch_add(bytes, Relaxed) + bytes;
        self.memory_peak.fetch_max(held, Relaxed);
    }
    /// And so much less: it was counted before.
    pub(crate) fn memory_shrinks(&self, bytes: u64) {
        self.memory.fetch_sub(bytes, Relaxed);
    }
    /// A run of a model has held so much beyond the model's weights.
    pub(crate) fn model_memory_is(&self, bytes: u64) {
        self.model_memory_peak.fetch_max(bytes, Relaxed);
    }
    pub(crate) fn refuse_memory(&self) {
        self.memory_refused.store(true, Relaxed);
    }
    pub(crate) fn memory_was_refused(&self) -> bool {
        self.memory_refused.load(Relaxed)
    }
    /// The host has no memory left for it.
    pub(crate) fn lack_host_memory(&self) {
        self.host_memory_lacks.store(true, Relaxed);
    }
    pub(crate) fn host_memory_lacks(&self) -> bool {
        self.host_memory_lacks.load(Relaxed)
    }
    /// Does work of the platform's within a poll of the guest: nobody pays for it.
    pub(crate) fn spare<R>(&self, work: impl FnOnce() -> R) -> R {
        let start = thread_cpu_ns();
        let result = work();
        self.spared_ns.fetch_add(thread_cpu_ns().saturating_sub(start), Relaxed);
        result
    }

    /// The guest could not begin, for want of something of the host's: nobody pays for the poll under way.
    pub(crate) fn spare_poll(&self) {
        self.spared_ns.store(u64::MAX, Relaxed);
    }

    /// The guest waits for something that is not its own input or output, for as long as the guard lives.
    pub(crate) fn away(self: &Arc<Self>) -> Away {
        self.away.fetch_add(1, Relaxed);
        Away(self.clone())
    }
    fn is_away(&self) -> bool {
        self.away.load(Relaxed) > 0
    }
    fn waited_for_its_own(&self, time: Duration) {
        self.own_wait_ns.fetch_add(time.as_nanos() as u64, Relaxed);
    }

    pub(crate) fn inference_queued(&self, ns: u64) {
        self.inference_queue_ns.fetch_add(ns, Relaxed);
    }
    /// A run of a model has ended, of which `threads` threads have computed.
    pub(crate) fn inference_ran(&self, cpu_ns: u64, wall_ns: u64, threads: u32) {
        self.inference_cpu_ns.fetch_add(cpu_ns, Relaxed);
        self.inference_wall_ns.fetch_add(wall_ns, Relaxed);
        self.inference_run_ns.fetch_add(wall_ns.min(cpu_ns / u64::from(threads.max(1))), Relaxed);
        self.inferences.fetch_add(1, Relaxed);
        add_billed(cpu_ns);
    }
    /// Bills the CPU time of a cold start to the invocation that triggered it.
    pub fn cold_start_ran(&self, cpu_ns: u64) {
        self.cold_start_cpu_ns.fetch_add(cpu_ns, Relaxed);
        add_billed(cpu_ns);
    }

    /// Bills CPU time of calls to other hosts. What comes after the bill was closed is nobody's.
    pub(crate) fn outbound_ran(&self, cpu_ns: u64) {
        if !self.closed.load(Relaxed) {
            self.outbound_cpu_ns.fetch_add(cpu_ns, Relaxed);
            add_billed(cpu_ns);
        }
    }
    /// The bill is about to be written.
    pub fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    /// Work beside the guest begins, which the bill has to wait for.
    pub fn begin_beside(&self) {
        self.beside.fetch_add(1, SeqCst);
    }
    /// The end of such work.
    pub fn end_beside(&self) {
        if self.beside.fetch_sub(1, SeqCst) == 1 {
            self.beside_ended.notify_waiters();
        }
    }
    /// Whether nothing runs beside the guest.
    pub fn is_settled(&self) -> bool {
        self.beside.load(SeqCst) == 0
    }
    /// Waits until nothing runs beside the guest: then the figures are final.
    pub async fn settled(&self) {
        loop {
            let ended = self.beside_ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.is_settled() {
                return;
            }
            ended.await;
        }
    }

    pub fn guest_cpu_ns(&self) -> u64 {
        self.guest_cpu_ns.load(Relaxed)
    }
    pub fn inference_cpu_ns(&self) -> u64 {
        self.inference_cpu_ns.load(Relaxed)
    }
    pub fn inference_wall_ns(&self) -> u64 {
        self.inference_wall_ns.load(Relaxed)
    }
    /// How long models have computed, in nanoseconds: their CPU time over their threads.
    pub fn inference_run_ns(&self) -> u64 {
        self.inference_run_ns.load(Relaxed)
    }
    pub fn outbound_cpu_ns(&self) -> u64 {
        self.outbound_cpu_ns.load(Relaxed)
    }
    /// How long the invocation has held its memory, in nanoseconds: the time in which its guest computed, its
    /// models computed, or it waited for its own input and output. Waiting for a core, for a slot or for the
    /// platform is left out.
    pub fn memory_ns(&self) -> u64 {
        self.guest_cpu_ns() + self.inference_run_ns() + self.own_wait_ns.load(Relaxed)
    }
    pub fn inference_queue_ns(&self) -> u64 {
        self.inference_queue_ns.load(Relaxed)
    }
    pub fn inferences(&self) -> u32 {
        self.inferences.load(Relaxed)
    }
    pub fn cold_start_cpu_ns(&self) -> u64 {
        self.cold_start_cpu_ns.load(Relaxed)
    }
    /// The most that the instance has held at once: its linear memory and its tensors at the host.
    pub fn memory_peak(&self) -> u64 {
        self.memory_peak.load(Relaxed)
    }
    /// The most that a run of a model has held beyond the model's weights.
    pub fn model_memory_peak(&self) -> u64 {
        self.model_memory_peak.load(Relaxed)
    }
}

/// While it lives, the guest waits for something that is not its own input or output.
pub(crate) struct Away(Arc<Meter>);

impl Drop for Away {
    fn drop(&mut self) {
        self.0.away.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn what_the_platform_does_within_a_poll_is_not_billed() {
        let burn = |ns: u64| {
            let start = thread_cpu_ns();
            while thread_cpu_ns() - start < ns {}
        };
        let meter = Meter::default();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut poll = |work: &dyn Fn(&Meter)| {
            let mut guest = std::pin::pin!(std::future::ready(()).then(|()| async { work(&meter) }));
            let _ = meter.poll(guest.as_mut(), &mut cx);
            meter.guest_cpu_ns()
        };
        let billed = poll(&|meter| meter.spare(|| burn(20_000_000)));
        assert!(billed < 5_000_000, "{billed}");
        let again = poll(&|meter| {
            burn(20_000_000);
            meter.spare_poll();
        });
        assert_eq!(again, billed);
    }

    #[test]
    fn memory_is_held_while_something_computes_or_the_guest_waits_for_its_own() {
        let meter = Meter::default();
        meter.waited_for_its_own(Duration::from_nanos(7));
        // Two threads, that waited for cores; and a run whose clock is ahead of the wall's.
        meter.inference_ran(100, 90, 2);
        meter.inference_ran(30, 20, 1);
        meter.inference_queued(1_000);
        assert_eq!((meter.memory_ns(), meter.inference_run_ns()), (77, 70));
        assert_eq!(meter.inference_wall_ns(), 110);
    }

    #[test]
    fn the_peak_is_of_all_that_is_held_at_once() {
        let meter = Meter::default();
        meter.memory_grows(100);
        meter.memory_grows(40);
        meter.memory_shrinks(40);
        meter.memory_grows(30);
        assert_eq!(meter.memory_peak(), 140);
        meter.memory_grows(20);
        assert_eq!(meter.memory_peak(), 150);
        for bytes in [5, 70, 6] {
            meter.model_memory_is(bytes);
        }
        assert_eq!((meter.memory_peak(), meter.model_memory_peak()), (150, 70));
    }
}
