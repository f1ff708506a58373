//! The inference threads: models run here and never on an async worker.

use crate::meter::Meter;
use crate::nn::Models;
use crate::{cpu, heap};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::oneshot;
use vesta_nn::{Graph, RunError, Tensor};

/// Named tensors, as a guest passes and receives them.
pub(crate) type NamedTensors = Vec<(String, Tensor)>;

/// Why an inference gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InferenceError {
    #[error("{0} inferences are waiting already, the most that this host lets wait")]
    QueueFull(usize),
    #[error("the invocation's deadline passed before a thread was free")]
    DeadlinePassed,
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("the inference engine failed")]
    Crashed,
}

struct Job {
    graph: Arc<dyn Graph>,
    /// What the run uses stays on the host's books, also where its function has gone cold meanwhile.
    _models: Arc<Models>,
    inputs: NamedTensors,
    meter: Arc<Meter>,
    queued: Instant,
    deadline: Instant,
    reply: oneshot::Sender<Result<NamedTensors, InferenceError>>,
}

struct Queue {
    jobs: VecDeque<Job>,
    /// Threads that have had nothing to do for [`heap::IDLE`].
    idle: usize,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
    threads: usize,
    waiting_max: usize,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Jobs are moved in and out whole; a panic elsewhere cannot leave half of one.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fixed number of threads behind one bounded queue, first come, first served.
pub(crate) struct InferencePool(Arc<Shared>);

impl InferencePool {
    pub fn start(threads: usize, waiting_max: usize) -> std::io::Result<InferencePool> {
        let threads = threads.max(1);
        let queue = Mutex::new(Queue { jobs: VecDeque::new(), idle: 0, closed: false });
        let shared = Arc::new(Shared { queue, ready: Condvar::new(), threads, waiting_max });
        for n in 0..threads {
            let shared = shared.clone();
            std::thread::Builder::new().name(format!("vesta-infer-{n}")).spawn(move || work(&shared))?;
        }
        Ok(InferencePool(shared))
    }

    /// Queues one run; the receiver gets its outputs. Dropping the receiver drops a job that has not begun; one
    /// that runs is let finish, and is billed.
    pub fn submit(
        &self,
        graph: Arc<dyn Graph>,
        models: Arc<Models>,
        inputs: NamedTensors,
        meter: Arc<Meter>,
        deadline: Instant,
    ) -> Result<oneshot::Receiver<Result<NamedTensors, InferenceError>>, InferenceError> {
        let (reply, answer) = oneshot::channel();
        let mut queue = self.0.queue();
        if queue.jobs.len() >= self.0.waiting_max {
            queue.jobs.retain(|job| !job.reply.is_closed());
        }
        if queue.jobs.len() >= self.0.waiting_max {
            return Err(InferenceError::QueueFull(self.0.waiting_max));
        }
        queue.jobs.push_back(Job {
            graph,
            _models: models,
            inputs,
            meter,
            queued: Instant::now(),
            deadline,
            reply,
        });
        drop(queue);
        self.0.ready.notify_one();
        Ok(answer)
    }
}

impl Drop for InferencePool {
    fn drop(&mut self) {
        self.0.queue().closed = true;
        self.0.ready.notify_all();
    }
}

fn work(shared: &Shared) {
    cpu::register_thread("inference");
    while let Some(job) = next(shared) {
        run(job);
    }
    cpu::unregister_thread();
}

/// Waits for the next job; none comes after the queue was closed. The last thread that goes idle lets go of what the runs have freed.
fn next(shared: &Shared) -> Option<Job> {
    let mut queue = shared.queue();
    let nothing = |queue: &mut Queue| queue.jobs.is_empty() && !queue.closed;
    (queue, _) =
        shared.ready.wait_timeout_while(queue, heap::IDLE, nothing).unwrap_or_else(PoisonError::into_inner);
    if nothing(&mut queue) {
        queue.idle += 1;
        if queue.idle == shared.threads {
            drop(queue);
            heap::let_go();
            queue = shared.queue();
        }
        queue = shared.ready.wait_while(queue, nothing).unwrap_or_else(PoisonError::into_inner);
        queue.idle -= 1;
    }
    queue.jobs.pop_front()
}

fn run(job: Job) {
    let begun = Instant::now();
    job.meter.inference_queued((begun - job.queued).as_nanos() as u64);
    if begun >= job.deadline {
        let _ = job.reply.send(Err(InferenceError::DeadlinePassed));
        return;
    }
    // From here on the run is billed, whoever still waits for it: the bill waits for this mark.
    job.meter.begin_beside();
    if job.reply.is_closed() {
        job.meter.end_beside();
        return;
    }
    let start = cpu::thread_cpu_ns();
    let graph = job.graph;
    let inputs = job.inputs;
    // An engine's panic must not take the thread along; nothing of the job is used after it.
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| graph.run(inputs)));
    let here = cpu::thread_cpu_ns() - start;
    let wall = begun.elapsed().as_nanos() as u64;
    let (cpu_ns, reply) = match result {
        // The engine says what it used, on whichever threads it computes.
        Ok(Ok(output)) => (output.cpu_ns, Ok(output.outputs)),
        Ok(Err(e)) => (e.cpu_ns().max(here), Err(InferenceError::Run(e))),
        Err(_) => (here, Err(InferenceError::Crashed)),
    };
    job.meter.inference_ran(cpu_ns, wall);
    job.meter.end_beside();
    let _ = job.reply.send(reply);
}
