//! Whose run is next: deficit round robin over tenants, by CPU time.
//!
//! Each round grants every tenant a quantum of CPU time. A start charges the tenant with the estimate; the
//! end corrects the charge to the CPU time used. A tenant has credit while its charges are below what was
//! granted, and is in debt above. When no waiting tenant has credit, as many rounds pass as the one with the
//! least debt needs.
//!
//! Grants and charges are counted from the same origin, so one number, `granted`, tops up all tenants at
//! once, and a tenant's credit is `granted - charged`.
//!
//! - A tenant that had nothing waiting and has credit is served before the tenants with a backlog, until its
//!   credit or its queue ends. So a tenant with short runs waits for a run under way, and not for the queues
//!   of others.
//! - Among equals, the tenant that was charged the least is next; then the run that came first.
//! - Without a waiting run, a tenant keeps a credit of one quantum at most. Its debt stays until enough
//!   rounds have passed, or until nobody waits.

use super::JobId;
use crate::TenantName;
use std::collections::{BTreeSet, HashMap};

/// The order in which tenants are served: what the tenant was charged, then its oldest waiting run.
type Place = (u128, JobId);

pub(super) struct Shares {
    quantum_ns: u128,
    /// CPU time granted to each tenant in all rounds so far, in nanoseconds; this round is the last quantum
    /// of it.
    granted_ns: u128,
    accounts: HashMap<TenantName, Account>,
    /// Waiting tenants that came with credit and still have some.
    fresh: BTreeSet<Place>,
    /// All other waiting tenants, with credit or in debt.
    backlogged: BTreeSet<Place>,
    /// Tenants with nothing but a charge in this round, or debt.
    idle: BTreeSet<(u128, TenantName)>,
}

#[derive(Default)]
struct Account {
    /// Waiting runs; ids are in the order of arrival.
    queue: BTreeSet<JobId>,
    held_bytes: u64,
    is_fresh: bool,
    running: u32,
    /// CPU time of the runs that have ended and estimates of those under way.
    charged_ns: u128,
    /// The part of it that is estimated.
    estimated_ns: u128,
    /// The part of the estimates that rounds paid for while nothing of the tenant waited. It is not given
    /// back if the run uses less: a tenant gains no credit while it does not wait.
    prepaid_ns: u128,
}

impl Shares {
    pub(super) fn new(quantum_ns: u64) -> Shares {
        let quantum_ns = u128::from(quantum_ns);
        Shares {
            quantum_ns,
            granted_ns: quantum_ns,
            accounts: HashMap::new(),
            fresh: BTreeSet::new(),
            backlogged: BTreeSet::new(),
            idle: BTreeSet::new(),
        }
    }

    pub(super) fn waiting(&self, tenant: &TenantName) -> usize {
        self.accounts.get(tenant).map_or(0, |account| account.queue.len())
    }
    pub(super) fn held_bytes(&self, tenant: &TenantName) -> u64 {
        self.accounts.get(tenant).map_or(0, |account| account.held_bytes)
    }
    pub(super) fn tenants(&self) -> usize {
        self.accounts.len()
    }

    /// The run that is next. Lets rounds pass if no waiting tenant has credit.
    pub(super) fn first(&mut self) -> Option<JobId> {
        if let Some((_, id)) = self.fresh.first() {
            return Some(*id);
        }
        let (charged_ns, id) = *self.backlogged.first()?;
        if charged_ns >= self.granted_ns {
            self.pass_rounds(charged_ns);
        }
        Some(id)
    }

    pub(super) fn enqueue(&mut self, tenant: &TenantName, id: JobId, held_bytes: u64) {
        let round_began_ns = self.round_began_ns();
        self.update(tenant, |account| {
            if account.queue.is_empty() {
                account.stop_idling(round_began_ns);
                // As long as it has credit: see `update`.
                account.is_fresh = true;
            }
            account.queue.insert(id);
            account.held_bytes += held_bytes;
        });
    }

    pub(super) fn cancel(&mut self, tenant: &TenantName, id: JobId, held_bytes: u64) {
        self.update(tenant, |account| account.leave_queue(id, held_bytes));
    }

    pub(super) fn start(&mut self, tenant: &TenantName, id: JobId, held_bytes: u64, estimate_ns: u64) {
        self.update(tenant, |account| {
            account.leave_queue(id, held_bytes);
            account.running += 1;
            account.charged_ns += u128::from(estimate_ns);
            account.estimated_ns += u128::from(estimate_ns);
        });
    }

    pub(super) fn finish(&mut self, tenant: &TenantName, estimate_ns: u64, cpu_ns: u64) {
        let (estimate_ns, cpu_ns) = (u128::from(estimate_ns), u128::from(cpu_ns));
        self.update(tenant, |account| {
            let prepaid_ns = account.prepaid_ns.min(estimate_ns);
            account.running -= 1;
            account.prepaid_ns -= prepaid_ns;
            account.estimated_ns -= estimate_ns;
            account.charged_ns = account.charged_ns - estimate_ns + cpu_ns.max(prepaid_ns);
        });
    }

    fn round_began_ns(&self) -> u128 {
        self.granted_ns - self.quantum_ns
    }

    /// Grants as many whole rounds as a tenant charged with `charged_ns` needs to have credit.
    fn pass_rounds(&mut self, charged_ns: u128) {
        let rounds = (charged_ns - self.granted_ns) / self.quantum_ns + 1;
        self.granted_ns += rounds * self.quantum_ns;
        let round_began_ns = self.round_began_ns();
        while self.idle.first().is_some_and(|(charged_ns, _)| *charged_ns <= round_began_ns) {
            if let Some((_, tenant)) = self.idle.pop_first() {
                self.accounts.remove(&tenant);
            }
        }
    }

    /// Changes an account and puts its tenant where it belongs: the only place that keeps the sets in step. A
    /// tenant without a run and without debt is forgotten.
    fn update(&mut self, tenant: &TenantName, change: impl FnOnce(&mut Account)) {
        let mut account = self.accounts.remove(tenant).unwrap_or_default();
        if let Some(head) = account.queue.first() {
            self.fresh.remove(&(account.charged_ns, *head));
            self.backlogged.remove(&(account.charged_ns, *head));
        } else if account.running == 0 {
            self.idle.remove(&(account.charged_ns, tenant.clone()));
        }
        change(&mut account);
        account.is_fresh &= account.charged_ns < self.granted_ns;
        let is_in_use = account.running > 0 || !account.queue.is_empty();
        if let Some(head) = account.queue.first() {
            let places = if account.is_fresh { &mut self.fresh } else { &mut self.backlogged };
            places.insert((account.charged_ns, *head));
        }
        if is_in_use {
            self.accounts.insert(tenant.clone(), account);
        } else if account.charged_ns > self.round_began_ns() {
            self.idle.insert((account.charged_ns, tenant.clone()));
            self.accounts.insert(tenant.clone(), account);
        }
        if self.fresh.is_empty() && self.backlogged.is_empty() {
            self.forgive();
        }
    }

    /// Nobody waits: tenants without a run are forgotten, and their debt with them.
    fn forgive(&mut self) {
        for (_, tenant) in std::mem::take(&mut self.idle) {
            self.accounts.remove(&tenant);
        }
    }
}

impl Account {
    fn leave_queue(&mut self, id: JobId, held_bytes: u64) {
        self.queue.remove(&id);
        self.held_bytes -= held_bytes;
    }

    /// A run comes to a tenant without waiting runs: credit beyond this round's quantum is lost.
    fn stop_idling(&mut self, round_began_ns: u128) {
        let ended_ns = self.charged_ns - self.estimated_ns;
        self.prepaid_ns = round_began_ns.saturating_sub(ended_ns).min(self.estimated_ns);
        self.charged_ns = self.charged_ns.max(round_began_ns);
    }
}
