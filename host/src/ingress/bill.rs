//! The bill of one invocation: open from its admission on, and closed exactly once, also where the client
//! went away.

use super::Ingress;
use super::request_body::BodyMeter;
use crate::lifecycle::ColdStart;
use crate::metering::Ack;
use crate::registry::Version;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::sync::Arc;
use std::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;
use vesta_core::usage::{Kind, Phases, Quantities};
use vesta_core::{Charge, InvocationId, Outcome, UsageRecord};
use vesta_engine::handler::OpenHandler;
use vesta_engine::{Meter, cpu};

pub const INVOCATION_ID: HeaderName = HeaderName::from_static("vesta-invocation-id");
pub const BILLED_CPU: HeaderName = HeaderName::from_static("vesta-billed-cpu-us");
pub const COST: HeaderName = HeaderName::from_static("vesta-cost");
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// What an invocation owes so far.
pub struct Bill {
    ingress: Arc<Ingress>,
    version: Arc<Version>,
    pub id: InvocationId,
    pub meter: Arc<Meter>,
    pub body: Arc<BodyMeter>,
    started_unix_ns: i64,
    arrived: Instant,
    /// What the host does for it, as long as nobody has closed it.
    handler: Option<OpenHandler>,
    /// What it has done, where that was closed before the bill.
    handled_ns: u64,
    cold: Option<ColdStart>,
    cold_wait_ns: u64,
    /// When the instance began.
    began: Option<Instant>,
    /// When the guest had ended, where the bill is closed later.
    ended: Option<Instant>,
    /// Status that was sent, or 499 (the client closed the request) where none was.
    pub status: u16,
    pub bytes_out: u64,
    closed: bool,
    /// While it lives, the host's drain waits for this bill.
    _open: TaskTrackerToken,
}

impl Bill {
    pub fn open(
        ingress: Arc<Ingress>,
        version: Arc<Version>,
        id: InvocationId,
        arrived: Instant,
        handler: Option<OpenHandler>,
    ) -> Bill {
        Bill {
            started_unix_ns: ingress.clock.unix_ns(),
            version,
            id,
            meter: Arc::default(),
            body: Arc::default(),
            arrived,
            handler,
            handled_ns: 0,
            cold: None,
            cold_wait_ns: 0,
            began: None,
            ended: None,
            status: 499,
            bytes_out: 0,
            closed: false,
            _open: ingress.bills.token(),
            ingress,
        }
    }

    /// The function is warm: after `waited_ns`, by the cold start `cold` if this request triggered one.
    pub fn activated(&mut self, waited_ns: u64, cold: Option<ColdStart>) {
        self.cold_wait_ns = waited_ns;
        self.cold = cold;
    }

    pub fn begin(&mut self) {
        self.began = Some(Instant::now());
    }

    /// Whether an instance was asked for.
    pub fn has_begun(&self) -> bool {
        self.began.is_some()
    }

    /// Closes the bill. The meter must be settled. The record is safe once the ack says so.
    pub fn close(mut self, outcome: Outcome) -> (UsageRecord, Ack) {
        self.close_handler();
        let handler_cpu_ns = self.handled_ns;
        cpu::add_billed(handler_cpu_ns);
        let record = self.record(outcome, handler_cpu_ns);
        self.closed = true;
        (record.clone(), self.ingress.submit(record))
    }

    fn record(&self, outcome: Outcome, handler_cpu_ns: u64) -> UsageRecord {
        let m = &self.meter;
        m.close();
        let end = self.ended.unwrap_or_else(Instant::now);
        let life_ns = self.began.map_or(0, |began| (end - began).as_nanos() as u64);
        let quantities = Quantities {
            guest_cpu_ns: m.guest_cpu_ns(),
            inference_cpu_ns: m.inference_cpu_ns(),
            cold_start_cpu_ns: m.cold_start_cpu_ns(),
            outbound_cpu_ns: m.outbound_cpu_ns(),
            handler_cpu_ns,
            deploy_cpu_ns: 0,
            peak_memory_bytes: m.memory_peak(),
            model_memory_peak_bytes: m.model_memory_peak(),
            memory_ns: m.memory_ns(),
            model_memory_ns: m.inference_run_ns(),
            bytes_in: self.body.bytes(),
            bytes_out: self.bytes_out,
        };
        let total_ns = (end - self.arrived).as_nanos() as u64;
        let phases = Phases {
            queue_ns: total_ns.saturating_sub(life_ns + self.cold_wait_ns) + m.inference_queue_ns(),
            cold_ns: self.cold_wait_ns,
            cold_code_ns: self.cold.map_or(0, |c| c.code_ns),
            cold_model_ns: self.cold.map_or(0, |c| c.models_ns),
            guest_ns: life_ns.saturating_sub(m.inference_queue_ns() + m.inference_wall_ns()),
            infer_ns: m.inference_wall_ns(),
            total_ns,
        };
        let mut record = UsageRecord {
            id: self.id,
            kind: Kind::Invocation,
            tenant: self.version.tenant.clone(),
            function: self.version.function.clone(),
            version: self.version.number,
            started_unix_ns: self.started_unix_ns,
            outcome,
            status: self.status,
            cold: self.cold.is_some(),
            inferences: m.inferences(),
            quantities,
            phases,
            charge: Charge::ZERO,
            currency: self.ingress.prices.currency,
            price_plan: Some(self.ingress.prices.id),
        };
        record.charge = self.ingress.prices.charge(&record);
        record
    }

    /// The host does no more for it.
    fn close_handler(&mut self) {
        self.handled_ns += self.handler.take().map_or(0, OpenHandler::close);
    }

    /// Closes the bill of a guest that was ended: at once, or once what still runs beside it, a model for
    /// instance, has ended. Nobody waits for that.
    pub fn close_later(mut self, outcome: Outcome) {
        self.ended = Some(Instant::now());
        // Where the host's runtime ends meanwhile, nothing is left that could close it.
        self.closed = true;
        if self.meter.is_settled() {
            drop(self.close(outcome));
            return;
        }
        // The connection goes on to the next request.
        self.close_handler();
        let meter = self.meter.clone();
        tokio::spawn(async move {
            meter.settled().await;
            drop(self.close(outcome));
        });
    }

    /// For [`Drop`]: the same bill, owned by whoever closes it.
    fn take(&mut self) -> Bill {
        self.closed = true;
        Bill {
            ingress: self.ingress.clone(),
            version: self.version.clone(),
            meter: self.meter.clone(),
            body: self.body.clone(),
            handler: self.handler.take(),
            closed: false,
            _open: self._open.clone(),
            ..*self
        }
    }
}

impl Drop for Bill {
    /// The request's task was dropped: the client went away. What ran is recorded.
    fn drop(&mut self) {
        if !self.closed {
            self.take().close_later(Outcome::ClientGone);
        }
    }
}

impl Ingress {
    fn submit(&self, record: UsageRecord) -> Ack {
        self.metrics.record(&record);
        self.journal.submit(record)
    }
}

/// Nanoseconds, written as milliseconds with three decimals. Of whole numbers: printing a float costs several
/// times as much.
struct Ms(u64);

impl std::fmt::Display for Ms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let us = self.0 / 1_000;
        write!(f, "{}.{:03}", us / 1_000, us % 1_000)
    }
}

/// The headers, or trailers, that tell a client what its invocation took and cost.
pub fn write_headers(record: &UsageRecord, headers: &mut HeaderMap) {
    let p = &record.phases;
    let (queue, cold) = (Ms(p.queue_ns), Ms(p.cold_ns));
    let (guest, infer, total) = (Ms(p.guest_ns), Ms(p.infer_ns), Ms(p.total_ns));
    let mut parts = String::new();
    if record.cold {
        let (code, model) = (Ms(p.cold_code_ns), Ms(p.cold_model_ns));
        parts = format!(", cold-code;dur={code}, cold-model;dur={model}");
    }
    let timing = format!(
        "queue;dur={queue}, cold;dur={cold}{parts}, guest;dur={guest}, infer;dur={infer}, total;dur={total}"
    );
    let mut set = |name: HeaderName, value: String| {
        // Digits, letters and punctuation only: always a valid header.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    set(SERVER_TIMING, timing);
    set(INVOCATION_ID, record.id.to_string());
    set(BILLED_CPU, (record.quantities.billed_cpu_ns() / 1_000).to_string());
    set(COST, record.charge.to_string());
}
