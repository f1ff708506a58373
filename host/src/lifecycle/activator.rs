//! From a version to a lease on a warm function: one cold start for any number of waiting requests.

use super::entry::{Admitted, ColdStart, Entry, Lease, NotAdmitted, Slot, StartError, Started, Warm};
use crate::registry::Version;
use dashmap::DashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use vesta_core::clock::Clock;
use vesta_core::keepalive::KeepAlive;
use vesta_core::lifecycle::State;
use vesta_core::manifest::PackageManifest;
use vesta_core::{FunctionName, TenantName};
use vesta_engine::{EngineError, LoadReport, Loaded, Meter, Runtime};

use super::prepare::EnginePreparer;

/// What the lifecycle is made of.
pub struct Lifecycle {
    pub runtime: Arc<Runtime>,
    pub preparer: Arc<EnginePreparer>,
    pub policy: Arc<dyn KeepAlive>,
    pub clock: Arc<dyn Clock>,
    /// Longest wait of a request for a cold start, in seconds.
    pub start_seconds_max: u64,
}

/// A warm function, and how it became so.
pub struct Activation {
    pub lease: Lease,
    /// Whether the caller waited for a cold start, its own or another's.
    pub waited: bool,
    /// The cold start that this call triggered.
    pub cold: Option<ColdStart>,
}

/// The functions of this host that are not cold, and those that are being started.
pub struct Activator {
    pub(super) parts: Lifecycle,
    pub(super) table: DashMap<(TenantName, FunctionName, u32), Arc<Entry>>,
    pub(super) became_warm: Notify,
}

impl Activator {
    pub fn new(parts: Lifecycle) -> Arc<Activator> {
        Arc::new(Activator { parts, table: DashMap::new(), became_warm: Notify::new() })
    }

    /// Takes one of the function's places, if there is one.
    pub fn admit(&self, version: &Arc<Version>) -> Result<Admitted, NotAdmitted> {
        let key = (version.tenant.clone(), version.function.clone(), version.number);
        if let Some(entry) = self.table.get(&key) {
            return entry.admit();
        }
        // Admitted under the table's lock: the reaper cannot take the entry out in between.
        self.table.entry(key).or_insert_with(|| Entry::new(version.clone())).admit()
    }

    /// A lease on the warm function, after a cold start if need be. The start that this call triggered is
    /// reported, and billed to `meter`; a call that finds one under way waits for it.
    ///
    /// A start goes on when its caller goes away: others may wait for it.
    pub async fn activate(
        self: &Arc<Self>,
        admitted: &Admitted,
        meter: &Arc<Meter>,
    ) -> Result<Activation, StartError> {
        let entry = &admitted.0;
        let (mut waiting, triggered) = {
            let mut slot = entry.slot();
            match &mut *slot {
                Slot::Warm(warm) => {
                    warm.running += 1;
                    let lease = self.lease(entry, warm.loaded.clone());
                    return Ok(Activation { lease, waited: false, cold: None });
                }
                Slot::Warming(waiting) => (waiting.clone(), false),
                Slot::Cold => {
                    let (started, waiting) = watch::channel(None);
                    *slot = Slot::Warming(waiting.clone());
                    meter.begin_beside();
                    tokio::spawn(self.clone().start(entry.clone(), meter.clone(), started));
                    (waiting, true)
                }
            }
        };
        let limit = self.parts.start_seconds_max;
        let wait = tokio::time::timeout(Duration::from_secs(limit), waiting.wait_for(Option::is_some));
        let started = match wait.await {
            Err(_) => return Err(StartError::TimedOut(limit)),
            Ok(Err(_)) => return Err(StartError::Failed("the start was abandoned".into())),
            Ok(Ok(started)) => started.clone().unwrap_or(Err(StartError::Failed("no result".into()))),
        };
        let (loaded, cold) = started?;
        match &mut *entry.slot() {
            Slot::Warm(warm) if Arc::ptr_eq(&warm.loaded, &loaded) => warm.running += 1,
            // Let go again before this waiter ran: its own reference brings it back.
            slot @ Slot::Cold => *slot = Slot::Warm(self.warm(&loaded, cold, 1)),
            // Already started anew: this lease lives beside that one.
            _ => {}
        }
        Ok(Activation { lease: self.lease(entry, loaded), waited: true, cold: triggered.then_some(cold) })
    }

    fn lease(&self, entry: &Arc<Entry>, loaded: Arc<Loaded>) -> Lease {
        Lease { entry: entry.clone(), loaded, clock: self.parts.clock.clone() }
    }

    fn warm(&self, loaded: &Arc<Loaded>, cold: ColdStart, running: u32) -> Warm {
        let idle_since = self.parts.clock.now();
        let cold_start_cpu = Duration::from_nanos(cold.cpu_ns);
        Warm { loaded: loaded.clone(), running, idle_since, cold_start_cpu }
    }

    async fn start(
        self: Arc<Self>,
        entry: Arc<Entry>,
        meter: Arc<Meter>,
        started: watch::Sender<Option<Started>>,
    ) {
        let begun = std::time::Instant::now();
        let result = self.load(&entry.version.manifest).await;
        let result = result.map(|(loaded, report)| {
            let cold = ColdStart {
                wall_ns: begun.elapsed().as_nanos() as u64,
                cpu_ns: report.cpu_ns,
                code_ns: report.code_ns,
                models_ns: report.models_ns,
            };
            meter.cold_start_ran(report.cpu_ns);
            (Arc::new(loaded), cold)
        });
        meter.end_beside();
        let result = result.map_err(|e| {
            tracing::error!(tenant = %entry.version.tenant, function = %entry.version.function,
                version = entry.version.number, error = %e, "cold start failed");
            StartError::Failed(e.to_string())
        });
        *entry.slot() = match &result {
            Ok((loaded, cold)) => Slot::Warm(self.warm(loaded, *cold, 0)),
            Err(_) => Slot::Cold,
        };
        let _ = started.send(Some(result));
        self.became_warm.notify_one();
    }

    /// Loads a function; where its prepared files are missing or were made by another version of the host, they
    /// are made anew first.
    async fn load(&self, manifest: &PackageManifest) -> Result<(Loaded, LoadReport), EngineError> {
        let first = self.load_blocking(manifest).await;
        match first {
            Err(e) if e.wants_preparation() => {
                tracing::info!(function = %manifest.name, reason = %e, "preparing the function anew");
                self.parts.preparer.prepare_all(manifest).await?;
                self.load_blocking(manifest).await
            }
            result => result,
        }
    }

    async fn load_blocking(&self, manifest: &PackageManifest) -> Result<(Loaded, LoadReport), EngineError> {
        let runtime = self.parts.runtime.clone();
        let manifest = manifest.clone();
        let loading = tokio::task::spawn_blocking(move || runtime.load(&manifest));
        loading.await.unwrap_or_else(|e| Err(EngineError::Runtime(e.to_string())))
    }

    /// How many functions stand in each state.
    pub fn states(&self) -> Vec<State> {
        self.table.iter().map(|entry| entry.state()).collect()
    }
}

impl vesta_core::lifecycle::States for Activator {
    fn state(&self, tenant: &TenantName, function: &FunctionName, version: u32) -> State {
        let key = (tenant.clone(), function.clone(), version);
        self.table.get(&key).map_or(State::Cold, |entry| entry.state())
    }
}
