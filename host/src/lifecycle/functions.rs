//! The functions of this host with the memory that they share.

use super::entry::Warm;
use std::sync::Arc;
use tokio::sync::Notify;
use vesta_core::clock::{Clock, Instant};
use vesta_core::keepalive::KeepAlive;
use vesta_core::lifecycle::Fleet;
use vesta_core::memory::{Grant, Kind, Memory, Short, Taken};
use vesta_engine::processes;

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

    /// Asks the kernel what the process and its workers hold beside what is counted: that leaves less to
    /// take, and makes memory dear.
    pub(super) fn look_at_the_kernel(&self) {
        let memory = self.fleet.memory();
        if let Some(private) = private_bytes() {
            let counted = memory.taken_for(Kind::Instances) + memory.taken_for(Kind::Buffers);
            memory.observe_uncounted(private.saturating_sub(counted) + processes::uncounted_bytes());
        }
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

/// Memory of this process that is in the machine's, in bytes, tensors that it shares with workers included.
/// Mapped files are not in it: the kernel can take them back.
fn private_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = |field: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    (kib("RssAnon")? + kib("RssShmem")?).checked_mul(1024)
}
