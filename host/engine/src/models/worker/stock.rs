//! Spares: workers that were started before anybody needs one.
//!
//! Starting a process takes some milliseconds, which a cold start does not have. One thread keeps a few in
//! stock and starts the next where one was taken. That thread lives as long as the host, since a process that
//! asked for it ends with the **thread** that started it.

use super::process::{Process, Program};
use crate::meter::cpu;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Spares in stock.
const SPARES: usize = 2;
/// How long a cold start waits for a spare.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How long the thread waits after a process could not be started.
const RETRY: Duration = Duration::from_millis(200);

pub(crate) struct Stock(Arc<Shared>);

struct Shared {
    program: Program,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    spares: Vec<Process>,
    /// Why the last start failed; none once one succeeds.
    failure: Option<String>,
    waiting: usize,
    closed: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Spares are moved in and out whole; a panic elsewhere cannot leave half of one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stock {
    pub fn open(program: Program) -> io::Result<Stock> {
        let shared =
            Arc::new(Shared { program, state: Mutex::new(State::default()), changed: Condvar::new() });
        let filled = shared.clone();
        std::thread::Builder::new().name("vesta-spares".into()).spawn(move || {
            cpu::register_thread("spares");
            fill(&filled);
            cpu::unregister_thread();
        })?;
        Ok(Stock(shared))
    }

    /// Takes a spare; waits for one where there is none. Blocks.
    pub fn take(&self) -> io::Result<Process> {
        let deadline = Instant::now() + WAIT_MAX;
        let mut state = self.0.state();
        state.waiting += 1;
        loop {
            if let Some(spare) = state.spares.pop() {
                self.0.changed.notify_all();
                if spare.is_alive() {
                    state.waiting -= 1;
                    return Ok(spare);
                }
                // Dropped with its process, which is looked at no more.
                state.failure = Some("the last one ended before it was needed".into());
                continue;
            }
            self.0.changed.notify_all();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.waiting -= 1;
                let why = state.failure.clone().unwrap_or_else(|| "none was ready in time".into());
                return Err(io::Error::other(why));
            }
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.changed.notify_all();
    }
}

/// Starts what is missing, until the stock is closed.
fn fill(shared: &Shared) {
    let mut state = shared.state();
    loop {
        if state.closed {
            return;
        }
        if state.spares.len() >= SPARES.max(state.waiting) {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        drop(state);
        let started = Process::start(&shared.program);
        state = shared.state();
        match started {
            Ok(spare) => {
                state.failure = None;
                state.spares.push(spare);
                shared.changed.notify_all();
            }
            Err(error) => {
                if state.failure.is_none() {
                    tracing::error!(%error, "a worker cannot be started");
                }
                state.failure = Some(error.to_string());
                let closed = |state: &mut State| !state.closed;
                state = shared
                    .changed
                    .wait_timeout_while(state, RETRY, closed)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        }
    }
}
