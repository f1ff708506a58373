//! Replays traces through the product's own policy code, and through the rules that it is compared with.

use super::trace::Function;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;
use vesta_core::keepalive::{
    Asked, Candidate, History, KeepAlive, MB, Plan, Price, missing, prewarm_victims, price, victims,
};

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

/// The least cold seconds for an amount of memory, if all of the future is known and nothing is prewarmed: the gaps that save most
/// for their memory are bridged first.
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
    /// The product: plans at the price of the moment, prewarming into spare memory, and victims by index.
    Product(&'a dyn KeepAlive),
}

/// All arrivals in the order of time, as (millisecond, function).
pub fn arrivals(trace: &[Function]) -> Vec<(u64, usize)> {
    let of =
        |(i, f): (usize, &'_ Function)| f.times.iter().map(|t| ((t * 1e3) as u64, i)).collect::<Vec<_>>();
    let mut all: Vec<_> = trace.iter().enumerate().flat_map(of).collect();
    all.sort_unstable();
    all
}

/// A host's memory, and what it remembers of its functions.
struct Host<'a> {
    trace: &'a [Function],
    budget: u64,
    used: u64,
    /// Since which arrival (a running number) each warm function is unused.
    warm: BTreeMap<usize, u64>,
    oldest: BTreeSet<(u64, usize)>,
    histories: Vec<History>,
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

    fn missing(&self, i: usize) -> u64 {
        missing(self.used, bytes(&self.trace[i]), self.budget)
    }

    fn age(&self, i: usize, now: Duration) -> Duration {
        now.saturating_sub(self.histories[i].last_arrival().unwrap_or_default())
    }

    fn index(&self, policy: &dyn KeepAlive, i: usize, now: Duration) -> f64 {
        policy.index(&self.histories[i], &Asked::default(), self.age(i, now))
    }

    fn candidates(&self, policy: &dyn KeepAlive, now: Duration) -> impl Iterator<Item = Candidate<usize>> {
        let of = move |i: &usize| Candidate {
            id: *i,
            index: self.index(policy, *i, now),
            bytes: bytes(&self.trace[*i]),
        };
        self.warm.keys().map(of)
    }

    fn plan(&self, policy: &dyn KeepAlive, i: usize) -> Plan {
        policy.plan(&self.histories[i], &Asked::default(), price(self.used, self.budget))
    }

    /// The reaper's part: lets go or prewarms, by a plan at the price of now.
    fn look_again(&mut self, policy: &dyn KeepAlive, i: usize, now: Duration, number: u64) {
        let (plan, age) = (self.plan(policy, i), self.age(i, now));
        if self.warm.contains_key(&i) {
            if !plan.is_resident(age) {
                self.remove(i);
            }
        } else if plan.is_prewarm(age) {
            let need = self.missing(i);
            let index = self.index(policy, i, now);
            let gone = if need == 0 {
                Some(Vec::new())
            } else {
                prewarm_victims(self.candidates(policy, now), need, index)
            };
            if let Some(gone) = gone {
                gone.into_iter().for_each(|j| self.remove(j));
                self.add(i, number);
            }
        }
    }

    /// When to look at it next, in milliseconds: one after the plan's edge.
    fn next_look(&self, policy: &dyn KeepAlive, i: usize, now: Duration) -> Option<u64> {
        let next = self.plan(policy, i).next_change(self.age(i, now))?;
        Some((self.histories[i].last_arrival()? + next).as_millis() as u64 + 1)
    }

    fn make_room(&mut self, rule: &Rule, i: usize, now: Duration) {
        const FITS: &str = "each function fits by itself";
        if let Rule::Product(policy) = rule {
            let need = self.missing(i);
            if need > 0 {
                let gone = victims(self.candidates(*policy, now), need).expect(FITS);
                gone.into_iter().for_each(|j| self.remove(j));
            }
            return;
        }
        while self.missing(i) > 0 {
            let goes =
                if let Rule::Lru = rule { self.oldest.first().map(|o| o.1) } else { self.least_worth(now) };
            self.remove(goes.expect(FITS));
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

/// A memory of `budget` bytes: cold seconds and loads in it.
pub fn limited(trace: &[Function], arrivals: &[(u64, usize)], rule: &Rule, budget: u64) -> Cost {
    let mut host = Host {
        trace,
        budget,
        used: 0,
        warm: BTreeMap::new(),
        oldest: BTreeSet::new(),
        histories: vec![History::new(); trace.len()],
        seen: vec![0; trace.len()],
        cost: Cost::default(),
    };
    // When to look at a function again, and at which of its arrivals this was said.
    let mut due: BinaryHeap<Reverse<(u64, usize, usize)>> = BinaryHeap::new();
    for (number, (now_ms, i)) in (0..).zip(arrivals) {
        let (now, i) = (Duration::from_millis(*now_ms), *i);
        let Rule::Product(policy) = rule else {
            host.seen[i] += 1;
            arrive(&mut host, rule, i, now, number);
            continue;
        };
        while let Some(Reverse((at_ms, j, said))) = due.peek().copied().filter(|d| d.0.0 <= *now_ms) {
            due.pop();
            if host.seen[j] == said {
                let at = Duration::from_millis(at_ms);
                host.look_again(*policy, j, at, number);
                due.extend(host.next_look(*policy, j, at).map(|next| Reverse((next, j, said))));
            }
        }
        host.seen[i] += 1;
        let is_cold = arrive(&mut host, rule, i, now, number);
        host.histories[i].arrived(now);
        if is_cold {
            host.histories[i].started(cold(&trace[i]), bytes(&trace[i]));
        }
        due.extend(host.next_look(*policy, i, now).map(|next| Reverse((next, i, host.seen[i]))));
    }
    host.cost
}

/// Returns whether it was cold.
fn arrive(host: &mut Host, rule: &Rule, i: usize, now: Duration, number: u64) -> bool {
    let is_cold = !host.warm.contains_key(&i);
    if is_cold {
        host.cost.cold_s += host.trace[i].cold_ms / 1e3;
        host.make_room(rule, i, now);
    }
    host.add(i, number);
    is_cold
}

/// The share of the way from LRU to the clairvoyant, in cold seconds.
pub fn gap_closed(trace: &[Function], policy: &dyn KeepAlive, budget: u64) -> f64 {
    let arrivals = arrivals(trace);
    let cold_s = |rule: &Rule| limited(trace, &arrivals, rule, budget).cold_s;
    let (lru, best) = (cold_s(&Rule::Lru), cold_s(&Rule::Clairvoyant));
    (lru - cold_s(&Rule::Product(policy))) / (lru - best)
}
