//! Instances between two requests: only of functions that ask for reuse, and never shared between two
//! versions.

use super::ender::{Ender, Ends};
use crate::meter::share::EndIdle;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// What one loaded function has idle, the longest idle first. Dropped with the function.
pub(crate) struct Idle<T: Ends> {
    most: usize,
    longest: Duration,
    all: Mutex<Vec<(Instant, T)>>,
    ender: Arc<Ender<T>>,
}

impl<T: Ends> Idle<T> {
    // Nothing is dropped under the lock: ending an instance takes a while.
    fn all(&self) -> MutexGuard<'_, Vec<(Instant, T)>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that was used last: its memory is likely to be in the caches, and the others may end.
    pub fn take(&self) -> Option<T> {
        self.all().pop().map(|(_, one)| one)
    }

    /// Keeps one for a later request, or ends it if there are enough.
    pub fn put(&self, one: T) {
        let mut all = self.all();
        if all.len() < self.most {
            all.push((Instant::now(), one));
        } else {
            drop(all);
            drop(one);
        }
    }

    /// Ends those that have been idle for too long.
    fn end_overdue(&self, now: Instant) {
        let mut all = self.all();
        let over = all.partition_point(|(since, _)| now.saturating_duration_since(*since) > self.longest);
        let ended: Vec<_> = all.drain(..over).collect();
        drop(all);
        drop(ended);
    }

    fn oldest(&self) -> Option<Instant> {
        self.all().first().map(|(since, _)| *since)
    }

    fn take_oldest(&self) -> Option<T> {
        let mut all = self.all();
        (!all.is_empty()).then(|| all.remove(0).1)
    }
}

impl<T: Ends> Drop for Idle<T> {
    /// Its function goes, as a rule to make room for another.
    fn drop(&mut self) {
        let all = self.all.get_mut().unwrap_or_else(PoisonError::into_inner);
        all.drain(..).for_each(|(_, one)| self.ender.end(one));
    }
}

/// What all functions of a host have idle, so that one that is idle never keeps another from running.
pub(crate) struct IdleOfHost<T: Ends> {
    sets: Mutex<Vec<Weak<Idle<T>>>>,
    ender: Arc<Ender<T>>,
}

impl<T: Ends> IdleOfHost<T> {
    pub fn new(ender: Arc<Ender<T>>) -> Arc<Self> {
        Arc::new(IdleOfHost { sets: Mutex::default(), ender })
    }

    fn sets(&self) -> MutexGuard<'_, Vec<Weak<Idle<T>>>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for at most `most` idle instances of one loaded function, for `longest` each.
    pub fn of_function(&self, most: usize, longest: Duration) -> Arc<Idle<T>> {
        let idle = Arc::new(Idle { most, longest, all: Mutex::default(), ender: self.ender.clone() });
        let mut sets = self.sets();
        sets.retain(|set| set.strong_count() > 0);
        sets.push(Arc::downgrade(&idle));
        idle
    }

    /// Ends those that have been idle for longer than their functions keep them.
    pub fn end_overdue(&self, now: Instant) {
        let sets: Vec<_> = self.sets().iter().filter_map(Weak::upgrade).collect();
        sets.iter().for_each(|set| set.end_overdue(now));
    }
}

impl<T: Ends> IdleOfHost<T> {
    fn take_oldest(&self) -> Option<T> {
        let sets: Vec<_> = self.sets().iter().filter_map(Weak::upgrade).collect();
        loop {
            let oldest = sets.iter().filter_map(|set| Some((set.oldest()?, set)));
            let (_, set) = oldest.min_by_key(|(since, _)| *since)?;
            // Somebody else may have taken it meanwhile.
            if let Some(one) = set.take_oldest() {
                return Some(one);
            }
        }
    }

    /// The same as [`EndIdle::end_oldest`], and does not return before it has ended.
    pub fn end_oldest_here(&self) -> bool {
        self.take_oldest().map(drop).is_some()
    }
}

impl<T: Ends> EndIdle for IdleOfHost<T> {
    fn end_oldest(&self) -> bool {
        self.take_oldest().map(|one| self.ender.end(one)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::ender::tests::NONE;
    use vesta_core::vital::Vital;

    const LONG: Duration = Duration::from_secs(3600);

    fn host() -> Arc<IdleOfHost<i32>> {
        IdleOfHost::new(Ender::start(NONE, Vital::unwatched()).expect("a thread"))
    }

    #[test]
    fn the_last_used_is_taken_first_and_there_is_a_bound() {
        let idle = host().of_function(2, LONG);
        (1..=3).for_each(|n| idle.put(n));
        assert_eq!([idle.take(), idle.take(), idle.take()], [Some(2), Some(1), None]);
    }

    #[test]
    fn what_is_idle_for_too_long_is_ended() {
        let host = host();
        let (one, other) = (host.of_function(10, Duration::from_secs(1)), host.of_function(10, LONG));
        one.put(1);
        other.put(2);
        host.end_overdue(Instant::now() + Duration::from_millis(500));
        assert_eq!(one.take(), Some(1));
        one.put(1);
        host.end_overdue(Instant::now() + Duration::from_secs(2));
        assert_eq!([one.take(), other.take()], [None, Some(2)]);
    }

    #[test]
    fn the_longest_idle_of_all_functions_gives_way_first_and_functions_that_are_gone_are_forgotten() {
        let host = host();
        let (one, other, gone) =
            (host.of_function(10, LONG), host.of_function(10, LONG), host.of_function(10, LONG));
        gone.put(0);
        drop(gone);
        one.put(1);
        other.put(2);
        one.put(3);
        assert!(host.end_oldest());
        assert_eq!([one.take(), one.take()], [Some(3), None]);
        assert!(host.end_oldest());
        assert_eq!(other.take(), None);
        assert!(!host.end_oldest());
    }
}
