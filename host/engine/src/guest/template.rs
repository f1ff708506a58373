//! What a guest is made from: a function's code, and what its instances have in common.

use super::idle::{Idle, IdleOfHost};
use super::instance::Instance;
use super::state::{Invocation, State, World};
use crate::meter::share::EndIdle;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;
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
        loop {
            let state = State::new(&self.world, invocation)?;
            let begun = Instant::now();
            match Instance::new(&self.pre, state, self.world.limits.memory_bytes).await {
                Err(e) if e.is::<wasmtime::PoolConcurrencyLimitError>() && self.idle_of_host.end_oldest() => {
                }
                made => {
                    if made.is_ok() && self.instance_ns.load(Relaxed) == 0 {
                        self.instance_ns.store(begun.elapsed().as_nanos() as u64, Relaxed);
                    }
                    return made;
                }
            }
        }
    }
}
