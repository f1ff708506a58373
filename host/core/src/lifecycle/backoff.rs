//! How long a function that could not be started is left alone.

use crate::clock::Instant;
use std::time::Duration;

/// After the first failed start; doubled with each further one.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest.
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Failed starts since the last good one.
#[derive(Debug, Clone, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Instant,
}

impl Backoff {
    /// A start failed for a reason that may well stay.
    pub fn failed(&mut self, now: Instant) {
        let doubled = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.until = now.saturating_add(doubled.min(BACKOFF_MAX));
    }

    /// A start found no memory: soon there may be some, so nothing is doubled.
    pub fn found_no_memory(&mut self, now: Instant) {
        self.until = now.saturating_add(BACKOFF_FIRST);
    }

    pub fn succeeded(&mut self) {
        *self = Backoff::default();
    }

    /// Until when no start is tried, if that is still to come. Never more than the longest back-off away.
    pub fn until(&mut self, now: Instant) -> Option<Instant> {
        self.until = self.until.min(now.saturating_add(BACKOFF_MAX));
        (now < self.until).then_some(self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_its_bound_and_is_forgotten_after_a_good_start() {
        let mut backoff = Backoff::default();
        let now = Duration::from_secs(100);
        let mut waits = Vec::new();
        for _ in 0..40 {
            backoff.failed(now);
            waits.push(backoff.until(now).expect("backs off") - now);
        }
        assert_eq!(waits[..4], [100, 200, 400, 800].map(Duration::from_millis));
        assert!(waits[8..].iter().all(|w| *w == BACKOFF_MAX), "{waits:?}");
        assert_eq!(backoff.until(now + BACKOFF_MAX), None);
        backoff.succeeded();
        assert_eq!(backoff.until(now), None);
    }

    #[test]
    fn a_clock_that_jumped_back_cannot_make_it_longer() {
        let mut backoff = Backoff::default();
        backoff.failed(Duration::from_secs(10_000));
        assert_eq!(backoff.until(Duration::from_secs(1)), Some(Duration::from_secs(1) + BACKOFF_MAX));
    }
}
