//! One version of a function on this host: its state, who waits for it, and who uses it.

use crate::registry::Version;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use vesta_core::clock::Instant;
use vesta_core::lifecycle::State;
use vesta_engine::Loaded;

/// Why an invocation may not begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    #[error("{0} invocations of this function run or wait already, the most it allows (limits.concurrency)")]
    Concurrency(u32),
    #[error("this version was deleted")]
    Draining,
}

/// Why a function could not be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error("the function could not be started: {0}")]
    Failed(String),
    #[error("the function was not ready within {0} seconds")]
    TimedOut(u64),
}

/// What a cold start consisted of, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ColdStart {
    pub wall_ns: u64,
    pub cpu_ns: u64,
    pub code_ns: u64,
    pub models_ns: u64,
}

/// The result of a cold start, as everybody who waits for it gets it.
pub(super) type Started = Result<(Arc<Loaded>, ColdStart), StartError>;

pub(super) enum Slot {
    Cold,
    Warming(watch::Receiver<Option<Started>>),
    Warm(Warm),
}

pub(super) struct Warm {
    pub loaded: Arc<Loaded>,
    pub running: u32,
    pub idle_since: Instant,
    pub cold_start_cpu: Duration,
}

/// One version of a function on this host.
pub struct Entry {
    pub(super) version: Arc<Version>,
    pub(super) slot: Mutex<Slot>,
    admitted: AtomicU32,
    draining: AtomicBool,
}

impl Entry {
    pub(super) fn new(version: Arc<Version>) -> Arc<Entry> {
        let slot = Mutex::new(Slot::Cold);
        Arc::new(Entry { version, slot, admitted: AtomicU32::new(0), draining: AtomicBool::new(false) })
    }

    pub(super) fn slot(&self) -> MutexGuard<'_, Slot> {
        // The slot is replaced as a whole; a panic elsewhere leaves it usable.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one of the function's places for an invocation that runs or waits.
    pub(super) fn admit(self: &Arc<Self>) -> Result<Admitted, NotAdmitted> {
        if self.draining.load(SeqCst) {
            return Err(NotAdmitted::Draining);
        }
        let max = self.version.manifest.limits.concurrency;
        if self.admitted.fetch_add(1, SeqCst) >= max {
            self.admitted.fetch_sub(1, SeqCst);
            return Err(NotAdmitted::Concurrency(max));
        }
        Ok(Admitted(self.clone()))
    }

    /// From now on nothing is admitted; what runs is let finish.
    pub(super) fn drain(&self) {
        self.draining.store(true, SeqCst);
        let mut slot = self.slot();
        if matches!(&*slot, Slot::Warm(warm) if warm.running == 0) {
            *slot = Slot::Cold;
        }
    }

    pub(super) fn state(&self) -> State {
        if self.draining.load(SeqCst) {
            return State::Draining;
        }
        match &*self.slot() {
            Slot::Cold => State::Cold,
            Slot::Warming(_) => State::Warming,
            Slot::Warm(_) => State::Warm,
        }
    }

    pub(super) fn is_unused(&self) -> bool {
        self.admitted.load(SeqCst) == 0 && matches!(&*self.slot(), Slot::Cold)
    }
}

/// A place among the invocations of a function; given back when dropped.
pub struct Admitted(pub(super) Arc<Entry>);

impl Admitted {
    pub fn version(&self) -> &Arc<Version> {
        &self.0.version
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.admitted.fetch_sub(1, SeqCst);
    }
}

/// A warm function in use. While any lease lives, the function stays warm.
pub struct Lease {
    pub(super) entry: Arc<Entry>,
    pub(super) loaded: Arc<Loaded>,
    pub(super) clock: Arc<dyn vesta_core::clock::Clock>,
}

impl Lease {
    pub fn loaded(&self) -> Arc<Loaded> {
        self.loaded.clone()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut slot = self.entry.slot();
        let Slot::Warm(warm) = &mut *slot else { return };
        if !Arc::ptr_eq(&warm.loaded, &self.loaded) {
            return;
        }
        // A lease beside an earlier start was never counted.
        warm.running = warm.running.saturating_sub(1);
        warm.idle_since = self.clock.now();
        if warm.running == 0 && self.entry.draining.load(SeqCst) {
            *slot = Slot::Cold;
        }
    }
}
