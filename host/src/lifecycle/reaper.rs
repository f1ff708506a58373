//! Lets idle functions go, keeps those that are to stay, and follows what is deployed and deleted.

use super::activator::Activator;
use super::entry::{Entry, Slot};
use crate::registry::{Registry, RegistryEvent, Version};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use vesta_core::keepalive::{Asked, BASE_PRICE, History};
use vesta_engine::Meter;

/// How exactly keep-alive ends. While nothing is warm the reaper sleeps for good.
const TICK: Duration = Duration::from_millis(50);

/// Runs for as long as the host: ends the keep-alive of idle functions.
pub async fn reap(activator: Arc<Activator>, registry: Arc<Registry>) {
    loop {
        let warmed = activator.became_warm.notified();
        if activator.table.is_empty() {
            warmed.await;
        }
        tokio::time::sleep(TICK).await;
        let entries: Vec<Arc<Entry>> = activator.table.iter().map(|e| e.clone()).collect();
        for entry in entries {
            end_idle_instances(&entry);
            if !is_to_stay(&registry, &entry.version) {
                let_go_if_idle(&activator, &entry);
            }
        }
        activator.table.retain(|_, entry| !entry.is_unused());
    }
}

/// An instance without a request goes as the whole function does; others of its function may be busy.
fn end_idle_instances(entry: &Entry) {
    let scaling = &entry.version.manifest.scaling;
    if scaling.reuse == 1 {
        return;
    }
    let loaded = match &*entry.slot() {
        Slot::Warm(warm) => warm.loaded.clone(),
        _ => return,
    };
    loaded.end_idle_instances(Duration::from_millis(scaling.keep_alive_ms));
}

fn let_go_if_idle(activator: &Activator, entry: &Entry) {
    let now = activator.parts.clock.now();
    let mut slot = entry.slot();
    let Slot::Warm(warm) = &*slot else { return };
    let keep_alive = Duration::from_millis(entry.version.manifest.scaling.keep_alive_ms);
    let asked = Asked { keep_alive: Some(keep_alive), ..Asked::default() };
    let mut history = History::new();
    history.started(warm.cold_start_cpu, warm.loaded.resident_bytes());
    let plan = activator.parts.policy.plan(&history, &asked, BASE_PRICE);
    if warm.running == 0 && now >= warm.idle_since.saturating_add(plan.linger) {
        // Unmapped outside the lock: it takes a while.
        let gone = std::mem::replace(&mut *slot, Slot::Cold);
        drop(slot);
        drop(gone);
    }
}

/// A live version with a minimum is never let go.
fn is_to_stay(registry: &Registry, version: &Version) -> bool {
    version.manifest.scaling.minimum > 0
        && registry
            .resolve(version.tenant.as_str(), version.function.as_str(), None)
            .is_ok_and(|live| live.number == version.number)
}

/// Runs for as long as the host: drains what is deleted and warms what is to stay warm.
pub async fn follow_registry(activator: Arc<Activator>, registry: Arc<Registry>) {
    let mut events = registry.subscribe();
    loop {
        for version in registry.all_versions() {
            if is_to_stay(&registry, &version) {
                warm_up(&activator, &version);
            }
        }
        match events.recv().await {
            Ok(RegistryEvent::VersionRemoved { tenant, function, number }) => {
                if let Some((_, entry)) = activator.table.remove(&(tenant, function, number)) {
                    entry.drain();
                }
            }
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

fn warm_up(activator: &Arc<Activator>, version: &Arc<Version>) {
    let activator = activator.clone();
    let version = version.clone();
    tokio::spawn(async move {
        // Nobody asked for it: the meter is the platform's own and bills nobody.
        if let Ok(admitted) = activator.admit(&version) {
            let _ = activator.activate(&admitted, &Arc::new(Meter::default())).await;
        }
    });
}
