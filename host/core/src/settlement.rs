//! How far the ledger is behind the journal. A record is accepted when it is in the journal, and posted when
//! the ledger has it. A reader of the ledger waits until what was accepted before is posted, and says so
//! where that takes too long.

use crate::UsageRecord;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A place in the journal: a segment, and how many of its bytes come before the place. Places are ordered as
/// records were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    pub segment: u64,
    pub bytes: u64,
}

/// A record in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journaled {
    pub record: UsageRecord,
    /// Where the record ends. The ledger keeps the end of the last record that it has taken, in the same
    /// transaction, so that a record which comes again after a crash is known by its place.
    pub end: Position,
}

/// Counters that only grow, of which `posted` follows `accepted`; how long the oldest record waits; and the
/// failures.
#[derive(Debug, Default)]
pub struct Settlement {
    accepted: AtomicU64,
    posted: AtomicU64,
    /// When the oldest record that the ledger lacks was accepted.
    oldest: Mutex<Option<Instant>>,
    failures: AtomicU64,
    failures_in_a_row: AtomicU64,
}

impl Settlement {
    /// The journal has made `n` more records durable.
    pub fn accept(&self, n: u64, now: Instant) {
        if n > 0 {
            self.oldest().get_or_insert(now);
        }
        self.accepted.fetch_add(n, SeqCst);
    }
    /// The ledger has taken `n` more of them; of those that it lacks the oldest was accepted at `oldest`. Not
    /// called while `accept` is.
    pub fn post(&self, n: u64, oldest: Option<Instant>) {
        *self.oldest() = oldest;
        let posted = self.posted.fetch_add(n, SeqCst) + n;
        debug_assert!(posted <= self.mark(), "more was posted than accepted");
        self.failures_in_a_row.store(0, SeqCst);
    }
    /// The ledger has failed to take records; it will be asked again.
    pub fn fail(&self) {
        self.failures.fetch_add(1, SeqCst);
        self.failures_in_a_row.fetch_add(1, SeqCst);
    }
    /// How many records have been accepted up to now: the mark to wait for.
    pub fn mark(&self) -> u64 {
        self.accepted.load(SeqCst)
    }
    /// How many accepted records the ledger does not have yet.
    pub fn pending(&self) -> u64 {
        // Read in this order, what is posted in between makes the answer too large, never negative.
        let posted = self.posted.load(SeqCst);
        self.accepted.load(SeqCst).saturating_sub(posted)
    }
    /// Whether everything up to a mark is posted.
    pub fn reached(&self, mark: u64) -> bool {
        self.posted.load(SeqCst) >= mark
    }
    /// How long the oldest record that the ledger lacks has been waiting; 0 where it lacks none.
    pub fn lag(&self, now: Instant) -> Duration {
        self.oldest().map_or(Duration::ZERO, |oldest| now.saturating_duration_since(oldest))
    }
    /// How often the ledger has failed to take records.
    pub fn failures(&self) -> u64 {
        self.failures.load(SeqCst)
    }
    /// How often it has failed since it last took some.
    pub fn failures_in_a_row(&self) -> u64 {
        self.failures_in_a_row.load(SeqCst)
    }

    fn oldest(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.oldest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_is_that_of_the_oldest_record_and_failures_in_a_row_end_with_a_success() {
        let settlement = Settlement::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(settlement.lag(at(9)), Duration::ZERO);
        settlement.accept(2, at(1));
        settlement.accept(1, at(3));
        assert_eq!((settlement.pending(), settlement.lag(at(9))), (3, Duration::from_secs(8)));
        settlement.fail();
        settlement.fail();
        assert_eq!((settlement.failures(), settlement.failures_in_a_row()), (2, 2));
        settlement.post(2, Some(at(3)));
        assert_eq!((settlement.pending(), settlement.lag(at(9))), (1, Duration::from_secs(6)));
        assert_eq!((settlement.failures(), settlement.failures_in_a_row()), (2, 0));
        settlement.post(1, None);
        assert!(settlement.reached(settlement.mark()) && settlement.lag(at(9)).is_zero());
    }
}
