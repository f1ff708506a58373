//! The functions of this host with the memory that they share.

use super::entry::Warm;
use std::sync::Arc;
use tokio::sync::Notify;
use vesta_core::clock::{Clock, Instant};
use vesta_core::keepalive::KeepAlive;
use vesta_core::lifecycle::Fleet;
use vesta_core::memory::{Grant, Memory, Short, Taken};

/// The core's fleet with this host's clock.
pub struct Functions {
    pub(super) fleet: Fleet<Warm>,
    clock: Arc<dyn Clock>,
    /// The reaper has something to do earlier than it thought.
    pub(super) woken: Arc<Notify>,
}

impl Functions {
    /// `budget` in bytes.
    pub fn new(budget: u64, policy: Arc<dyn KeepAlive>, clock: Arc<dyn Clock>) -> Arc<Functions> {
        let woken = Arc::new(Notify::new());
        let wake = woken.clone();
        let fleet = Fleet::new(Memory::new(budget), policy, Box::new(move || wake.notify_one()));
        Arc::new(Functions { fleet, clock, woken })
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Functions let go to make room for others, since the start; and how often none could be made.
    pub fn evicted_and_refused(&self) -> (u64, u64) {
        (self.fleet.evicted(), self.fleet.refused())
    }
}

impl Grant for Functions {
    fn memory(&self) -> &Arc<Memory> {
        self.fleet.memory()
    }
    fn grow(&self, taken: &mut Taken, more: u64) -> Result<(), Short> {
        self.fleet.grow(taken, more, self.now())
    }
}
