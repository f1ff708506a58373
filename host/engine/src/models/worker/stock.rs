//! Spares: workers that were forked before anybody needs one.
//!
//! One thread keeps a few in stock and has the next one forked where one was taken. That thread lives as long
//! as the host, since a process that asked for it ends with the **thread** that started it.

use super::process::{ForkError, ForkServer, Process, Program};
use crate::engines::{Engine, Engines};
use crate::meter::cpu;
use std::io;
use std::mem::take;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vesta_core::vital::{Vital, Vitals};

/// Spares in stock.
const SPARES: usize = 2;
/// How long a cold start waits for a spare.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How long nothing is forked after a spare was taken, unless there is none left: the processors belong to
/// the cold start meanwhile.
const REST: Duration = Duration::from_millis(50);
/// How long the thread waits after a process could not be started.
const RETRY: Duration = Duration::from_millis(200);

pub(crate) struct Stock(Arc<Shared>);

/// A stock for each engine. That of ONNX Runtime is opened when a function first needs it.
pub(crate) struct Stocks {
    rten: Arc<Stock>,
    onnx_runtime: Mutex<Option<Arc<Stock>>>,
    engines: Arc<Engines>,
    program: Program,
    vitals: Vitals,
}

impl Stocks {
    /// Opens the stock of the embedded engine.
    pub fn open(program: Program, engines: Arc<Engines>, vitals: Vitals) -> io::Result<Stocks> {
        let rten = Arc::new(Stock::open(program.clone(), vitals.hold("stock of workers"))?);
        Ok(Stocks { rten, onnx_runtime: Mutex::default(), engines, program, vitals })
    }

    /// An engine's stock.
    ///
    /// # Errors
    /// An engine that is not installed, or a thread that cannot be started.
    pub fn of(&self, engine: Engine) -> io::Result<Arc<Stock>> {
        if engine == Engine::Rten {
            return Ok(self.rten.clone());
        }
        let mut stock = self.onnx_runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stock) = stock.as_ref() {
            return Ok(stock.clone());
        }
        let library =
            self.engines.library().ok_or_else(|| io::Error::other("ONNX Runtime is not installed"))?;
        let program = Program { library: Some(library.path), ..self.program.clone() };
        let vital = self.vitals.hold("stock of ONNX Runtime's workers");
        Ok(stock.insert(Arc::new(Stock::open(program, vital)?)).clone())
    }
}

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
    taken_at: Option<Instant>,
    /// Spares are to be forked from another process from now on.
    is_retired: bool,
    closed: bool,
}

impl State {
    /// How long it may rest before the next is forked; none where enough are there.
    fn rest(&self) -> Option<Duration> {
        if self.spares.len() >= SPARES.max(self.waiting) {
            return None;
        }
        let is_urgent = self.spares.is_empty() || self.waiting > self.spares.len();
        let since = self.taken_at.filter(|_| !is_urgent).map_or(REST, |at| at.elapsed());
        Some(REST.saturating_sub(since))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Spares are moved in and out whole; a panic elsewhere cannot leave half of one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stock {
    /// `vital` is held by the thread that fills the stock.
    pub fn open(program: Program, vital: Vital) -> io::Result<Stock> {
        let shared =
            Arc::new(Shared { program, state: Mutex::new(State::default()), changed: Condvar::new() });
        let filled = shared.clone();
        std::thread::Builder::new().name("vesta-spares".into()).spawn(move || {
            let _vital = vital;
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
                state.taken_at = Some(Instant::now());
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

    /// A worker has crashed. What a model learned by that of how memory is laid out is true of no worker to
    /// come: the spares are given up with the process that they were forked from.
    pub fn retirement(&self) -> impl FnOnce() + Send + 'static {
        let shared = self.0.clone();
        move || {
            let mut state = shared.state();
            state.is_retired = true;
            let given_up = take(&mut state.spares);
            shared.changed.notify_all();
            drop(state);
            // Each is waited for, which takes the kernel's own time.
            drop(given_up);
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
    let mut server = None;
    let mut state = shared.state();
    loop {
        if state.closed {
            return;
        }
        match state.rest() {
            None => {
                state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            Some(rest) if !rest.is_zero() => {
                state = shared.changed.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            Some(_) => {}
        }
        if take(&mut state.is_retired) {
            server = None;
        }
        drop(state);
        let started = fork(&mut server, &shared.program);
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

/// Forks a spare, and starts the fork server for that where there is none. One that was there and has ended
/// is replaced at once: somebody has killed it.
fn fork(server: &mut Option<ForkServer>, program: &Program) -> io::Result<Process> {
    let mut was_there = server.is_some();
    loop {
        let mut ready = match server.take() {
            Some(ready) => ready,
            None => ForkServer::start(program)?,
        };
        match ready.fork() {
            Ok(spare) => {
                *server = Some(ready);
                return Ok(spare);
            }
            Err(ForkError::Refused(e)) => {
                *server = Some(ready);
                return Err(e);
            }
            Err(ForkError::Gone(e)) if was_there => {
                tracing::warn!(%e, "workers are forked from a new process");
                was_there = false;
            }
            Err(ForkError::Gone(e)) => return Err(e),
        }
    }
}
