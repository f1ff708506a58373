//! One simulated host. It does what the host's lifecycle room does around the core (waiting, loading,
//! timers), in an order and at times drawn from a seed, and keeps books of its own to compare the core's
//! with.

mod check;
mod deploy;
mod request;
mod start;

use crate::tally::Tally;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;
use vesta_core::Digest;
use vesta_core::clock::Instant;
use vesta_core::keepalive::{Asked, IndexPolicy, PREWARM_GAIN};
use vesta_core::lifecycle::{
    BACKOFF_FIRST, BACKOFF_MAX, Failure, Fleet, MEMORY_WAIT_MAX, Next, NotAdmitted, Resident, Slot, State,
};
use vesta_core::memory::{Kind, Memory, Part, Reservation, Short, Taken};

/// As the host's: how long a request waits for a start, and how often a start asks again for memory.
const START_MAX: Duration = Duration::from_secs(30);
const MEMORY_POLL: Duration = Duration::from_millis(20);
/// Threads read the clock and then take a lock, so that times may come in another order, by so much.
const JITTER: Duration = Duration::from_millis(3);
const EVENTS: usize = 600;
const MIB: u64 = 1 << 20;

/// What a simulated warm function holds.
#[derive(Clone)]
struct Loaded(Arc<Reservation>);

impl Resident for Loaded {
    type Owner = ();

    fn reservation(&self) -> &Reservation {
        &self.0
    }
}

/// One version of a function.
struct Version {
    slot: Arc<Slot<Loaded>>,
    asked: Asked,
    parts: Vec<Part>,
    concurrency: u32,
    deleted: bool,
    kept: bool,
    /// The share of its starts that fail.
    failing: f64,
    /// A start is under way.
    start: Option<Start>,
    /// What the last good start loaded.
    loaded: Weak<Reservation>,
    /// Failed starts in a row, and when the last one failed.
    failures: u32,
    failed_at: Instant,
    no_memory_at: Option<Instant>,
}

struct Start {
    /// How long it may wait for memory.
    memory_until: Instant,
    held: Option<Reservation>,
}

enum Request {
    Waiting { version: usize, until: Instant },
    Running { version: usize, loaded: Weak<Reservation>, memory: Taken },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive { function: usize },
    Reserve { version: usize },
    Loaded { version: usize },
    WaitedTooLong { request: u64 },
    Grow { request: u64 },
    End { request: u64 },
    ClientGone { request: u64 },
    Rush { function: usize },
    Delete { function: usize },
    Deploy { function: usize },
    Minimum { function: usize },
    Keeper,
    Observe,
    InferenceEnds { number: usize },
    ClockJumps,
}

pub struct World {
    rng: SmallRng,
    loud: bool,
    now: Instant,
    fleet: Fleet<Loaded>,
    memory: Arc<Memory>,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    order: u64,
    versions: Vec<Version>,
    /// The live version of each function, by number.
    functions: Vec<Option<usize>>,
    /// Timers come at even intervals, the others as they like.
    periods: Vec<Option<Duration>>,
    requests: HashMap<u64, Request>,
    /// Inferences that outlive their request, each with what it runs on.
    inferences: HashMap<usize, Loaded>,
    /// Bytes of each part, as it is once loaded.
    actual: HashMap<Digest, u64>,
    expected: HashMap<Digest, u64>,
    tally: Tally,
    quiet: bool,
}

impl World {
    pub fn new(seed: u64, loud: bool) -> World {
        let mut rng = SmallRng::seed_from_u64(seed);
        let memory = Memory::new(rng.random_range(100..2_000) * MIB);
        let fleet = Fleet::new(memory.clone(), Arc::new(IndexPolicy), Box::new(|| {}));
        let mut world = World {
            rng,
            loud,
            now: Duration::from_secs(1),
            fleet,
            memory,
            events: BinaryHeap::new(),
            order: 0,
            versions: Vec::new(),
            functions: Vec::new(),
            periods: Vec::new(),
            requests: HashMap::new(),
            inferences: HashMap::new(),
            actual: HashMap::new(),
            expected: HashMap::new(),
            tally: Tally::default(),
            quiet: false,
        };
        for function in 0..world.rng.random_range(1..16) {
            world.functions.push(None);
            let period = Duration::from_secs(world.rng.random_range(100..20_000));
            let is_timer = world.rng.random_bool(0.2);
            world.periods.push(is_timer.then_some(period));
            world.deploy(function);
            world.after(Duration::ZERO, Event::Arrive { function });
        }
        let odd = [
            Event::Rush { function: 0 },
            Event::Delete { function: 0 },
            Event::Deploy { function: 0 },
            Event::Minimum { function: 0 },
            Event::Observe,
            Event::ClockJumps,
        ];
        for event in odd {
            world.later(event);
        }
        world
    }

    pub fn run(mut self) -> Tally {
        for _ in 0..EVENTS {
            self.step();
        }
        self.come_to_rest();
        self.tally
    }

    /// Nothing arrives any more: what is waited for ends, what is idle goes, and nothing is left.
    fn come_to_rest(&mut self) {
        self.quiet = true;
        self.memory.observe_uncounted(0);
        self.minimums_are_warm();
        for version in 0..self.versions.len() {
            // The others are to be let go without anybody touching them.
            if self.versions[version].kept {
                self.set_kept(version, false);
            }
        }
        for _ in 0..100_000 {
            if !self.step() {
                break;
            }
        }
        assert!(self.requests.is_empty(), "requests are left: {:?}", self.requests.keys());
        assert_eq!(self.fleet.next_due(), None, "something is still to be done");
        for (n, version) in self.versions.iter().enumerate() {
            let at_rest = if version.deleted { State::Draining } else { State::Cold };
            assert_eq!(
                version.slot.state(),
                at_rest,
                "version {n} is never let go: {:?}",
                self.fleet.standing(&version.slot, self.now)
            );
            assert_eq!(version.loaded.strong_count(), 0, "version {n} is held by nobody and yet there");
        }
        assert_eq!(self.memory.taken(), 0, "what was taken is given back");
        assert!(Kind::ALL.iter().all(|kind| self.memory.taken_for(*kind) == 0));
    }

    /// Once nobody else wants memory, all that a minimum keeps is warm, if all of it fits and can be started.
    fn minimums_are_warm(&mut self) {
        let until = self.now + START_MAX * 6;
        while self.now < until && self.step() {}
        let kept = |v: &&Version| v.kept && !v.deleted;
        let parts: Vec<Part> = self.versions.iter().filter(kept).flat_map(|v| v.parts.clone()).collect();
        let most: u64 = unique(&parts).iter().map(|p| p.bytes.max(self.actual[&p.digest])).sum();
        if self.requests.is_empty() && self.inferences.is_empty() && most <= self.memory.budget() {
            for version in self.versions.iter().filter(kept).filter(|v| v.failing == 0.0) {
                let state = version.slot.state();
                assert!(matches!(state, State::Warm | State::Warming), "a minimum of one, and {state:?}");
                self.tally.minimum_kept += 1;
            }
        }
    }

    fn step(&mut self) -> bool {
        let keeper = self.fleet.next_due();
        let next = self.events.peek().map(|Reverse((at, ..))| *at);
        let event = match (keeper, next) {
            (Some(due), next) if next.is_none_or(|at| due.max(self.now) <= at) => {
                self.now = self.now.max(due);
                Event::Keeper
            }
            (_, Some(_)) => {
                let Some(Reverse((at, _, event))) = self.events.pop() else { return false };
                self.now = self.now.max(at);
                event
            }
            _ => return false,
        };
        if self.loud {
            println!("{:>14.3} s  {event:?}", self.now.as_secs_f64());
        }
        let is_from_outside = matches!(
            event,
            Event::Arrive { .. }
                | Event::Rush { .. }
                | Event::Delete { .. }
                | Event::Deploy { .. }
                | Event::Minimum { .. }
                | Event::Observe
                | Event::ClockJumps
        );
        if !(self.quiet && is_from_outside) {
            self.handle(event);
        }
        self.check();
        true
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive { function } => {
                let is_burst = self.periods[function].is_none() && self.rng.random_bool(0.1);
                let burst = if is_burst { self.rng.random_range(2..12) } else { 1 };
                for _ in 0..burst {
                    self.arrive(function);
                }
                // From bursts of milliseconds to once in many hours.
                let gap = 10f64.powf(self.rng.random_range(-2.0..4.5));
                let gap = self.periods[function].unwrap_or(Duration::from_secs_f64(gap));
                self.unless_quiet(gap, Event::Arrive { function });
            }
            Event::Rush { .. } => {
                let function = self.any_function();
                for _ in 0..100 {
                    self.arrive(function);
                }
                self.later(event);
            }
            Event::Reserve { version } => self.reserve(version),
            Event::Loaded { version } => self.loaded(version),
            Event::WaitedTooLong { request } => {
                if let Some(Request::Waiting { .. }) = self.requests.get(&request) {
                    self.tally.timed_out += 1;
                    self.leave(request);
                }
            }
            Event::Grow { request } => self.grow(request),
            Event::End { request } | Event::ClientGone { request } => {
                let Some(known) = self.requests.get(&request) else { return };
                let is_gone = matches!(event, Event::ClientGone { .. });
                match known {
                    Request::Running { loaded, .. } => {
                        // Its inference may run on when the client goes away.
                        let loaded = loaded.upgrade().filter(|_| is_gone && self.rng.random_bool(0.5));
                        if let Some(loaded) = loaded {
                            let number = self.inferences.len() + self.order as usize;
                            self.inferences.insert(number, Loaded(loaded));
                            let wait = self.ms(1, 3_000);
                            self.after(wait, Event::InferenceEnds { number });
                        }
                    }
                    Request::Waiting { .. } if !is_gone => return,
                    Request::Waiting { .. } => {}
                }
                self.tally.client_gone += u64::from(is_gone);
                self.leave(request);
            }
            Event::InferenceEnds { number } => drop(self.inferences.remove(&number)),
            Event::Delete { .. } => {
                let function = self.any_function();
                if let Some(version) = self.functions[function].take() {
                    self.versions[version].deleted = true;
                    self.fleet.delete(&self.versions[version].slot);
                    if self.rng.random_bool(0.7) {
                        self.deploy(function);
                    }
                }
                self.later(event);
            }
            Event::Deploy { .. } => {
                let function = self.any_function();
                self.deploy(function);
                self.later(event);
            }
            Event::Minimum { .. } => {
                let function = self.any_function();
                if let Some(version) = self.functions[function] {
                    self.set_kept(version, !self.versions[version].kept);
                }
                self.later(event);
            }
            Event::Keeper => {
                let before = self.warm();
                let (now, evicted) = (self.when(), self.fleet.evicted());
                let due = self.fleet.due(now.max(self.now));
                assert_eq!(self.fleet.evicted(), evicted, "keep-alive evicts nobody");
                self.tally.let_go += (before - self.warm()) as u64;
                for slot in due.prewarm {
                    let version =
                        self.versions.iter().position(|v| Arc::ptr_eq(&v.slot, &slot)).expect("known");
                    if self.versions[version].kept {
                        self.tally.minimum_starts += 1;
                    } else {
                        self.tally.prewarms += 1;
                    }
                    self.begin(version);
                }
            }
            Event::Observe => {
                let share = if self.rng.random_bool(0.5) { 0 } else { self.rng.random_range(0..120) };
                self.memory.observe_uncounted(self.memory.budget() / 100 * share);
                self.fleet.relieve(self.now);
                self.fleet.review_all(self.now);
                self.count_evicted();
                let over = self.memory.used() > self.memory.budget();
                assert!(
                    !over || self.least_held(&[]) >= self.memory.taken(),
                    "idle ones stay while memory is short"
                );
                self.later(event);
            }
            Event::ClockJumps => {
                self.now += Duration::from_secs_f64(10f64.powf(self.rng.random_range(-1.0..5.5)));
                self.later(event);
            }
        }
    }

    fn users(&self, version: usize) -> u32 {
        let of = |r: &&Request| match r {
            Request::Waiting { version: v, .. } | Request::Running { version: v, .. } => *v == version,
        };
        self.requests.values().filter(of).count() as u32
    }

    fn waiting(&self, version: usize) -> Vec<u64> {
        let mut waiting: Vec<u64> = self
            .requests
            .iter()
            .filter(|(_, r)| matches!(r, Request::Waiting { version: v, .. } if *v == version))
            .map(|(number, _)| *number)
            .collect();
        waiting.sort_unstable();
        waiting
    }

    fn warm(&self) -> usize {
        self.versions.iter().filter(|v| v.slot.state() == State::Warm).count()
    }

    fn kept_and_warm(&self) -> usize {
        self.versions.iter().filter(|v| v.kept && v.slot.state() == State::Warm).count()
    }

    fn count_evicted(&mut self) {
        self.tally.evicted = self.fleet.evicted();
    }

    fn any_function(&mut self) -> usize {
        self.rng.random_range(0..self.functions.len())
    }

    fn number(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    /// The clock as some thread read it.
    fn when(&mut self) -> Instant {
        self.now.saturating_sub(JITTER.mul_f64(self.rng.random_range(0.0..1.0)))
    }

    fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(from..to))
    }

    fn after(&mut self, wait: Duration, event: Event) {
        let order = self.number();
        self.events.push(Reverse((self.now + wait, order, event)));
    }

    fn later(&mut self, event: Event) {
        let wait = Duration::from_secs_f64(10f64.powf(self.rng.random_range(0.0..4.5)));
        self.unless_quiet(wait, event);
    }

    fn unless_quiet(&mut self, wait: Duration, event: Event) {
        if !self.quiet {
            self.after(wait, event);
        }
    }
}

fn unique(parts: &[Part]) -> Vec<Part> {
    let mut seen = HashSet::new();
    parts.iter().filter(|p| seen.insert((p.kind, p.digest))).copied().collect()
}
