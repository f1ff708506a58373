//! A request of the simulation: it waits, runs, grows and ends.

use super::*;

impl World {
    pub(super) fn arrive(&mut self, function: usize) {
        self.tally.requests += 1;
        let Some(version) = self.functions[function] else {
            // The newest version that was deleted, asked for by someone who resolved it just before.
            let Some(old) = self.versions.iter().rposition(|v| v.deleted) else { return };
            let refused = self.versions[old].slot.admit(self.now, self.versions[old].concurrency);
            assert_eq!(refused, Err(NotAdmitted::Draining));
            self.tally.refused_deleted += 1;
            return;
        };
        let now = self.when();
        let concurrency = self.versions[version].concurrency;
        let slot = self.versions[version].slot.clone();
        if let Err(refused) = slot.admit(now, concurrency) {
            assert_eq!(refused, NotAdmitted::Concurrency(concurrency));
            assert_eq!(self.users(version), concurrency, "refused with a place free");
            self.tally.refused_busy += 1;
            return;
        }
        let request = self.number();
        match slot.request(now) {
            Next::Run(loaded) => {
                self.tally.ran_warm += 1;
                self.run_on(request, version, &loaded);
            }
            Next::Wait => {
                assert!(self.versions[version].start.is_some(), "waits for a start that nobody makes");
                self.wait(request, version);
            }
            Next::Start => {
                self.wait(request, version);
                self.begin(version);
            }
            Next::Refuse(refused) => {
                assert!(refused.retry_after <= BACKOFF_MAX);
                assert!(!refused.retry_after.is_zero());
                assert!(
                    self.backs_off(version, self.now.saturating_sub(JITTER)),
                    "refused though no start failed just now"
                );
                self.tally.refused_backoff += 1;
                self.fleet.leave(&slot, now);
            }
        }
    }

    pub(super) fn wait(&mut self, request: u64, version: usize) {
        let until = self.now + START_MAX;
        self.requests.insert(request, Request::Waiting { version, until });
        self.after(START_MAX, Event::WaitedTooLong { request });
        if self.rng.random_bool(0.05) {
            let wait = self.ms(0, 500);
            self.after(wait, Event::ClientGone { request });
        }
    }

    pub(super) fn run_on(&mut self, request: u64, version: usize, loaded: &Loaded) {
        self.tally.ran += 1;
        let memory = self.memory.none(Kind::Instances);
        let loaded = Arc::downgrade(&loaded.0);
        self.requests.insert(request, Request::Running { version, loaded, memory });
        self.grow(request);
        let long = if self.rng.random_bool(0.05) { self.ms(1_000, 120_000) } else { self.ms(1, 200) };
        let end =
            if self.rng.random_bool(0.1) { Event::ClientGone { request } } else { Event::End { request } };
        self.after(long, end);
        if self.rng.random_bool(0.3) {
            self.after(long / 2, Event::Grow { request });
        }
    }

    pub(super) fn grow(&mut self, request: u64) {
        let more = self.rng.random_range(64 << 10..self.memory.budget() / 40);
        let Some(Request::Running { version, loaded, mut memory }) = self.requests.remove(&request) else {
            return;
        };
        // Out of the table for a moment, but not out of the books.
        let held = memory.bytes();
        let evicted = self.fleet.evicted();
        let result = self.fleet.grow(&mut memory, more, self.now, || false);
        self.count_evicted();
        let grown = result.is_ok();
        assert_eq!(memory.bytes(), if grown { held + more } else { held });
        self.requests.insert(request, Request::Running { version, loaded, memory });
        if grown {
            assert!(self.memory.used() <= self.memory.budget(), "taken although it does not fit");
            self.tally.grown += 1;
        } else {
            if self.inferences.is_empty() {
                assert_eq!(self.fleet.evicted(), evicted, "evicted, and yet there is no room");
            }
            let least = self.least_held(&[]) + more + self.memory.uncounted();
            assert!(least > self.memory.budget(), "room could have been made: {least} bytes");
            self.tally.not_grown += 1;
            self.leave(request);
        }
    }

    pub(super) fn leave(&mut self, request: u64) {
        let Some(known) = self.requests.remove(&request) else { panic!("request {request} ends twice") };
        let version = match &known {
            Request::Waiting { version, .. } | Request::Running { version, .. } => *version,
        };
        drop(known);
        let now = self.when();
        let slot = self.versions[version].slot.clone();
        self.fleet.leave(&slot, now);
    }
}
