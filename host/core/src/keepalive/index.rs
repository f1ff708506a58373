//! The index policy: keep what saves more milliseconds of cold start per MB and second than memory costs.

use super::PREWARM_GAIN;
use super::history::{BUCKETS, EDGES, History, MERGE, bucket};
use super::{Asked, BASE_PRICE, KeepAlive, Plan, Price, Window};
use std::time::Duration;

/// Keeps a function for as long as that is worth its memory, by the gaps between its arrivals.
///
/// The value of a function at some age is its cold start's milliseconds over its MB, times the largest `P(age
/// < gap <= T) / E[min(gap, T) - age]` over all T: how probable a request is, over how long it is waited for.
/// Gaps come from the function's own decayed histogram. Where it has seen little, half a pseudo-gap stands
/// in, spread over the break-even time (how long its memory costs as much as its cold start), which keeps an
/// unknown function about as long as the ski-rental rule.
///
/// A plan is the cheapest of: leave; stay for T; and either of them with a return for the gaps of `[a, b)`,
/// which makes timers warm without keeping them. A fixed keep-alive of the manifest replaces the plan, not
/// the index: when memory is short, all are judged alike.
pub struct IndexPolicy;

/// Pseudo-gaps that a new function begins with.
const PRIOR: f64 = 0.5;
/// The part of them that never comes back in time.
const PRIOR_LOST: f64 = 0.2;

/// No function is warmed sooner than this after it left: 64 s. Below, leaving is not worth the trouble.
const PREWARM_FIRST: usize = 24;
/// It is warmed only for a bucket with more than this share of the gaps.
const PREWARM_SHARE: f64 = 0.02;
/// Buckets that it stays for, then: 3 octaves.
const PREWARM_SPAN: usize = 12;

/// A function holds at least this much, so that a tiny one has an index.
const MB_MIN: f64 = 1e-3;

impl KeepAlive for IndexPolicy {
    fn plan(&self, history: &History, asked: &Asked, price: Price) -> Plan {
        if let Some(keep_alive) = asked.keep_alive {
            return Plan::stay(keep_alive);
        }
        let break_even = break_even_s(history, asked, price);
        let octave = Fit::octave(break_even);
        let fit = match history.fit() {
            Some(fit) if fit.octave == octave && !fit.is_stale(history.gaps()) => fit,
            _ => {
                let fit =
                    Fit { gaps: history.gaps(), octave, ..cheapest(&gaps(history, break_even), break_even) };
                history.keep_fit(fit);
                fit
            }
        };
        fit.plan()
    }

    fn index(&self, history: &History, asked: &Asked, age: Duration) -> f64 {
        let weights = gaps(history, break_even_s(history, asked, BASE_PRICE));
        density(history, asked) * request_rate(&weights, age.as_secs_f64())
    }
}

/// Milliseconds of cold start that a MB stands for.
fn density(history: &History, asked: &Asked) -> f64 {
    let multiplier = if asked.cost_multiplier > 0.0 { asked.cost_multiplier.min(1e6) } else { 0.0 };
    history.cold_ms() * multiplier / history.resident_mb().max(MB_MIN)
}

/// How long its memory costs as much as its cold start, in seconds; at most 31,000 years.
fn break_even_s(history: &History, asked: &Asked, price: Price) -> f64 {
    (density(history, asked) / price.max(1e-9)).min(1e12)
}

/// The histogram with the prior.
fn gaps(history: &History, break_even: f64) -> [f64; BUCKETS] {
    let (mut weights, first) = history.weights();
    let reach = bucket(break_even);
    for weight in &mut weights[..=reach] {
        *weight += PRIOR * first * (1.0 - PRIOR_LOST) / (reach + 1) as f64;
    }
    weights[BUCKETS - 1] += PRIOR * first * PRIOR_LOST;
    weights
}

/// The middle of a bucket, in seconds.
fn middle(bucket: usize) -> f64 {
    (EDGES[bucket] + EDGES[bucket + 1]) / 2.0
}

/// The largest `P(age < gap <= T) / E[min(gap, T) - age]`, in requests a second. Within a bucket gaps are
/// spread evenly.
fn request_rate(weights: &[f64; BUCKETS], age: f64) -> f64 {
    let first = bucket(age);
    let age = age.max(1.0);
    let left = ((EDGES[first + 1] - age) / (EDGES[first + 1] - EDGES[first])).clamp(0.0, 1.0);
    let mut alive = weights[first] * left + weights[first + 1..].iter().sum::<f64>();
    let (mut came, mut waited, mut best) = (0.0, 0.0, 0.0_f64);
    for i in first..BUCKETS - 1 {
        let (mass, from) = if i == first { (weights[i] * left, age) } else { (weights[i], EDGES[i]) };
        came += mass;
        alive -= mass;
        waited += mass * ((from + EDGES[i + 1]) / 2.0 - age);
        let time = waited + alive.max(0.0) * (EDGES[i + 1] - age);
        if time > 0.0 {
            best = best.max(came / time);
        }
    }
    best
}

/// The plan with the least cost: seconds of memory, and `break_even` of them for each cold start.
fn cheapest(weights: &[f64; BUCKETS], break_even: f64) -> Fit {
    let mut alive = [0.0; BUCKETS + 1];
    for i in (0..BUCKETS).rev() {
        alive[i] = alive[i + 1] + weights[i];
    }
    // What the best return at or after each edge saves.
    let mut returns = [(0.0, 0, 0); BUCKETS + 1];
    for a in (PREWARM_FIRST..BUCKETS - 2).rev() {
        returns[a] = returns[a + 1];
        if weights[a] <= PREWARM_SHARE * alive[0] {
            continue;
        }
        let mut held = 0.0;
        for b in a..(a + PREWARM_SPAN).min(BUCKETS - 1) {
            held += weights[b] * (middle(b) - EDGES[a]);
            let saved = break_even * (alive[a] * PREWARM_GAIN - alive[b + 1])
                - held
                - alive[b + 1] * (EDGES[b + 1] - EDGES[a]);
            if saved > returns[a].0 {
                returns[a] = (saved, a, b + 1);
            }
        }
    }
    for a in (0..PREWARM_FIRST).rev() {
        returns[a] = returns[a + 1];
    }
    let (mut best, mut held) = ((f64::INFINITY, 0), 0.0);
    for stay in 0..BUCKETS {
        let edge = if stay == 0 { 0.0 } else { EDGES[stay] };
        let cost = held + alive[stay] * (edge + break_even) - returns[stay].0;
        if cost < best.0 {
            best = (cost, stay);
        }
        held += weights[stay] * middle(stay);
    }
    let stay = best.1;
    let (_, from, until) = returns[stay];
    Fit { gaps: 0, octave: 0, stay: stay as u8, from: from as u8, until: until as u8 }
}

/// A plan in edges of buckets, with what it was made for. It fits into 64 bits, so that a history keeps it
/// without a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fit {
    /// Gaps that were known.
    gaps: u32,
    /// The break-even time, in eighths of an octave from 2^-16 s on: 10 bits.
    octave: u16,
    /// Edges, 7 bits each; `from` and `until` are 0 where it does not return.
    stay: u8,
    from: u8,
    until: u8,
}

impl Fit {
    fn octave(break_even: f64) -> u16 {
        // A cast of a float saturates.
        ((break_even.log2() + 16.0) * 8.0) as u16 & 0x3ff
    }

    /// A fit is good for a fiftieth more gaps than it has seen. There is one gap at most each [`MERGE`], so
    /// that a host spends at most some microseconds of fitting on a function in 10 s, however often it is
    /// asked for a plan.
    fn is_stale(&self, gaps: u32) -> bool {
        gaps < self.gaps || gaps - self.gaps > self.gaps / 50
    }

    fn plan(&self) -> Plan {
        let edge = |i: u8| Duration::from_secs_f64(EDGES[usize::from(i)]);
        // Arrivals closer than MERGE are not told apart, so that the function stays that long whatever it
        // costs.
        let linger = if self.stay == 0 { MERGE } else { edge(self.stay).max(MERGE) };
        if self.from == 0 {
            Plan::stay(linger)
        } else {
            Plan { linger, resident: Window { from: edge(self.from), until: edge(self.until) } }
        }
    }

    /// The top bit says that there is one.
    pub(super) fn pack(self) -> u64 {
        let edges = u64::from(self.stay) | u64::from(self.from) << 7 | u64::from(self.until) << 14;
        1 << 63 | u64::from(self.gaps) << 31 | u64::from(self.octave & 0x3ff) << 21 | edges
    }

    pub(super) fn unpack(bits: u64) -> Option<Self> {
        let edge = |shift: u32| (bits >> shift & 0x7f) as u8;
        (bits >> 63 == 1).then(|| Self {
            gaps: (bits >> 31) as u32,
            octave: (bits >> 21 & 0x3ff) as u16,
            stay: edge(0),
            from: edge(7),
            until: edge(14),
        })
    }
}
