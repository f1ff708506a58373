//! What runs beside requests for as long as the host. One that ends, by itself or by a panic, ends the host:
//! nobody serves for days without its reaper.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use vesta_core::vital::{Vital, Vitals};

/// The environment variable that names a task which is to panic, for the tests. Builds of the profile
/// `release` do not know it.
#[cfg(vesta_test_faults)]
const TEST_PANIC: &str = "VESTA_TEST_PANIC";

/// The tasks and threads of one host that must not end before it.
pub struct Tasks {
    vitals: Vitals,
    /// The first one that ended.
    ended: watch::Receiver<Option<&'static str>>,
    stopping: Arc<AtomicBool>,
}

impl Tasks {
    pub fn new() -> Tasks {
        let (first, ended) = watch::channel(None);
        let stopping: Arc<AtomicBool> = Arc::default();
        let is_stopping = stopping.clone();
        let vitals = Vitals::new(move |name| {
            if is_stopping.load(SeqCst) {
                return;
            }
            tracing::error!(
                "{name} has ended, without which the host cannot go on; if it panicked, the panic is told above"
            );
            first.send_if_modified(|ended| match ended {
                Some(_) => false,
                None => {
                    *ended = Some(name);
                    true
                }
            });
        });
        Tasks { vitals, ended, stopping }
    }

    /// Runs a task that must not end.
    pub fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let vital = self.hold(name);
        tokio::spawn(async move {
            let _vital = vital;
            #[cfg(vesta_test_faults)]
            if std::env::var(TEST_PANIC).is_ok_and(|named| named == name) {
                tokio::time::sleep(std::time::Duration::from_secs(3)).await;
                panic!("{TEST_PANIC} names {name}");
            }
            task.await;
        })
    }

    /// For a task or thread that is started elsewhere.
    pub fn hold(&self, name: &'static str) -> Vital {
        self.vitals.hold(name)
    }

    pub fn vitals(&self) -> Vitals {
        self.vitals.clone()
    }

    /// The first one that ended although the host does not stop.
    pub fn ended(&self) -> watch::Receiver<Option<&'static str>> {
        self.ended.clone()
    }

    /// From now on they may end.
    pub fn stop(&self) {
        self.stopping.store(true, SeqCst);
    }
}

/// Waits until one has ended; its name.
pub async fn first(mut ended: watch::Receiver<Option<&'static str>>) -> &'static str {
    match ended.wait_for(Option::is_some).await {
        Ok(name) => name.unwrap_or_default(),
        // Nobody can tell any more.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    #[tokio::test]
    async fn a_task_that_ends_or_panics_is_named_and_the_first_one_stays() {
        let tasks = Tasks::new();
        let held = tasks.hold("a thread");
        tasks.spawn("one that stays", pending());
        assert_eq!(*tasks.ended().borrow(), None);
        tasks.spawn("one that panics", async { panic!("for the test") });
        assert_eq!(first(tasks.ended()).await, "one that panics");
        drop(held);
        assert_eq!(first(tasks.ended()).await, "one that panics");

        let tasks = Tasks::new();
        tasks.spawn("one that ends", ready(()));
        assert_eq!(first(tasks.ended()).await, "one that ends");

        let tasks = Tasks::new();
        let thread = tasks.hold("a thread");
        std::thread::spawn(move || {
            let _thread = thread;
            panic!("for the test");
        });
        assert_eq!(first(tasks.ended()).await, "a thread");
    }

    #[tokio::test]
    async fn once_the_host_stops_they_may_end() {
        let tasks = Tasks::new();
        tasks.stop();
        tasks.spawn("one that ends", ready(())).await.expect("no panic");
        assert_eq!(*tasks.ended().borrow(), None);
    }
}
