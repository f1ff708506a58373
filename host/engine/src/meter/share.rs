//! An instance's share of the host's memory budget, and its tenant's.

use super::Meter;
use dashmap::DashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use vesta_core::TenantName;
use vesta_core::memory::{Grant, Kind, Memory, Short, Taken};

/// What is idle and can be ended for its memory.
pub(crate) trait EndIdle: Send + Sync {
    /// Ends what has been idle the longest; false where nothing is. Its memory is free for others at once.
    fn end_oldest(&self) -> bool;
}

/// Gives memory to instances: what is free, then what idle instances hold, then what the host makes room for.
/// The running instances of one tenant get no more than the host lets one tenant have.
pub(crate) struct InstanceMemory {
    host: Arc<dyn Grant>,
    idle: Arc<dyn EndIdle>,
    tenants: DashMap<TenantName, Arc<AtomicU64>>,
}

impl InstanceMemory {
    pub fn new(host: Arc<dyn Grant>, idle: Arc<dyn EndIdle>) -> Arc<InstanceMemory> {
        Arc::new(InstanceMemory { host, idle, tenants: DashMap::new() })
    }

    /// What running instances of a tenant hold, in bytes.
    fn of_tenant(&self, tenant: &TenantName) -> Arc<AtomicU64> {
        let known = self.tenants.get(tenant).map(|held| held.clone());
        known.unwrap_or_else(|| self.tenants.entry(tenant.clone()).or_default().clone())
    }
}

impl Grant for InstanceMemory {
    fn memory(&self) -> &Arc<Memory> {
        self.host.memory()
    }
    fn grow(&self, taken: &mut Taken, more: u64) -> Result<(), Short> {
        while taken.grow(more).is_err() {
            if !self.idle.end_oldest() {
                return self.host.grow(taken, more);
            }
        }
        Ok(())
    }
}

/// What an instance holds of one kind; given back when dropped.
pub(crate) struct Share(Option<Held>);

struct Held {
    memory: Arc<InstanceMemory>,
    taken: Taken,
    of_tenant: Arc<AtomicU64>,
    /// Whether it counts among what the tenant's running instances hold.
    runs: bool,
}

impl Share {
    pub fn of(memory: &Arc<InstanceMemory>, kind: Kind, tenant: &TenantName) -> Share {
        let (taken, of_tenant) = (memory.memory().none(kind), memory.of_tenant(tenant));
        Share(Some(Held { memory: memory.clone(), taken, of_tenant, runs: true }))
    }

    /// Of a process that has no budget: the child has limits of its own.
    pub fn without_budget() -> Share {
        Share(None)
    }

    /// Takes more. An error ends the invocation, and the meter knows that the host is to blame.
    pub fn grow(&mut self, more: u64, meter: &Meter) -> wasmtime::Result<()> {
        let Some(Held { memory, taken, of_tenant, .. }) = &mut self.0 else { return Ok(()) };
        let held = of_tenant.fetch_add(more, Relaxed) + more;
        // Asking is dearer than comparing with the least that the answer can be.
        if held > memory.memory().budget() / 2 && held > memory.host.of_tenant_max() {
            of_tenant.fetch_sub(more, Relaxed);
            meter.lack_host_memory();
            let max = memory.host.of_tenant_max();
            return Err(wasmtime::format_err!(
                "running instances of one tenant may hold {max} bytes on this host"
            ));
        }
        if taken.grow(more).is_ok() {
            return Ok(());
        }
        // Making room is the host's work, though it is done within the guest's turn.
        meter.spare(|| memory.grow(taken, more)).map_err(|short| {
            of_tenant.fetch_sub(more, Relaxed);
            meter.lack_host_memory();
            wasmtime::Error::new(short)
        })
    }

    /// Gives back all of it, before its holder is gone; says how many bytes it was.
    pub fn let_go(&mut self) -> u64 {
        self.0.take().map_or(0, |held| held.taken.bytes())
    }

    pub fn shrink(&mut self, less: u64) {
        if let Some(Held { taken, of_tenant, .. }) = &mut self.0 {
            of_tenant.fetch_sub(less.min(taken.bytes()), Relaxed);
            taken.shrink(less);
        }
    }

    /// The instance is idle from now on, or it runs again: an idle one can be ended for whoever needs its
    /// memory.
    pub fn runs(&mut self, runs: bool) {
        let Some(held) = self.0.as_mut().filter(|held| held.runs != runs) else { return };
        held.runs = runs;
        let bytes = held.taken.bytes();
        match runs {
            true => held.of_tenant.fetch_add(bytes, Relaxed),
            false => held.of_tenant.fetch_sub(bytes, Relaxed),
        };
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.runs(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host of 100 bytes, of which one tenant may have so many.
    struct Host(Arc<Memory>, u64);
    impl Grant for Host {
        fn memory(&self) -> &Arc<Memory> {
            &self.0
        }
        fn grow(&self, taken: &mut Taken, more: u64) -> Result<(), Short> {
            taken.grow(more)
        }
        fn of_tenant_max(&self) -> u64 {
            self.1
        }
    }
    struct NoneIdle;
    impl EndIdle for NoneIdle {
        fn end_oldest(&self) -> bool {
            false
        }
    }

    #[test]
    fn running_instances_of_one_tenant_have_their_share_and_idle_ones_do_not_count() {
        let host = Arc::new(Host(Memory::new(100), 60));
        let memory = InstanceMemory::new(host.clone(), Arc::new(NoneIdle));
        let (one, other): (TenantName, TenantName) =
            ("one".parse().expect("name"), "other".parse().expect("name"));
        let meter = Meter::default();
        let share = |tenant: &TenantName| Share::of(&memory, Kind::Instances, tenant);
        let (mut first, mut second) = (share(&one), share(&one));
        first.grow(40, &meter).expect("within the share");
        second.grow(20, &meter).expect("within the share");
        assert!(!meter.host_memory_lacks());
        let refused = second.grow(1, &meter).expect_err("over the share");
        assert!(refused.to_string().contains("60 bytes"), "{refused}");
        assert!(meter.host_memory_lacks());
        let mut others = share(&other);
        others.grow(40, &meter).expect("another tenant has its own");
        assert_eq!(host.memory().taken(), 100);
        // An idle one gives way to whoever needs it.
        first.runs(false);
        others.shrink(40);
        second.grow(40, &meter).expect("the idle one does not count");
        drop(first);
        second.shrink(20);
        drop(second);
        drop(others);
        assert_eq!(host.memory().taken(), 0);
        assert_eq!(memory.of_tenant(&one).load(Relaxed), 0);
    }
}
