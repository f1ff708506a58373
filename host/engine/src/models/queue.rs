//! A model's runs that wait for a slot and may be merged.

use super::payers::Payer;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use vesta_core::TenantName;
use vesta_core::memory::Reservation;
use vesta_nn::{Tensor, TensorType};

/// After so many merged runs in a row that failed, a model's runs are not merged any more.
const FAILURES_MAX: u32 = 3;

/// The tensors of a run, by name.
pub(super) type Tensors = Vec<(String, Tensor)>;
/// The outputs of a member's rows, or nothing where it has to run by itself.
pub(super) type Merged = Option<Tensors>;
/// What runs have to have in common: of each input the name, the type and the dimensions beside the first.
pub(super) type Likeness = Vec<(String, TensorType, Vec<u32>)>;

#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Vec<Arc<Member>>>,
    failures: AtomicU32,
}

/// A run that may be merged.
pub(super) struct Member {
    pub tenant: TenantName,
    pub likeness: Likeness,
    pub rows: u32,
    /// Size of the inputs.
    pub bytes: u64,
    pub outputs_max: u64,
    pub deadline: Instant,
    pub rider: Mutex<Option<Rider>>,
}

/// What a merged run takes of a member: once.
pub(super) struct Rider {
    pub inputs: Vec<(String, Arc<Tensor>)>,
    pub meter: Arc<crate::meter::Meter>,
    pub held: Option<Arc<Reservation>>,
    pub taken: oneshot::Sender<oneshot::Receiver<Merged>>,
}

/// Who rides in a merged run with the member that has got a slot.
pub(super) struct Bounds {
    /// Rows of them all.
    pub rows: u32,
    /// CPU time of a row, and what all may take together, in nanoseconds.
    pub row_ns: u64,
    pub cpu_ns: u64,
}

impl Queue {
    /// Whether merged runs have not failed again and again.
    pub fn may_merge(&self) -> bool {
        self.failures.load(Relaxed) < FAILURES_MAX
    }

    /// A merged run has ended: in a row so many may fail.
    pub fn ended(&self, well: bool) {
        match well {
            true => self.failures.store(0, Relaxed),
            false => drop(self.failures.fetch_add(1, Relaxed)),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Arc<Member>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a member wait until the guard is dropped.
    pub fn join(&self, member: Arc<Member>) -> Waiting<'_> {
        self.waiting().push(member.clone());
        Waiting(self, member)
    }

    /// Takes `member` and those that wait and are like it, within the bounds: nobody's deadline passes by
    /// what is known
    /// of a row. `None` where another one has taken it.
    pub fn take(&self, member: &Arc<Member>, bounds: &Bounds, now: Instant) -> Option<Vec<Arc<Member>>> {
        let mut waiting = self.waiting();
        let at = waiting.iter().position(|other| Arc::ptr_eq(other, member))?;
        let mut taken = vec![waiting.remove(at)];
        let mut rows = member.rows;
        let mut nearest = member.deadline;
        waiting.retain(|other| {
            let with = rows.saturating_add(other.rows);
            let takes = Duration::from_nanos(bounds.row_ns.saturating_mul(u64::from(with)));
            let soonest = nearest.min(other.deadline);
            let rides = with <= bounds.rows
                && takes.as_nanos() <= u128::from(bounds.cpu_ns)
                // Twice: other runs may have the processors meanwhile.
                && now + 2 * takes <= soonest
                && other.tenant == member.tenant
                && other.likeness == member.likeness;
            if rides {
                (rows, nearest) = (with, soonest);
                taken.push(other.clone());
            }
            !rides
        });
        Some(taken)
    }

    /// Rows that wait and could be merged with `member`, its own included.
    pub fn rows_like(&self, member: &Member) -> u32 {
        let waiting = self.waiting();
        let like = waiting.iter().filter(|m| m.tenant == member.tenant && m.likeness == member.likeness);
        like.fold(0, |sum, member| sum.saturating_add(member.rows))
    }
}

/// Leaves the queue with whoever waited.
pub(super) struct Waiting<'q>(&'q Queue, Arc<Member>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting().retain(|other| !Arc::ptr_eq(other, &self.1));
    }
}

impl Member {
    /// What a merged run takes of it, the first time.
    pub fn take(&self) -> Option<(Rider, Payer)> {
        let rider = self.rider.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let payer = Payer::new(&rider.meter, self.rows);
        Some((rider, payer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(tenant: &str, rows: u32, width: u32, within: Duration) -> Arc<Member> {
        Arc::new(Member {
            tenant: tenant.parse().expect("a name"),
            likeness: vec![("x".into(), TensorType::F32, vec![width])],
            rows,
            bytes: 0,
            outputs_max: 0,
            deadline: Instant::now() + within,
            rider: Mutex::new(None),
        })
    }

    #[test]
    fn who_waits_and_is_like_it_rides_along_as_far_as_rows_time_and_deadlines_allow() {
        const LONG: Duration = Duration::from_secs(60);
        let queue = Queue::default();
        let first = member("a", 1, 4, LONG);
        let others = [
            member("b", 1, 4, LONG),
            member("a", 1, 5, LONG),
            member("a", 7, 4, LONG),
            member("a", 2, 4, LONG),
            member("a", 1, 4, Duration::from_millis(1)),
            member("a", 1, 4, LONG),
        ];
        let _waiting: Vec<_> =
            std::iter::once(&first).chain(&others).map(|m| queue.join(m.clone())).collect();
        assert_eq!(queue.rows_like(&first), 12);
        // Of another tenant, of another width, too many rows, past its deadline: none of these.
        let bounds = Bounds { rows: 7, row_ns: 1_000_000, cpu_ns: 4_000_000 };
        let taken = queue.take(&first, &bounds, Instant::now()).expect("it waits");
        assert_eq!(taken.iter().map(|m| m.rows).collect::<Vec<_>>(), [1, 2, 1]);
        assert!(queue.take(&first, &bounds, Instant::now()).is_none(), "it is taken");
        let last = &others[2];
        let less = Bounds { cpu_ns: 2_000_000, ..bounds };
        assert_eq!(queue.take(last, &less, Instant::now()).expect("it waits").len(), 1);
    }

    #[test]
    fn nothing_is_merged_after_failures_in_a_row() {
        let queue = Queue::default();
        for _ in 0..10 {
            queue.ended(false);
            queue.ended(false);
            queue.ended(true);
        }
        assert!(queue.may_merge());
        (0..3).for_each(|_| queue.ended(false));
        assert!(!queue.may_merge());
    }
}
