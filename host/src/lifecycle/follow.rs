//! Follows what is deployed, deleted, and to be kept warm.

use super::activator::Activator;
use super::entry::Entry;
use crate::registry::{Registry, RegistryEvent};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use vesta_core::{FunctionName, TenantName};

/// The versions that a minimum keeps warm, by function.
type Kept = HashMap<(TenantName, FunctionName), Arc<Entry>>;

/// Runs for as long as the host: drains what is deleted, and keeps warm the live versions that have a
/// minimum.
pub async fn follow_registry(activator: Arc<Activator>, registry: Arc<Registry>) {
    let mut events = registry.subscribe();
    let mut kept = Kept::new();
    follow_all(&activator, &registry, &mut kept);
    loop {
        match events.recv().await {
            Ok(RegistryEvent::VersionRemoved { tenant, function, number }) => {
                activator.forget(&(tenant.clone(), function.clone(), number));
                follow(&activator, &registry, &mut kept, tenant, function);
            }
            Ok(
                RegistryEvent::VersionAdded { tenant, function, .. }
                | RegistryEvent::AliasMoved { tenant, function, .. },
            ) => follow(&activator, &registry, &mut kept, tenant, function),
            Err(RecvError::Lagged(_)) => {
                activator.forget_deleted();
                follow_all(&activator, &registry, &mut kept);
            }
            Err(RecvError::Closed) => return,
        }
    }
}

fn follow_all(activator: &Activator, registry: &Registry, kept: &mut Kept) {
    let with_minimum = registry.all_versions().into_iter().filter(|v| v.manifest.scaling.minimum > 0);
    let mut names: Vec<_> = with_minimum.map(|v| (v.tenant.clone(), v.function.clone())).collect();
    names.extend(kept.keys().cloned());
    names.sort();
    names.dedup();
    for (tenant, function) in names {
        follow(activator, registry, kept, tenant, function);
    }
}

/// A function may have another live version than before, or none.
fn follow(
    activator: &Activator,
    registry: &Registry,
    kept: &mut Kept,
    tenant: TenantName,
    function: FunctionName,
) {
    let live = registry.resolve(tenant.as_str(), function.as_str(), None).ok();
    let live = live.filter(|v| v.manifest.scaling.minimum > 0).and_then(|v| activator.entry(&v));
    let key = (tenant, function);
    let (fleet, now) = (&activator.functions.fleet, activator.functions.now());
    if let (Some(new), Some(old)) = (&live, kept.get(&key))
        && Arc::ptr_eq(new, old)
    {
        return;
    }
    if let Some(old) = kept.remove(&key) {
        fleet.keep(&old, false, now);
    }
    if let Some(new) = live {
        fleet.keep(&new, true, now);
        kept.insert(key, new);
    }
}
