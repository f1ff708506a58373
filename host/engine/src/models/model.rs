//! A loaded model: its worker, which may end and be followed by another, and the runs in it.

use super::queue::Queue;
use super::slots::InferenceSlots;
use super::tiers::{FasterTier, Second, Tiers};
use super::worker::{Death, Loading, SOON_MAX, Settings, StartError, Stocks, Tier, Worker};
use crate::files::{Seals, sealed_model};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use vesta_core::memory::Grant;
use vesta_nn::{Batching, Faster, Form, LoadError, PreparedFiles, Signature, parse_info};

/// Deaths of a model's workers, with no run answered in between, after which the model is set aside.
const DEATHS_MAX: u32 = 5;
/// The same with runs answered in between: so many at once, and one more in each of these times. A worker
/// that is replaced costs the platform some milliseconds of CPU time, and more where the model takes more to
/// be loaded: at most a tenth of a core.
const DEATHS_AT_ONCE: u32 = 20;
const DEATH_EACH: Duration = Duration::from_secs(1);
const LOAD_FACTOR: u32 = 10;
/// How long it is set aside at first, and at most.
const ASIDE: Duration = Duration::from_secs(1);
const ASIDE_MAX: Duration = Duration::from_secs(60);
/// How often a worker is started that somebody kills while it loads the model.
const STARTS_MAX: u32 = 4;
/// Of the runs' average the last one is this part.
const AVERAGED: u64 = 8;

/// What all models of a host share.
pub(crate) struct Inference {
    pub stocks: Stocks,
    pub slots: Arc<InferenceSlots>,
    /// How many runs there may be at once.
    pub slots_max: u32,
    pub memory: Arc<dyn Grant>,
    pub seals: Arc<Seals>,
    /// Runs that were merged with others, since the start.
    pub merged: AtomicU64,
}

/// A loaded model. The worker ends with the last reference.
pub(crate) struct Model {
    pub inference: Arc<Inference>,
    pub settings: Settings,
    /// As its description says.
    pub signature: Signature,
    dir: PathBuf,
    resident: u64,
    worker: Mutex<Option<Arc<Worker>>>,
    /// Held while a worker is started, so that all who wait for it start one.
    pub(super) starting: Arc<tokio::sync::Mutex<()>>,
    /// For runs that fail in the faster tier; and held while it is started.
    pub(super) second: Mutex<Second>,
    pub(super) starting_second: Arc<tokio::sync::Mutex<()>>,
    /// Where several threads compute a run, one run at a time: the process's clock is that of the run.
    alone: Option<Arc<Semaphore>>,
    health: Mutex<Health>,
    /// Averages, for the queue; in nanoseconds.
    run_cpu_ns: AtomicU64,
    run_wall_ns: AtomicU64,
    run_wall_least_ns: AtomicU64,
    /// Runs answered so far.
    answered: AtomicU64,
    pub(super) tiers: Mutex<Tiers>,
    pub(super) batches: Queue,
    /// What merging runs gains in the first tier.
    batching: Option<Batching>,
}

/// What is known of a model's runs before one begins, in nanoseconds.
#[derive(Clone, Copy)]
pub(super) struct Estimate {
    pub cpu_ns: u64,
    pub least_wall_ns: u64,
}

#[derive(Default)]
struct Health {
    /// Deaths since a run was answered.
    in_a_row: u32,
    /// When as much time will have passed as the deaths so far are worth, [`DEATH_EACH`] each or more.
    paid_at: Option<Instant>,
    /// CPU time of loading the model.
    load: Duration,
    aside: Option<(Instant, String)>,
}

impl Health {
    /// A worker has ended by itself, or at a limit.
    fn died(&mut self, why: String, now: Instant) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        let worth = DEATH_EACH.max(self.load * LOAD_FACTOR);
        let paid_at = self.paid_at.map_or(now, |at| at.max(now)) + worth;
        self.paid_at = Some(paid_at);
        let in_a_row = self.in_a_row.checked_sub(DEATHS_MAX);
        let in_a_row = in_a_row.map(|over| now + ASIDE.saturating_mul(1 << over.min(16)).min(ASIDE_MAX));
        let at_once = paid_at.checked_sub(DEATH_EACH * DEATHS_AT_ONCE).filter(|at| *at > now);
        if let Some(until) = in_a_row.max(at_once) {
            self.aside = Some((until, why));
        }
    }

    fn answered(&mut self) {
        self.in_a_row = 0;
    }

    fn aside(&self, now: Instant) -> Option<(Duration, String)> {
        let (until, why) = self.aside.as_ref()?;
        let left = until.checked_duration_since(now)?;
        Some((left, format!("its worker ended again and again, the last time because {why}")))
    }
}

impl Model {
    /// Loads what was prepared in a directory; gives the CPU time of the worker, in nanoseconds. Where
    /// another engine was faster, it may take over. Blocks; within a Tokio runtime.
    pub fn load(
        inference: Arc<Inference>,
        dir: PathBuf,
        settings: Settings,
        other: Option<FasterTier>,
    ) -> Result<(Arc<Model>, u64), StartError> {
        let lanes = if settings.threads > 1 { 1 } else { inference.slots_max };
        let files = open(&dir)?;
        let info = parse_info(&files.info).map_err(|e| StartError::Refused(e.to_string()))?;
        let size = |file: &std::fs::File| file.metadata().map_or(0, |m| m.len());
        let resident = size(&files.graph) + size(&files.weights);
        let (worker, cpu_ns) = start(&inference.stocks, &files, settings, lanes)?;
        let packed = info.packed.map(|gain| packed(settings, &dir, gain, info.batching));
        let model = Model {
            inference,
            settings,
            signature: info.signature,
            dir,
            resident,
            worker: Mutex::new(Some(worker)),
            starting: Arc::default(),
            second: Mutex::default(),
            starting_second: Arc::default(),
            alone: (settings.threads > 1).then(|| Arc::new(Semaphore::new(1))),
            health: Mutex::new(Health { load: Duration::from_nanos(cpu_ns), ..Health::default() }),
            run_cpu_ns: AtomicU64::new(0),
            run_wall_ns: AtomicU64::new(0),
            run_wall_least_ns: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            tiers: Mutex::new(Tiers::of(packed.into_iter().chain(other))),
            batches: Queue::default(),
            batching: info.batching,
        };
        Ok((Arc::new(model), cpu_ns))
    }

    /// Size of the prepared files, in bytes: of the weights, which are mapped, and of the graph.
    pub fn resident_bytes(&self) -> u64 {
        self.resident
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs answered so far.
    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }

    /// The tier in which a worker serves at the moment; `None` where none does.
    pub fn tier(&self) -> Option<Tier> {
        self.serving().map(|worker| worker.tier())
    }

    /// The worker that serves at the moment.
    pub(super) fn serving(&self) -> Option<Arc<Worker>> {
        self.current().clone().filter(|worker| worker.is_serving())
    }

    /// What merging runs gains in a tier; `None` where they are not merged in it.
    pub(super) fn batching(&self, tier: Tier) -> Option<Batching> {
        if !self.batches.may_merge() {
            return None;
        }
        if tier == Tier::first(self.settings.engine) {
            return self.batching;
        }
        self.tiers().faster(tier).and_then(|faster| faster.batching)
    }

    fn current(&self) -> MutexGuard<'_, Option<Arc<Worker>>> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long it is set aside, and why, if it is.
    pub fn set_aside(&self) -> Option<(Duration, String)> {
        self.health().aside(Instant::now())
    }

    /// A worker of the model has ended through one of its runs.
    pub(super) fn has_died(&self, worker: &Worker, death: &Death) {
        if !worker.counts_as_dead() {
            return;
        }
        self.tier_has_died(worker.tier(), death);
        let why = match death {
            // By the host's own will, or somebody else's.
            Death::Abandoned | Death::Killed => return,
            Death::Memory => "a run needed more than limits.model_memory".to_owned(),
            Death::InferenceLimit => "a run took longer than limits.inference".to_owned(),
            Death::Crashed(how) => format!("it crashed ({how})"),
        };
        self.health().died(why, Instant::now());
    }

    /// A run was answered, which took so much CPU time and time, in nanoseconds, where that is known of it.
    pub(super) fn has_answered(&self, took: Option<(u64, u64)>) {
        self.health().answered();
        self.answered.fetch_add(1, Relaxed);
        let Some((cpu_ns, wall_ns)) = took else { return };
        // Two runs that end at once may leave out one of them: these are estimates.
        for (average, last_ns) in [(&self.run_cpu_ns, cpu_ns), (&self.run_wall_ns, wall_ns)] {
            let before = average.load(Relaxed);
            let next = if before == 0 { last_ns } else { before - before / AVERAGED + last_ns / AVERAGED };
            average.store(next, Relaxed);
        }
        let least = self.run_wall_least_ns.load(Relaxed);
        if least == 0 || wall_ns < least {
            self.run_wall_least_ns.store(wall_ns, Relaxed);
        }
    }

    /// A run could not have ended in time by what is known. What is known may be of slow runs long ago: it
    /// counts less from now on.
    pub(super) fn was_late(&self) {
        self.run_wall_least_ns.store(self.run_wall_least_ns.load(Relaxed) / 2, Relaxed);
    }

    /// What a run takes, judged by those before.
    pub(super) fn estimate(&self) -> Estimate {
        Estimate {
            cpu_ns: self.run_cpu_ns.load(Relaxed),
            least_wall_ns: self.run_wall_least_ns.load(Relaxed),
        }
    }

    /// Whether its runs, by the last of them, take less than a thread waits for.
    pub(super) fn is_soon_done(&self) -> bool {
        let wall_ns = self.run_wall_ns.load(Relaxed);
        wall_ns > 0 && Duration::from_nanos(wall_ns) < SOON_MAX
    }

    /// Waits until no other run is in a model whose runs take several threads.
    pub(super) async fn alone(&self) -> Option<OwnedSemaphorePermit> {
        match self.alone.clone() {
            // Never closed.
            Some(alone) => alone.acquire_owned().await.ok(),
            None => None,
        }
    }

    /// The worker, or another one where it has ended.
    pub(super) async fn worker(self: &Arc<Self>) -> Result<Arc<Worker>, StartError> {
        if let Some(worker) = self.serving() {
            return Ok(worker);
        }
        let turn = self.starting.clone().lock_owned().await;
        if let Some(worker) = self.serving() {
            return Ok(worker);
        }
        // It may have ended while no run was in it.
        let ended = self.current().take();
        if let Some((ended, death)) = ended.and_then(|worker| Some((worker.clone(), worker.fate()?))) {
            self.has_died(&ended, &death);
        }
        let started = self.clone().start_another(turn).await;
        if let Err(StartError::Died(how)) = &started {
            self.health().died(format!("it ended while it loaded the model ({how})"), Instant::now());
        }
        started
    }
}

impl Model {
    /// Starts a worker of the first tier, which takes the place of one that has ended.
    async fn start_another(self: Arc<Self>, turn: OwnedMutexGuard<()>) -> Result<Arc<Worker>, StartError> {
        // Goes on where its caller goes away: the next one finds the worker.
        let started = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let worker = self.plan().start(&self.dir, Loading::first(self.settings.engine))?;
            self.replace(worker.clone());
            Ok(worker)
        });
        started.await.unwrap_or_else(|_| Err(broken_off()))
    }

    /// This one serves from now on.
    pub(super) fn replace(&self, worker: Arc<Worker>) {
        *self.current() = Some(worker);
    }

    /// What a worker of the model is started with.
    pub(super) fn plan(&self) -> Plan {
        Plan { inference: self.inference.clone(), settings: self.settings }
    }
}

/// What workers of a model are started with, without the model.
pub(super) struct Plan {
    inference: Arc<Inference>,
    settings: Settings,
}

impl Plan {
    /// Starts a worker with what was prepared in a directory. Blocks; within a Tokio runtime.
    pub fn start(&self, dir: &Path, loading: Loading) -> Result<Arc<Worker>, StartError> {
        let Plan { inference, settings } = self;
        let lanes = if settings.threads > 1 { 1 } else { inference.slots_max };
        if loading.tier == Tier::first(settings.engine) {
            return Ok(start(&inference.stocks, &open(dir)?, *settings, lanes)?.0);
        }
        let sealed = inference.seals.check(&sealed_model(dir, dir));
        sealed.map_err(|e| StartError::Refused(e.to_string()))?;
        let stock = inference.stocks.of(loading.tier.engine).map_err(StartError::NoWorker)?;
        Ok(Worker::start(&stock, &open(dir)?, *settings, lanes, loading)?.0)
    }
}

pub(super) fn broken_off() -> StartError {
    StartError::Died("its start broke off".into())
}

/// The tier with packed weights.
fn packed(settings: Settings, dir: &Path, gain: Faster, batching: Option<Batching>) -> FasterTier {
    let tier = Tier { engine: settings.engine, form: Form::Packed };
    FasterTier { tier, dir: dir.into(), gain, batching }
}

/// Starts a worker of the first tier, and another one where somebody killed it meanwhile.
fn start(
    stocks: &Stocks,
    files: &PreparedFiles,
    settings: Settings,
    lanes: u32,
) -> Result<(Arc<Worker>, u64), StartError> {
    let stock = stocks.of(settings.engine).map_err(StartError::NoWorker)?;
    let mut tries = STARTS_MAX;
    loop {
        tries -= 1;
        match Worker::start(&stock, files, settings, lanes, Loading::first(settings.engine)) {
            Err(StartError::Killed) if tries > 0 => {}
            started => return started,
        }
    }
}

fn open(dir: &std::path::Path) -> Result<PreparedFiles, StartError> {
    PreparedFiles::open(dir).map_err(|e: LoadError| StartError::Refused(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_aside(health: &Health, now: Instant) -> bool {
        health.aside(now).is_some()
    }

    #[test]
    fn a_model_is_set_aside_for_longer_with_each_death_in_a_row() {
        let (mut health, begun) = (Health::default(), Instant::now());
        for _ in 1..DEATHS_MAX {
            health.died("why".into(), begun);
        }
        assert!(!is_aside(&health, begun));
        for wanted in [1, 2, 4, 8, 16, 32, 60, 60] {
            health.died("why".into(), begun);
            let (left, said) = health.aside(begun).expect("set aside");
            assert_eq!(left, Duration::from_secs(wanted));
            assert!(said.contains("why"), "{said}");
        }
        assert!(!is_aside(&health, begun + ASIDE_MAX + Duration::from_millis(1)));
    }

    #[test]
    fn answers_in_between_save_nobody_who_ends_workers_all_the_time() {
        let (mut health, begun) = (Health::default(), Instant::now());
        let (mut deaths, mut now) = (0, begun);
        while now < begun + Duration::from_secs(100) {
            if !is_aside(&health, now) {
                health.died("why".into(), now);
                health.answered();
                deaths += 1;
            }
            now += Duration::from_millis(10);
        }
        // Those at once, and one in each second.
        assert!((110..=125).contains(&deaths), "{deaths} deaths in 100 s");
    }

    #[test]
    fn a_model_that_takes_long_to_be_loaded_may_end_workers_less_often() {
        let begun = Instant::now();
        let mut health = Health { load: Duration::from_millis(500), ..Health::default() };
        let mut deaths = 0;
        for second in 0..100 {
            let now = begun + Duration::from_secs(second);
            if !is_aside(&health, now) {
                health.died("why".into(), now);
                health.answered();
                deaths += 1;
            }
        }
        // Four at once, and one in five seconds.
        assert!((20..=26).contains(&deaths), "{deaths} deaths in 100 s");
    }

    #[test]
    fn a_death_now_and_then_sets_nothing_aside() {
        let (mut health, begun) = (Health::default(), Instant::now());
        for n in 0..1_000 {
            let now = begun + DEATH_EACH * n;
            health.died("why".into(), now);
            health.answered();
            assert!(!is_aside(&health, now));
        }
    }
}
