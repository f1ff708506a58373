//! What the host knows of one instance, and what holds it to its memory and tables.

use super::epoch::Ticker;
use crate::imports::logs::{GuestLog, GuestStream, LogSink, Stream};
use crate::imports::lookups::Lookups;
use crate::imports::nn::{NnCtx, NnView};
use crate::imports::outbound::{Outbound, OutboundPolicy};
use crate::meter::Meter;
use crate::meter::share::{InstanceMemory, Share};
use crate::models::Models;
use std::sync::Arc;
use std::time::Instant;
use vesta_core::TenantName;
use vesta_core::limits::Limits;
use vesta_core::memory::Kind;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// Most resources (streams, bodies, tensors …) that a guest may hold at once.
pub(crate) const RESOURCES_MAX: usize = 1_024;
/// Counted for an instance beside its memory and tensors, in bytes: a short body is held for as long (see
/// `ingress`), and another is between the guest and its client.
const BUFFER_BYTES: u64 = 128 << 10;
/// Most random bytes that a guest gets at once; it traps where it asks for more. They are held while the
/// guest finds room for them: [`BUFFER_BYTES`] counts them.
const RANDOM_BYTES_MAX: u64 = 64 << 10;
/// Most elements of all tables of an instance.
const TABLE_ELEMENTS_MAX: usize = 100_000;

/// What an invocation is given beside its request.
pub struct Invocation {
    /// Whose function it is.
    pub tenant: TenantName,
    /// Where its bill adds up.
    pub meter: Arc<Meter>,
    pub logs: Arc<dyn LogSink>,
    /// When it is ended, whatever it does.
    pub deadline: Instant,
}

/// What all instances of a function have in common.
pub(crate) struct World {
    pub limits: Limits,
    pub variables: Vec<(String, String)>,
    pub models: Arc<Models>,
    pub memory: Arc<InstanceMemory>,
    pub outbound: Arc<OutboundPolicy>,
    pub lookups: Arc<Lookups>,
    pub ticker: Arc<Ticker>,
}

/// What the host knows of one instance.
pub(crate) struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    outbound: Outbound,
    nn: NnCtx,
    limiter: Limiter,
    log: Arc<GuestLog>,
    /// Whose function it is. None at deploy, where no model runs.
    tenant: Option<TenantName>,
    pub meter: Arc<Meter>,
    pub deadline: Instant,
    pub cpu_ns_max: u64,
    /// None at deploy, where limits are looked at otherwise.
    pub ticker: Option<Arc<Ticker>>,
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
        let buffers = Share::without_budget();
        let nn = NnCtx { models: Arc::default(), tensor_bytes_max: 0, tensor_bytes: 0, buffers };
        let limiter = Limiter::new(memory_bytes_max, Share::without_budget(), Arc::default());
        let outbound = Outbound::new(Arc::default(), None, Arc::default());
        Ok(State::of(log, &[], outbound, nn, limiter, Instant::now()))
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
    /// How many resources the guest holds.
    pub fn resources(&mut self) -> usize {
        self.table.iter_mut().count()
    }
    /// Whether the guest holds a handle of anything of the host's.
    pub(crate) fn holds_resources(&self) -> bool {
        !self.table.is_empty()
    }
    pub(crate) fn nn(&mut self) -> NnView<'_> {
        NnView {
            ctx: &mut self.nn,
            table: &mut self.table,
            tenant: self.tenant.as_ref(),
            log: &self.log,
            meter: &self.meter,
            deadline: self.deadline,
        }
    }

    pub fn new(world: &World, invocation: &Invocation) -> wasmtime::Result<State> {
        let Invocation { tenant, meter, logs, deadline } = invocation;
        let log = GuestLog::new(logs.clone());
        let memory_bytes_max = world.limits.memory_bytes;
        let mut buffers = Share::of(&world.memory, Kind::Buffers, tenant);
        buffers.grow(BUFFER_BYTES, meter)?;
        let nn = NnCtx {
            models: world.models.clone(),
            tensor_bytes_max: memory_bytes_max,
            tensor_bytes: 0,
            buffers,
        };
        let memory = Share::of(&world.memory, Kind::Instances, tenant);
        let limiter = Limiter::new(memory_bytes_max, memory, meter.clone());
        // Most functions have no other host to ask.
        let lookups = (!world.outbound.hosts.is_empty()).then(|| world.lookups.of(tenant));
        let outbound = Outbound::new(world.outbound.clone(), lookups, meter.clone());
        Ok(State {
            tenant: Some(tenant.clone()),
            cpu_ns_max: world.limits.cpu_ms.saturating_mul(1_000_000),
            ticker: Some(world.ticker.clone()),
            ..State::of(&log, &world.variables, outbound, nn, limiter, *deadline)
        })
    }

    fn of(
        log: &Arc<GuestLog>,
        variables: &[(String, String)],
        outbound: Outbound,
        nn: NnCtx,
        limiter: Limiter,
        deadline: Instant,
    ) -> State {
        let mut wasi = WasiCtx::builder();
        wasi.stdout(GuestStream { log: log.clone(), stream: Stream::Stdout });
        wasi.stderr(GuestStream { log: log.clone(), stream: Stream::Stderr });
        wasi.envs(variables);
        wasi.max_random_size(RANDOM_BYTES_MAX);
        // Files, sockets and name look-up stay as they are by default: there, and empty.
        wasi.allow_tcp(false).allow_udp(false);
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        State {
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            table,
            outbound,
            nn,
            log: log.clone(),
            tenant: None,
            meter: limiter.meter.clone(),
            limiter,
            deadline,
            cpu_ns_max: 0,
            ticker: None,
        }
    }

    /// Gives its memory on the host's books to others; says how many bytes it was. The instance is about to
    /// be ended.
    pub fn let_go(&mut self) -> u64 {
        self.limiter.share.let_go() + self.nn.buffers.let_go()
    }

    /// The invocation has ended: what it has logged goes out.
    pub fn end(&mut self) {
        self.log.end();
        self.runs(false);
    }

    /// Another invocation begins: what is measured, logged and timed from now on is its own.
    pub fn begin(&mut self, invocation: &Invocation) {
        let Invocation { tenant, meter, logs, deadline } = invocation;
        self.log.begin(logs.clone());
        self.runs(true);
        self.limiter.begin(meter.clone());
        meter.memory_grows(self.nn.tensor_bytes);
        self.outbound.begin(meter.clone());
        self.tenant = Some(tenant.clone());
        self.meter = meter.clone();
        self.deadline = *deadline;
    }

    /// The instance is idle, or runs.
    fn runs(&mut self, runs: bool) {
        self.limiter.share.runs(runs);
        self.nn.buffers.runs(runs);
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
        meter.memory_grows(self.memory_bytes);
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
            self.meter.memory_grows((desired - current) as u64);
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
