//! What is deployed in the simulation, and what a minimum keeps.

use super::*;

impl World {
    pub(super) fn deploy(&mut self, function: usize) {
        let rng = &mut self.rng;
        let asked = Asked {
            keep_alive: rng.random_bool(0.3).then(|| Duration::from_millis(rng.random_range(0..120_000))),
            ..Asked::default()
        };
        let budget = self.memory.budget();
        let mut parts = vec![];
        let code: [u8; 32] = rng.random();
        parts.push((Kind::Code, Digest::from_bytes(code), rng.random_range(MIB / 2..4 * MIB)));
        for _ in 0..rng.random_range(0..4) {
            // Some models are used by many functions.
            let shared = rng.random_bool(0.5);
            let id = if shared { rng.random_range(0..4u8) } else { rng.random_range(8..=255) };
            let most = if rng.random_bool(0.03) { budget + budget / 4 } else { budget / 4 };
            parts.push((Kind::Models, Digest::from_bytes([id; 32]), rng.random_range(MIB..most)));
        }
        let parts = parts
            .into_iter()
            .map(|(kind, digest, bytes)| {
                // What is expected from the files may differ a little from what it turns out to be.
                let expected = *self.expected.entry(digest).or_insert(bytes);
                let (a_little, drawn) = (expected / 16, self.rng.random_range(0..10));
                self.actual.entry(digest).or_insert(match drawn {
                    0 => expected + a_little,
                    1 | 2 => expected - a_little,
                    _ => expected,
                });
                Part { kind, digest, bytes: expected }
            })
            .collect();
        let history = self.functions[function].map(|v| self.versions[v].slot.history());
        let version = Version {
            slot: self.fleet.slot((), asked, history.unwrap_or_default()),
            asked,
            parts,
            concurrency: if self.rng.random_bool(0.2) { 2 } else { self.rng.random_range(3..150) },
            deleted: false,
            kept: false,
            failing: if self.rng.random_bool(0.2) { self.rng.random_range(0.1..1.0) } else { 0.0 },
            start: None,
            loaded: Weak::new(),
            failures: 0,
            failed_at: Instant::ZERO,
            no_memory_at: None,
        };
        if let Some(before) = self.functions[function] {
            self.set_kept(before, false);
        }
        self.versions.push(version);
        let number = self.versions.len() - 1;
        self.functions[function] = Some(number);
        if self.rng.random_bool(0.1) {
            self.set_kept(number, true);
        }
    }

    pub(super) fn set_kept(&mut self, version: usize, kept: bool) {
        let v = &mut self.versions[version];
        if !v.deleted {
            v.kept = kept;
            self.fleet.keep(&v.slot, kept, self.now);
        }
    }
}
