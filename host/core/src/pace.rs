//! A pace: so many at once, and then one in each period. Of each key by itself.

use crate::clock::Instant;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Keys for which nothing is remembered any more are looked for when there are twice as many as the last
/// time, and so many at least.
const FORGET_MIN: usize = 64;

/// The paces of all keys.
pub struct Pace<K> {
    at_once: u32,
    each: Duration,
    state: Mutex<State<K>>,
}

struct State<K> {
    /// When all that was taken will have had its time.
    paid: HashMap<K, Instant>,
    forget_at: usize,
}

impl<K: Hash + Eq + Clone> Pace<K> {
    /// `at_once` at first, and one more in each `each`.
    pub fn new(at_once: u32, each: Duration) -> Pace<K> {
        Pace { at_once, each, state: Mutex::new(State { paid: HashMap::new(), forget_at: FORGET_MIN }) }
    }

    /// Takes one for `key`; an error says how long it has to wait.
    pub fn take(&self, key: &K, now: Instant) -> Result<(), Duration> {
        let most = self.each * self.at_once.saturating_sub(1);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(paid) = state.paid.get_mut(key) {
            let ahead = paid.saturating_sub(now);
            if ahead > most {
                return Err(ahead.saturating_sub(most));
            }
            *paid = (*paid).max(now) + self.each;
            return Ok(());
        }
        if state.paid.len() >= state.forget_at {
            state.paid.retain(|_, paid| *paid > now);
            state.forget_at = (2 * state.paid.len()).max(FORGET_MIN);
        }
        state.paid.insert(key.clone(), now + self.each);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_so_many_at_once_and_then_one_in_each_period() {
        let each = Duration::from_millis(50);
        let (pace, now) = (Pace::new(1_000, each), Duration::from_secs(100));
        assert!((0..1_000).all(|_| pace.take(&"acme", now).is_ok()));
        assert_eq!(pace.take(&"acme", now), Err(each));
        assert_eq!(pace.take(&"other", now), Ok(()));
        let later = now + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| pace.take(&"acme", later).is_ok()).count(), 20);
        let much_later = now + Duration::from_secs(3_600);
        assert!((0..1_000).all(|_| pace.take(&"acme", much_later).is_ok()));
        assert!(pace.take(&"acme", much_later).is_err());
    }

    #[test]
    fn keys_that_have_had_their_time_are_forgotten() {
        let pace = Pace::new(1, Duration::from_secs(1));
        for n in 0..10_000_u64 {
            assert_eq!(pace.take(&n, Duration::from_secs(2 * n)), Ok(()));
        }
        assert!(pace.state.lock().expect("no panic").paid.len() <= FORGET_MIN);
    }
}
