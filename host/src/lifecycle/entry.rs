//! One version of a function on this host: what is loaded of it, who waits for it, and who uses it.

use super::functions::Functions;
use crate::registry::Version;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use vesta_core::clock::Instant;
use vesta_core::keepalive::History;
use vesta_core::lifecycle::{ColdStartParts, Failure, Refused, Resident, SetAside, Slot};
use vesta_core::memory::{Reservation, Short};
use vesta_engine::Loaded;

/// A version and its state in the fleet.
pub(super) type Entry = Slot<Warm>;

/// What the fleet keeps for this room with each version.
pub struct Owner {
    pub version: Arc<Version>,
    /// How the last cold start ended, for those who wait for it.
    pub ended: watch::Sender<Option<Result<ColdStart, StartError>>>,
    /// The state of its history that was saved last.
    pub saved: Mutex<Mark>,
}

/// Tells one state of a history from another: the last arrival, and how many starts there were.
pub type Mark = (Option<Instant>, u32);

pub(super) fn mark(history: &History) -> Mark {
    (history.last_arrival(), history.starts())
}

/// A loaded function as the fleet knows it.
#[derive(Clone)]
pub struct Warm(pub Arc<Loaded>);

impl Resident for Warm {
    type Owner = Owner;

    fn reservation(&self) -> &Reservation {
        self.0.reservation()
    }
    fn cold_start(&self) -> Option<ColdStartParts> {
        Some(self.0.cold_start())
    }
    fn models_set_aside(&self) -> Vec<SetAside> {
        self.0.models_set_aside()
    }
}

/// Why a function could not be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error("the function could not be started: {0}")]
    Failed(String),
    #[error("this host has no memory for the function: {0}")]
    Memory(Short),
    #[error("the function was not ready within {0} seconds")]
    TimedOut(u64),
    #[error(transparent)]
    BackOff(#[from] Refused),
}

impl StartError {
    /// Whether it is only that the host's memory is full.
    pub fn is_memory(&self) -> bool {
        let by_backoff = matches!(self, StartError::BackOff(Refused { reason: Failure::Memory(_), .. }));
        by_backoff || matches!(self, StartError::Memory(_))
    }

    /// When to try again.
    pub fn retry_after(&self) -> Duration {
        match self {
            StartError::BackOff(refused) => refused.retry_after,
            _ => Duration::from_secs(1),
        }
    }
}

impl From<Failure> for StartError {
    fn from(failure: Failure) -> StartError {
        match failure {
            Failure::Memory(short) => StartError::Memory(short),
            Failure::Load(reason) => StartError::Failed(reason.to_string()),
        }
    }
}

/// What a cold start consisted of, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ColdStart {
    pub wall_ns: u64,
    pub cpu_ns: u64,
    pub code_ns: u64,
    pub models_ns: u64,
}

/// A place among the invocations of a function; given back when dropped. While it lives, the function is not
/// let go.
pub struct Admitted {
    pub(super) entry: Arc<Entry>,
    pub(super) functions: Arc<Functions>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.functions.fleet.leave(&self.entry, self.functions.now());
    }
}
