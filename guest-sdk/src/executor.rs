//! The smallest executor that `async` handlers need: one future, and the host's pollables it waits for.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use wasip2::clocks::monotonic_clock;
use wasip2::io::poll::{Pollable, poll};

/// Something a future waits for.
struct Waiting {
    pollable: Pollable,
    ready: Cell<bool>,
    waker: RefCell<Waker>,
}

thread_local! {
    static WAITING: RefCell<Vec<Rc<Waiting>>> = const { RefCell::new(Vec::new()) };
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a future to its end. When it can't go on, the instance sleeps until the host says that something it
/// waits for is ready; that time costs nothing.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        if !woken.0.swap(false, Ordering::Relaxed) {
            wait_for_any();
        }
    }
}

fn wait_for_any() {
    let waiting = WAITING.with_borrow(Vec::clone);
    assert!(!waiting.is_empty(), "the handler awaits something that nothing will ever wake");
    let pollables: Vec<&Pollable> = waiting.iter().map(|one| &one.pollable).collect();
    for index in poll(&pollables) {
        let one = &waiting[index as usize];
        one.ready.set(true);
        one.waker.borrow().wake_by_ref();
    }
    WAITING.with_borrow_mut(|all| all.retain(|one| !one.ready.get()));
}

/// What a future waits for. A future that is dropped gives up its pollable at once: the host does not let go
/// of a stream that still has one, and an instance may live on.
struct Registered(Rc<Waiting>);

impl Drop for Registered {
    fn drop(&mut self) {
        WAITING.with_borrow_mut(|all| all.retain(|one| !Rc::ptr_eq(one, &self.0)));
    }
}

/// Waits until the host says that the pollable is ready.
pub(crate) async fn wait(pollable: Pollable) {
    let mut registered: Option<Registered> = None;
    let mut pollable = Some(pollable);
    poll_fn(|cx| {
        if let Some(pollable) = pollable.take() {
            let waker = RefCell::new(cx.waker().clone());
            let waiting = Rc::new(Waiting { pollable, ready: Cell::new(false), waker });
            WAITING.with_borrow_mut(|all| all.push(waiting.clone()));
            registered = Some(Registered(waiting));
        }
        match &registered {
            Some(Registered(waiting)) if !waiting.ready.get() => {
                waiting.waker.borrow_mut().clone_from(cx.waker());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    })
    .await;
}

/// Sleeps; other futures of the same handler go on meanwhile. Sleeping is not billed as CPU time.
pub async fn sleep(duration: Duration) {
    let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    wait(monotonic_clock::subscribe_duration(ns)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_future_that_wakes_itself_goes_on() {
        let mut turns = 0;
        let answer = block_on(poll_fn(|cx| {
            turns += 1;
            if turns == 3 {
                return Poll::Ready(turns);
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
        assert_eq!(answer, 3);
    }
}
