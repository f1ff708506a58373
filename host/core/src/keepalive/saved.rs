//! A history on disk: what was learned of a function outlives the process.

use super::history::{BUCKETS, History};
use crate::clock::Instant;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// How the fields are to be read. Another layout of the histogram gets another name.
const FORMAT: &str = "vesta-history/1";

/// A [`History`], with its arrivals by the wall clock: the only one that goes on while no host runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedHistory {
    format: String,
    /// By bucket, without the empty ones; all over the weight of the newest event.
    weights: BTreeMap<usize, f32>,
    gaps: u32,
    starts: u32,
    cold_ms: f32,
    resident_mb: f32,
    /// Milliseconds since 1970.
    last_unix_ms: Option<i64>,
    event_unix_ms: i64,
}

impl SavedHistory {
    /// What is known `now`, which is `unix_ms` by the wall clock.
    pub fn of(history: &History, now: Instant, unix_ms: i64) -> SavedHistory {
        let at = |moment: Instant| unix_ms.saturating_sub(millis(now.saturating_sub(moment)));
        let weights = history.weights.iter().map(|weight| weight / history.unit);
        SavedHistory {
            format: FORMAT.into(),
            weights: weights.enumerate().filter(|(_, weight)| *weight > 0.0).collect(),
            gaps: history.gaps,
            starts: history.starts,
            cold_ms: history.cold_ms,
            resident_mb: history.resident_mb,
            last_unix_ms: history.last.map(at),
            event_unix_ms: at(history.event),
        }
    }

    /// The history, `now`; None where it is not one that this build can read. What the wall clock has in the
    /// future, because it was set back, was now.
    pub fn restore(&self, now: Instant, unix_ms: i64) -> Option<History> {
        let at = |then: i64| {
            let age = u64::try_from(unix_ms.saturating_sub(then)).unwrap_or(0);
            now.saturating_sub(Duration::from_millis(age))
        };
        let is_number = |n: f32| n.is_finite() && n >= 0.0;
        let costs = is_number(self.cold_ms) && is_number(self.resident_mb);
        let weights = self.weights.iter().all(|(bucket, weight)| *bucket < BUCKETS && is_number(*weight));
        if self.format != FORMAT || !costs || !weights {
            return None;
        }
        let mut history = History::new();
        for (bucket, weight) in &self.weights {
            history.weights[*bucket] = *weight;
        }
        history.gaps = self.gaps;
        history.starts = self.starts;
        history.cold_ms = self.cold_ms;
        history.resident_mb = self.resident_mb;
        history.last = self.last_unix_ms.map(at);
        history.event = at(self.event_unix_ms);
        Some(history)
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
