//! One simulated host. It does what the host's lifecycle room does around the core (waiting, loading, timers), in an
//! order and at times drawn from a seed, and keeps books of its own to compare the core's with.

mod check;

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

    fn arrive(&mut self, function: usize) {
        self.tally.requests += 1;
        let Some(version) = self.functions[function] else {
            // The newest version that was deleted, asked for by someone who resolved it just before.
            let Some(old) = self.versions.iter().rposition(|v| v.deleted) else { return };
            let refused = self.versions[old].slot.admit(self.now, self.versions[old].concurrency);
            assert_eq!(refused, Err(NotAdmitted::Draining));
            self.tally.refused_deleted += 1;
            return;
        };
        let now = self.when();
        let concurrency = self.versions[version].concurrency;
        let slot = self.versions[version].slot.clone();
        if let Err(refused) = slot.admit(now, concurrency) {
            assert_eq!(refused, NotAdmitted::Concurrency(concurrency));
            assert_eq!(self.users(version), concurrency, "refused with a place free");
            self.tally.refused_busy += 1;
            return;
        }
        let request = self.number();
        match slot.request(now) {
            Next::Run(loaded) => {
                self.tally.ran_warm += 1;
                self.run_on(request, version, &loaded);
            }
            Next::Wait => {
                assert!(self.versions[version].start.is_some(), "waits for a start that nobody makes");
                self.wait(request, version);
            }
            Next::Start => {
                self.wait(request, version);
                self.begin(version);
            }
            Next::Refuse(refused) => {
                assert!(refused.retry_after <= BACKOFF_MAX);
                assert!(!refused.retry_after.is_zero());
                assert!(
                    self.backs_off(version, self.now.saturating_sub(JITTER)),
                    "refused though no start failed just now"
                );
                self.tally.refused_backoff += 1;
                self.fleet.leave(&slot, now);
            }
        }
    }

    fn wait(&mut self, request: u64, version: usize) {
        let until = self.now + START_MAX;
        self.requests.insert(request, Request::Waiting { version, until });
        self.after(START_MAX, Event::WaitedTooLong { request });
        if self.rng.random_bool(0.05) {
            let wait = self.ms(0, 500);
            self.after(wait, Event::ClientGone { request });
        }
    }

    fn begin(&mut self, version: usize) {
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

    fn reserve(&mut self, version: usize) {
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
    fn worth(&self, version: usize, now: Instant) -> f64 {
        self.fleet.standing(&self.versions[version].slot, now).keep_alive.index
    }

    fn worth_of_warm(&self, now: Instant) -> Vec<(usize, f64)> {
        let is_warm = |v: &usize| self.versions[*v].slot.state() == State::Warm;
        (0..self.versions.len()).filter(is_warm).map(|v| (v, self.worth(v, now))).collect()
    }

    fn loaded(&mut self, version: usize) {
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

    fn failed(&mut self, version: usize, failure: Failure) {
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

    fn run_on(&mut self, request: u64, version: usize, loaded: &Loaded) {
        self.tally.ran += 1;
        let memory = self.memory.none(Kind::Instances);
        let loaded = Arc::downgrade(&loaded.0);
        self.requests.insert(request, Request::Running { version, loaded, memory });
        self.grow(request);
        let long = if self.rng.random_bool(0.05) { self.ms(1_000, 120_000) } else { self.ms(1, 200) };
        let end =
            if self.rng.random_bool(0.1) { Event::ClientGone { request } } else { Event::End { request } };
        self.after(long, end);
        if self.rng.random_bool(0.3) {
            self.after(long / 2, Event::Grow { request });
        }
    }

    fn grow(&mut self, request: u64) {
        let more = self.rng.random_range(64 << 10..self.memory.budget() / 40);
        let Some(Request::Running { version, loaded, mut memory }) = self.requests.remove(&request) else {
            return;
        };
        // Out of the table for a moment, but not out of the books.
        let held = memory.bytes();
        let evicted = self.fleet.evicted();
        let result = self.fleet.grow(&mut memory, more, self.now);
        self.count_evicted();
        let grown = result.is_ok();
        assert_eq!(memory.bytes(), if grown { held + more } else { held });
        self.requests.insert(request, Request::Running { version, loaded, memory });
        if grown {
            assert!(self.memory.used() <= self.memory.budget(), "taken although it does not fit");
            self.tally.grown += 1;
        } else {
            if self.inferences.is_empty() {
                assert_eq!(self.fleet.evicted(), evicted, "evicted, and yet there is no room");
            }
            let least = self.least_held(&[]) + more + self.memory.uncounted();
            assert!(least > self.memory.budget(), "room could have been made: {least} bytes");
            self.tally.not_grown += 1;
            self.leave(request);
        }
    }

    fn leave(&mut self, request: u64) {
        let Some(known) = self.requests.remove(&request) else { panic!("request {request} ends twice") };
        let version = match &known {
            Request::Waiting { version, .. } | Request::Running { version, .. } => *version,
        };
        drop(known);
        let now = self.when();
        let slot = self.versions[version].slot.clone();
        self.fleet.leave(&slot, now);
    }

    fn deploy(&mut self, function: usize) {
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

    fn set_kept(&mut self, version: usize, kept: bool) {
        let v = &mut self.versions[version];
        if !v.deleted {
            v.kept = kept;
            self.fleet.keep(&v.slot, kept, self.now);
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
