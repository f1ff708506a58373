//! Replays traces through the product's own policy code, and through the rules that it is compared with.

use super::trace::Function;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use vesta_core::Digest;
use vesta_core::keepalive::{Asked, History, KeepAlive, MB, Price};
use vesta_core::lifecycle::{Fleet, Next, Resident, Slot};
use vesta_core::memory::{Kind, Memory, Part, Reservation};

/// What a policy cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Seconds of cold start that requests waited for.
    pub cold_s: f64,
    /// Memory held for gaps, in GB (2^30 bytes) and hours.
    pub gb_h: f64,
    /// Cold starts and prewarmed ones.
    pub loads: u64,
}

fn bytes(f: &Function) -> u64 {
    (f.memory_mb * MB) as u64
}

fn cold(f: &Function) -> Duration {
    Duration::from_secs_f64(f.cold_ms / 1e3)
}

/// Memory without a limit, at one price: each function is kept as the policy plans.
pub fn unlimited(trace: &[Function], policy: &dyn KeepAlive, asked: &Asked, price: Price) -> Cost {
    let mut cost = Cost::default();
    let mut mb_s = 0.0;
    for f in trace {
        let mut history = History::new();
        let mut colds = 1;
        history.started(cold(f), bytes(f));
        for pair in f.times.windows(2) {
            history.arrived(Duration::from_secs_f64(pair[0]));
            let gap = pair[1] - pair[0];
            let plan = policy.plan(&history, asked, price);
            let (linger, until) = (plan.linger.as_secs_f64(), plan.resident.until.as_secs_f64());
            mb_s += f.memory_mb * gap.min(linger);
            if let Some(from) = plan.prewarm_at().map(|at| at.as_secs_f64()).filter(|at| *at < gap) {
                mb_s += f.memory_mb * (gap.min(until) - from);
                cost.loads += 1;
            }
            let is_warm = gap <= linger || plan.is_resident(Duration::from_secs_f64(gap)) || gap == until;
            if !is_warm {
                colds += 1;
                history.started(cold(f), bytes(f));
            }
        }
        cost.loads += colds;
        cost.cold_s += colds as f64 * f.cold_ms / 1e3;
    }
    cost.gb_h = mb_s / 1024.0 / 3600.0;
    cost
}

/// The least cold seconds for an amount of memory, if all of the future is known and nothing is prewarmed:
/// the gaps that save most for their memory are bridged first.
pub struct Frontier {
    /// (GB-h, cold seconds), ascending in GB-h.
    points: Vec<(f64, f64)>,
}

impl Frontier {
    pub fn of(trace: &[Function]) -> Frontier {
        let mut gaps: Vec<(f64, f64, f64)> = Vec::new();
        let mut cold_s = 0.0;
        for f in trace {
            cold_s += f.cold_ms / 1e3 * f.times.len() as f64;
            gaps.extend(f.times.windows(2).map(|pair| {
                let gap = pair[1] - pair[0];
                (f.cold_ms / f.memory_mb / gap, f.cold_ms / 1e3, f.memory_mb * gap / 1024.0 / 3600.0)
            }));
        }
        gaps.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        let mut points = vec![(0.0, cold_s)];
        let mut gb_h = 0.0;
        for (_, saved, held) in gaps {
            cold_s -= saved;
            gb_h += held;
            points.push((gb_h, cold_s));
        }
        Frontier { points }
    }

    pub fn cold_s(&self, gb_h: f64) -> f64 {
        let after = self.points.partition_point(|p| p.0 < gb_h);
        match (self.points.get(after.wrapping_sub(1)), self.points.get(after)) {
            (Some(a), Some(b)) => a.1 + (b.1 - a.1) * (gb_h - a.0) / (b.0 - a.0).max(f64::MIN_POSITIVE),
            (Some(end), None) | (None, Some(end)) => end.1,
            (None, None) => 0.0,
        }
    }

    /// Cold seconds over the least possible with the same memory.
    pub fn coldx(&self, cost: &Cost) -> f64 {
        cost.cold_s / self.cold_s(cost.gb_h)
    }
}

/// Who makes room in a fixed memory.
pub enum Rule<'a> {
    /// Whoever was used longest ago.
    Lru,
    /// Whoever saves least for its memory until its next use, which is known.
    Clairvoyant,
    /// The product's fleet of functions, with this policy.
    Product(&'a Arc<dyn KeepAlive>),
}

/// All arrivals in the order of time, as (millisecond, function).
pub fn arrivals(trace: &[Function]) -> Vec<(u64, usize)> {
    let of =
        |(i, f): (usize, &'_ Function)| f.times.iter().map(|t| ((t * 1e3) as u64, i)).collect::<Vec<_>>();
    let mut all: Vec<_> = trace.iter().enumerate().flat_map(of).collect();
    all.sort_unstable();
    all
}

/// A memory of `budget` bytes: cold seconds and loads in it.
pub fn limited(trace: &[Function], arrivals: &[(u64, usize)], rule: &Rule, budget: u64) -> Cost {
    match rule {
        Rule::Product(policy) => in_a_fleet(trace, arrivals, policy, budget),
        _ => by_rule(trace, arrivals, rule, budget),
    }
}

/// A warm function of the product's fleet.
#[derive(Clone)]
struct Warm(Arc<Reservation>);

impl Resident for Warm {
    type Owner = usize;
    fn reservation(&self) -> &Reservation {
        &self.0
    }
}

/// As a host does, with starts and answers that take no time.
fn in_a_fleet(
    trace: &[Function],
    arrivals: &[(u64, usize)],
    policy: &Arc<dyn KeepAlive>,
    budget: u64,
) -> Cost {
    let fleet = Fleet::<Warm>::new(Memory::new(budget), policy.clone(), Box::new(|| ()));
    let slots: Vec<_> = (0..trace.len()).map(|i| fleet.slot(i, Asked::default(), History::new())).collect();
    let mut cost = Cost::default();
    let mut start = |slot: &Arc<Slot<Warm>>, now: Duration| {
        let f = &trace[slot.owner];
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&(slot.owner as u64).to_le_bytes());
        let part = Part { kind: Kind::Models, digest: Digest::from_bytes(digest), bytes: bytes(f) };
        let held = fleet.reserve(slot, now, &[part]).ok()?;
        fleet.started(slot, now, Warm(Arc::new(held)), cold(f));
        cost.loads += 1;
        Some(f.cold_ms / 1e3)
    };
    let mut cold_s = 0.0;
    for (now_ms, i) in arrivals {
        let (now, slot) = (Duration::from_millis(*now_ms), &slots[*i]);
        while let Some(at) = fleet.next_due().filter(|at| *at <= now) {
            for early in fleet.due(at).prewarm {
                if start(&early, at).is_none() {
                    fleet.give_up(&early, at);
                }
            }
        }
        slot.admit(now, 1).expect("nobody else uses it");
        if let Next::Start = slot.request(now) {
            cold_s += start(slot, now).expect("each function fits by itself");
        }
        fleet.leave(slot, now);
    }
    Cost { cold_s, ..cost }
}

/// A host's memory under one of the simple rules.
struct Host<'a> {
    trace: &'a [Function],
    budget: u64,
    used: u64,
    /// Since which arrival (a running number) each warm function is unused.
    warm: BTreeMap<usize, u64>,
    oldest: BTreeSet<(u64, usize)>,
    /// Arrivals of each function so far.
    seen: Vec<usize>,
    cost: Cost,
}

impl Host<'_> {
    fn add(&mut self, i: usize, number: u64) {
        match self.warm.insert(i, number) {
            Some(before) => _ = self.oldest.remove(&(before, i)),
            None => {
                self.used += bytes(&self.trace[i]);
                self.cost.loads += 1;
                self.cost.cold_s += self.trace[i].cold_ms / 1e3;
            }
        }
        self.oldest.insert((number, i));
    }

    fn remove(&mut self, i: usize) {
        if let Some(number) = self.warm.remove(&i) {
            self.oldest.remove(&(number, i));
            self.used -= bytes(&self.trace[i]);
        }
    }

    fn make_room(&mut self, rule: &Rule, i: usize, now: Duration) {
        while self.used + bytes(&self.trace[i]) > self.budget {
            let goes =
                if let Rule::Lru = rule { self.oldest.first().map(|o| o.1) } else { self.least_worth(now) };
            self.remove(goes.expect("each function fits by itself"));
        }
    }

    /// By the time of its next use, which only the clairvoyant knows.
    fn least_worth(&self, now: Duration) -> Option<usize> {
        let worth = |i: usize| {
            let f = &self.trace[i];
            let next = f.times.get(self.seen[i]).map_or(1e12, |t| t - now.as_secs_f64());
            f.cold_ms / f.memory_mb / next
        };
        self.warm.keys().copied().min_by(|a, b| worth(*a).total_cmp(&worth(*b)))
    }
}

fn by_rule(trace: &[Function], arrivals: &[(u64, usize)], rule: &Rule, budget: u64) -> Cost {
    let (warm, oldest, seen) = (BTreeMap::new(), BTreeSet::new(), vec![0; trace.len()]);
    let mut host = Host { trace, budget, used: 0, warm, oldest, seen, cost: Cost::default() };
    for (number, (now_ms, i)) in (0..).zip(arrivals) {
        host.seen[*i] += 1;
        if !host.warm.contains_key(i) {
            host.make_room(rule, *i, Duration::from_millis(*now_ms));
        }
        host.add(*i, number);
    }
    host.cost
}

/// The share of the way from LRU to the clairvoyant, in cold seconds.
pub fn gap_closed(trace: &[Function], policy: &Arc<dyn KeepAlive>, budget: u64) -> f64 {
    let arrivals = arrivals(trace);
    let cold_s = |rule: &Rule| limited(trace, &arrivals, rule, budget).cold_s;
    let (lru, best) = (cold_s(&Rule::Lru), cold_s(&Rule::Clairvoyant));
    (lru - cold_s(&Rule::Product(policy))) / (lru - best)
}
