//! When each function is to be looked at next: one moment for each, at most.

use crate::clock::Instant;
use std::collections::{BTreeSet, HashMap};

/// Moments by function, and functions by moment.
#[derive(Default)]
pub(super) struct Agenda {
    by_moment: BTreeSet<(Instant, u64)>,
    by_function: HashMap<u64, Instant>,
}

impl Agenda {
    /// Looks at `function` at that moment, and no longer at an earlier or later one.
    pub fn set(&mut self, function: u64, moment: Option<Instant>) {
        if let Some(old) = self.by_function.remove(&function) {
            self.by_moment.remove(&(old, function));
        }
        if let Some(moment) = moment {
            self.by_function.insert(function, moment);
            self.by_moment.insert((moment, function));
        }
    }

    pub fn next(&self) -> Option<Instant> {
        self.by_moment.first().map(|(moment, _)| *moment)
    }

    /// The next function whose moment has come; it is off the agenda then.
    pub fn pop_due(&mut self, now: Instant) -> Option<u64> {
        let (moment, function) = *self.by_moment.first()?;
        if moment > now {
            return None;
        }
        self.set(function, None);
        Some(function)
    }
}
