//! Health and metrics, on the control listener and without a key.

use crate::db::Db;
use crate::ledger::Ledger;
use crate::lifecycle::{Activator, Functions};
use crate::metering::Journal;
use crate::telemetry::metrics::{Metrics, Readings};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use vesta_core::lifecycle::State as Lifecycle;
use vesta_core::memory::{Grant, Kind};
use vesta_core::settlement::Settlement;
use vesta_engine::{Runtime, cpu, processes};

/// The host is not ready where the ledger lags behind the journal for longer, or has failed so often in a
/// row.
const LAG_MAX: Duration = Duration::from_secs(10);
const FAILURES_MAX: u64 = 3;

#[derive(Clone)]
pub struct Ops {
    pub metrics: Arc<Metrics>,
    pub activator: Arc<Activator>,
    pub functions: Arc<Functions>,
    pub runtime: Arc<Runtime>,
    pub journal: Journal,
    pub ledger: Arc<Ledger>,
    pub settlement: Arc<Settlement>,
    pub db: Db,
    /// The first task that ended although the host does not stop.
    pub ended: watch::Receiver<Option<&'static str>>,
    /// `true` once the host drains.
    pub stopping: watch::Receiver<bool>,
}

/// `/healthz`: the process runs. `/readyz`: it takes invocations. `/metrics`: Prometheus.
pub fn router(ops: Ops) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(ops)
}

async fn ready(State(ops): State<Ops>) -> impl IntoResponse {
    match not_ready(&ops) {
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        None => (StatusCode::OK, "ready\n".to_owned()),
    }
}

fn not_ready(ops: &Ops) -> Option<String> {
    if let Some(task) = *ops.ended.borrow() {
        return Some(format!("{task} has ended; the host ends, too"));
    }
    if *ops.stopping.borrow() {
        return Some("draining".to_owned());
    }
    if !ops.journal.is_healthy() {
        return Some("usage records cannot be written".to_owned());
    }
    if ops.settlement.failures_in_a_row() >= FAILURES_MAX {
        return Some("the ledger cannot be written".to_owned());
    }
    if ops.settlement.lag(Instant::now()) > LAG_MAX {
        return Some("the ledger lags behind the journal".to_owned());
    }
    // Its reason is for the log: this needs no key.
    ops.db.write_failure().map(|_| "the database cannot be written".to_owned())
}

async fn metrics(State(ops): State<Ops>) -> impl IntoResponse {
    let cpu = cpu::report();
    let states = ops.activator.states();
    let count = |state| states.iter().filter(|s| **s == state).count() as i64;
    let seconds = |ns: u64| ns as f64 / 1e9;
    let memory = ops.functions.memory();
    let mut memory_bytes: Vec<_> = Kind::ALL.map(|kind| (kind.as_str(), memory.taken_for(kind))).into();
    memory_bytes.push(("uncounted", memory.uncounted()));
    let (evicted, refused) = ops.functions.evicted_and_refused();
    let (losses, findings) = (ops.journal.losses(), ops.ledger.findings());
    let (models_packed, models_on_onnx_runtime) = ops.runtime.models_by_tier();
    let now = Readings {
        process_cpu_s: seconds(cpu.process_ns),
        billed_cpu_s: seconds(cpu.billed_ns),
        platform_cpu_s: seconds(cpu.platform_ns()),
        warm: count(Lifecycle::Warm),
        warming: count(Lifecycle::Warming),
        memory_bytes,
        memory_budget_bytes: memory.budget(),
        evicted,
        memory_refused: refused,
        inference_waiting: ops.runtime.runs_waiting() as i64,
        inference_workers: processes::workers() as i64,
        runs_merged: ops.runtime.runs_merged(),
        models_packed: models_packed as i64,
        models_on_onnx_runtime: models_on_onnx_runtime as i64,
        journal_healthy: ops.journal.is_healthy(),
        ledger_lag_records: ops.settlement.pending(),
        ledger_lag_s: ops.settlement.lag(Instant::now()).as_secs_f64(),
        books: vec![
            ("vesta_ledger_failures", "Failures of the ledger to take records", ops.settlement.failures()),
            (
                "vesta_ledger_refusals",
                "Records that the ledger cannot hold, set aside",
                losses.records_refused,
            ),
            (
                "vesta_ledger_differences",
                "Sums of a day that are not those of its records",
                findings.differences,
            ),
            (
                "vesta_ledger_compared",
                "Records that were compared with the sums of their day",
                findings.records_compared,
            ),
            (
                "vesta_pruning_refusals",
                "Prunings refused since the clock had jumped",
                findings.prunings_refused,
            ),
            (
                "vesta_journal_unreadable",
                "Lines of the journal that cannot be read, set aside",
                losses.lines_unreadable,
            ),
            ("vesta_journal_missing", "Segments of the journal that are missing", losses.segments_missing),
        ],
    };
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], ops.metrics.text(&now))
}
