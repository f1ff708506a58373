//! A cold start of the simulation, step by step as a host does it: room, loading, success or failure.

use super::*;

impl World {
    pub(super) fn begin(&mut self, version: usize) {
        self.tally.starts += 1;
        assert!(!self.backs_off(version, self.now), "started before its back-off ended");
        let v = &mut self.versions[version];
        assert!(v.start.is_none(), "started twice");
        assert!(!v.deleted, "started though it was deleted");
        v.start = Some(Start { memory_until: self.now + MEMORY_WAIT_MAX, held: None });
        assert_eq!(v.slot.state(), State::Warming);
        let wait = self.ms(0, 2);
        self.after(wait, Event::Reserve { version });
    }

    pub(super) fn reserve(&mut self, version: usize) {
        let now = self.when();
        let users = self.users(version);
        let (slot, parts) = (self.versions[version].slot.clone(), self.versions[version].parts.clone());
        let kept_before = self.kept_and_warm();
        let evicted = self.fleet.evicted();
        let is_prewarm = users == 0 && !self.versions[version].kept;
        let worth_before = if is_prewarm { self.worth_of_warm(now) } else { Vec::new() };
        let worth = self.worth(version, now);
        let result = self.fleet.reserve(&slot, now, &parts);
        if users == 0 {
            assert_eq!(self.kept_and_warm(), kept_before, "a minimum's function goes only for a request");
        }
        for (other, index) in worth_before {
            let stays = self.versions[other].slot.state() == State::Warm;
            assert!(
                stays || index < worth * PREWARM_GAIN,
                "a prewarm of {worth} evicts what is worth {index}"
            );
        }
        self.count_evicted();
        let Some(start) = &self.versions[version].start else { panic!("no start is under way") };
        let expired = self.now >= start.memory_until;
        match result {
            Ok(held) => {
                assert!(self.memory.used() <= self.memory.budget(), "taken although it does not fit");
                self.versions[version].start = Some(Start { memory_until: self.now, held: Some(held) });
                let load = if self.rng.random_bool(0.02) { self.ms(1_000, 60_000) } else { self.ms(1, 500) };
                self.after(load, Event::Loaded { version });
            }
            Err(short @ Short::Never { .. }) => {
                let most: u64 = unique(&parts).iter().map(|p| p.bytes.max(self.actual[&p.digest])).sum();
                assert!(most > self.memory.budget(), "{most} bytes are not too much");
                self.tally.too_large += 1;
                self.failed(version, Failure::Memory(short));
            }
            Err(short) => {
                if self.inferences.is_empty() {
                    assert_eq!(self.fleet.evicted(), evicted, "evicted, and yet there is no room");
                }
                if users > 0 {
                    let least = self.least_held(&parts) + self.memory.uncounted();
                    assert!(least > self.memory.budget(), "room could have been made: {least} bytes");
                }
                if self.fleet.give_up(&slot, now) {
                    assert_eq!(users, 0, "given up although someone waits");
                    self.tally.prewarms_given_up += 1;
                    self.versions[version].start = None;
                } else if expired {
                    self.tally.no_memory += 1;
                    self.versions[version].no_memory_at = Some(self.now);
                    self.failed(version, Failure::Memory(short));
                } else {
                    self.tally.memory_waits += 1;
                    self.after(MEMORY_POLL, Event::Reserve { version });
                }
            }
        }
    }

    /// What keeping a version is worth now.
    pub(super) fn worth(&self, version: usize, now: Instant) -> f64 {
        self.fleet.standing(&self.versions[version].slot, now).keep_alive.index
    }

    pub(super) fn worth_of_warm(&self, now: Instant) -> Vec<(usize, f64)> {
        let is_warm = |v: &usize| self.versions[*v].slot.state() == State::Warm;
        (0..self.versions.len()).filter(is_warm).map(|v| (v, self.worth(v, now))).collect()
    }

    pub(super) fn loaded(&mut self, version: usize) {
        let Some(Start { held: Some(held), .. }) = self.versions[version].start.take() else {
            panic!("loaded without memory")
        };
        let actual: Vec<Part> = self.versions[version]
            .parts
            .iter()
            .map(|p| Part { bytes: self.actual[&p.digest], ..*p })
            .collect();
        let failing = self.versions[version].failing;
        if self.rng.random_bool(failing) {
            drop(held);
            self.tally.start_failed += 1;
            return self.failed(version, Failure::Load("drawn by lot".into()));
        }
        if let Err(short) = held.settle(&actual) {
            drop(held);
            self.tally.no_memory += 1;
            self.versions[version].no_memory_at = Some(self.now);
            return self.failed(version, Failure::Memory(short));
        }
        let loaded = Loaded(Arc::new(held));
        let (now, cold) = (self.when(), self.ms(1, 500));
        let v = &mut self.versions[version];
        v.loaded = Arc::downgrade(&loaded.0);
        v.failures = 0;
        v.no_memory_at = None;
        let slot = v.slot.clone();
        self.fleet.started(&slot, now, loaded, cold);
        for request in self.waiting(version) {
            // What a waiting request does when it is woken: it finds the function warm.
            match slot.request(self.now) {
                Next::Run(loaded) => self.run_on(request, version, &loaded),
                _ => panic!("request {request} waited for a start that succeeded, and cannot run"),
            }
        }
    }

    pub(super) fn failed(&mut self, version: usize, failure: Failure) {
        let v = &mut self.versions[version];
        v.start = None;
        if let Failure::Load(_) = failure {
            v.failures += 1;
            v.failed_at = self.now;
        } else {
            v.no_memory_at = Some(self.now);
        }
        let slot = v.slot.clone();
        self.fleet.failed(&slot, self.now, failure);
        for request in self.waiting(version) {
            // Told the reason, and gone.
            self.leave(request);
        }
    }
}
