//! Moves of a model between its tiers: a faster one is loaded when the runs pay for it, and given up when
//! they do not.
//!
//! ```text
//!            the account covers the loading, and memory is spare
//!   first ────────────────────────────────────────────────────▶ faster
//!         ◀────────────────────────────────────────────────────
//!            the account is spent, the memory is needed, its worker has ended, or it failed a run
//! ```
//!
//! The first tier is mapped weights in the model's engine, which is loaded at once. A faster one is packed
//! weights, or ONNX Runtime where that gives the same outputs. Another worker loads it while the old one
//! serves, and takes over between two runs: those under way end in the old worker, which then ends. Loading
//! it is the platform's time, and billed to nobody.

use super::model::{Model, Plan};
use super::tiers::{Now, Second, Tiers, Wanted};
use super::worker::{Death, Loading, StartError, Tier, Worker};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::task::spawn_blocking;
use vesta_core::keepalive::{BASE_PRICE, price};
use vesta_core::memory::{Kind, Memory};

/// Serves models in another tier where that pays by now. Called once a second or so, within a Tokio runtime;
/// somebody lacked `needed` bytes since the last time.
pub(crate) fn review(models: &[Arc<Model>], memory: &Memory, needed: u64) {
    if needed > 0 {
        give_way(models, memory.free(), needed);
    }
    for model in models {
        model.review_tier(needed > 0);
    }
}

/// Faster tiers are given up until so many bytes are free, those that earned the least first; none where all
/// of them would not do.
fn give_way(models: &[Arc<Model>], free: u64, needed: u64) {
    let faster = |model: &Arc<Model>| Some((model.tiers().earned()?, model.clone()));
    let mut faster: Vec<_> = models.iter().filter_map(faster).collect();
    let all: u64 = faster.iter().map(|((_, bytes), _)| bytes).sum();
    if free.saturating_add(all) < needed {
        return;
    }
    faster.sort_by(|((a, _), _), ((b, _), _)| a.total_cmp(b));
    let mut free = free;
    for ((_, bytes), model) in faster {
        if free >= needed {
            return;
        }
        free = free.saturating_add(bytes);
        model.demote(&mut model.tiers());
    }
}

impl Model {
    fn review_tier(self: &Arc<Self>, is_short: bool) {
        // It ends with its last run.
        drop(self.second().take_if_idle(Instant::now()));
        let memory = self.inference.memory.memory();
        let now = Now {
            at: Instant::now(),
            runs: self.answered(),
            run_ns: self.estimate().cpu_ns,
            tier: self.tier(),
            price: price(memory.used(), memory.budget()),
            is_spare: &|bytes| !is_short && is_spare(memory, bytes),
        };
        let mut tiers = self.tiers();
        match tiers.review(&now) {
            Wanted::Promote(tier, bytes) => {
                let mut held = memory.none(Kind::Models);
                if held.grow(bytes).is_ok() {
                    self.change(&mut tiers, Loading { tier, beside: Some(held) });
                }
            }
            Wanted::Demote => self.demote(&mut tiers),
            Wanted::Nothing => {}
        }
    }

    pub(super) fn tiers(&self) -> MutexGuard<'_, Tiers> {
        self.tiers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn second(&self) -> MutexGuard<'_, Second> {
        self.second.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn demote(self: &Arc<Self>, tiers: &mut Tiers) {
        tiers.given_up(Instant::now());
        self.change(tiers, Loading::first(self.settings.engine));
    }

    /// Begins to serve it in another tier.
    fn change(self: &Arc<Self>, tiers: &mut Tiers, loading: Loading) {
        tiers.is_changing = true;
        let (tier, plan) = (loading.tier, self.plan());
        let dir = tiers.faster(tier).map_or_else(|| self.dir().to_owned(), |faster| faster.dir.clone());
        // A function that goes cold meanwhile takes the model with it.
        let model = Arc::downgrade(self);
        tokio::spawn(async move {
            let started = start(plan, dir, loading).await;
            let Some(model) = model.upgrade() else { return };
            // Whoever starts a worker after a death does not replace this one.
            let _turn = model.starting.clone().lock_owned().await;
            let mut tiers = model.tiers();
            tiers.is_changing = false;
            match started {
                Ok(worker) => {
                    tiers.changed(tier);
                    model.replace(worker);
                    tracing::debug!(model = %model.dir().display(), ?tier, "the model is served in another tier");
                }
                Err(error) => {
                    tracing::warn!(model = %model.dir().display(), ?tier, %error, "the model's tier stays as it is");
                    tiers.failed(tier, Instant::now());
                }
            }
        });
    }

    /// A worker of the first tier for a run that the engine of `worker` has failed. `None` where it was that
    /// of the first tier.
    pub(super) async fn second_opinion(self: &Arc<Self>, worker: &Worker) -> Option<Arc<Worker>> {
        let first = self.settings.engine;
        if worker.tier().engine == first {
            return None;
        }
        let ready = |model: &Model| {
            let serving = model.serving().filter(|worker| worker.tier().engine == first);
            serving.or_else(|| model.second().used(Instant::now()))
        };
        if let Some(worker) = ready(self) {
            return Some(worker);
        }
        let turn = self.starting_second.clone().lock_owned().await;
        if let Some(worker) = ready(self) {
            return Some(worker);
        }
        let model = self.clone();
        // Goes on where its caller goes away: the next one finds the worker.
        let started = spawn_blocking(move || {
            let _turn = turn;
            let worker = model.plan().start(model.dir(), Loading::first(first)).ok()?;
            model.second().replace(worker.clone(), Instant::now());
            Some(worker)
        });
        started.await.ok().flatten()
    }

    /// A run that the faster tier has failed was answered by `worker`, of the first tier. The faster tier is
    /// given up for it.
    pub(super) fn was_wrongly_failed(&self, by: Tier, worker: Arc<Worker>) {
        let mut tiers = self.tiers();
        if self.tier() != Some(by) || !worker.is_serving() {
            return;
        }
        tracing::warn!(
            model = %self.dir().display(),
            "a run that failed in the faster tier succeeded in the first one, which serves from now on"
        );
        tiers.failed(by, Instant::now());
        tiers.changed(worker.tier());
        self.second().clear();
        self.replace(worker);
    }

    /// A worker of a faster tier has ended.
    pub(super) fn tier_has_died(&self, tier: Tier, death: &Death) {
        let now = Instant::now();
        match death {
            Death::Crashed(_) | Death::Memory => self.tiers().failed(tier, now),
            // By the host's own will, or somebody else's: the review sees it.
            Death::InferenceLimit | Death::Abandoned | Death::Killed => {}
        }
    }
}

/// Memory that nobody else has a use for at the moment; nothing is made to go for it.
fn is_spare(memory: &Memory, bytes: u64) -> bool {
    price(memory.used().saturating_add(bytes), memory.budget()) <= BASE_PRICE
}

async fn start(plan: Plan, dir: std::path::PathBuf, loading: Loading) -> Result<Arc<Worker>, StartError> {
    let started = spawn_blocking(move || plan.start(&dir, loading));
    started.await.unwrap_or_else(|_| Err(super::model::broken_off()))
}
