//! The cold start: room in memory, then files into memory.

use super::activator::Activator;
use super::entry::{ColdStart, Entry, Warm};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use vesta_core::lifecycle::{Failure, MEMORY_WAIT_MAX};
use vesta_core::memory::{Part, Reservation, Short};
use vesta_engine::{EngineError, LoadReport, Loaded, Meter};

/// How often a start that waits for memory looks whether others have ended or become idle.
const MEMORY_POLL: Duration = Duration::from_millis(20);

/// A start under way. However it ends, those who wait are told.
struct Starting<'a> {
    activator: &'a Activator,
    entry: &'a Arc<Entry>,
    /// Of the request that triggered it.
    meter: Option<Arc<Meter>>,
    has_ended: bool,
}

impl Starting<'_> {
    fn succeeded(mut self, loaded: Loaded, cold: ColdStart) {
        let functions = &self.activator.functions;
        if let Some(meter) = &self.meter {
            meter.cold_start_ran(cold.cpu_ns);
        }
        // Waiting for memory, and preparing files anew, is nothing that the function costs.
        let load = Duration::from_nanos(loaded.cold_start().wall_ns);
        functions.fleet.started(self.entry, functions.now(), Warm(Arc::new(loaded)), load);
        self.entry.owner.ended.send_replace(Some(Ok(cold)));
        self.has_ended = true;
    }

    fn failed(&mut self, failure: Failure) {
        let version = &self.entry.owner.version;
        tracing::error!(tenant = %version.tenant, function = %version.function, version = version.number,
            error = %failure, "cold start failed");
        let functions = &self.activator.functions;
        functions.fleet.failed(self.entry, functions.now(), failure.clone());
        self.entry.owner.ended.send_replace(Some(Err(failure.into())));
        self.has_ended = true;
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.failed(Failure::Load("the start broke off".into()));
        }
        if let Some(meter) = &self.meter {
            meter.end_beside();
        }
    }
}

impl Activator {
    /// Starts a function that the core has just said is to be started. Its CPU time goes to `meter`, if a
    /// request asked for it.
    pub(super) fn start(
        self: Arc<Self>,
        entry: Arc<Entry>,
        meter: Option<Arc<Meter>>,
    ) -> impl Future<Output = ()> {
        // Begun before this is spawned, so that a bill which is closed meanwhile waits for it.
        if let Some(meter) = &meter {
            meter.begin_beside();
        }
        async move {
            let begun = Instant::now();
            let mut starting = Starting { activator: &self, entry: &entry, meter, has_ended: false };
            match self.load(&entry).await {
                Ok(Some((loaded, report))) => {
                    let cold = ColdStart {
                        wall_ns: begun.elapsed().as_nanos() as u64,
                        cpu_ns: report.cpu_ns,
                        code_ns: report.code_ns,
                        models_ns: report.models_ns,
                    };
                    starting.succeeded(loaded, cold);
                }
                // Nobody waits for it, and there is no room.
                Ok(None) => starting.has_ended = true,
                Err(EngineError::Memory(short)) => starting.failed(Failure::Memory(short)),
                Err(e) => starting.failed(Failure::Load(e.to_string().into())),
            }
        }
    }

    /// Loads a function; where its prepared files are missing, altered or made by another version of the
    /// host, they are made anew first. None if nobody waits for it and it has no room.
    async fn load(&self, entry: &Arc<Entry>) -> Result<Option<(Loaded, LoadReport)>, EngineError> {
        let version = &entry.owner.version;
        match self.load_prepared(entry).await {
            Err(e) if e.wants_preparation() => {
                tracing::warn!(tenant = %version.tenant, function = %version.function, version = version.number,
                    reason = %e, "preparing the function anew from what was uploaded");
                self.parts.preparer.restore(&version.manifest).await?;
                self.load_prepared(entry).await
            }
            result => result,
        }
    }

    async fn load_prepared(&self, entry: &Arc<Entry>) -> Result<Option<(Loaded, LoadReport)>, EngineError> {
        let runtime = self.parts.runtime.clone();
        let manifest = entry.owner.version.manifest.clone();
        let Some(held) = self.room(entry, &runtime.parts(&manifest)?).await? else { return Ok(None) };
        let loading = tokio::task::spawn_blocking(move || runtime.load(&manifest, held));
        loading.await.unwrap_or_else(|e| Err(EngineError::Runtime(e.to_string()))).map(Some)
    }

    /// Takes the memory that a start needs. What fits passes at once; where others have to make room, starts
    /// take turns in asking them for it, and each waits for a bounded time. None if nobody waits for the
    /// start.
    async fn room(&self, entry: &Arc<Entry>, parts: &[Part]) -> Result<Option<Reservation>, Short> {
        let wait = MEMORY_WAIT_MAX.min(Duration::from_secs(self.parts.start_seconds_max) / 2);
        let deadline = Instant::now() + wait;
        let functions = &self.functions;
        let mut result = functions.fleet.reserve(entry, functions.now(), parts);
        let mut next_turn = pin!(self.room.acquire());
        let mut turn = None;
        loop {
            let short = match result {
                Ok(held) => return Ok(Some(held)),
                Err(short) => short,
            };
            let can_wait = matches!(short, Short::Now { .. }) && Instant::now() < deadline;
            if can_wait && functions.fleet.give_up(entry, functions.now()) {
                return Ok(None);
            }
            if !can_wait {
                return Err(short);
            }
            let heap = functions.clone();
            // Takes some milliseconds: nothing for a worker.
            let let_go = tokio::task::spawn_blocking(move || heap.let_go_of_the_heap());
            if !let_go.await.unwrap_or(false) {
                functions.look_at_the_kernel();
            }
            if !self.parts.runtime.end_idle_instance() {
                match turn {
                    None => turn = timeout(MEMORY_POLL, next_turn.as_mut()).await.ok(),
                    Some(_) => sleep(MEMORY_POLL).await,
                }
            }
            result = match turn {
                None => functions.fleet.memory().reserve(parts),
                Some(_) => functions.fleet.reserve(entry, functions.now(), parts),
            };
        }
    }
}
