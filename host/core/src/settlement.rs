//! Keeps readers of the ledger in step with the journal: a record is accepted when it is durable in the
//! journal, and posted when the ledger has it. A reader waits until what was accepted before is posted.

use std::sync::atomic::{AtomicU64, Ordering};

/// Two counters that only grow; `posted` follows `accepted`.
#[derive(Debug, Default)]
pub struct Settlement {
    accepted: AtomicU64,
    posted: AtomicU64,
}

impl Settlement {
    /// The journal has made `n` more records durable.
    pub fn accept(&self, n: u64) {
        self.accepted.fetch_add(n, Ordering::SeqCst);
    }
    /// The ledger has taken `n` more of them.
    pub fn post(&self, n: u64) {
        let posted = self.posted.fetch_add(n, Ordering::SeqCst) + n;
        debug_assert!(posted <= self.mark(), "more was posted than accepted");
    }
    /// How many records have been accepted up to now: the mark to wait for.
    pub fn mark(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }
    /// How many accepted records the ledger does not have yet.
    pub fn pending(&self) -> u64 {
        // Read in this order, what is posted in between makes the answer too large, never negative.
        let posted = self.posted.load(Ordering::SeqCst);
        self.accepted.load(Ordering::SeqCst).saturating_sub(posted)
    }
    /// Whether everything up to a mark is posted.
    pub fn reached(&self, mark: u64) -> bool {
        self.posted.load(Ordering::SeqCst) >= mark
    }
}
