//! What a host remembers of one function, also while it is cold.

use super::index::Fit;
use crate::clock::Instant;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What this module and its prices call a MB.
pub const MB: f64 = 1_048_576.0;

/// Arrivals this close are one event.
///
/// A start takes up to a few hundred milliseconds and the policy thinks in minutes, so calls within 10 s of
/// an event tell it nothing new; counted one by one, a burst of some hundred would push everything else out
/// of a memory that decays by the event. Hence one event at most each 10 s: the first arrival that comes so
/// long after the last event. It records the idle time before it, counted from the arrival before, since that
/// is what plans and ages count from. Where arrivals are 10 s apart or more, as in the traces that the policy
/// is scored with, every gap is recorded as it is; a function that is always busy records one short gap each
/// 10 s.
pub const MERGE: Duration = Duration::from_secs(10);

/// Buckets of the histogram: 4 an octave from 1 s on. Shorter gaps belong to the first, and those over 3 days
/// to the last.
pub(super) const BUCKETS: usize = 72;

/// `EDGES[i]` to `EDGES[i + 1]` seconds is bucket `i`.
pub(super) const EDGES: [f64; BUCKETS + 1] = {
    let quarters = [1.0, 1.189_207_115_002_721, std::f64::consts::SQRT_2, 1.681_792_830_507_429];
    let mut edges = [0.0; BUCKETS + 1];
    let mut i = 0;
    while i <= BUCKETS {
        edges[i] = (1_u64 << (i / 4)) as f64 * quarters[i % 4];
        i += 1;
    }
    edges
};

pub(super) fn bucket(seconds: f64) -> usize {
    // A cast of a float saturates, and takes what is not a number for 0.
    ((seconds.max(1.0).log2() * 4.0) as usize).min(BUCKETS - 1)
}

/// What an event weighs after the next one: half after 346 events.
pub(super) const DECAY: f64 = 0.998;

/// Weights are scaled down when a new event would weigh more than this, far from where an f32 loses what is
/// old but counts.
const UNIT_MAX: f32 = 1e9;

/// A live average follows its newest value by at least this share.
const NEWEST: f32 = 0.2;

/// A function's arrivals and costs. 360 bytes at most, and nothing on the heap: a host keeps tens of
/// thousands.
#[derive(Debug)]
pub struct History {
    /// Weight of the gaps of each bucket. Instead of all weights decaying with each event, `unit` grows.
    pub(super) weights: [f32; BUCKETS],
    /// What the next event weighs.
    pub(super) unit: f32,
    /// Gaps recorded.
    pub(super) gaps: u32,
    pub(super) last: Option<Instant>,
    /// The arrival that was the last event.
    pub(super) event: Instant,
    pub(super) starts: u32,
    pub(super) cold_ms: f32,
    pub(super) resident_mb: f32,
    /// The last fit, packed; see [`Fit`].
    fit: AtomicU64,
}

const _: () = assert!(size_of::<History>() <= 360);

impl Default for History {
    fn default() -> Self {
        Self {
            weights: [0.0; BUCKETS],
            unit: 1.0,
            gaps: 0,
            last: None,
            event: Instant::ZERO,
            starts: 0,
            cold_ms: 0.0,
            resident_mb: 0.0,
            fit: AtomicU64::new(0),
        }
    }
}

impl Clone for History {
    fn clone(&self) -> Self {
        Self { fit: AtomicU64::new(self.fit.load(Ordering::Relaxed)), ..*self }
    }
}

impl History {
    pub fn new() -> Self {
        Self::default()
    }

    /// A request came. Constant time, a few nanoseconds but for one call in [`MERGE`].
    pub fn arrived(&mut self, now: Instant) {
        let Some(last) = self.last else {
            (self.last, self.event) = (Some(now), now);
            return;
        };
        // Callers race for the lock with the time already in hand, so that one may come with an earlier one.
        let now = now.max(last);
        if now - self.event >= MERGE {
            self.record(now - last);
            self.event = now;
        }
        self.last = Some(now);
    }

    fn record(&mut self, gap: Duration) {
        self.unit /= DECAY as f32;
        if self.unit > UNIT_MAX {
            for weight in &mut self.weights {
                *weight /= self.unit;
            }
            self.unit = 1.0;
        }
        self.weights[bucket(gap.as_secs_f64())] += self.unit;
        self.gaps = self.gaps.saturating_add(1);
    }

    /// A cold start ended: what it took, and what the function holds since.
    pub fn started(&mut self, cold: Duration, resident_bytes: u64) {
        self.starts = self.starts.saturating_add(1);
        let share = (1.0 / self.starts as f32).max(NEWEST);
        self.cold_ms += share * (cold.as_secs_f32() * 1e3 - self.cold_ms);
        self.resident_mb += share * ((resident_bytes as f64 / MB) as f32 - self.resident_mb);
    }

    /// Live average of what a cold start takes; 0 before the first.
    pub fn cold_ms(&self) -> f64 {
        f64::from(self.cold_ms)
    }

    /// Live average of what it holds while warm, in [`MB`]; 0 before the first start.
    pub fn resident_mb(&self) -> f64 {
        f64::from(self.resident_mb)
    }

    /// Cold starts seen so far.
    pub fn starts(&self) -> u32 {
        self.starts
    }

    pub fn last_arrival(&self) -> Option<Instant> {
        self.last
    }

    /// Gaps seen so far.
    pub fn gaps(&self) -> u32 {
        self.gaps
    }

    /// The weight of each bucket and that of one event at the very beginning, all over the weight of the
    /// newest event.
    pub(super) fn weights(&self) -> ([f64; BUCKETS], f64) {
        let unit = f64::from(self.unit);
        (self.weights.map(|w| f64::from(w) / unit), DECAY.powf(f64::from(self.gaps)))
    }

    pub(super) fn fit(&self) -> Option<Fit> {
        Fit::unpack(self.fit.load(Ordering::Relaxed))
    }

    pub(super) fn keep_fit(&self, fit: Fit) {
        self.fit.store(fit.pack(), Ordering::Relaxed);
    }
}
