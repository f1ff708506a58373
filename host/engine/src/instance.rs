//! One invocation: a fresh instance, polled by whoever waits for its response.
//!
//! Nothing is spawned: [`Run`] is polled by the task of its request, as part of waiting for the head, for the
//! next piece of the body, or for the end. Dropping it ends the guest at once.

use crate::epoch::{Running, Ticker};
use crate::logs::{GuestLog, GuestStream, LogSink, Stream};
use crate::meter::{Meter, Stop};
use crate::nn::{NnCtx, NnView};
use crate::outbound::{Outbound, OutboundPolicy};
use crate::pool::InferencePool;
use crate::runtime::Loaded;
use bytes::Bytes;
use http_body::{Body, Frame};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::sync::oneshot;
use vesta_core::Outcome;
use wasmtime::component::ResourceTable;
use wasmtime::{Store, Trap, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// Most resources (streams, bodies, tensors …) that a guest may hold at once.
const RESOURCES_MAX: usize = 1_024;
/// Most bytes that one host call may carry across: the largest tensor.
const HOSTCALL_BYTES_MAX: usize = 256 << 20;
/// Most elements of all tables of an instance.
const TABLE_ELEMENTS_MAX: usize = 100_000;

/// CPU time after which a guest that computes lets others run on its thread, in nanoseconds: at the tenth tick of the
/// epoch. Its limits are looked at every tick; a yield at each cost the platform 1.5 to 4 % of a core.
const SLICE_NS: u64 = 9_500_000;

/// What the host knows of one instance.
pub(crate) struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    outbound: Outbound,
    nn: NnCtx,
    limiter: Limiter,
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
        let meter = Arc::new(Meter::default());
        let nn = NnCtx {
            models: Arc::default(),
            pool: Arc::new(InferencePool::start(1, 0)?),
            meter: meter.clone(),
            deadline: Instant::now(),
            tensor_bytes_max: 0,
            tensor_bytes: 0,
        };
        Ok(State::new(wasi(log, &[]), Arc::default(), nn, Limiter { meter, memory_bytes_max }))
    }
    fn new(wasi: WasiCtx, outbound: Arc<OutboundPolicy>, nn: NnCtx, limiter: Limiter) -> State {
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        State { wasi, http: WasiHttpCtx::new(), table, outbound: Outbound::new(outbound), nn, limiter }
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
        NnView { ctx: &mut self.nn, table: &mut self.table }
    }
}

/// Holds an instance to its memory and tables.
struct Limiter {
    meter: Arc<Meter>,
    memory_bytes_max: u64,
}

impl wasmtime::ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let more = (desired - current) as u64;
        let fits = self.meter.memory() + more <= self.memory_bytes_max;
        if fits {
            self.meter.grow_memory(more);
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

/// A guest that runs, or has run.
pub struct Run {
    guest: Option<Pin<Box<dyn Future<Output = wasmtime::Result<()>> + Send>>>,
    head: oneshot::Receiver<Head>,
    headless: bool,
    body: Option<HyperOutgoingBody>,
    meter: Arc<Meter>,
    timer: Pin<Box<tokio::time::Sleep>>,
    ended: Option<Ended>,
    running: Option<Running>,
}

/// Creates the instance's state and the future that runs it; nothing runs before it is polled.
pub(crate) fn start<B>(
    loaded: Arc<Loaded>,
    ticker: &Arc<Ticker>,
    request: http::Request<B>,
    tls: bool,
    invocation: Invocation,
) -> Run
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<wasmtime_wasi_http::Error>,
{
    let Invocation { meter, logs, deadline } = invocation;
    let (send_head, head) = oneshot::channel::<Head>();
    let timer = Box::pin(tokio::time::sleep_until(deadline.into()));
    let guest = run_guest(loaded, request, tls, meter.clone(), logs, deadline, send_head);
    Run {
        guest: Some(Box::pin(guest)),
        head,
        headless: true,
        body: None,
        meter,
        timer,
        ended: None,
        running: Some(ticker.enter()),
    }
}

async fn run_guest<B>(
    loaded: Arc<Loaded>,
    request: http::Request<B>,
    tls: bool,
    meter: Arc<Meter>,
    logs: Arc<dyn LogSink>,
    deadline: Instant,
    send_head: oneshot::Sender<Head>,
) -> wasmtime::Result<()>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<wasmtime_wasi_http::Error>,
{
    let log = GuestLog::new(logs);
    let mut store = Store::new(loaded.pre.engine(), state(&loaded, &meter, &log, deadline));
    store.limiter(State::limiter);
    let memory_bytes = usize::try_from(loaded.limits.memory_bytes).unwrap_or(HOSTCALL_BYTES_MAX);
    store.set_hostcall_fuel(HOSTCALL_BYTES_MAX.min(memory_bytes));
    let cpu_ns_max = loaded.limits.cpu_ms.saturating_mul(1_000_000);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| {
        let (this_poll_ns, in_all_ns) = meter.guest_cpu_within_poll_ns();
        if in_all_ns >= cpu_ns_max {
            meter.stop(Stop::CpuLimit);
            return Ok(UpdateDeadline::Interrupt);
        }
        if Instant::now() >= deadline {
            meter.stop(Stop::WallLimit);
            return Ok(UpdateDeadline::Interrupt);
        }
        // Others on this thread get their turn, but not at every tick: a yield wakes a second worker, too.
        if this_poll_ns >= SLICE_NS { Ok(UpdateDeadline::Yield(1)) } else { Ok(UpdateDeadline::Continue(1)) }
    });
    let scheme = if tls { Scheme::Https } else { Scheme::Http };
    let request = store.data_mut().http().new_incoming_request(scheme, request)?;
    let head = store.data_mut().http().new_response_outparam(send_head)?;
    let proxy = loaded.pre.instantiate_async(&mut store).await?;
    proxy.wasi_http_incoming_handler().call_handle(&mut store, request, head).await
}

fn state(loaded: &Loaded, meter: &Arc<Meter>, log: &Arc<GuestLog>, deadline: Instant) -> State {
    let nn = NnCtx {
        models: loaded.models.clone(),
        pool: loaded.pool.clone(),
        meter: meter.clone(),
        deadline,
        tensor_bytes_max: loaded.limits.memory_bytes,
        tensor_bytes: 0,
    };
    let limiter = Limiter { meter: meter.clone(), memory_bytes_max: loaded.limits.memory_bytes };
    State::new(wasi(log, &loaded.variables), loaded.outbound.clone(), nn, limiter)
}

fn wasi(log: &Arc<GuestLog>, variables: &[(String, String)]) -> WasiCtx {
    let mut wasi = WasiCtx::builder();
    wasi.stdout(GuestStream { log: log.clone(), stream: Stream::Stdout });
    wasi.stderr(GuestStream { log: log.clone(), stream: Stream::Stderr });
    wasi.envs(variables);
    // Files, sockets and name look-up stay as they are by default: there, and empty.
    wasi.allow_tcp(false).allow_udp(false);
    wasi.build()
}

impl Run {
    /// Runs the guest until it sends the head of its response. An error says how it ended without one.
    pub async fn head(&mut self) -> Result<http::response::Parts, Ended> {
        let head = poll_fn(|cx| {
            if let Poll::Ready(head) = Pin::new(&mut self.head).poll(cx) {
                return Poll::Ready(head);
            }
            self.poll_guest(cx);
            Pin::new(&mut self.head).poll(cx)
        })
        .await;
        self.headless = false;
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
        self.poll_body(cx)
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
        self.running = None;
    }

    fn poll_guest(&mut self, cx: &mut Context<'_>) {
        let Some(guest) = &mut self.guest else { return };
        let ended = match self.meter.poll(guest.as_mut(), cx) {
            Poll::Ready(result) => classify(result, &self.meter),
            Poll::Pending if self.timer.as_mut().poll(cx).is_ready() => Ended::wall_limit(),
            Poll::Pending => return,
        };
        self.ended = Some(ended);
        self.stop();
    }
}

fn classify(result: wasmtime::Result<()>, meter: &Meter) -> Ended {
    let ended = |outcome, detail: String| Ended { outcome, detail };
    let error = match result {
        Ok(()) => return Ended::well(),
        Err(error) => error,
    };
    match meter.stopped() {
        Some(Stop::CpuLimit) => {
            let detail = "the function used up its CPU time (limits.cpu)".into();
            return ended(Outcome::CpuLimit, detail);
        }
        Some(Stop::WallLimit) => return Ended::wall_limit(),
        None => {}
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
