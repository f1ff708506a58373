//! An instance of a function: fresh for every request, unless its function allows reuse.
//!
//! It is used again only after its guest has returned well and nothing of the invocation is left in it.

use super::ender::Ends;
use super::preempt::at_epoch;
use super::state::{Invocation, RESOURCES_MAX, State};
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::Store;
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};

/// Most resources that a guest may keep from one request to the next (a loaded model, say). One that keeps
/// more loses some at each request: its instance ends before it fails at [`RESOURCES_MAX`].
const RESOURCES_KEPT_MAX: usize = RESOURCES_MAX / 2;
/// Most bytes that one host call may carry across: the largest tensor.
const HOSTCALL_BYTES_MAX: usize = 256 << 20;

/// An instance between two requests, or in one.
pub(crate) struct Instance {
    pub store: Store<State>,
    pub proxy: Proxy,
    /// Requests that it has answered.
    pub served: u32,
    // After the store: its place is free once it is gone.
    place: Option<OwnedSemaphorePermit>,
}

/// As many instances as the host may run are there, and none of them is idle.
#[derive(Debug, thiserror::Error)]
#[error("no place for another instance")]
pub(crate) struct NoPlace;

impl Instance {
    /// A fresh one with that state, whose linear memory may have so many bytes, in a place among the host's.
    pub async fn new(
        pre: &ProxyPre<State>,
        state: State,
        memory_bytes_max: u64,
        place: OwnedSemaphorePermit,
    ) -> wasmtime::Result<Instance> {
        let mut store = Store::new(pre.engine(), state);
        store.limiter(State::limiter);
        let memory_bytes = usize::try_from(memory_bytes_max).unwrap_or(HOSTCALL_BYTES_MAX);
        store.set_hostcall_fuel(HOSTCALL_BYTES_MAX.min(memory_bytes));
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(at_epoch);
        let proxy = pre.instantiate_async(&mut store).await?;
        Ok(Instance { store, proxy, served: 0, place: Some(place) })
    }

    /// Another invocation begins.
    pub fn begin(&mut self, invocation: &Invocation) {
        self.store.data_mut().begin(invocation);
        self.store.set_epoch_deadline(1);
    }

    /// Whether the guest, which has returned, can serve another request, of `most`. It cannot while it holds
    /// this one's body, nor once it has met the end of its memory.
    pub fn can_serve_again(&mut self, most: u32, request_is_held: bool) -> bool {
        let state = self.store.data_mut();
        self.served < most
            && !request_is_held
            && !state.memory_was_refused()
            && state.resources() <= RESOURCES_KEPT_MAX
    }
}

impl Ends for Instance {
    fn let_go(&mut self) -> u64 {
        self.place = None;
        self.store.data_mut().let_go()
    }
}
