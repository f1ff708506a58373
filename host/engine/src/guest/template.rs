//! What a guest is made from: a function's code, and what its instances have in common.

use super::idle::{Idle, IdleOfHost};
use super::instance::{Instance, NoPlace};
use super::state::{Invocation, State, World};
use crate::meter::Meter;
use crate::meter::share::EndIdle;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use vesta_core::memory::Reservation;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

/// A function from which instances are made.
pub(crate) struct Template {
    pub pre: ProxyPre<State>,
    pub world: World,
    /// Most requests of one instance.
    pub reuse: u32,
    /// Instances that wait for another request, where they may serve more than one. None of them refers to
    /// this struct.
    pub idle: Option<Arc<Idle<Instance>>>,
    pub idle_of_host: Arc<IdleOfHost<Instance>>,
    /// Of all instances of the host.
    pub places: Arc<Semaphore>,
    /// How long the first instance took to make, in nanoseconds; 0 before.
    pub instance_ns: AtomicU64,
    /// What code and models hold of the host's memory. Given back once they are gone.
    pub held: Arc<Reservation>,
}

impl Template {
    /// An instance for a request: where the function allows reuse one that waits for it, else a fresh one.
    pub async fn instance(&self, invocation: &Invocation) -> wasmtime::Result<Instance> {
        match self.idle.as_ref().and_then(|idle| idle.take()) {
            Some(mut instance) => {
                instance.begin(invocation);
                Ok(instance)
            }
            None => self.fresh(invocation).await,
        }
    }

    /// A fresh one; those that are idle make room for it.
    async fn fresh(&self, invocation: &Invocation) -> wasmtime::Result<Instance> {
        let meter = &invocation.meter;
        loop {
            let place = self.place(meter).ok_or(NoPlace)?;
            let state = State::new(&self.world, invocation)?;
            let begun = Instant::now();
            match Instance::new(&self.pre, state, self.world.limits.memory_bytes, place).await {
                // Of a component of many modules the pool holds fewer.
                Err(e)
                    if e.is::<wasmtime::PoolConcurrencyLimitError>()
                        && meter.spare(|| self.idle_of_host.end_oldest_here()) => {}
                made => {
                    if made.is_ok() && self.instance_ns.load(Relaxed) == 0 {
                        self.instance_ns.store(begun.elapsed().as_nanos() as u64, Relaxed);
                    }
                    return made;
                }
            }
        }
    }
    /// A place for another instance. Making one is the host's work.
    fn place(&self, meter: &Meter) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Ok(place) = self.places.clone().try_acquire_owned() {
                return Some(place);
            }
            if !meter.spare(|| self.idle_of_host.end_oldest()) {
                return None;
            }
        }
    }
}
