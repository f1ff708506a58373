//! For how long a guest waits for its own input and output, which it pays for: it holds its memory meanwhile.
//!
//! Such a wait lasts from the end of a poll until the guest is woken. From then until it is polled again it
//! waits for a core, which is the doing of others.

use super::Meter;
use futures_util::task::AtomicWaker;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

/// The waits of one invocation.
pub(crate) struct Waits {
    meter: Arc<Meter>,
    bell: Arc<Bell>,
    waker: Waker,
    /// When the last poll ended, where the guest waits for its own input or output since.
    since: Option<Instant>,
    /// A piece of the response was handed on: until the next one is asked for, the guest waits for its
    /// client.
    is_read: bool,
    deadline: Instant,
}

/// Wakes the task of the request, and remembers when.
struct Bell {
    task: AtomicWaker,
    began: Instant,
    /// Nanoseconds since it began, and 1; 0 while nobody has rung.
    rung_ns: AtomicU64,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        if self.rung_ns.load(Relaxed) == 0 {
            let ns = self.began.elapsed().as_nanos() as u64 + 1;
            let _ = self.rung_ns.compare_exchange(0, ns, Relaxed, Relaxed);
        }
        self.task.wake();
    }
}

impl Waits {
    /// Of an invocation that has until `deadline`.
    pub fn new(meter: Arc<Meter>, deadline: Instant) -> Waits {
        let bell =
            Arc::new(Bell { task: AtomicWaker::new(), began: Instant::now(), rung_ns: AtomicU64::new(0) });
        let waker = bell.clone().into();
        Waits { meter, bell, waker, since: None, is_read: false, deadline }
    }

    /// The guest is about to be polled by the task `task`; gives what wakes that task for the guest.
    pub fn begin_poll(&mut self, task: &Waker) -> &Waker {
        self.end();
        self.bell.rung_ns.store(0, Relaxed);
        self.bell.task.register(task);
        &self.waker
    }

    /// The poll has ended, and the guest has not.
    pub fn is_pending(&mut self) {
        self.since = (!self.meter.is_away()).then(Instant::now);
    }

    /// A piece of the response was handed on.
    pub fn is_read(&mut self) {
        self.is_read = true;
    }

    /// The guest waits no longer.
    pub fn end(&mut self) {
        let is_read = std::mem::take(&mut self.is_read);
        let Some(since) = self.since.take() else { return };
        let until = match self.bell.rung_ns.load(Relaxed) {
            rung_ns if rung_ns > 0 && !is_read => self.bell.began + Duration::from_nanos(rung_ns - 1),
            _ => Instant::now(),
        };
        self.meter.waited_for_its_own(until.min(self.deadline).saturating_duration_since(since));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;

    const WAIT: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(60);

    fn waits() -> (Arc<Meter>, Waits) {
        let meter = Arc::<Meter>::default();
        (meter.clone(), Waits::new(meter, Instant::now() + LONG))
    }

    fn near(meter: &Meter, wanted: Duration) {
        let ns = Duration::from_nanos(meter.memory_ns());
        assert!(ns >= wanted && ns < wanted + WAIT / 2, "{ns:?}, not {wanted:?}");
    }

    #[test]
    fn a_wait_lasts_until_it_is_rung_and_not_until_a_core_is_free() {
        let (meter, mut waits) = waits();
        let bell = waits.begin_poll(Waker::noop()).clone();
        waits.is_pending();
        sleep(WAIT);
        bell.wake_by_ref();
        sleep(2 * WAIT);
        bell.wake();
        waits.begin_poll(Waker::noop());
        near(&meter, WAIT);
    }

    #[test]
    fn what_was_woken_within_its_poll_does_not_wait() {
        let (meter, mut waits) = waits();
        let bell = waits.begin_poll(Waker::noop()).clone();
        bell.wake();
        waits.is_pending();
        sleep(WAIT);
        waits.end();
        near(&meter, Duration::ZERO);
    }

    #[test]
    fn waiting_for_a_slot_or_a_turn_is_not_its_own() {
        let (meter, mut waits) = waits();
        let away = meter.away();
        waits.begin_poll(Waker::noop());
        waits.is_pending();
        sleep(WAIT);
        drop(away);
        waits.end();
        near(&meter, Duration::ZERO);
    }

    #[test]
    fn a_client_that_reads_slowly_keeps_the_guest_waiting() {
        let (meter, mut waits) = waits();
        let bell = waits.begin_poll(Waker::noop()).clone();
        waits.is_pending();
        bell.wake();
        waits.is_read();
        sleep(WAIT);
        waits.end();
        near(&meter, WAIT);
    }

    #[test]
    fn nothing_is_waited_for_beyond_the_deadline() {
        let meter = Arc::<Meter>::default();
        let mut waits = Waits::new(meter.clone(), Instant::now() + WAIT);
        waits.begin_poll(Waker::noop());
        waits.is_pending();
        sleep(3 * WAIT);
        drop(waits);
        near(&meter, Duration::ZERO);
        let mut waits = Waits::new(meter.clone(), Instant::now() + WAIT);
        waits.begin_poll(Waker::noop());
        waits.is_pending();
        sleep(3 * WAIT);
        waits.end();
        assert!(Duration::from_nanos(meter.memory_ns()) <= WAIT);
    }
}
