//! One invocation: an instance, fresh unless its function allows reuse, polled by whoever waits for its response.
//!
//! Nothing is spawned: [`Run`] is polled by the task of its request, as part of waiting for the head, for the
//! next piece of the body, or for the end. Dropping it ends the guest at once.
//!
//! An instance is used again only after its guest has returned well and nothing of the invocation is left in it.

use crate::epoch::Ticker;
use crate::idle::Idle;
use crate::load::Loaded;
use crate::logs::{GuestLog, GuestStream, LogSink, Stream};
use crate::meter::{Meter, Stop};
use crate::nn::{NnCtx, NnView};
use crate::outbound::{Outbound, OutboundPolicy};
use crate::pool::InferencePool;
use crate::share::Share;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::coop::has_budget_remaining;
use vesta_core::Outcome;
use vesta_core::memory::Kind;
use wasmtime::component::ResourceTable;
use wasmtime::{Store, StoreContextMut, Trap, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::Proxy;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// Most resources (streams, bodies, tensors …) that a guest may hold at once.
const RESOURCES_MAX: usize = 1_024;
/// Most resources that a guest may keep from one request to the next (a loaded model, say). One that keeps more loses
/// some at each request: its instance ends before it fails at [`RESOURCES_MAX`].
const RESOURCES_KEPT_MAX: usize = RESOURCES_MAX / 2;
/// Most bytes that one host call may carry across: the largest tensor.
const HOSTCALL_BYTES_MAX: usize = 256 << 20;
/// Counted for an instance beside its memory and tensors, in bytes: a short body is held for as long (see `ingress`), and
/// another is between the guest and its client.
const BUFFER_BYTES: u64 = 128 << 10;
/// Most elements of all tables of an instance.
const TABLE_ELEMENTS_MAX: usize = 100_000;

/// CPU time after which a guest that computes lets others run on its thread, in nanoseconds, where every worker is running a
/// guest: looked at with each tick of the epoch, so that it yields within two of them.
const SLICE_NS: u64 = 500_000;
/// The same while a worker is free: at the tenth tick.
const LONG_SLICE_NS: u64 = 9_500_000;

/// What the host knows of one instance.
pub(crate) struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    outbound: Outbound,
    nn: NnCtx,
    limiter: Limiter,
    log: Arc<GuestLog>,
    meter: Arc<Meter>,
    deadline: Instant,
    cpu_ns_max: u64,
    /// None at deploy, where limits are looked at otherwise.
    ticker: Option<Arc<Ticker>>,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}
impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.outbound }
    }
}
impl State {
    /// The state of a guest that is initialised at deploy: no variables, no models, no other hosts.
    pub(crate) fn without_world(log: &Arc<GuestLog>, memory_bytes_max: u64) -> std::io::Result<State> {
        let models = Arc::default();
        let pool = Arc::new(InferencePool::start(1, 0)?);
        let buffers = Share::without_budget();
        let nn = NnCtx { models, pool, tensor_bytes_max: 0, tensor_bytes: 0, buffers };
        let limiter = Limiter::new(memory_bytes_max, Share::without_budget(), Arc::default());
        Ok(State::of(log, &[], Arc::default(), nn, limiter, Instant::now()))
    }

    pub(crate) fn limiter(&mut self) -> &mut dyn wasmtime::ResourceLimiter {
        &mut self.limiter
    }
    pub(crate) fn memory_was_refused(&self) -> bool {
        self.limiter.meter.memory_was_refused()
    }
    pub(crate) fn allow_memory(&mut self, bytes_max: u64) {
        self.limiter.memory_bytes_max = bytes_max;
    }
    /// Whether the guest holds a handle of anything of the host's.
    pub(crate) fn holds_resources(&self) -> bool {
        !self.table.is_empty()
    }
    pub(crate) fn nn(&mut self) -> NnView<'_> {
        NnView { ctx: &mut self.nn, table: &mut self.table, meter: &self.meter, deadline: self.deadline }
    }

    fn new(loaded: &Loaded, invocation: &Invocation) -> wasmtime::Result<State> {
        let Invocation { meter, logs, deadline } = invocation;
        let log = GuestLog::new(logs.clone());
        let memory_bytes_max = loaded.limits.memory_bytes;
        let mut buffers = Share::of(&loaded.memory, Kind::Buffers);
        buffers.grow(BUFFER_BYTES, meter)?;
        let nn = NnCtx {
            models: loaded.models.clone(),
            pool: loaded.pool.clone(),
            tensor_bytes_max: memory_bytes_max,
            tensor_bytes: 0,
            buffers,
        };
        let memory = Share::of(&loaded.memory, Kind::Instances);
        let limiter = Limiter::new(memory_bytes_max, memory, meter.clone());
        let outbound = loaded.outbound.clone();
        Ok(State {
            cpu_ns_max: loaded.limits.cpu_ms.saturating_mul(1_000_000),
            ticker: Some(loaded.ticker.clone()),
            ..State::of(&log, &loaded.variables, outbound, nn, limiter, *deadline)
        })
    }

    fn of(
        log: &Arc<GuestLog>,
        variables: &[(String, String)],
        outbound: Arc<OutboundPolicy>,
        nn: NnCtx,
        limiter: Limiter,
        deadline: Instant,
    ) -> State {
        let mut wasi = WasiCtx::builder();
        wasi.stdout(GuestStream { log: log.clone(), stream: Stream::Stdout });
        wasi.stderr(GuestStream { log: log.clone(), stream: Stream::Stderr });
        wasi.envs(variables);
        // Files, sockets and name look-up stay as they are by default: there, and empty.
        wasi.allow_tcp(false).allow_udp(false);
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        State {
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            table,
            outbound: Outbound::new(outbound),
            nn,
            log: log.clone(),
            meter: limiter.meter.clone(),
            limiter,
            deadline,
            cpu_ns_max: 0,
            ticker: None,
        }
    }

    /// Another invocation begins: what is measured, logged and timed from now on is its own.
    fn begin(&mut self, invocation: &Invocation) {
        let Invocation { meter, logs, deadline } = invocation;
        self.log.begin(logs.clone());
        self.limiter.begin(meter.clone());
        self.meter = meter.clone();
        self.deadline = *deadline;
    }
}

/// Holds an instance to its memory and tables.
struct Limiter {
    meter: Arc<Meter>,
    /// Linear memory of the instance: it stays when another invocation begins.
    memory_bytes: u64,
    memory_bytes_max: u64,
    /// The same, of the host's budget.
    share: Share,
}

impl Limiter {
    fn new(memory_bytes_max: u64, share: Share, meter: Arc<Meter>) -> Limiter {
        Limiter { meter, memory_bytes: 0, memory_bytes_max, share }
    }
    fn begin(&mut self, meter: Arc<Meter>) {
        meter.memory_is(self.memory_bytes);
        self.meter = meter;
    }
}

impl wasmtime::ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let grown = self.memory_bytes + (desired - current) as u64;
        let fits = grown <= self.memory_bytes_max;
        if fits {
            // Where the host is short, the guest traps: it could do nothing about it.
            self.share.grow((desired - current) as u64, &self.meter)?;
            self.memory_bytes = grown;
            self.meter.memory_is(grown);
        } else {
            self.meter.refuse_memory();
        }
        Ok(fits)
    }
    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let fits = desired <= TABLE_ELEMENTS_MAX;
        if !fits {
            self.meter.refuse_memory();
        }
        Ok(fits)
    }
}

/// What an invocation is given beside its request.
pub struct Invocation {
    /// Where its bill adds up.
    pub meter: Arc<Meter>,
    pub logs: Arc<dyn LogSink>,
    /// When it is ended, whatever it does.
    pub deadline: Instant,
}

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub outcome: Outcome,
    /// What to tell the client, without inner detail; empty for [`Outcome::Ok`].
    pub detail: String,
}

impl Ended {
    /// The guest returned.
    pub fn well() -> Ended {
        Ended { outcome: Outcome::Ok, detail: String::new() }
    }
    /// It ran past its wall-clock limit.
    pub fn wall_limit() -> Ended {
        let detail = "the function ran past its wall-clock limit (limits.wall)".into();
        Ended { outcome: Outcome::WallLimit, detail }
    }
}

type Head = Result<hyper::Response<HyperOutgoingBody>, ErrorCode>;

/// An instance between two requests, or in one.
pub(crate) struct Instance {
    store: Store<State>,
    proxy: Proxy,
    served: u32,
}

impl Instance {
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
    fn can_serve_again(&mut self, loaded: &Loaded, request_is_held: bool) -> bool {
        let state = self.store.data_mut();
        self.served < loaded.reuse
            && !request_is_held
            && !state.meter.memory_was_refused()
            && state.table.iter_mut().count() <= RESOURCES_KEPT_MAX
    }
}

/// Looks at the limits of the invocation that runs.
fn at_epoch(store: StoreContextMut<'_, State>) -> wasmtime::Result<UpdateDeadline> {
    let State { meter, deadline, cpu_ns_max, ticker, .. } = store.data();
    let (this_poll_ns, in_all_ns) = meter.guest_cpu_within_poll_ns();
    if in_all_ns >= *cpu_ns_max {
        meter.stop(Stop::CpuLimit);
        return Ok(UpdateDeadline::Interrupt);
    }
    if Instant::now() >= *deadline {
        meter.stop(Stop::WallLimit);
        return Ok(UpdateDeadline::Interrupt);
    }
    // While another worker is free, it does what comes up. Each yield costs the platform some ten microseconds.
    let workers = Handle::try_current().map_or(1, |tokio| tokio.metrics().num_workers());
    let slice_ns =
        if ticker.as_ref().is_some_and(|t| t.polled() < workers) { LONG_SLICE_NS } else { SLICE_NS };
    if this_poll_ns < slice_ns {
        return Ok(UpdateDeadline::Continue(1));
    }
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(let_others_run())))
}

/// Sends the task behind all others of its worker, those included whose input has come meanwhile.
async fn let_others_run() {
    // Tokio's own yield has the worker look for input, and wakes no second worker. But it wakes this task last, and what is
    // woken last runs first.
    tokio::task::yield_now().await;
    // A task that wakes itself goes to the end of the queue.
    let mut is_last = false;
    poll_fn(|cx| {
        if is_last {
            return Poll::Ready(());
        }
        is_last = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// An instance that has served its request and can serve another.
type Again = Option<Instance>;

/// A guest that runs, or has run.
pub struct Run {
    guest: Option<Pin<Box<dyn Future<Output = wasmtime::Result<Again>> + Send>>>,
    head: oneshot::Receiver<Head>,
    body: Option<HyperOutgoingBody>,
    meter: Arc<Meter>,
    timer: Pin<Box<tokio::time::Sleep>>,
    ended: Option<Ended>,
    ticker: Arc<Ticker>,
    again: Again,
    /// Where an instance waits for another request, if the function allows reuse.
    idle: Option<Arc<Idle<Instance>>>,
}

/// Creates the future that runs the guest; nothing runs before it is polled.
pub(crate) fn start<B>(
    loaded: Arc<Loaded>,
    request: http::Request<B>,
    tls: bool,
    invocation: Invocation,
) -> Run
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<wasmtime_wasi_http::Error>,
{
    let (send_head, head) = oneshot::channel::<Head>();
    let meter = invocation.meter.clone();
    let timer = Box::pin(tokio::time::sleep_until(invocation.deadline.into()));
    let (idle, ticker) = (loaded.idle.clone(), loaded.ticker.clone());
    let guest = run_guest(loaded, request, tls, invocation, send_head);
    Run {
        guest: Some(Box::pin(guest)),
        head,
        body: None,
        meter,
        timer,
        ended: None,
        ticker,
        again: None,
        idle,
    }
}

async fn run_guest<B>(
    loaded: Arc<Loaded>,
    request: http::Request<B>,
    tls: bool,
    invocation: Invocation,
    send_head: oneshot::Sender<Head>,
) -> wasmtime::Result<Again>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<wasmtime_wasi_http::Error>,
{
    let mut instance = match loaded.idle.as_ref().and_then(|idle| idle.take()) {
        Some(mut instance) => {
            instance.store.data_mut().begin(&invocation);
            instance.store.set_epoch_deadline(1);
            instance
        }
        None => fresh(&loaded, &invocation).await?,
    };
    let held = Arc::new(());
    let request = request.map(|body| Marked { body, _held: held.clone() });
    let store = &mut instance.store;
    let scheme = if tls { Scheme::Https } else { Scheme::Http };
    let request = store.data_mut().http().new_incoming_request(scheme, request)?;
    let head = store.data_mut().http().new_response_outparam(send_head)?;
    instance.proxy.wasi_http_incoming_handler().call_handle(&mut *store, request, head).await?;
    instance.served += 1;
    if !instance.can_serve_again(&loaded, Arc::strong_count(&held) > 1) {
        return Ok(None);
    }
    instance.store.data().log.end();
    Ok(Some(instance))
}

/// A fresh instance; those that are idle make room for it.
async fn fresh(loaded: &Loaded, invocation: &Invocation) -> wasmtime::Result<Instance> {
    loop {
        match Instance::new(loaded, invocation).await {
            Err(e) if e.is::<wasmtime::PoolConcurrencyLimitError>() && loaded.idle_of_host.end_oldest() => {}
            result => return result,
        }
    }
}

/// A request's body by which one can see whether the guest still holds it.
struct Marked<B> {
    body: B,
    _held: Arc<()>,
}

impl<B: Body + Unpin> Body for Marked<B> {
    type Data = B::Data;
    type Error = B::Error;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Run {
    /// Runs the guest until it sends the head of its response. An error says how it ended without one.
    pub async fn head(&mut self) -> Result<http::response::Parts, Ended> {
        let head = poll_fn(|cx| {
            if let Poll::Ready(head) = Pin::new(&mut self.head).poll(cx) {
                return Poll::Ready(head);
            }
            self.poll_guest(cx);
            match Pin::new(&mut self.head).poll(cx) {
                Poll::Pending if self.holds_back() => Pin::new(&mut self.head).poll(cx),
                head => head,
            }
        })
        .await;
        match head {
            Ok(Ok(response)) => {
                let (parts, body) = response.into_parts();
                self.body = Some(body);
                Ok(parts)
            }
            Ok(Err(code)) => {
                let ended = self.ended().await;
                if ended.outcome != Outcome::Ok {
                    return Err(ended);
                }
                let detail = format!("the function answered with the error {}", name_of(&code));
                Err(Ended { outcome: Outcome::GuestError, detail })
            }
            Err(_) => {
                let ended = self.ended().await;
                if ended.outcome != Outcome::Ok {
                    return Err(ended);
                }
                let detail = "the function returned without sending a response".into();
                Err(Ended { outcome: Outcome::GuestError, detail })
            }
        }
    }

    /// The next piece of the response's body, running the guest meanwhile. `None` once the body has ended; the
    /// guest may still run then. A body that breaks off because its guest was ended also ends here: ask
    /// [`Run::ended`] how.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
        if let Poll::Ready(frame) = self.poll_body(cx) {
            return Poll::Ready(frame);
        }
        self.poll_guest(cx);
        match self.poll_body(cx) {
            Poll::Pending if self.holds_back() => self.poll_body(cx),
            frame => frame,
        }
    }

    /// Whether a guest that has returned kept hold of a response that was not complete. Nothing more will come of it:
    /// its instance is ended, which ends the response.
    fn holds_back(&mut self) -> bool {
        // A channel also says "pending" to a task that has to let others run.
        has_budget_remaining() && self.again.take().is_some()
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(None) => {
                self.body = None;
                Poll::Ready(None)
            }
            Poll::Ready(Some(frame)) => Poll::Ready(Some(frame.map_err(|_| ()))),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Runs the guest to its end and waits for what runs beside it; the meter is final then.
    pub async fn ended(&mut self) -> Ended {
        let ended = poll_fn(|cx| {
            self.poll_guest(cx);
            match &self.ended {
                Some(ended) => Poll::Ready(ended.clone()),
                None => Poll::Pending,
            }
        })
        .await;
        self.meter.settled().await;
        ended
    }

    /// When the guest is ended, whatever it does.
    pub fn deadline(&self) -> Instant {
        self.timer.deadline().into_std()
    }

    /// Whether the guest has returned, or was ended.
    pub fn has_ended(&self) -> bool {
        self.guest.is_none()
    }

    /// Ends the guest where it stands.
    pub fn stop(&mut self) {
        self.guest = None;
        self.again = None;
    }

    fn poll_guest(&mut self, cx: &mut Context<'_>) {
        let Some(guest) = &mut self.guest else { return };
        let running = self.ticker.enter();
        let polled = self.meter.poll(guest.as_mut(), cx);
        drop(running);
        let (ended, again) = match polled {
            Poll::Ready(Ok(again)) => (Ended::well(), again),
            Poll::Ready(Err(error)) => (classify(&error, &self.meter), None),
            Poll::Pending if self.timer.as_mut().poll(cx).is_ready() => (Ended::wall_limit(), None),
            Poll::Pending => return,
        };
        self.stop();
        self.ended = Some(ended);
        self.again = again;
    }

    /// Whether all of the response has come.
    fn is_complete(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            match self.poll_body(&mut cx) {
                Poll::Ready(None) => return true,
                Poll::Ready(Some(_)) => {}
                Poll::Pending => return false,
            }
        }
    }
}

impl Drop for Run {
    /// Puts the instance back, for the next request.
    fn drop(&mut self) {
        if let Some(again) = self.again.take()
            && let Some(idle) = self.idle.take()
            && self.is_complete()
        {
            idle.put(again);
        }
    }
}

/// How a guest ended that did not return.
fn classify(error: &wasmtime::Error, meter: &Meter) -> Ended {
    let ended = |outcome, detail: String| Ended { outcome, detail };
    match meter.stopped() {
        Some(Stop::CpuLimit) => {
            let detail = "the function used up its CPU time (limits.cpu)".into();
            return ended(Outcome::CpuLimit, detail);
        }
        Some(Stop::WallLimit) => return Ended::wall_limit(),
        None => {}
    }
    if meter.host_memory_lacks() {
        let detail = "this host is short of memory at the moment".into();
        return ended(Outcome::HostMemory, detail);
    }
    if meter.memory_was_refused() {
        let detail = "the function needed more memory than it may have (limits.memory)".into();
        return ended(Outcome::OutOfMemory, detail);
    }
    if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        tracing::warn!(error = %error, "no slot for another instance");
        return ended(Outcome::PlatformError, "this host runs as many instances as it can".into());
    }
    match error.downcast_ref::<Trap>() {
        // Rust puts a guest's stack first in its memory: running off it is an access out of bounds.
        Some(Trap::MemoryOutOfBounds) => {
            let detail = "the function trapped: out-of-bounds memory access or stack overflow".into();
            ended(Outcome::Trap, detail)
        }
        Some(Trap::UnreachableCodeReached) => {
            ended(Outcome::Trap, "the function trapped: it panicked or aborted (see its logs)".into())
        }
        Some(trap) => ended(Outcome::Trap, format!("the function trapped: {trap}")),
        None => {
            tracing::debug!(error = ?error, "guest ended with an error of a host call");
            ended(Outcome::Trap, "the function trapped in a host call".into())
        }
    }
}

/// The name of an error of `wasi:http`, without the guest's own text.
fn name_of(code: &ErrorCode) -> String {
    let debug = format!("{code:?}");
    debug.split(['(', ' ', '{']).next().unwrap_or("error").trim_start_matches("ErrorCode::").to_string()
}
