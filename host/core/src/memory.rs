//! The host's memory budget: what it holds, in bytes, and never more than the budget.
//!
//! Whatever is to be held is taken from the budget first and given back when its guard is dropped. What a
//! warm function consists of (code, models) is counted once for all that share it, by digest, behind a lock
//! that only starts and ends of warmth touch. What a running invocation takes (linear memory, tensors) is a
//! few atomic additions.

use crate::Digest;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What memory is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Compiled components, mapped.
    Code,
    /// Prepared models, mapped, and what the engine keeps beside them.
    Models,
    /// Linear memory of instances.
    Instances,
    /// Tensors and bodies on the host's own heap.
    Buffers,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Code, Kind::Models, Kind::Instances, Kind::Buffers];

    /// The name used in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Code => "code",
            Kind::Models => "models",
            Kind::Instances => "instances",
            Kind::Buffers => "buffers",
        }
    }
}

/// Something that a function needs while it is warm, and that others may share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub kind: Kind,
    pub digest: Digest,
    pub bytes: u64,
}

/// What a part is counted under.
pub type Key = (Kind, Digest);

/// Why memory was not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Short {
    /// Waiting cannot help.
    #[error(
        "{needed} bytes are needed, and this host's whole memory budget is {budget} bytes (memory in its configuration)"
    )]
    Never { needed: u64, budget: u64 },
    #[error(
        "{needed} bytes more are needed, and of this host's memory budget of {budget} bytes {free} are free"
    )]
    Now { needed: u64, free: u64, budget: u64 },
}

/// The budget and what is taken of it.
pub struct Memory {
    budget: u64,
    used: AtomicU64,
    by_kind: [AtomicU64; 4],
    /// What the process was seen to hold beside what is counted here.
    uncounted: AtomicU64,
    /// The most that was asked for in vain since somebody last looked.
    lacked: AtomicU64,
    parts: Mutex<HashMap<Key, Counted>>,
}

struct Counted {
    bytes: u64,
    holders: u32,
}

impl Memory {
    /// `budget` in bytes.
    pub fn new(budget: u64) -> Arc<Memory> {
        Arc::new(Memory {
            budget,
            used: AtomicU64::new(0),
            by_kind: Default::default(),
            uncounted: AtomicU64::new(0),
            lacked: AtomicU64::new(0),
            parts: Mutex::default(),
        })
    }

    pub fn budget(&self) -> u64 {
        self.budget
    }
    /// Bytes taken, all kinds together; more than the budget only by what was held without asking
    /// ([`Memory::hold`]).
    pub fn taken(&self) -> u64 {
        self.used.load(Relaxed)
    }
    pub fn taken_for(&self, kind: Kind) -> u64 {
        self.by_kind[kind as usize].load(Relaxed)
    }
    /// Bytes that the process held beside them when it was last looked at.
    pub fn uncounted(&self) -> u64 {
        self.uncounted.load(Relaxed)
    }
    /// Taken and uncounted: what the price of memory goes by.
    pub fn used(&self) -> u64 {
        self.taken().saturating_add(self.uncounted())
    }
    /// What may still be taken.
    pub fn free(&self) -> u64 {
        self.budget.saturating_sub(self.used())
    }
    /// The most that was asked for in vain since the last call, in bytes.
    pub fn take_lacked(&self) -> u64 {
        self.lacked.swap(0, Relaxed)
    }
    /// Sets what the kernel says beyond what is counted. It leaves less to take, and takes nothing back.
    pub fn observe_uncounted(&self, bytes: u64) {
        self.uncounted.store(bytes, Relaxed);
    }

    /// An empty guard, to grow as an invocation's memory does.
    pub fn none(self: &Arc<Self>, kind: Kind) -> Taken {
        Taken { memory: self.clone(), kind, bytes: 0 }
    }

    /// Counts what is there already and cannot be refused any more. It may pass the budget: then nothing else
    /// is given until it has gone.
    pub fn hold(self: &Arc<Self>, kind: Kind, bytes: u64) -> Taken {
        self.used.fetch_add(bytes, Relaxed);
        self.by_kind[kind as usize].fetch_add(bytes, Relaxed);
        Taken { memory: self.clone(), kind, bytes }
    }

    /// Takes what a function needs to be warm: all of it, or nothing.
    pub fn reserve(self: &Arc<Self>, parts: &[Part]) -> Result<Reservation, Short> {
        let mut keys: Vec<Key> = Vec::with_capacity(parts.len());
        let mut counted = self.counted();
        let (mut whole, mut more) = (0u64, Vec::new());
        for part in parts {
            let key = (part.kind, part.digest);
            if keys.contains(&key) {
                continue;
            }
            keys.push(key);
            let bytes = counted.get(&key).map_or(part.bytes, |c| c.bytes);
            whole = whole.saturating_add(bytes);
            if !counted.contains_key(&key) {
                more.push(*part);
            }
        }
        if whole > self.budget {
            return Err(Short::Never { needed: whole, budget: self.budget });
        }
        self.take_all(&more)?;
        for part in more {
            counted.insert((part.kind, part.digest), Counted { bytes: part.bytes, holders: 0 });
        }
        for key in &keys {
            if let Some(c) = counted.get_mut(key) {
                c.holders += 1;
            }
        }
        Ok(Reservation { memory: self.clone(), keys: keys.into() })
    }

    /// Which of some idle functions to let go, so that `parts` and `bytes` more fit: the first ones in the
    /// order given, without those whose going would not be needed after all. `None` where even all of them
    /// would not do.
    ///
    /// A model is freed only with the last that holds it, and not at all if it is one of `parts`.
    pub fn victims(&self, idle: &[Arc<[Key]>], parts: &[Part], bytes: u64) -> Option<Vec<usize>> {
        let counted = self.counted();
        let mut needed = bytes;
        for (n, part) in parts.iter().enumerate() {
            let again = parts[..n].iter().any(|p| (p.kind, p.digest) == (part.kind, part.digest));
            if !again && !counted.contains_key(&(part.kind, part.digest)) {
                needed = needed.saturating_add(part.bytes);
            }
        }
        let missing = needed.saturating_add(self.used()).saturating_sub(self.budget);
        let mut leaving = Leaving { counted: &counted, wanted: parts, gone: HashMap::new(), freed: 0 };
        let mut chosen = Vec::new();
        for (n, keys) in idle.iter().enumerate() {
            if leaving.freed >= missing {
                break;
            }
            leaving.goes(keys);
            chosen.push(n);
        }
        if leaving.freed < missing {
            return None;
        }
        // From the dearest down: whoever can stay stays.
        for at in (0..chosen.len()).rev() {
            leaving.stays(&idle[chosen[at]]);
            if leaving.freed >= missing {
                chosen.remove(at);
            } else {
                leaving.goes(&idle[chosen[at]]);
            }
        }
        Some(chosen)
    }

    fn take_all(&self, parts: &[Part]) -> Result<(), Short> {
        let bytes = parts.iter().fold(0u64, |sum, p| sum.saturating_add(p.bytes));
        self.add(bytes)?;
        for part in parts {
            self.by_kind[part.kind as usize].fetch_add(part.bytes, Relaxed);
        }
        Ok(())
    }

    /// The one place where anything is taken from the budget.
    fn add(&self, bytes: u64) -> Result<(), Short> {
        let limit = self.budget.saturating_sub(self.uncounted());
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= limit);
        match self.used.fetch_update(Relaxed, Relaxed, fits) {
            Ok(_) => Ok(()),
            Err(used) => {
                self.lacked.fetch_max(bytes, Relaxed);
                let free = limit.saturating_sub(used);
                Err(Short::Now { needed: bytes, free, budget: self.budget })
            }
        }
    }

    fn give_back(&self, kind: Kind, bytes: u64) {
        // Atomics wrap without a word.
        let of_kind = self.by_kind[kind as usize].fetch_sub(bytes, Relaxed);
        let used = self.used.fetch_sub(bytes, Relaxed);
        debug_assert!(
            of_kind >= bytes && used >= bytes,
            "{bytes} bytes of {of_kind} and {used} are given back"
        );
    }

    fn counted(&self) -> MutexGuard<'_, HashMap<Key, Counted>> {
        // Nothing in a critical section of this lock can panic halfway.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What would be freed if some functions went.
struct Leaving<'a> {
    counted: &'a HashMap<Key, Counted>,
    wanted: &'a [Part],
    gone: HashMap<Key, u32>,
    freed: u64,
}

impl Leaving<'_> {
    fn goes(&mut self, keys: &[Key]) {
        for key in keys {
            let gone = self.gone.entry(*key).or_default();
            *gone += 1;
            if let Some(bytes) = freed(self.counted, self.wanted, key, *gone) {
                self.freed += bytes;
            }
        }
    }
    fn stays(&mut self, keys: &[Key]) {
        for key in keys {
            let gone = self.gone.entry(*key).or_default();
            if let Some(bytes) = freed(self.counted, self.wanted, key, *gone) {
                self.freed -= bytes;
            }
            *gone -= 1;
        }
    }
}

/// The bytes of a part, if nobody holds it once `gone` of its holders went.
fn freed(counted: &HashMap<Key, Counted>, wanted: &[Part], key: &Key, gone: u32) -> Option<u64> {
    let c = counted.get(key)?;
    let is_wanted = wanted.iter().any(|p| (p.kind, p.digest) == *key);
    (c.holders == gone && !is_wanted).then_some(c.bytes)
}

/// Gives memory to what runs. Called from many threads, and from within a guest's turn.
pub trait Grant: Send + Sync {
    fn memory(&self) -> &Arc<Memory>;

    /// Takes so many bytes more, making room first if need be: that may take some milliseconds.
    fn grow(&self, taken: &mut Taken, more: u64) -> Result<(), Short>;

    /// Most bytes that the running instances of one tenant may hold: all of the budget, unless others have to
    /// be left some.
    fn of_tenant_max(&self) -> u64 {
        self.memory().budget()
    }
}

impl Grant for Arc<Memory> {
    /// Takes what is free, and makes no room.
    fn memory(&self) -> &Arc<Memory> {
        self
    }
    fn grow(&self, taken: &mut Taken, more: u64) -> Result<(), Short> {
        taken.grow(more)
    }
}

/// What a warm function holds. Dropping it gives back what nobody else holds.
pub struct Reservation {
    memory: Arc<Memory>,
    keys: Arc<[Key]>,
}

impl Reservation {
    /// Puts the actual sizes in the place of those expected. On an error the budget is as good as before, and
    /// the reservation as it was where it could not grow.
    pub fn settle(&self, actual: &[Part]) -> Result<(), Short> {
        let mut counted = self.memory.counted();
        for part in actual {
            let key = (part.kind, part.digest);
            if !self.keys.contains(&key) {
                continue;
            }
            let Some(c) = counted.get_mut(&key) else { continue };
            if part.bytes > c.bytes {
                self.memory.take_all(&[Part { bytes: part.bytes - c.bytes, ..*part }])?;
            } else {
                self.memory.give_back(part.kind, c.bytes - part.bytes);
            }
            c.bytes = part.bytes;
        }
        Ok(())
    }

    /// Its parts, by which [`Memory::victims`] knows what its going would free.
    pub fn keys(&self) -> Arc<[Key]> {
        self.keys.clone()
    }

    /// Bytes of its parts, whoever else holds them too.
    pub fn bytes(&self) -> u64 {
        let counted = self.memory.counted();
        self.keys.iter().filter_map(|key| counted.get(key)).map(|c| c.bytes).sum()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut counted = self.memory.counted();
        for key in self.keys.iter() {
            let Some(c) = counted.get_mut(key) else { continue };
            c.holders -= 1;
            if c.holders == 0 {
                let bytes = c.bytes;
                counted.remove(key);
                self.memory.give_back(key.0, bytes);
            }
        }
    }
}

/// Memory that only its holder uses. Dropping it gives it back.
pub struct Taken {
    memory: Arc<Memory>,
    kind: Kind,
    bytes: u64,
}

impl Taken {
    /// Takes so many bytes more.
    pub fn grow(&mut self, more: u64) -> Result<(), Short> {
        self.memory.add(more)?;
        self.memory.by_kind[self.kind as usize].fetch_add(more, Relaxed);
        self.bytes += more;
        Ok(())
    }
    /// Gives so many bytes back.
    pub fn shrink(&mut self, less: u64) {
        let less = less.min(self.bytes);
        self.memory.give_back(self.kind, less);
        self.bytes -= less;
    }
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.memory.give_back(self.kind, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(n: u8, bytes: u64) -> Part {
        Part { kind: Kind::Models, digest: Digest::from_bytes([n; 32]), bytes }
    }

    #[test]
    fn a_shared_model_is_counted_once_and_freed_with_its_last_user() {
        let memory = Memory::new(100);
        let one = memory.reserve(&[part(1, 60), part(1, 60)]).expect("fits");
        let two = memory.reserve(&[part(1, 60), part(2, 30)]).expect("fits");
        assert_eq!(memory.taken(), 90);
        drop(one);
        assert_eq!(memory.taken(), 90);
        drop(two);
        assert_eq!((memory.taken(), memory.taken_for(Kind::Models)), (0, 0));
    }

    #[test]
    fn what_does_not_fit_takes_nothing_and_says_how_much_is_needed() {
        let memory = Memory::new(100);
        let _held = memory.reserve(&[part(1, 60)]).expect("fits");
        assert_eq!(
            memory.reserve(&[part(2, 50)]).err(),
            Some(Short::Now { needed: 50, free: 40, budget: 100 })
        );
        assert_eq!(
            memory.reserve(&[part(1, 60), part(2, 41)]).err(),
            Some(Short::Never { needed: 101, budget: 100 })
        );
        assert_eq!(memory.taken(), 60);
        memory.observe_uncounted(30);
        assert_eq!(
            memory.none(Kind::Instances).grow(11),
            Err(Short::Now { needed: 11, free: 10, budget: 100 })
        );
    }

    #[test]
    fn settling_takes_what_is_more_and_gives_back_what_is_less() {
        let memory = Memory::new(100);
        let held = memory.reserve(&[part(1, 60)]).expect("fits");
        held.settle(&[part(1, 50)]).expect("less");
        assert_eq!(memory.taken(), 50);
        held.settle(&[part(1, 90)]).expect("more");
        assert_eq!(memory.taken(), 90);
        assert!(held.settle(&[part(1, 101)]).is_err());
        assert_eq!((memory.taken(), held.bytes()), (90, 90));
        drop(held);
        assert_eq!(memory.taken(), 0);
    }

    #[test]
    fn victims_are_the_first_that_are_needed_and_no_others() {
        let memory = Memory::new(100);
        let held: Vec<Reservation> = [part(1, 10), part(2, 50), part(3, 40)]
            .iter()
            .map(|p| memory.reserve(&[*p]).expect("fits"))
            .collect();
        let idle: Vec<_> = held.iter().map(Reservation::keys).collect();
        assert_eq!(memory.victims(&idle, &[part(4, 5)], 0), Some(vec![0]));
        assert_eq!(memory.victims(&idle, &[part(4, 50)], 0), Some(vec![1]), "the first is not needed then");
        assert_eq!(memory.victims(&idle, &[part(4, 55)], 5), Some(vec![0, 1]));
        assert_eq!(memory.victims(&idle, &[], 101), None);
        assert_eq!(memory.victims(&idle[1..], &[part(4, 91)], 0), None);
    }

    #[test]
    fn a_model_that_is_needed_or_used_elsewhere_frees_nothing() {
        let memory = Memory::new(100);
        let (one, two) = (memory.reserve(&[part(1, 60)]), memory.reserve(&[part(1, 60), part(2, 10)]));
        let (one, two) = (one.expect("fits"), two.expect("fits"));
        let keys = [one.keys(), two.keys()];
        assert_eq!(memory.victims(&keys[..1], &[part(3, 50)], 0), None, "the second still holds it");
        assert_eq!(memory.victims(&keys, &[part(3, 50)], 0), Some(vec![0, 1]));
        assert_eq!(memory.victims(&keys, &[part(1, 60), part(3, 35)], 0), Some(vec![1]));
        assert_eq!(memory.victims(&keys, &[part(1, 60)], 50), None);
    }
}
