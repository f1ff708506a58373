//! What happened in a simulation, so that one in which nothing did is noticed.

/// How often what happened.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub requests: u64,
    pub ran: u64,
    pub ran_warm: u64,
    pub timed_out: u64,
    pub client_gone: u64,
    pub refused_busy: u64,
    pub refused_deleted: u64,
    pub refused_backoff: u64,
    pub start_failed: u64,
    pub too_large: u64,
    pub no_memory: u64,
    pub starts: u64,
    pub prewarms: u64,
    pub minimum_starts: u64,
    pub minimum_kept: u64,
    pub prewarms_given_up: u64,
    pub evicted: u64,
    pub let_go: u64,
    pub grown: u64,
    pub not_grown: u64,
    pub memory_waits: u64,
}

impl Tally {
    fn fields(&mut self) -> [(&'static str, &mut u64); 21] {
        [
            ("requests", &mut self.requests),
            ("ran", &mut self.ran),
            ("ran_warm", &mut self.ran_warm),
            ("timed_out", &mut self.timed_out),
            ("client_gone", &mut self.client_gone),
            ("refused_busy", &mut self.refused_busy),
            ("refused_deleted", &mut self.refused_deleted),
            ("refused_backoff", &mut self.refused_backoff),
            ("start_failed", &mut self.start_failed),
            ("too_large", &mut self.too_large),
            ("no_memory", &mut self.no_memory),
            ("starts", &mut self.starts),
            ("prewarms", &mut self.prewarms),
            ("minimum_starts", &mut self.minimum_starts),
            ("minimum_kept", &mut self.minimum_kept),
            ("prewarms_given_up", &mut self.prewarms_given_up),
            ("evicted", &mut self.evicted),
            ("let_go", &mut self.let_go),
            ("grown", &mut self.grown),
            ("not_grown", &mut self.not_grown),
            ("memory_waits", &mut self.memory_waits),
        ]
    }

    pub fn add(&mut self, other: &Tally) {
        let mut other = other.clone();
        for ((_, mine), (_, theirs)) in self.fields().into_iter().zip(other.fields()) {
            *mine += *theirs;
        }
    }

    pub fn check_that_everything_happened(mut self) {
        for (name, count) in self.fields() {
            assert!(*count > 0, "in no seed: {name}");
        }
    }
}
