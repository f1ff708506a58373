//! One thread that advances the engine's epoch every millisecond while a guest is polled, and sleeps
//! otherwise: neither an idle host nor one whose guests wait for models burns anything.

use crate::meter::cpu;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

/// Time between two epochs: how long a runaway guest may go unchecked.
pub const TICK: Duration = Duration::from_millis(1);
/// Ticks that go on after the last poll: under a dense load the thread is never woken anew, and under a thin
/// one a request costs a few ticks instead of one for each millisecond of a model's run.
const LINGER_TICKS: u32 = 3;

/// Starts and stops ticking with the number of guests that are polled.
pub(crate) struct Ticker {
    running: AtomicUsize,
    asleep: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Ticker {
    /// Starts the thread. It ends when `advance` says that the engine is gone.
    pub fn start(advance: impl Fn() -> bool + Send + 'static) -> std::io::Result<Arc<Ticker>> {
        let ticker = Arc::new(Ticker {
            running: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            thread: OnceLock::new(),
        });
        let shared = Arc::downgrade(&ticker);
        let handle = std::thread::Builder::new().name("vesta-epoch".into()).spawn(move || {
            cpu::register_thread("epoch");
            let mut idle_ticks = 0;
            while let Some(ticker) = shared.upgrade() {
                if !advance() {
                    break;
                }
                idle_ticks = if ticker.running.load(SeqCst) == 0 { idle_ticks + 1 } else { 0 };
                if idle_ticks > LINGER_TICKS {
                    ticker.asleep.store(true, SeqCst);
                    // Looked at again after the flag is up: an enter() that missed the flag is seen here.
                    if ticker.running.load(SeqCst) == 0 {
                        std::thread::park();
                    }
                    ticker.asleep.store(false, SeqCst);
                    idle_ticks = 0;
                }
                drop(ticker);
                std::thread::sleep(TICK);
            }
            cpu::unregister_thread();
        })?;
        let _ = ticker.thread.set(handle.thread().clone());
        Ok(ticker)
    }

    /// How many guests are polled now.
    pub fn polled(&self) -> usize {
        self.running.load(SeqCst)
    }

    /// A guest is about to be polled.
    pub fn enter(&self) -> Running<'_> {
        self.running.fetch_add(1, SeqCst);
        if self.asleep.load(SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
        Running(self)
    }
}

/// Held while a guest is polled.
pub(crate) struct Running<'a>(&'a Ticker);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}
