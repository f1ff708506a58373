//! What has to hold, by the simulation's own reckoning.

use super::*;

impl World {
    /// The invariants that hold after each event.
    pub(super) fn check(&self) {
        let taken = self.memory.taken();
        assert!(taken <= self.memory.budget(), "over budget: {taken}");
        assert_eq!(taken, Kind::ALL.iter().map(|kind| self.memory.taken_for(*kind)).sum::<u64>());
        let instances: u64 = self
            .requests
            .values()
            .map(|r| if let Request::Running { memory, .. } = r { memory.bytes() } else { 0 })
            .sum();
        assert_eq!(self.memory.taken_for(Kind::Instances), instances);
        for (number, request) in &self.requests {
            match request {
                Request::Running { loaded, version, .. } => {
                    assert!(loaded.strong_count() > 0, "what request {number} runs on was taken from it");
                    let state = self.versions[*version].slot.state();
                    assert!(matches!(state, State::Warm | State::Draining), "runs on what is {state:?}");
                }
                Request::Waiting { version, until } => {
                    assert!(self.versions[*version].start.is_some(), "request {number} waits for nothing");
                    // Its timer rings at that moment, or where the clock jumped past it.
                    let rings = self.events.iter().any(|Reverse((at, _, e))| {
                        *e == Event::WaitedTooLong { request: *number } && at <= until
                    });
                    assert!(rings, "request {number} waits without a bound");
                }
            }
        }
        for version in &self.versions {
            let held = version.loaded.strong_count() > 0;
            match version.slot.state() {
                State::Cold => assert!(version.start.is_none()),
                State::Warming => assert!(version.start.is_some(), "warming, and nobody starts it"),
                State::Warm => assert!(held && version.start.is_none()),
                State::Draining => assert!(version.deleted),
            }
            let standing = self.fleet.standing(&version.slot, self.now);
            assert!(standing.refused.is_none_or(|r| r.retry_after <= BACKOFF_MAX));
            assert_eq!(standing.keep_alive.cost_multiplier, version.asked.cost_multiplier);
        }
    }

    /// The bytes that no eviction can free: what runs, is being started or still computes, and `parts`
    /// besides.
    pub(super) fn least_held(&self, parts: &[Part]) -> u64 {
        let mut keys = HashSet::new();
        let mut sum = 0;
        let mut add = |kind: Kind, digest: Digest, bytes: u64| {
            if keys.insert((kind, digest)) {
                sum += bytes;
            }
        };
        for (n, version) in self.versions.iter().enumerate() {
            let is_held = version.start.as_ref().is_some_and(|s| s.held.is_some())
                || (self.users(n) > 0
                    && version.slot.state() != State::Warming
                    && version.loaded.strong_count() > 0)
                || self.inferences.values().any(|l| std::ptr::eq(Arc::as_ptr(&l.0), version.loaded.as_ptr()));
            if is_held {
                for part in &version.parts {
                    add(part.kind, part.digest, self.counted(part));
                }
            }
        }
        // Of versions that were started anew since.
        for loaded in self.inferences.values() {
            for (kind, digest) in loaded.0.keys().iter() {
                add(*kind, *digest, self.actual[digest]);
            }
        }
        for part in parts {
            add(part.kind, part.digest, self.counted(part));
        }
        sum + self.memory.taken_for(Kind::Instances)
    }

    /// What a part is counted with: expected until someone has settled it.
    fn counted(&self, part: &Part) -> u64 {
        let settled = self
            .versions
            .iter()
            .any(|v| v.loaded.upgrade().is_some_and(|r| r.keys().contains(&(part.kind, part.digest))));
        if settled {
            return self.actual[&part.digest];
        }
        part.bytes.max(self.actual[&part.digest])
    }

    /// Whether a failed start, by the simulation's own reckoning, still holds the next one back.
    pub(super) fn backs_off(&self, version: usize, now: Instant) -> bool {
        let v = &self.versions[version];
        let doubled = BACKOFF_FIRST * 2u32.saturating_pow(v.failures.saturating_sub(1).min(20));
        let after_failure = v.failures > 0 && now < v.failed_at + doubled.min(BACKOFF_MAX);
        let after_short = v.no_memory_at.is_some_and(|at| now < at + BACKOFF_FIRST);
        after_failure || after_short
    }
}
