//! The functions of this host with the memory that they share.

use super::entry::Warm;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use vesta_core::clock::{Clock, Instant};
use vesta_core::keepalive::KeepAlive;
use vesta_core::lifecycle::Fleet;
use vesta_core::memory::{Grant, Kind, Memory, Short, Taken};
use vesta_engine::{heap, processes};

/// Least time between two times that the heap is let go of because memory is short.
const LET_GO_PAUSE: Duration = Duration::from_secs(1);
/// Where what is not counted is less than this part of the budget, letting go of the heap would free little.
const LET_GO_SHARE: u64 = 32;

/// Says whether more than one tenant has functions on this host.
pub type SeveralTenants = Arc<dyn Fn() -> bool + Send + Sync>;

/// The core's fleet with this host's clock.
pub struct Functions {
    pub(super) fleet: Fleet<Warm>,
    clock: Arc<dyn Clock>,
    /// The reaper has something to do earlier than it thought.
    pub(super) woken: Arc<Notify>,
    /// Whether there are several tenants, who must leave one another some memory.
    several_tenants: SeveralTenants,
    /// When the heap was last let go of because memory was short.
    let_go: Mutex<Option<std::time::Instant>>,
}

impl Functions {
    /// `budget` in bytes.
    pub fn new(
        budget: u64,
        policy: Arc<dyn KeepAlive>,
        clock: Arc<dyn Clock>,
        several_tenants: SeveralTenants,
    ) -> Arc<Functions> {
        let woken = Arc::new(Notify::new());
        let wake = woken.clone();
        let fleet = Fleet::new(Memory::new(budget), policy, Box::new(move || wake.notify_one()));
        Arc::new(Functions { fleet, clock, woken, several_tenants, let_go: Mutex::default() })
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

    /// Gives freed memory of the heap back to the kernel, at most once in a while, and looks at the kernel
    /// again. Says whether it did: what was refused before may be given now. Takes some milliseconds, and is
    /// not done where the heap cannot hold much.
    pub(super) fn let_go_of_the_heap(&self) -> bool {
        let memory = self.fleet.memory();
        if memory.uncounted() < memory.budget() / LET_GO_SHARE {
            return false;
        }
        // Whoever comes while another one does it is refused: it does not wait on a worker's thread.
        let Ok(mut last) = self.let_go.try_lock() else { return false };
        if last.is_some_and(|at| at.elapsed() < LET_GO_PAUSE) {
            return false;
        }
        heap::let_go();
        self.look_at_the_kernel();
        *last = Some(std::time::Instant::now());
        true
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
        self.fleet.grow(taken, more, self.now(), || self.let_go_of_the_heap())
    }
    fn of_tenant_max(&self) -> u64 {
        let budget = self.memory().budget();
        if (self.several_tenants)() { budget / 2 } else { budget }
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
