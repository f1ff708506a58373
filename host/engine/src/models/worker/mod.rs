//! The host's side of a worker: a process that serves one model.
//!
//! ```text
//!   stock ──take──▶ spare ──Load──▶ serving ──┬─ dropped by the host (function cold) ─▶ killed, reaped
//!                    │                        ├─ killed at a limit, or for a run that nobody waits for
//!                    └─ refused: killed       └─ died: every run in it is told how, and runs again elsewhere
//! ```

mod lane;
mod process;
mod stock;

pub(crate) use lane::{Answered, Lane, LaneError, SOON_MAX};
pub(crate) use process::Program;
pub(crate) use stock::{Stock, Stocks};

use crate::engines::Engine;
use crate::meter::processes::{self, watched};
use process::{Exit, Process, has_input, is_gone};
use rustix::net::RecvFlags;
use rustix::process::Pid;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use vesta_core::manifest::Batch;
use vesta_core::memory::Taken;
use vesta_nn::worker::STACK_BYTES;
use vesta_nn::worker::wire::{self, Answer, Control};
use vesta_nn::{Form, PreparedFiles};

/// How long a worker may take to load a model.
const LOAD_MAX: Duration = Duration::from_secs(30);
/// Memory that each lane takes for itself, in bytes: the stacks of its threads, and what the allocator keeps
/// for them.
const LANE_BYTES: u64 = STACK_BYTES as u64 + (1 << 20);
/// The same of a worker with no lane.
const WORKER_BYTES: u64 = 4 << 20;
/// What a worker holds privately between runs beside what the engine keeps for its model, in bytes: stacks,
/// and what the allocator keeps.
const PRIVATE_BYTES: u64 = 1 << 20;
/// What the engine keeps of a model's graph in memory, for each byte of its file.
const GRAPH_FACTOR: u64 = 2;
/// The same of ONNX Runtime, which also keeps most weights a second time, in the order in which its kernels
/// read them.
const ONNX_RUNTIME_BYTES: u64 = 6 << 20;
const ONNX_RUNTIME_GRAPH_FACTOR: u64 = 12;
/// Stack of a thread of ONNX Runtime's own, in bytes: what the system gives by default, and its guard page.
const ONNX_RUNTIME_STACK_BYTES: u64 = (8 << 20) + (4 << 10);
/// While it loads a model it may hold this times what it keeps.
const LOAD_TIMES: u64 = 2;
/// Descriptors of a worker beside those of its lanes, which have a socket and memory each.
const DESCRIPTORS: u64 = 32;
/// Of the packed weights, the part that packing them may take beside, for a moment.
const PACKING_SHARE: u64 = 4;
/// How far a process's clock may lag behind its threads', in nanoseconds for each lane: a tick, and some.
const CLOCK_LAG_NS: u64 = 20_000_000;

/// How a model is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Settings {
    /// The one that serves it at first.
    pub engine: Engine,
    /// Whether another engine may take over while the model is busy.
    pub has_faster_engine: bool,
    /// What runs may hold at once beyond the weights, in bytes.
    pub memory_bytes: u64,
    /// CPU time of a run, in nanoseconds.
    pub inference_ns: u64,
    /// Threads that compute a run.
    pub threads: u32,
    /// How its runs are merged.
    pub batch: Batch,
}

/// How a worker serves a model: by which engine, and in which form this has the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tier {
    pub engine: Engine,
    pub form: Form,
}

impl Tier {
    /// The one in which a model is served at first: its engine loads it at once.
    pub fn first(engine: Engine) -> Tier {
        Tier { engine, form: Form::Mapped }
    }
}

/// How a worker loads its model.
pub(crate) struct Loading {
    pub tier: Tier,
    /// What it takes beside the memory that its function holds, on the host's books.
    pub beside: Option<Taken>,
}

impl Loading {
    pub fn first(engine: Engine) -> Loading {
        Loading { tier: Tier::first(engine), beside: None }
    }

    /// What packing adds to the worker's own memory, in bytes.
    fn packed_bytes(&self) -> u64 {
        match self.tier.form {
            Form::Mapped => 0,
            Form::Packed => self.beside.as_ref().map_or(0, Taken::bytes),
        }
    }

    /// What is on the host's books of the worker's own memory, in bytes.
    fn counted_bytes(&self, files: &PreparedFiles) -> u64 {
        files_private_bytes(self.tier.engine, files).saturating_add(self.packed_bytes())
    }
}

/// Why a worker is not there any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Death {
    /// An allocation was refused: [`Settings::memory_bytes`].
    Memory,
    /// The host ended it for a run that passed [`Settings::inference_ns`].
    InferenceLimit,
    /// The host ended it for a run that nobody waited for.
    Abandoned,
    /// Somebody else killed it: the kernel, where memory ran out, or an operator.
    Killed,
    /// It ended by itself.
    Crashed(String),
}

/// Why a model is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("no worker process could be started: {0}")]
    NoWorker(io::Error),
    #[error("the engine refuses the model: {0}")]
    Refused(String),
    #[error("the model's worker ended while it loaded the model: {0}")]
    Died(String),
    #[error("the model's worker was killed while it loaded the model")]
    Killed,
    #[error("loading the model took longer than {} s", LOAD_MAX.as_secs())]
    TooSlow,
}

/// A process that serves one model.
pub(crate) struct Worker {
    pid: Pid,
    pidfd: OwnedFd,
    control: OwnedFd,
    lanes: Mutex<Vec<Lane>>,
    /// Why the host has ended it.
    verdict: OnceLock<Death>,
    fate: watch::Receiver<Option<Death>>,
    /// CPU time that was billed of it, in nanoseconds.
    billed_ns: AtomicU64,
    /// Its CPU time when it was last asked for, in nanoseconds.
    seen_ns: AtomicU64,
    /// All of its CPU time, once it has ended; in nanoseconds, 0 before.
    whole_ns: AtomicU64,
    /// Lanes with a run, those of them that nobody waits for, and how many there were when it ended.
    in_use: AtomicU32,
    abandoned: AtomicU32,
    ended_with: AtomicU32,
    /// Whether its death was seen to.
    is_counted: AtomicBool,
    lanes_max: u64,
    /// What it held privately when its model was loaded, in bytes.
    base_bytes: u64,
    loading: Loading,
}

impl Worker {
    /// Takes a spare and has it load a model; gives the CPU time that it took, in nanoseconds. Blocks; within
    /// a Tokio runtime.
    pub fn start(
        stock: &Stock,
        files: &PreparedFiles,
        settings: Settings,
        lanes_max: u32,
        loading: Loading,
    ) -> Result<(Arc<Worker>, u64), StartError> {
        let mut process = stock.take().map_err(StartError::NoWorker)?;
        let started = Worker::load(&process, files, settings, lanes_max, &loading);
        match started {
            Ok((lane, cpu_ns)) => {
                processes::counts(process.pid, loading.counted_bytes(files));
                let worker = Worker::watched(process, lane, lanes_max, loading, stock.retirement());
                Ok((worker.map_err(StartError::NoWorker)?, cpu_ns))
            }
            // Its end says more than the socket's.
            Err(StartError::NoWorker(e)) if e.kind() == io::ErrorKind::UnexpectedEof => {
                let exit = process.wait().map_err(StartError::NoWorker)?;
                let why = match death(&exit) {
                    Death::Memory => "it needed more than limits.model_memory".to_owned(),
                    Death::Crashed(how) => how,
                    _ => return Err(StartError::Killed),
                };
                Err(StartError::Died(why))
            }
            Err(e) => Err(e),
        }
    }

    fn load(
        process: &Process,
        files: &PreparedFiles,
        settings: Settings,
        lanes_max: u32,
        loading: &Loading,
    ) -> Result<(Lane, u64), StartError> {
        let (engine, packed) = (loading.tier.engine, loading.packed_bytes());
        let own = match engine {
            // Packing takes some memory for a moment.
            Engine::Rten => packed.saturating_add(packed / PACKING_SHARE),
            Engine::OnnxRuntime => files_private_bytes(engine, files).saturating_mul(LOAD_TIMES),
        };
        let own_stacks = match engine {
            Engine::Rten => 0,
            Engine::OnnxRuntime => ONNX_RUNTIME_STACK_BYTES.saturating_mul(u64::from(settings.threads)),
        };
        let lanes = LANE_BYTES.saturating_mul(u64::from(lanes_max) * u64::from(settings.threads + 1));
        let runs = settings.memory_bytes.saturating_add(WORKER_BYTES).saturating_add(lanes);
        let loads = runs.saturating_add(own).saturating_add(own_stacks);
        let limit = process.limit_memory(loads, u64::MAX).map_err(StartError::NoWorker)?;
        process.limit_descriptors(DESCRIPTORS + 2 * u64::from(lanes_max)).map_err(StartError::NoWorker)?;
        let (lane, theirs) = Lane::pair().map_err(StartError::NoWorker)?;
        let descriptors = [files.graph.as_fd(), files.weights.as_fd(), files.info.as_fd(), theirs.as_fd()];
        let control = process.control.as_fd();
        let message = Control::Load { threads: settings.threads, form: loading.tier.form };
        wire::send(control, &message, &descriptors).map_err(gone).map_err(StartError::NoWorker)?;
        drop(theirs);
        if !has_input(control, LOAD_MAX).map_err(StartError::NoWorker)? {
            return Err(StartError::TooSlow);
        }
        let mut buffer = vec![0; wire::MESSAGE_BYTES_MAX];
        let received = wire::receive::<Answer>(control, &mut buffer, RecvFlags::empty());
        match received.map_err(gone).map_err(StartError::NoWorker)?.0 {
            Answer::Loaded { cpu_ns } => {
                // What its loading did not take is not for the runs.
                if engine == Engine::OnnxRuntime {
                    process.limit_memory(runs, limit).map_err(StartError::NoWorker)?;
                }
                // Lanes are added on threads that must not wait for a worker which does not read.
                rustix::io::ioctl_fionbio(&process.control, true)
                    .map_err(|e| StartError::NoWorker(e.into()))?;
                let kernel_ns = processes::cpu_ns(process.pid).saturating_add(CLOCK_LAG_NS);
                Ok((lane, cpu_ns.min(kernel_ns)))
            }
            Answer::Refused { reason } => Err(StartError::Refused(reason)),
        }
    }

    /// `crashed` is called where it ends by a signal that it brought upon itself.
    fn watched(
        process: Process,
        lane: Lane,
        lanes_max: u32,
        loading: Loading,
        crashed: impl FnOnce() + Send + 'static,
    ) -> io::Result<Arc<Worker>> {
        let (tell, fate) = watch::channel(None);
        let worker = Arc::new(Worker {
            pid: process.pid,
            pidfd: process.pidfd.try_clone()?,
            control: process.control.try_clone()?,
            lanes: Mutex::new(vec![lane]),
            verdict: OnceLock::new(),
            fate,
            billed_ns: AtomicU64::new(0),
            seen_ns: AtomicU64::new(0),
            whole_ns: AtomicU64::new(0),
            in_use: AtomicU32::new(0),
            abandoned: AtomicU32::new(0),
            ended_with: AtomicU32::new(0),
            is_counted: AtomicBool::new(false),
            lanes_max: u64::from(lanes_max),
            base_bytes: processes::private_memory(process.pid).map_or(0, |m| m.resident),
            loading,
        });
        let served = Arc::downgrade(&worker);
        let end = watched(process.pidfd.try_clone()?)?;
        Handle::current().spawn(async move {
            let _ = end.readable().await;
            let mut process = process;
            let exit = process.wait();
            if exit.as_ref().is_ok_and(|exit| exit.signal.is_some() && !matches!(death(exit), Death::Killed))
            {
                crashed();
            }
            // A worker that nobody refers to was ended by its drop.
            let Some(worker) = served.upgrade() else { return };
            let how = match (worker.verdict.get(), exit) {
                (Some(verdict), _) => verdict.clone(),
                (None, Ok(exit)) => death(&exit),
                (None, Err(e)) => Death::Crashed(e.to_string()),
            };
            tracing::debug!(pid = %process.pid.as_raw_nonzero(), ?how, "a worker has ended");
            worker.whole_ns.store(process.whole_cpu_ns, Relaxed);
            worker.ended_with.store(worker.runs(), Relaxed);
            tell.send_replace(Some(how));
        });
        Ok(worker)
    }

    fn lanes(&self) -> MutexGuard<'_, Vec<Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lane that nobody uses, or one more.
    pub fn lane(self: &Arc<Self>) -> io::Result<LaneInUse> {
        let free = self.lanes().pop();
        let lane = match free {
            Some(lane) => lane,
            None => {
                let (lane, theirs) = Lane::pair()?;
                let sent = wire::send(self.control.as_fd(), &Control::AddLane, &[theirs.as_fd()]);
                if let Err(e) = sent {
                    if e.kind() == io::ErrorKind::WouldBlock {
                        self.kill(Death::Crashed("it takes no more lanes".into()));
                    }
                    return Err(gone(e));
                }
                lane
            }
        };
        self.in_use.fetch_add(1, Relaxed);
        Ok(LaneInUse { worker: self.clone(), lane: Some(lane) })
    }

    /// Runs in it at the moment.
    pub fn runs(&self) -> u32 {
        self.in_use.load(Relaxed)
    }

    /// Runs that ended with it: they share its last CPU time.
    pub fn ended_with(&self) -> u32 {
        self.ended_with.load(Relaxed)
    }

    /// Nobody waits any more for a run in it.
    pub fn abandon(&self) {
        self.abandoned.fetch_add(1, Relaxed);
    }

    /// A run that nobody waits for has ended.
    pub fn abandoned_ended(&self) {
        self.abandoned.fetch_sub(1, Relaxed);
    }

    /// Whether somebody waits for one of its runs.
    pub fn is_waited_for(&self) -> bool {
        self.runs() > self.abandoned.load(Relaxed)
    }

    /// How it ended, if it did.
    pub fn fate(&self) -> Option<Death> {
        self.fate.borrow().clone()
    }

    /// How it serves its model.
    pub fn tier(&self) -> Tier {
        self.loading.tier
    }

    /// Whether it takes another run, as far as is known.
    pub fn is_serving(&self) -> bool {
        self.verdict.get().is_none() && self.fate.borrow().is_none()
    }

    /// Whether this is the first time that its death is asked for.
    pub fn counts_as_dead(&self) -> bool {
        !self.is_counted.swap(true, Relaxed)
    }

    /// Waits for its end.
    pub async fn dead(&self) -> Death {
        let mut fate = self.fate.clone();
        match fate.wait_for(Option::is_some).await {
            Ok(how) => how.clone().unwrap_or(Death::Killed),
            // The host's runtime ends.
            Err(_) => Death::Killed,
        }
    }

    /// Waits for its end, and sees to it where it does not come by itself: it has closed a lane.
    pub async fn death_within(&self, most: Duration) -> Death {
        if let Ok(death) = tokio::time::timeout(most, self.dead()).await {
            return death;
        }
        self.kill(Death::Crashed("it closed its lane".into()));
        self.dead().await
    }

    /// Ends it for one of its runs. The first reason counts.
    pub fn kill(&self, why: Death) {
        let _ = self.verdict.set(why);
        self.is_not_counted();
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
    }

    /// What it holds until it has ended is nobody's any more: another worker may be counted in its place.
    fn is_not_counted(&self) {
        if self.fate.borrow().is_none() {
            processes::counts(self.pid, 0);
        }
    }

    /// CPU time of the process so far, in nanoseconds.
    pub fn cpu_ns(&self) -> u64 {
        let now_ns = match self.whole_ns.load(Relaxed) {
            0 => processes::cpu_ns(self.pid),
            whole_ns => whole_ns,
        };
        self.seen_ns.fetch_max(now_ns, Relaxed);
        now_ns
    }

    /// CPU time that was billed of it so far, in nanoseconds.
    pub fn billed_ns(&self) -> u64 {
        self.billed_ns.load(Relaxed)
    }

    /// What its runs hold at the moment, by the kernel, in bytes.
    pub fn run_memory_bytes(&self) -> u64 {
        let now = processes::private_memory(self.pid).map_or(0, |m| m.resident);
        now.saturating_sub(self.base_bytes)
    }

    pub fn thread_cpu_ns(&self, tid: u32) -> Option<u64> {
        processes::thread_cpu_ns(self.pid, tid)
    }

    /// What is billed of the CPU time that the worker says a run took: never more in all than the kernel says
    /// the process has used.
    pub fn believed(&self, said_ns: u64) -> u64 {
        let lag_ns = CLOCK_LAG_NS * self.lanes_max;
        let most_ns = self.billed_ns().saturating_add(said_ns);
        // The clock is asked only where what is known of it does not do.
        let kernel_ns = match self.seen_ns.load(Relaxed).saturating_add(lag_ns) {
            seen_ns if seen_ns >= most_ns => seen_ns,
            _ => self.cpu_ns().saturating_add(lag_ns),
        };
        let mut believed = 0;
        let add = |billed: u64| {
            believed = said_ns.min(kernel_ns.saturating_sub(billed));
            Some(billed + believed)
        };
        let _ = self.billed_ns.fetch_update(Relaxed, Relaxed, add);
        believed
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.is_not_counted();
        // The watching task reaps it.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
    }
}

/// A lane of a worker while a run uses it. Dropping it closes the lane.
pub(crate) struct LaneInUse {
    worker: Arc<Worker>,
    lane: Option<Lane>,
}

impl LaneInUse {
    pub fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }
    /// There is one until it is given back.
    pub fn lane(&mut self) -> Result<&mut Lane, LaneError> {
        self.lane.as_mut().ok_or(LaneError::Gone)
    }
    /// Its run was answered: another may use it.
    pub fn give_back(mut self) {
        if let Some(mut lane) = self.lane.take() {
            lane.end();
            self.worker.lanes().push(lane);
        }
    }
}

impl Drop for LaneInUse {
    fn drop(&mut self) {
        self.worker.in_use.fetch_sub(1, Relaxed);
    }
}

/// What is on the host's books for a worker from its start on, in bytes, with a graph and weights of these
/// sizes. What it holds beyond that is known with the next look at the kernel.
pub(crate) fn private_bytes(engine: Engine, graph_bytes: u64, weights_bytes: u64) -> u64 {
    match engine {
        Engine::Rten => PRIVATE_BYTES.saturating_add(graph_bytes.saturating_mul(GRAPH_FACTOR)),
        Engine::OnnxRuntime => {
            let graph_bytes = graph_bytes.saturating_mul(ONNX_RUNTIME_GRAPH_FACTOR);
            ONNX_RUNTIME_BYTES.saturating_add(graph_bytes).saturating_add(weights_bytes)
        }
    }
}

fn files_private_bytes(engine: Engine, files: &PreparedFiles) -> u64 {
    let size = |file: &std::fs::File| file.metadata().map_or(0, |file| file.len());
    private_bytes(engine, size(&files.graph), size(&files.weights))
}

/// A socket whose other side is gone says so in several ways: here in one.
fn gone(e: io::Error) -> io::Error {
    if is_gone(&e) { io::ErrorKind::UnexpectedEof.into() } else { e }
}

fn death(exit: &Exit) -> Death {
    const SIGKILL: i32 = 9;
    if exit.complaint.contains("memory allocation of") {
        return Death::Memory;
    }
    match (exit.signal, exit.code) {
        (Some(SIGKILL), _) => Death::Killed,
        (Some(signal), _) => Death::Crashed(format!("signal {signal}")),
        (None, code) => Death::Crashed(format!("exit code {}", code.unwrap_or(-1))),
    }
}
