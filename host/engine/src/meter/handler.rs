//! CPU time of the host itself for one invocation: reading its request, finding its function, passing its
//! bodies on.
//!
//! A connection's task does all of that, and runs the guest as well. Its polls are metered while an
//! invocation is open on it, without what is metered within them already (the guest, calls to other hosts).

use super::cpu::Mark;
use std::cell::RefCell;
use std::future::Future;
use std::mem::take;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

/// What a connection's task has used for the invocation that is open on it.
#[derive(Debug, Default)]
struct Handler {
    /// The number of the invocation that is open; 0 where none is.
    open: AtomicU64,
    /// The number of the last one.
    last: AtomicU64,
    spent_ns: AtomicU64,
}

/// The poll under way on a thread.
struct Section {
    handler: Arc<Handler>,
    since: Option<Mark>,
}

thread_local! {
    static SECTION: RefCell<Option<Section>> = const { RefCell::new(None) };
}

impl Section {
    /// Adds what was used since the last time to what the handler has spent.
    fn count(&mut self) {
        if let Some(since) = self.since.take() {
            self.handler.spent_ns.fetch_add(since.own_ns(), Relaxed);
        }
    }
}

/// The host's CPU time for an invocation that is open. Dropping it closes it. It ends where the next one
/// begins on the same connection: what is closed later has no part in that.
#[derive(Debug)]
pub struct OpenHandler {
    handler: Arc<Handler>,
    number: u64,
}

impl OpenHandler {
    /// An invocation begins on the connection that is polled on this thread. None where none is.
    pub fn new() -> Option<OpenHandler> {
        SECTION.with_borrow_mut(|section| {
            let section = section.as_mut()?;
            let handler = section.handler.clone();
            let number = handler.last.fetch_add(1, Relaxed) + 1;
            handler.spent_ns.store(0, Relaxed);
            handler.open.store(number, Relaxed);
            section.since = Some(Mark::now());
            Some(OpenHandler { handler, number })
        })
    }

    /// It has ended: gives the CPU time that the host has used for it, in nanoseconds.
    pub fn close(self) -> u64 {
        self.end()
    }

    fn end(&self) -> u64 {
        if self.handler.open.compare_exchange(self.number, 0, Relaxed, Relaxed).is_err() {
            return 0;
        }
        SECTION.with_borrow_mut(|section| {
            if let Some(section) = section.as_mut().filter(|s| Arc::ptr_eq(&s.handler, &self.handler)) {
                section.count();
            }
        });
        self.handler.spent_ns.swap(0, Relaxed)
    }
}

impl Drop for OpenHandler {
    fn drop(&mut self) {
        self.end();
    }
}

/// A task whose polls are metered while an invocation is open on it.
pub struct Handled<F> {
    task: Pin<Box<F>>,
    handler: Arc<Handler>,
}

impl<F> Handled<F> {
    /// A connection, or a stream of one, on which one invocation is open at a time.
    pub fn new(task: F) -> Handled<F> {
        Handled { task: Box::pin(task), handler: Arc::default() }
    }
}

impl<F: Future> Future for Handled<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let since = (self.handler.open.load(Relaxed) > 0).then(Mark::now);
        let outer = SECTION.replace(Some(Section { handler: self.handler.clone(), since }));
        let polled = self.task.as_mut().poll(cx);
        SECTION.with_borrow_mut(|section| {
            if let Some(mut own) = take(section) {
                own.count();
            }
            *section = outer;
        });
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::cpu::{metered, thread_cpu_ns};
    use futures_util::FutureExt;
    use tokio::task::yield_now;

    fn burn(ns: u64) {
        let start = thread_cpu_ns();
        while thread_cpu_ns() - start < ns {}
    }

    #[tokio::test]
    async fn what_a_connection_does_for_its_open_invocation_is_counted_over_all_polls() {
        Handled::new(async {
            burn(30_000_000);
            let handler = OpenHandler::new().expect("a connection");
            burn(2_000_000);
            yield_now().await;
            burn(2_000_000);
            // The guest.
            metered(|| burn(30_000_000));
            let ns = handler.close();
            assert!((4_000_000..20_000_000).contains(&ns), "{ns}");
            burn(30_000_000);
            yield_now().await;
            let again = OpenHandler::new().expect("the next request").close();
            assert!(again < 2_000_000, "{again}");
        })
        .await;
    }

    #[tokio::test]
    async fn one_that_is_closed_late_leaves_the_next_one_alone() {
        Handled::new(async {
            let first = OpenHandler::new().expect("a connection");
            let second = OpenHandler::new().expect("the next request");
            burn(2_000_000);
            assert_eq!(first.close(), 0);
            burn(2_000_000);
            yield_now().await;
            let ns = second.close();
            assert!(ns >= 4_000_000, "{ns}");
        })
        .await;
    }

    #[tokio::test]
    async fn a_bill_may_be_closed_by_another_task() {
        let (opened, handler) = std::sync::mpsc::channel();
        let mut connection = Box::pin(Handled::new(async {
            opened.send(OpenHandler::new().expect("a connection")).expect("somebody closes it");
            burn(2_000_000);
            yield_now().await;
        }));
        assert!(connection.as_mut().now_or_never().is_none());
        assert!(OpenHandler::new().is_none(), "nothing is polled here");
        assert!(handler.recv().expect("opened").close() >= 2_000_000);
    }
}
