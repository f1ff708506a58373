//! One run of a model: begun in a worker, watched, billed once, and ended where nobody waits for it any more.

use super::model::Model;
use super::payers::{Payer, Payers};
use super::slots::{NoSlot, Slot, Wish};
use super::worker::{Answered, Death, LaneError, LaneInUse, StartError, Worker};
use crate::meter::turns::let_others_run;
use crate::meter::{Away, Meter};
use std::mem::take;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, sleep_until};
use vesta_core::TenantName;
use vesta_core::memory::Reservation;
use vesta_nn::worker::wire::Spent;
use vesta_nn::{RunError, Tensor};

/// How long a run goes on that nobody waits for: most end by then, and the worker stays.
const ABANDONED: Duration = Duration::from_millis(100);
/// How long a worker has to be told dead after it has closed a lane.
const DEATH_MAX: Duration = Duration::from_secs(1);
/// How often a run begins anew that ended with its worker: where the worker crashed, the run may be the
/// reason; where somebody else killed it, hardly; where the host killed it for another run, it is not.
const CRASHES_MAX: u32 = 1;
const KILLS_MAX: u32 = 3;
/// How long a run may take by the wall beyond its invocation's deadline, whatever its CPU time: its worker
/// may be stopped.
const STUCK: Duration = Duration::from_secs(5);

/// The least time between two looks at a run's CPU time.
const LOOK_MIN: Duration = Duration::from_millis(2);

/// What a run is given.
pub(crate) struct Call<'a> {
    pub tenant: &'a TenantName,
    pub inputs: &'a [(String, Arc<Tensor>)],
    /// What the outputs may take, in bytes.
    pub outputs_max: u64,
    pub meter: &'a Arc<Meter>,
    pub deadline: Instant,
    /// What keeps the function's models on the host's books.
    pub held: &'a Option<Arc<Reservation>>,
    /// The rows of the inputs for which `meter` pays, and who pays for the others; none where the run is not
    /// merged of several.
    pub rows: u32,
    pub others: &'a [Payer],
}

/// Why an inference gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InferenceError {
    #[error(transparent)]
    Queue(#[from] NoSlot),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(
        "model-memory: the run needed more than {0} bytes beside the model's weights (limits.model_memory)"
    )]
    Memory(u64),
    #[error("inference-limit: the run took more than {} ms of CPU time (limits.inference)", .0 / 1_000_000)]
    Limit(u64),
    #[error("model-crashed: the inference engine ended with the model: {0}")]
    Crashed(String),
    #[error("model-crashed: the model is set aside: {why}; tried again in {:.1} s", retry_after.as_secs_f64())]
    SetAside { why: String, retry_after: Duration },
    #[error("this host has no memory for the tensors at the moment")]
    HostMemory,
    #[error("{0}")]
    Inputs(String),
    #[error(transparent)]
    Start(#[from] StartError),
}

impl Model {
    /// Runs the model once; a run that another's death cut off runs again.
    pub async fn run(self: &Arc<Self>, call: Call<'_>) -> Result<Vec<(String, Tensor)>, InferenceError> {
        if let Some((retry_after, why)) = self.set_aside() {
            return Err(InferenceError::SetAside { why, retry_after });
        }
        if let Some(result) = self.run_merged(&call).await {
            return result;
        }
        let queued = Queued::new(call.meter);
        let place = Place { slot: None, _turn: self.alone().await };
        drop(queued);
        Run::new(self.clone(), place, call.held.clone()).answer(&call, None).await
    }

    /// A worker that serves, and a slot for a run in it. One that has ended is replaced while no slot is
    /// held, so that nobody else waits for that.
    pub(super) async fn place(
        self: &Arc<Self>,
        call: &Call<'_>,
    ) -> Result<(Arc<Worker>, Slot), InferenceError> {
        let _queued = Queued::new(call.meter);
        loop {
            let worker = self.worker().await?;
            let slot = self.slot(call).await;
            if matches!(&slot, Err(e) if e.is_late()) {
                self.was_late();
            }
            let slot = slot?;
            if worker.is_serving() {
                return Ok((worker, slot));
            }
        }
    }

    async fn slot(&self, call: &Call<'_>) -> Result<Slot, NoSlot> {
        let estimate = self.estimate();
        let wish = Wish {
            width: self.settings.threads,
            estimate_cpu_ns: estimate.cpu_ns,
            least_wall_ns: estimate.least_wall_ns,
            deadline: call.deadline,
            held_bytes: call.inputs.iter().map(|(_, tensor)| tensor.data.len() as u64).sum(),
        };
        self.inference.slots.acquire(call.tenant, wish).await
    }
}

/// A run that waits for its turn: the time is not the function's, also where its caller goes away meanwhile.
pub(super) struct Queued<'a> {
    since: Instant,
    meter: &'a Meter,
    _away: Away,
}

impl Queued<'_> {
    pub fn new(meter: &Arc<Meter>) -> Queued<'_> {
        Queued { since: Instant::now(), meter, _away: meter.away() }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.meter.inference_queued(self.since.elapsed().as_nanos() as u64);
    }
}

/// A run, from its slot to its bill. Dropping it while it is under way leaves it to a task of its own.
pub(super) struct Run {
    under_way: Option<UnderWay>,
    place: Place,
    /// Nobody waits for it any more.
    is_abandoned: bool,
    model: Arc<Model>,
    // After the model: memory is given back once it is free.
    held: Option<Arc<Reservation>>,
}

/// What a run occupies until it has ended.
#[derive(Default)]
pub(super) struct Place {
    pub slot: Option<Slot>,
    /// Where several threads compute a run, the model's only turn.
    pub _turn: Option<OwnedSemaphorePermit>,
}

/// A run that a worker computes.
struct UnderWay {
    lane: LaneInUse,
    payers: Payers,
    begun: Instant,
    deadline: Instant,
    /// CPU time of the worker when it began, and what was billed of it then; in nanoseconds.
    worker_cpu_ns: u64,
    worker_billed_ns: u64,
    /// What it had used when the host ended its worker for it: CPU time in nanoseconds, memory in bytes.
    ended_at: Option<(u64, u64)>,
}

impl Run {
    /// `held` keeps the model on the host's books while it runs, also where its function goes cold meanwhile.
    pub fn new(model: Arc<Model>, place: Place, held: Option<Arc<Reservation>>) -> Run {
        Run { under_way: None, place, is_abandoned: false, model, held }
    }

    /// Runs, and again where the worker ended under it through no fault of the run. `place` is where it
    /// begins, if
    /// it has a place already.
    pub async fn answer(
        mut self,
        call: &Call<'_>,
        mut place: Option<(Arc<Worker>, Slot)>,
    ) -> Result<Vec<(String, Tensor)>, InferenceError> {
        let (mut crashes, mut kills) = (0, 0);
        let mut failed_in = None;
        loop {
            let (worker, slot) = match place.take() {
                Some(place) => place,
                None => self.model.place(call).await?,
            };
            if !call.others.is_empty() && self.model.batching(worker.tier()).is_none() {
                // The tier has changed since the runs were merged.
                return Err(RunError::Engine("its runs are not merged".into()).into());
            }
            self.place.slot = Some(slot);
            // Where the run is merged, no guest's thread is here to wait.
            let soon = call.others.is_empty() && self.model.is_soon_done();
            let since = Instant::now();
            let begun = self.begin(worker.clone(), call);
            let ended = match begun {
                Ok(()) => self.watch(call.outputs_max, soon).await,
                Err(e) => Err(e),
            };
            let death = match ended {
                Ok(answered) => {
                    let is_failed = matches!(answered.result, Err(RunError::Engine(_)));
                    match failed_in.take() {
                        // The faster tier was to blame: its attempt was billed, and is all that is.
                        Some(tier) if answered.result.is_ok() => {
                            self.bill_if(Some(answered.spent), false);
                            self.model.was_wrongly_failed(tier, worker.clone());
                        }
                        _ => self.bill(Some(answered.spent)),
                    }
                    // Those of a merged run begin anew by themselves.
                    if is_failed
                        && call.others.is_empty()
                        && Instant::now() < call.deadline
                        && let Some(again) = self.place_again(&worker, call).await
                    {
                        place = Some(again);
                        failed_in = Some(worker.tier());
                        continue;
                    }
                    if soon && call.meter.waited(since.elapsed()) {
                        let_others_run(call.meter.clone()).await;
                    }
                    return answered.result.map_err(InferenceError::Run);
                }
                Err(LaneError::HostMemory) => return Err(InferenceError::HostMemory),
                Err(LaneError::Inputs(why)) => return Err(InferenceError::Inputs(why)),
                Err(LaneError::Nonsense(what)) => {
                    tracing::error!(%what, "a worker answered nonsense and is ended");
                    worker.kill(Death::Crashed(format!("it answered nonsense: {what}")));
                    worker.dead().await
                }
                Err(LaneError::Gone) => worker.death_within(DEATH_MAX).await,
            };
            failed_in = None;
            let is_mine = self.under_way.as_ref().is_some_and(|run| run.ended_at.is_some());
            self.model.has_died(&worker, &death);
            let again = match &death {
                Death::Memory | Death::Crashed(_) => {
                    crashes += 1;
                    // Those of a merged run begin anew by themselves.
                    crashes <= CRASHES_MAX && call.others.is_empty()
                }
                Death::Killed => {
                    kills += 1;
                    kills <= KILLS_MAX
                }
                Death::InferenceLimit | Death::Abandoned => !is_mine,
            };
            if again && Instant::now() < call.deadline {
                // Cut off by another's death, or perhaps by its own: nobody pays for it. Its slot is
                // another's until there is a worker.
                let used_ns = self.under_way.as_ref().map_or(0, UnderWay::cpu_of_the_dead_ns);
                self.unbilled();
                if let Some(slot) = self.place.slot.take() {
                    slot.ended(used_ns);
                }
                continue;
            }
            self.bill_the_dead(&death);
            return Err(match death {
                Death::Memory => InferenceError::Memory(self.model.settings.memory_bytes),
                Death::InferenceLimit => InferenceError::Limit(self.model.settings.inference_ns),
                Death::Crashed(how) => InferenceError::Crashed(how),
                Death::Killed | Death::Abandoned => InferenceError::Crashed("it was killed".into()),
            });
        }
    }

    /// The place for a run that has failed in `worker`, where another engine may answer it.
    async fn place_again(&mut self, worker: &Worker, call: &Call<'_>) -> Option<(Arc<Worker>, Slot)> {
        let _queued = Queued::new(call.meter);
        let first = self.model.second_opinion(worker).await?;
        self.place._turn = self.model.alone().await;
        Some((first, self.model.slot(call).await.ok()?))
    }

    fn begin(&mut self, worker: Arc<Worker>, call: &Call<'_>) -> Result<(), LaneError> {
        let mut lane = worker.lane().map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::WouldBlock => LaneError::Gone,
            // This host is short of something.
            _ => LaneError::HostMemory,
        })?;
        let (worker_cpu_ns, worker_billed_ns) = (worker.cpu_ns(), worker.billed_ns());
        if let Err(e) = lane.lane()?.begin(call.inputs, &self.model.inference.memory, call.meter) {
            // Nothing was said to the worker: the lane is as it was.
            if matches!(e, LaneError::Inputs(_)) {
                lane.give_back();
            }
            return Err(e);
        }
        // From here on it is billed, whoever still waits for it: the bill waits for this mark.
        let payers = Payers::of(call.meter, call.rows, call.others);
        self.under_way = Some(UnderWay {
            lane,
            payers,
            begun: Instant::now(),
            deadline: call.deadline,
            worker_cpu_ns,
            worker_billed_ns,
            ended_at: None,
        });
        Ok(())
    }

    /// Waits for the answer, and ends the worker where the run passes its CPU time. Where the answer is
    /// expected `soon`, this thread waits at first.
    async fn watch(&mut self, outputs_max: u64, mut soon: bool) -> Result<Answered, LaneError> {
        let limit_ns = self.model.settings.inference_ns;
        let memory = self.model.inference.memory.clone();
        let Some(run) = &mut self.under_way else { return Err(LaneError::Gone) };
        // CPU time is no more than wall time on each thread, so nothing has to be looked at before.
        let first =
            run.begun + Duration::from_nanos(limit_ns / u64::from(self.model.settings.threads.max(1)));
        let stuck = run.deadline + STUCK;
        let mut look = first.min(stuck);
        loop {
            tokio::select! {
                biased;
                answered = run.lane.lane()?.answer(outputs_max, &memory, run.payers.first(), take(&mut soon)) => return answered,
                () = sleep_until(look.into()) => {}
            }
            let used_ns = run.cpu_ns(self.model.settings.threads);
            if used_ns >= limit_ns || Instant::now() >= stuck {
                let worker = run.lane.worker().clone();
                run.ended_at = Some((used_ns, worker.run_memory_bytes()));
                worker.kill(Death::InferenceLimit);
                worker.dead().await;
                return Err(LaneError::Gone);
            }
            let next = Instant::now() + Duration::from_nanos(limit_ns - used_ns).clamp(LOOK_MIN, STUCK);
            look = next.min(stuck);
        }
    }

    /// The run has ended: it is billed what it took, and its place is free. `said` is the worker's word;
    /// without it, the kernel's counts.
    fn bill(&mut self, said: Option<Spent>) {
        self.bill_if(said, true);
    }

    fn bill_if(&mut self, said: Option<Spent>, is_billed: bool) {
        let Some(run) = self.under_way.take() else { return };
        let wall_ns = run.begun.elapsed().as_nanos() as u64;
        let most = self.model.settings.memory_bytes;
        let (cpu_ns, memory_bytes) = match said {
            Some(spent) => (spent.cpu_ns, spent.memory_bytes),
            // Of a worker that ended by itself nobody knows what it held.
            None => (run.cpu_of_the_dead_ns(), run.ended_at.map_or(0, |(_, bytes)| bytes)),
        };
        let cpu_ns = run.lane.worker().believed(cpu_ns);
        if is_billed {
            run.payers.pay(cpu_ns, wall_ns, memory_bytes.min(most), self.model.settings.threads);
        }
        if said.is_some() {
            // A merged run says nothing of how long one by itself takes.
            self.model.has_answered((!run.payers.are_several()).then_some((cpu_ns, wall_ns)));
            run.lane.give_back();
        }
        drop(run.payers);
        if let Some(slot) = take(&mut self.place).slot {
            slot.ended(cpu_ns);
        }
    }

    /// The run has ended with its worker. It pays for that only where the worker ended for it, or by itself.
    fn bill_the_dead(&mut self, death: &Death) {
        let is_mine = self.under_way.as_ref().is_some_and(|run| run.ended_at.is_some());
        match death {
            Death::InferenceLimit | Death::Abandoned | Death::Killed if !is_mine => self.unbilled(),
            _ => self.bill(None),
        }
    }

    /// The run was cut off: nobody pays for it.
    fn unbilled(&mut self) {
        self.under_way = None;
    }
}

impl UnderWay {
    /// CPU time of the run so far, in nanoseconds: as the kernel knows the lane's thread since the last run
    /// on it. A worker that lies about that thread can hide behind the time of its other runs, and no longer.
    fn cpu_ns(&mut self, threads: u32) -> u64 {
        let worker = self.lane.worker().clone();
        let all_ns = self.unbilled_ns();
        if threads > 1 {
            return all_ns;
        }
        let each_ns = all_ns / u64::from(worker.runs().max(1));
        let Ok(lane) = self.lane.lane() else { return all_ns };
        let thread_ns = lane.tid.and_then(|tid| worker.thread_cpu_ns(tid));
        thread_ns.map_or(all_ns, |ns| ns.saturating_sub(lane.clock_ns)).max(each_ns)
    }

    /// What the worker has used since the run began, but for the runs that have ended meanwhile; in
    /// nanoseconds.
    fn unbilled_ns(&self) -> u64 {
        let worker = self.lane.worker();
        let billed_ns = worker.billed_ns().saturating_sub(self.worker_billed_ns);
        worker.cpu_ns().saturating_sub(self.worker_cpu_ns).saturating_sub(billed_ns)
    }

    /// CPU time of a run whose worker has ended: its part of the time of all runs that ended with it.
    fn cpu_of_the_dead_ns(&self) -> u64 {
        let (worker, all_ns) = (self.lane.worker(), self.unbilled_ns());
        self.ended_at.map_or_else(|| all_ns / u64::from(worker.ended_with().max(1)), |(cpu_ns, _)| cpu_ns)
    }
}

impl Drop for Run {
    /// Whoever waited has gone away. The run may still end soon; else its worker is ended, if nothing else is
    /// in it.
    fn drop(&mut self) {
        if self.under_way.is_none() {
            return;
        }
        let tokio = match tokio::runtime::Handle::try_current() {
            Ok(tokio) if !self.is_abandoned => tokio,
            // The host's runtime is being torn down: then the workers end, too.
            _ => return self.unbilled(),
        };
        let run = Run {
            under_way: self.under_way.take(),
            place: take(&mut self.place),
            is_abandoned: true,
            model: self.model.clone(),
            held: self.held.take(),
        };
        tokio.spawn(run.wait_out());
    }
}

impl Run {
    /// Waits for a run that nobody waits for, and ends its worker if there are only such runs in it.
    async fn wait_out(mut self) {
        let Some(worker) = self.under_way.as_ref().map(|run| run.lane.worker().clone()) else { return };
        worker.abandon();
        let answered = loop {
            tokio::select! {
                answered = self.watch(0, false) => break answered,
                () = sleep(ABANDONED) => {}
            }
            if !worker.is_waited_for() {
                if let Some(run) = &mut self.under_way {
                    run.ended_at = Some((run.cpu_ns(self.model.settings.threads), worker.run_memory_bytes()));
                }
                worker.kill(Death::Abandoned);
                worker.dead().await;
                break Err(LaneError::Gone);
            }
        };
        worker.abandoned_ended();
        match answered {
            Ok(answered) => self.bill(Some(answered.spent)),
            Err(_) => {
                let death = worker.death_within(DEATH_MAX).await;
                self.model.has_died(&worker, &death);
                match death {
                    // Nobody waited for any of the runs in it: each pays for itself.
                    Death::Abandoned => self.bill(None),
                    _ => self.bill_the_dead(&death),
                }
            }
        }
    }
}
