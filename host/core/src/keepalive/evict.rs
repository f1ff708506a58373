//! Who goes when memory is short.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A warm function that may be evicted: nothing runs in it, and nothing pins it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate<Id> {
    pub id: Id,
    /// What keeping it is worth, see [`super::KeepAlive::index`].
    pub index: f64,
    /// What it gives back.
    pub bytes: u64,
}

/// The bytes that must become free before `bytes` more fit beside `used`. A budget of 0 is no budget.
pub fn missing(used: u64, bytes: u64, budget: u64) -> u64 {
    if budget == 0 { 0 } else { used.saturating_add(bytes).saturating_sub(budget) }
}

/// The functions to evict so that `need_bytes` become free: the lowest index first, and none that turns out not to be needed
/// once a later, larger one goes. `None` if all of them together do not suffice; then none should go.
///
/// Of equal indices the larger goes first. An index that is not a number counts as the lowest. Takes O(n + k log n) for k victims.
pub fn victims<Id>(candidates: impl IntoIterator<Item = Candidate<Id>>, need_bytes: u64) -> Option<Vec<Id>> {
    let mut heap: BinaryHeap<Reverse<Ordered<Id>>> =
        candidates.into_iter().map(|c| Reverse(Ordered(c))).collect();
    let (mut chosen, mut freed) = (Vec::new(), 0_u64);
    while freed < need_bytes {
        let Reverse(Ordered(next)) = heap.pop()?;
        freed = freed.saturating_add(next.bytes);
        chosen.push(next);
    }
    // The most valuable are spared first.
    let mut spare = freed - need_bytes;
    let mut gone = Vec::with_capacity(chosen.len());
    for candidate in chosen.into_iter().rev() {
        if candidate.bytes <= spare {
            spare -= candidate.bytes;
        } else {
            gone.push(candidate.id);
        }
    }
    gone.reverse();
    Some(gone)
}

/// The functions to evict for one that is to be warmed before it is asked for, and whose index is `index` now: as [`victims`], but
/// only of those worth less than what a prewarmed start saves, which is [`PREWARM_GAIN`] of its index. Where memory is spare,
/// or held by what is worth little, it is warmed; else not.
pub fn prewarm_victims<Id>(
    candidates: impl IntoIterator<Item = Candidate<Id>>,
    need_bytes: u64,
    index: f64,
) -> Option<Vec<Id>> {
    victims(candidates.into_iter().filter(|c| c.index < index * PREWARM_GAIN), need_bytes)
}

/// What is saved by a start that nobody waits for, as a part of one that a request waits for: its CPU is spent all the same.
pub(super) const PREWARM_GAIN: f64 = 0.5;

struct Ordered<Id>(Candidate<Id>);

impl<Id> Ordered<Id> {
    fn key(&self) -> (f64, Reverse<u64>) {
        (if self.0.index.is_nan() { f64::NEG_INFINITY } else { self.0.index }, Reverse(self.0.bytes))
    }
}

impl<Id> Ord for Ordered<Id> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let (a, b) = (self.key(), other.key());
        a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
    }
}
impl<Id> PartialOrd for Ordered<Id> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<Id> PartialEq for Ordered<Id> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl<Id> Eq for Ordered<Id> {}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(of: &[(f64, u64)]) -> Vec<Candidate<usize>> {
        of.iter()
            .enumerate()
            .map(|(id, (index, bytes))| Candidate { id, index: *index, bytes: *bytes })
            .collect()
    }

    #[test]
    fn the_lowest_index_goes_first() {
        let all = candidates(&[(3.0, 10), (1.0, 10), (2.0, 10)]);
        assert_eq!(victims(all.clone(), 1), Some(vec![1]));
        assert_eq!(victims(all.clone(), 11), Some(vec![1, 2]));
        assert_eq!(victims(all.clone(), 30), Some(vec![1, 2, 0]));
        assert_eq!(victims(all, 31), None);
    }

    #[test]
    fn nothing_goes_for_nothing() {
        assert_eq!(victims(candidates(&[(1.0, 10)]), 0), Some(vec![]));
        assert_eq!(victims(candidates(&[]), 0), Some(vec![]));
        assert_eq!(victims(candidates(&[]), 1), None);
    }

    #[test]
    fn who_is_not_needed_after_all_stays() {
        assert_eq!(victims(candidates(&[(1.0, 5), (2.0, 400)]), 300), Some(vec![1]));
        assert_eq!(victims(candidates(&[(1.0, 5), (2.0, 400)]), 402), Some(vec![0, 1]));
    }

    #[test]
    fn odd_numbers_are_ordered() {
        assert_eq!(victims(candidates(&[(0.0, 1), (f64::NAN, 1)]), 1), Some(vec![1]));
        assert_eq!(victims(candidates(&[(1.0, 1), (1.0, 2)]), 1), Some(vec![1]));
        assert_eq!(victims(candidates(&[(1.0, u64::MAX), (2.0, u64::MAX)]), u64::MAX), Some(vec![0]));
    }

    #[test]
    fn a_prewarmed_function_displaces_only_what_is_worth_much_less() {
        let all = candidates(&[(1.0, 10), (3.0, 10)]);
        assert_eq!(prewarm_victims(all.clone(), 5, 4.0), Some(vec![0]));
        assert_eq!(prewarm_victims(all.clone(), 15, 4.0), None);
        assert_eq!(prewarm_victims(all.clone(), 15, 7.0), Some(vec![0, 1]));
        assert_eq!(prewarm_victims(all, 0, 0.0), Some(vec![]));
    }

    #[test]
    fn what_is_missing() {
        assert_eq!([missing(5, 5, 10), missing(5, 6, 10), missing(5, 6, 0)], [0, 1, 0]);
        assert_eq!(missing(u64::MAX, 1, u64::MAX - 1), 1);
    }
}
