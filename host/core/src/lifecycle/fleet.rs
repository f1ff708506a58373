//! All functions of a host, its memory budget, and the moments at which keep-alive has something to do.
//!
//! Locks: a function's own, and then the book's; never the other way round, never two functions' at once. The
//! book is touched when a function becomes warm or cold and when a keep-alive ends, not by requests to warm
//! functions.

use super::State;
use super::agenda::Agenda;
use super::function::{Failure, Function, Next, NotAdmitted, Resident, Review, Standing};
use crate::clock::Instant;
use crate::keepalive::{Asked, History, KeepAlive, PREWARM_GAIN, Price, price};
use crate::memory::{Key, Memory, Part, Reservation, Short, Taken};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a start waits for memory that others hold, at most.
pub const MEMORY_WAIT_MAX: Duration = Duration::from_secs(5);
/// Starts nobody waits for that are begun at once; the others follow after [`PREWARM_PAUSE`].
pub const PREWARMS_AT_ONCE: usize = 2;
const PREWARM_PAUSE: Duration = Duration::from_millis(100);
/// When a function that a minimum keeps is tried again after it had to go, or could not be started.
const KEPT_RETRY: Duration = Duration::from_secs(5);
/// How often victims are chosen anew because what was free was taken by another meanwhile.
const ROUNDS_MAX: usize = 8;

/// One version of a function in a fleet.
pub struct Slot<L: Resident> {
    pub owner: L::Owner,
    id: u64,
    asked: Asked,
    function: Mutex<Function<L>>,
}

impl<L: Resident> Slot<L> {
    fn lock(&self) -> MutexGuard<'_, Function<L>> {
        // Every change is a single assignment or is repeated by the next event; a panic elsewhere leaves it
        // usable.
        self.function.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one of `max` places for an invocation; [`Fleet::leave`] gives it back.
    pub fn admit(&self, now: Instant, max: u32) -> Result<(), NotAdmitted> {
        self.lock().admit(now, max)
    }

    /// What an admitted request has to do now. After [`Next::Start`] the caller sees to it that
    /// [`Fleet::started`], [`Fleet::failed`] or [`Fleet::give_up`] ends the start.
    pub fn request(&self, now: Instant) -> Next<L> {
        self.lock().request(now)
    }

    pub fn state(&self) -> State {
        self.lock().state()
    }

    /// What is remembered of its arrivals and costs.
    pub fn history(&self) -> History {
        self.lock().history().clone()
    }
}

/// All functions of a host.
pub struct Fleet<L: Resident> {
    memory: Arc<Memory>,
    policy: Arc<dyn KeepAlive>,
    book: Mutex<Book<L>>,
    next_id: AtomicU64,
    evicted: AtomicU64,
    refused: AtomicU64,
    /// Called when there is something to do earlier than [`Fleet::next_due`] said.
    wake: Box<dyn Fn() + Send + Sync>,
}

struct Book<L: Resident> {
    agenda: Agenda,
    warm: HashSet<u64>,
    /// Those that are warm or on the agenda.
    slots: HashMap<u64, Arc<Slot<L>>>,
}

/// A function that could be let go.
struct Idle<L: Resident> {
    slot: Arc<Slot<L>>,
    keys: Arc<[Key]>,
    is_kept: bool,
    index: f64,
}

/// Which idle functions may be let go to make room.
#[derive(Clone, Copy)]
enum MayGo {
    All,
    /// Those that no minimum keeps.
    NotKept,
    /// Those of them whose index is lower.
    WorthLessThan(f64),
}

/// What [`Fleet::due`] asks its caller to do.
pub struct Due<L: Resident> {
    /// To be started, though nobody waits.
    pub prewarm: Vec<Arc<Slot<L>>>,
}

impl<L: Resident> Fleet<L> {
    pub fn new(
        memory: Arc<Memory>,
        policy: Arc<dyn KeepAlive>,
        wake: Box<dyn Fn() + Send + Sync>,
    ) -> Fleet<L> {
        let book = Book { agenda: Agenda::default(), warm: HashSet::new(), slots: HashMap::new() };
        Fleet {
            memory,
            policy,
            book: Mutex::new(book),
            next_id: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            wake,
        }
    }

    /// A place for one version of a function, cold, with the history of the version before it or of the
    /// host's last run.
    pub fn slot(&self, owner: L::Owner, asked: Asked, history: History) -> Arc<Slot<L>> {
        let id = self.next_id.fetch_add(1, Relaxed);
        Arc::new(Slot { owner, id, asked, function: Mutex::new(Function::with_history(history)) })
    }

    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
    /// Functions let go to make room for others, since the start.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }
    /// Starts and invocations refused for want of memory, since the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
    /// Functions that are warm.
    pub fn warm(&self) -> usize {
        self.book().warm.len()
    }
    /// What a megabyte costs at present.
    pub fn price(&self) -> Price {
        price(self.memory.used(), self.memory.budget())
    }

    /// An admitted invocation ended, or was given up.
    pub fn leave(&self, slot: &Arc<Slot<L>>, now: Instant) {
        let mut function = slot.lock();
        let (review, mut gone) = function.leave(now);
        if gone.is_some() {
            self.note(slot, false, None);
        } else if review {
            (gone, _) = self.look(slot, &mut function, now, false);
        }
        drop(function);
        drop(gone);
    }

    /// Takes what a start needs, letting idle functions go where needed: any for a start that somebody waits
    /// for, those without a minimum for one of a minimum, and for a prewarm those of them that are worth less
    /// than what it saves.
    pub fn reserve(&self, slot: &Slot<L>, now: Instant, parts: &[Part]) -> Result<Reservation, Short> {
        let mut result = self.memory.reserve(parts);
        for _ in 0..ROUNDS_MAX {
            let Err(Short::Now { .. }) = result else { break };
            // The caller of `due` may know what else can go.
            (self.wake)();
            let may_go = {
                let function = slot.lock();
                match function.wanted() {
                    (true, _) => MayGo::All,
                    (false, true) => MayGo::NotKept,
                    (false, false) => {
                        MayGo::WorthLessThan(function.index(now, &*self.policy, &slot.asked) * PREWARM_GAIN)
                    }
                }
            };
            if !self.make_room(now, parts, 0, may_go) {
                break;
            }
            result = self.memory.reserve(parts);
        }
        result
    }

    /// Takes more memory for what runs already, letting idle functions go where needed. Before it is refused,
    /// `last_resort` is asked to free what it can; it says whether trying again makes sense.
    pub fn grow(
        &self,
        taken: &mut Taken,
        more: u64,
        now: Instant,
        last_resort: impl FnOnce() -> bool,
    ) -> Result<(), Short> {
        let mut result = taken.grow(more);
        if result.is_err() {
            (self.wake)();
        }
        for _ in 0..ROUNDS_MAX {
            if result.is_ok() || !self.make_room(now, &[], more, MayGo::All) {
                break;
            }
            result = taken.grow(more);
        }
        if result.is_err() && last_resort() {
            result = taken.grow(more);
        }
        self.refused.fetch_add(u64::from(result.is_err()), Relaxed);
        result
    }

    /// The start succeeded after `cold`: who waits may run.
    pub fn started(&self, slot: &Arc<Slot<L>>, now: Instant, loaded: L, cold: Duration) {
        let mut function = slot.lock();
        let mut gone = function.started(loaded, cold);
        if gone.is_none() {
            (gone, _) = self.look(slot, &mut function, now, false);
        }
        drop(function);
        drop(gone);
        // The caller of `due` may have to watch over what is warm.
        (self.wake)();
    }

    /// The start failed: who waits is told why, and the next start is tried after a back-off.
    pub fn failed(&self, slot: &Arc<Slot<L>>, now: Instant, failure: Failure) {
        self.refused.fetch_add(u64::from(matches!(failure, Failure::Memory(_))), Relaxed);
        let mut function = slot.lock();
        function.failed(now, failure);
        self.retry_kept(slot, &function, now);
    }

    /// A start nobody waits for found no memory. False if somebody waits by now: then it goes on.
    pub fn give_up(&self, slot: &Arc<Slot<L>>, now: Instant) -> bool {
        let mut function = slot.lock();
        let may = function.give_up();
        if may {
            self.retry_kept(slot, &function, now);
        }
        may
    }

    fn retry_kept(&self, slot: &Arc<Slot<L>>, function: &Function<L>, now: Instant) {
        let (_, is_kept) = function.wanted();
        self.note(slot, false, is_kept.then(|| now.saturating_add(KEPT_RETRY)));
    }

    /// The version was deleted: nothing is admitted any more, what was admitted is let finish.
    pub fn delete(&self, slot: &Arc<Slot<L>>) {
        let mut function = slot.lock();
        let gone = function.delete();
        let stays = function.is_warm();
        self.note(slot, stays, None);
        drop(function);
        drop(gone);
    }

    /// Whether a minimum keeps this version warm from now on.
    pub fn keep(&self, slot: &Arc<Slot<L>>, kept: bool, now: Instant) {
        let mut function = slot.lock();
        function.keep(kept);
        if function.state() != State::Draining {
            self.note(slot, function.is_warm(), Some(now));
        }
    }

    /// Has a function looked at then: from what is remembered of it, it may be worth having.
    pub fn look_at(&self, slot: &Arc<Slot<L>>, moment: Instant) {
        let function = slot.lock();
        self.note(slot, function.is_warm(), Some(moment));
    }

    /// When [`Fleet::due`] has something to do next.
    pub fn next_due(&self) -> Option<Instant> {
        self.book().agenda.next()
    }

    /// Lets go what is not worth its memory any more, and says what is worth starting.
    pub fn due(&self, now: Instant) -> Due<L> {
        let mut due = Due { prewarm: Vec::new() };
        loop {
            let slot = {
                let mut book = self.book();
                let Some(id) = book.agenda.pop_due(now) else { return due };
                let Some(slot) = book.slots.get(&id) else { continue };
                slot.clone()
            };
            let mut function = slot.lock();
            let may_prewarm = due.prewarm.len() < PREWARMS_AT_ONCE;
            let (gone, prewarm) = self.look(&slot, &mut function, now, may_prewarm);
            drop(function);
            drop(gone);
            if prewarm {
                due.prewarm.push(slot);
            }
        }
    }

    /// Lets idle functions go until no more is used than the budget; all of them where that is not enough.
    pub fn relieve(&self, now: Instant) {
        for _ in 0..ROUNDS_MAX {
            if self.memory.used() <= self.memory.budget() {
                return;
            }
            if !self.make_room(now, &[], 0, MayGo::All) {
                self.evict(&self.idle(now), now);
            }
        }
    }

    /// Has all warm functions looked at: the price of memory has changed.
    pub fn review_all(&self, now: Instant) {
        let book = &mut *self.book();
        for id in &book.warm {
            book.agenda.set(*id, Some(now));
        }
        (self.wake)();
    }

    /// How a function stands.
    pub fn standing(&self, slot: &Slot<L>, now: Instant) -> Standing {
        slot.lock().standing(now, &*self.policy, &slot.asked, self.price())
    }

    /// Does what keep-alive wants with a function now. Returns what is to be dropped once its lock is
    /// released, and whether it is to be started.
    fn look(
        &self,
        slot: &Arc<Slot<L>>,
        function: &mut Function<L>,
        now: Instant,
        may_prewarm: bool,
    ) -> (Option<L>, bool) {
        match function.review(now, &*self.policy, &slot.asked, self.price()) {
            Review::Nothing => self.note(slot, function.is_warm(), None),
            Review::LookAt(moment) => self.note(slot, function.is_warm(), Some(moment)),
            Review::LetGo(loaded, moment) => {
                self.note(slot, false, moment);
                return (Some(loaded), false);
            }
            Review::Prewarm if may_prewarm && function.prewarm(now) => {
                self.note(slot, false, None);
                return (None, true);
            }
            Review::Prewarm => self.note(slot, false, Some(now.saturating_add(PREWARM_PAUSE))),
        }
        (None, false)
    }

    /// Lets idle functions go, those of the least worth first, so that `parts` and `bytes` fit. False where
    /// that cannot be done; then none is let go.
    fn make_room(&self, now: Instant, parts: &[Part], bytes: u64, may_go: MayGo) -> bool {
        let mut idle = self.idle(now);
        idle.retain(|i| match may_go {
            MayGo::All => true,
            MayGo::NotKept => !i.is_kept,
            MayGo::WorthLessThan(index) => !i.is_kept && i.index < index,
        });
        let keys: Vec<_> = idle.iter().map(|i| i.keys.clone()).collect();
        let Some(victims) = self.memory.victims(&keys, parts, bytes) else { return false };
        let mut n = 0..;
        idle.retain(|_| n.next().is_some_and(|n| victims.binary_search(&n).is_ok()));
        self.evict(&idle, now);
        true
    }

    /// All that could be let go, in the order in which they should: those that a minimum keeps last.
    fn idle(&self, now: Instant) -> Vec<Idle<L>> {
        let warm: Vec<Arc<Slot<L>>> = {
            let book = self.book();
            book.warm.iter().filter_map(|id| book.slots.get(id).cloned()).collect()
        };
        let mut idle = Vec::new();
        for slot in warm {
            let function = slot.lock();
            if let Some((loaded, is_kept, index)) = function.idle(now, &*self.policy, &slot.asked) {
                let keys = loaded.reservation().keys();
                drop(function);
                idle.push(Idle { slot, keys, is_kept, index });
            }
        }
        idle.sort_by(|a, b| {
            a.is_kept.cmp(&b.is_kept).then(a.index.total_cmp(&b.index)).then(a.slot.id.cmp(&b.slot.id))
        });
        idle
    }

    fn evict(&self, idle: &[Idle<L>], now: Instant) {
        for Idle { slot, is_kept, .. } in idle {
            let mut function = slot.lock();
            let gone = function.evict();
            if gone.is_some() {
                self.evicted.fetch_add(1, Relaxed);
                self.note(slot, false, is_kept.then(|| now.saturating_add(KEPT_RETRY)));
            }
            drop(function);
            drop(gone);
        }
    }

    /// Writes down whether a function is warm and when it is to be looked at. Call it under the function's
    /// lock.
    fn note(&self, slot: &Arc<Slot<L>>, is_warm: bool, moment: Option<Instant>) {
        let mut book = self.book();
        let before = book.agenda.next();
        book.agenda.set(slot.id, moment);
        if is_warm {
            book.warm.insert(slot.id);
        } else {
            book.warm.remove(&slot.id);
        }
        if is_warm || moment.is_some() {
            book.slots.insert(slot.id, slot.clone());
        } else {
            book.slots.remove(&slot.id);
        }
        let is_earlier = moment.is_some_and(|at| before.is_none_or(|before| at < before));
        drop(book);
        if is_earlier {
            (self.wake)();
        }
    }

    fn book(&self) -> MutexGuard<'_, Book<L>> {
        // Nothing in a critical section of this lock can panic halfway.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
