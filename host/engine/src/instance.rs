//! An instance of a function: fresh for every request, unless its function allows reuse.
//!
//! It is used again only after its guest has returned well and nothing of the invocation is left in it.

use crate::load::Loaded;
use crate::logs::LogSink;
use crate::meter::Meter;
use crate::preempt::at_epoch;
use crate::state::{RESOURCES_MAX, State};
use std::sync::Arc;
use std::time::Instant;
use wasmtime::Store;
use wasmtime_wasi_http::p2::bindings::Proxy;

/// Most resources that a guest may keep from one request to the next (a loaded model, say). One that keeps more loses
/// some at each request: its instance ends before it fails at [`RESOURCES_MAX`].
const RESOURCES_KEPT_MAX: usize = RESOURCES_MAX / 2;
/// Most bytes that one host call may carry across: the largest tensor.
const HOSTCALL_BYTES_MAX: usize = 256 << 20;

/// What an invocation is given beside its request.
pub struct Invocation {
    /// Where its bill adds up.
    pub meter: Arc<Meter>,
    pub logs: Arc<dyn LogSink>,
    /// When it is ended, whatever it does.
    pub deadline: Instant,
}

/// An instance between two requests, or in one.
pub(crate) struct Instance {
    pub store: Store<State>,
    pub proxy: Proxy,
    /// Requests that it has answered.
    pub served: u32,
}

impl Instance {
    /// One for a request: where its function allows reuse one that waits for it, else a fresh one.
    pub async fn of(loaded: &Loaded, invocation: &Invocation) -> wasmtime::Result<Instance> {
        match loaded.idle.as_ref().and_then(|idle| idle.take()) {
            Some(mut instance) => {
                instance.store.data_mut().begin(invocation);
                instance.store.set_epoch_deadline(1);
                Ok(instance)
            }
            None => Instance::fresh(loaded, invocation).await,
        }
    }

    /// A fresh one; those that are idle make room for it.
    async fn fresh(loaded: &Loaded, invocation: &Invocation) -> wasmtime::Result<Instance> {
        loop {
            match Instance::new(loaded, invocation).await {
                Err(e)
                    if e.is::<wasmtime::PoolConcurrencyLimitError>() && loaded.idle_of_host.end_oldest() => {}
                result => return result,
            }
        }
    }

    async fn new(loaded: &Loaded, invocation: &Invocation) -> wasmtime::Result<Instance> {
        let mut store = Store::new(loaded.pre.engine(), State::new(loaded, invocation)?);
        store.limiter(State::limiter);
        let memory_bytes = usize::try_from(loaded.limits.memory_bytes).unwrap_or(HOSTCALL_BYTES_MAX);
        store.set_hostcall_fuel(HOSTCALL_BYTES_MAX.min(memory_bytes));
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(at_epoch);
        let begun = Instant::now();
        let proxy = loaded.pre.instantiate_async(&mut store).await?;
        loaded.instance_made(begun);
        Ok(Instance { store, proxy, served: 0 })
    }

    /// Whether the guest, which has returned, can serve another request. It cannot while it holds this one's body, nor
    /// once it has met the end of its memory.
    pub fn can_serve_again(&mut self, loaded: &Loaded, request_is_held: bool) -> bool {
        let state = self.store.data_mut();
        self.served < loaded.reuse
            && !request_is_held
            && !state.memory_was_refused()
            && state.resources() <= RESOURCES_KEPT_MAX
    }
}
