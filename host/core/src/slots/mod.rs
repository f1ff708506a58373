//! Inference slots: which waiting run starts next, as a pure state machine. The engine holds it in a lock,
//! drives it, and adds the threads.
//!
//! A run takes one slot or several (its width). Free slots go to tenants by deficit round robin over the CPU
//! time that their runs use; the rules are in `shares.rs`. Within a tenant, runs start in the order of their
//! arrival.
//!
//! A wide run that is next and does not fit yet keeps the free slots: only tenants with credit left in this
//! round may start runs before it, so it starts after the runs under way and a bounded number of others.
//!
//! Every operation takes logarithmic time in the number of waiting runs and of tenants remembered.

mod shares;
#[cfg(test)]
mod tests;

use crate::TenantName;
use shares::Shares;
use std::collections::{BTreeSet, HashMap};

/// The least CPU time that a run is charged with, in nanoseconds. A run whose CPU time is measured as 0 has
/// still occupied a slot.
pub const CHARGE_MIN_NS: u64 = 1_000;

/// The bounds of [`Slots`]. Each is at least 1; a 0 counts as 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotsConfig {
    /// Slots that runs under way may occupy together.
    pub slots: u32,
    /// Runs that may wait, in all. A run waits until [`Slots::next`] starts it, also while slots are free.
    pub waiting_max: usize,
    /// Runs that may wait, per tenant.
    pub waiting_tenant_max: usize,
    /// CPU time that each tenant is granted in a round, in nanoseconds.
    ///
    /// It should be at least twice the longest usual run. If it is shorter, the shares are still equal, but a
    /// tenant uses up its quantum with few short runs, and then waits for one run of each other tenant.
    pub quantum_ns: u64,
}

/// A run to be queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Slots that it occupies, clamped to 1..=`slots`.
    pub width: u32,
    /// Expected CPU time on all its threads, in nanoseconds. Its tenant is charged with it until the run
    /// ends.
    pub estimate_cpu_ns: u64,
    /// Expected duration, in nanoseconds. It decides whether the run can still meet its deadline.
    pub estimate_wall_ns: u64,
    /// When the run must have ended, in nanoseconds on the monotonic clock.
    pub deadline_ns: u64,
    /// Bytes that it holds while it waits (its input tensors).
    pub held_bytes: u64,
}

/// A queued run. Ids are given in the order of arrival and never again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(u64);

/// What the caller has to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Start this run, and call [`Slots::finished`] once when it has ended.
    Start(JobId),
    /// Answer that this run can no longer meet its deadline. It has left the queue.
    Drop(JobId),
}

/// Why a run was not queued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotsError {
    #[error("{max} inferences are waiting already, the most that this host lets wait")]
    QueueFull { max: usize },
    #[error("{max} inferences of this tenant are waiting already, the most that a tenant may have waiting")]
    TenantQueueFull { max: usize },
    #[error("the inference is expected to take {needed_ns} ns, and {left_ns} ns are left until its deadline")]
    TooLate { needed_ns: u64, left_ns: u64 },
}

/// The queue of runs and the slots. All times are nanoseconds on one monotonic clock, passed in by the
/// caller.
pub struct Slots {
    config: SlotsConfig,
    free: u32,
    shares: Shares,
    waiting: HashMap<JobId, Waiting>,
    running: HashMap<JobId, Running>,
    /// The last moment at which each waiting run may start and still meet its deadline.
    latest_starts: BTreeSet<(u64, JobId)>,
    held_bytes: u64,
    ids: u64,
}

struct Waiting {
    tenant: TenantName,
    width: u32,
    charge_ns: u64,
    latest_start_ns: u64,
    held_bytes: u64,
}

struct Running {
    tenant: TenantName,
    width: u32,
    charge_ns: u64,
}

impl Slots {
    pub fn new(config: SlotsConfig) -> Slots {
        let config = SlotsConfig {
            slots: config.slots.max(1),
            waiting_max: config.waiting_max.max(1),
            waiting_tenant_max: config.waiting_tenant_max.max(1),
            quantum_ns: config.quantum_ns.max(1),
        };
        Slots {
            free: config.slots,
            shares: Shares::new(config.quantum_ns),
            config,
            waiting: HashMap::new(),
            running: HashMap::new(),
            latest_starts: BTreeSet::new(),
            held_bytes: 0,
            ids: 0,
        }
    }

    /// Queues a run. Call [`Slots::next`] afterwards: it may start at once.
    pub fn enqueue(&mut self, tenant: &TenantName, job: Job, now_ns: u64) -> Result<JobId, SlotsError> {
        let left_ns = job.deadline_ns.saturating_sub(now_ns);
        if now_ns > job.deadline_ns || job.estimate_wall_ns > left_ns {
            return Err(SlotsError::TooLate { needed_ns: job.estimate_wall_ns, left_ns });
        }
        if self.waiting.len() >= self.config.waiting_max {
            return Err(SlotsError::QueueFull { max: self.config.waiting_max });
        }
        if self.shares.waiting(tenant) >= self.config.waiting_tenant_max {
            return Err(SlotsError::TenantQueueFull { max: self.config.waiting_tenant_max });
        }
        self.ids += 1;
        let id = JobId(self.ids);
        let waiting = Waiting {
            tenant: tenant.clone(),
            width: job.width.clamp(1, self.config.slots),
            charge_ns: job.estimate_cpu_ns.max(CHARGE_MIN_NS),
            latest_start_ns: job.deadline_ns - job.estimate_wall_ns,
            held_bytes: job.held_bytes,
        };
        self.shares.enqueue(tenant, id, waiting.held_bytes);
        self.latest_starts.insert((waiting.latest_start_ns, id));
        self.held_bytes += waiting.held_bytes;
        self.waiting.insert(id, waiting);
        Ok(id)
    }

    /// What to do now. Call it after each [`Slots::enqueue`], [`Slots::finished`] and [`Slots::cancel`], and
    /// when [`Slots::next_drop_ns`] is reached, each time until it returns `None`.
    ///
    /// Runs that can no longer meet their deadline are dropped first, wherever in the queue they are.
    pub fn next(&mut self, now_ns: u64) -> Option<Turn> {
        if let Some(&(latest_start_ns, id)) = self.latest_starts.first()
            && latest_start_ns < now_ns
        {
            self.cancel(id);
            return Some(Turn::Drop(id));
        }
        if self.free == 0 {
            return None;
        }
        let id = self.shares.first()?;
        if self.waiting.get(&id)?.width > self.free {
            return None;
        }
        self.start(id)
    }

    /// When [`Slots::next`] has a run to drop, if nothing else happens before.
    pub fn next_drop_ns(&self) -> Option<u64> {
        self.latest_starts.first().map(|(latest_start_ns, _)| latest_start_ns.saturating_add(1))
    }

    /// A run has ended and used `cpu_ns` of CPU time on all its threads: its slots are free again, and its
    /// tenant is charged with that time instead of the estimate. False if no such run is under way.
    pub fn finished(&mut self, id: JobId, cpu_ns: u64) -> bool {
        let Some(run) = self.running.remove(&id) else { return false };
        self.free += run.width;
        self.shares.finish(&run.tenant, run.charge_ns, cpu_ns.max(CHARGE_MIN_NS));
        true
    }

    /// Takes an abandoned run out of the queue. False if it does not wait (any more); a run under way goes
    /// on, and [`Slots::finished`] is still to be called.
    pub fn cancel(&mut self, id: JobId) -> bool {
        let Some(job) = self.leave_queue(id) else { return false };
        self.shares.cancel(&job.tenant, id, job.held_bytes);
        true
    }

    /// Runs that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
    pub fn waiting_of(&self, tenant: &TenantName) -> usize {
        self.shares.waiting(tenant)
    }
    /// Runs under way.
    pub fn running(&self) -> usize {
        self.running.len()
    }
    /// Slots that no run occupies.
    pub fn free(&self) -> u32 {
        self.free
    }
    /// Bytes held by the runs that wait.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }
    pub fn held_bytes_of(&self, tenant: &TenantName) -> u64 {
        self.shares.held_bytes(tenant)
    }
    /// Tenants that something is remembered of: those with a run waiting or under way, or in debt.
    pub fn tenants(&self) -> usize {
        self.shares.tenants()
    }

    fn start(&mut self, id: JobId) -> Option<Turn> {
        let job = self.leave_queue(id)?;
        self.free -= job.width;
        self.shares.start(&job.tenant, id, job.held_bytes, job.charge_ns);
        let run = Running { tenant: job.tenant, width: job.width, charge_ns: job.charge_ns };
        self.running.insert(id, run);
        Some(Turn::Start(id))
    }

    fn leave_queue(&mut self, id: JobId) -> Option<Waiting> {
        let job = self.waiting.remove(&id)?;
        self.latest_starts.remove(&(job.latest_start_ns, id));
        self.held_bytes -= job.held_bytes;
        Some(job)
    }
}
