//! The fleet under real threads, for what a simulation with one thread cannot see: races between its locks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use vesta_core::Digest;
use vesta_core::keepalive::{Asked, History, IndexPolicy};
use vesta_core::lifecycle::{Failure, Fleet, Next, Resident, Slot, State};
use vesta_core::memory::{Kind, Memory, Part, Reservation};

const THREADS: u64 = 6;
const FUNCTIONS: usize = 5;
/// It goes on until enough has happened, for so long at least and at most.
const LASTS: (Duration, Duration) = (Duration::from_millis(1_500), Duration::from_secs(60));

#[derive(Clone)]
struct Loaded(Arc<Reservation>);
impl Resident for Loaded {
    type Owner = ();

    fn reservation(&self) -> &Reservation {
        &self.0
    }
}

struct Function {
    slot: Mutex<Arc<Slot<Loaded>>>,
    parts: Vec<Part>,
    is_starting: AtomicBool,
}

struct Stage {
    begun: Instant,
    memory: Arc<Memory>,
    fleet: Fleet<Loaded>,
    functions: Vec<Function>,
    ran: AtomicU64,
    starts: AtomicU64,
}

impl Stage {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn is_enough(&self) -> bool {
        self.ran.load(SeqCst) > 1_000 && self.starts.load(SeqCst) > 100 && self.fleet.evicted() > 10
    }

    fn goes_on(&self) -> bool {
        self.now() < if self.is_enough() { LASTS.0 } else { LASTS.1 }
    }

    fn start(&self, function: &Function, slot: &Arc<Slot<Loaded>>, is_loud: bool) {
        assert!(!function.is_starting.swap(true, SeqCst) || is_loud, "started twice");
        self.starts.fetch_add(1, SeqCst);
        let mut result = self.fleet.reserve(slot, self.now(), &function.parts);
        // A failure backs off, and others would do nothing meanwhile: what is in the way goes soon.
        for _ in 0..1_000 {
            if result.is_ok() {
                break;
            }
            std::thread::yield_now();
            result = self.fleet.reserve(slot, self.now(), &function.parts);
        }
        std::thread::yield_now();
        function.is_starting.store(false, SeqCst);
        match result {
            Ok(held) => {
                self.fleet.started(slot, self.now(), Loaded(Arc::new(held)), Duration::from_millis(1))
            }
            Err(_) if self.fleet.give_up(slot, self.now()) => {}
            Err(short) => self.fleet.failed(slot, self.now(), Failure::Memory(short)),
        }
    }

    fn invoke(&self, function: &Function) {
        let slot = function.slot.lock().expect("no panic").clone();
        if slot.admit(self.now(), 1_000).is_err() {
            return;
        }
        let until = Instant::now() + Duration::from_millis(50);
        loop {
            match slot.request(self.now()) {
                Next::Run(loaded) => {
                    // Held by the fleet alone from here on, as long as this place is.
                    let running = Arc::downgrade(&loaded.0);
                    drop(loaded);
                    let mut taken = self.memory.none(Kind::Instances);
                    let _ = self.fleet.grow(&mut taken, 7, self.now(), || false);
                    std::thread::yield_now();
                    assert!(running.strong_count() > 0, "let go while it runs");
                    self.ran.fetch_add(1, SeqCst);
                    break;
                }
                Next::Start => self.start(function, &slot, false),
                Next::Wait if Instant::now() < until => std::thread::yield_now(),
                Next::Wait | Next::Refuse(_) => break,
            }
            assert!(self.memory.taken() <= self.memory.budget());
        }
        self.fleet.leave(&slot, self.now());
    }

    fn keep(&self) {
        for slot in self.fleet.due(self.now()).prewarm {
            let is_it = |f: &&Function| Arc::ptr_eq(&*f.slot.lock().expect("no panic"), &slot);
            match self.functions.iter().find(is_it) {
                Some(function) => self.start(function, &slot, false),
                None => assert!(!self.fleet.give_up(&slot, self.now()) || slot.state() != State::Warm),
            }
        }
    }
}

#[test]
fn threads_lose_nothing_and_hold_no_more_than_the_budget() {
    let part = |n: u8, bytes| Part { kind: Kind::Models, digest: Digest::from_bytes([n; 32]), bytes };
    let memory = Memory::new(100);
    let fleet = Fleet::new(memory.clone(), Arc::new(IndexPolicy), Box::new(|| {}));
    let asked =
        |n: usize| Asked { keep_alive: Some(Duration::from_micros(300 * n as u64)), ..Asked::default() };
    let functions = (0..FUNCTIONS).map(|n| Function {
        slot: Mutex::new(fleet.slot((), asked(n), History::new())),
        // The last model is shared by all; two functions of five fit.
        parts: vec![part(n as u8, 25), part(99, 20)],
        is_starting: AtomicBool::new(false),
    });
    let functions = functions.collect();
    let stage = Stage {
        begun: Instant::now(),
        memory,
        fleet,
        functions,
        ran: AtomicU64::new(0),
        starts: AtomicU64::new(0),
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let stage = &stage;
            scope.spawn(move || {
                let mut n = thread as usize;
                while stage.goes_on() {
                    n = n.wrapping_mul(31).wrapping_add(7);
                    stage.invoke(&stage.functions[n % FUNCTIONS]);
                    if thread == 0 {
                        stage.keep();
                        stage.fleet.keep(
                            &stage.functions[0].slot.lock().expect("no panic"),
                            n & 1 == 0,
                            stage.now(),
                        );
                    }
                }
            });
        }
    });
    for function in &stage.functions {
        stage.fleet.delete(&function.slot.lock().expect("no panic"));
    }
    assert_eq!(stage.memory.taken(), 0);
    let (ran, starts) = (stage.ran.load(SeqCst), stage.starts.load(SeqCst));
    println!("{ran} ran, {starts} starts, {} evicted", stage.fleet.evicted());
    assert!(stage.is_enough());
}
