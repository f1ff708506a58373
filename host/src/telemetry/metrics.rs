//! Prometheus metrics of the host, named after OpenTelemetry's FaaS conventions where there is one.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;
use vesta_core::usage::Kind;
use vesta_core::{FunctionName, Outcome, TenantName, UsageRecord};

/// One function of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FunctionLabels {
    tenant: String,
    function: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    tenant: String,
    function: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    listener: &'static str,
    reason: String,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

type Durations = Family<FunctionLabels, Histogram, fn() -> Histogram>;
type Seconds = Counter<f64, AtomicU64>;

/// What is counted as invocations end. Read by [`Metrics::text`].
pub struct Metrics {
    registry: Registry,
    invocations: Family<OutcomeLabels, Counter>,
    cold_starts: Family<FunctionLabels, Counter>,
    duration: Durations,
    init_duration: Durations,
    billed: Family<FunctionLabels, Seconds>,
    refusals: Family<RefusalLabels, Counter>,
}

/// What is read off the host when it is asked.
#[derive(Debug, Clone, Default)]
pub struct Readings {
    /// CPU seconds of the process, by the kernel; measured for bills; and of the platform beside that.
    pub process_cpu_s: f64,
    pub billed_cpu_s: f64,
    pub platform_cpu_s: f64,
    /// Functions in memory.
    pub warm: i64,
    pub warming: i64,
    /// Bytes of the memory budget in use, by what for; and the budget.
    pub memory_bytes: Vec<(&'static str, u64)>,
    pub memory_budget_bytes: u64,
    /// Functions let go to make room for others.
    pub evicted: u64,
    /// Starts and invocations refused for want of memory.
    pub memory_refused: u64,
    /// Runs of models that wait for a slot, and the processes that run models.
    pub inference_waiting: i64,
    pub inference_workers: i64,
    /// Runs of models that were merged with others, since the start.
    pub runs_merged: u64,
    /// Loaded models whose weights are packed.
    pub models_packed: i64,
    pub models_on_onnx_runtime: i64,
    /// Whether usage records can be written.
    pub journal_healthy: bool,
    /// Records that the ledger lacks, and for how long the oldest of them waits.
    pub ledger_lag_records: u64,
    pub ledger_lag_s: f64,
    /// Counters of the journal and the ledger: name, help and value.
    pub books: Vec<(&'static str, &'static str, u64)>,
}

fn buckets() -> Histogram {
    Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let invocations = Family::default();
        let cold_starts = Family::default();
        let duration = Durations::new_with_constructor(buckets);
        let init_duration = Durations::new_with_constructor(buckets);
        let billed = Family::default();
        let refusals = Family::default();
        registry.register("faas_invocations", "Invocations, by how they ended", invocations.clone());
        registry.register("faas_coldstarts", "Cold starts", cold_starts.clone());
        let help = "From a request's arrival to the end of its guest";
        registry.register_with_unit("faas_invoke_duration", help, Unit::Seconds, duration.clone());
        let help = "Duration of cold starts";
        registry.register_with_unit("faas_init_duration", help, Unit::Seconds, init_duration.clone());
        let help = "CPU time billed: guest, inference, cold start, outbound, handler, deployments";
        registry.register_with_unit("faas_cpu_usage", help, Unit::Seconds, billed.clone());
        let help =
            "Answers of 400 and more, by the problem's code; `function` where the function itself gave them";
        registry.register("vesta_refusals", help, refusals.clone());
        Metrics { registry, invocations, cold_starts, duration, init_duration, billed, refusals }
    }
}

impl Metrics {
    /// Counts an invocation that ended. Of a deployment only its CPU time counts.
    pub fn record(&self, r: &UsageRecord) {
        let labels = FunctionLabels { tenant: r.tenant.to_string(), function: r.function.to_string() };
        self.billed.get_or_create(&labels).inc_by(r.quantities.billed_cpu_ns() as f64 / 1e9);
        if r.kind == Kind::Deployment {
            return;
        }
        let FunctionLabels { tenant, function } = labels.clone();
        self.invocations
            .get_or_create(&OutcomeLabels { tenant, function, outcome: r.outcome.as_str() })
            .inc();
        self.duration.get_or_create(&labels).observe(r.phases.total_ns as f64 / 1e9);
        if r.cold {
            self.cold_starts.get_or_create(&labels).inc();
            self.init_duration.get_or_create(&labels).observe(r.phases.cold_ns as f64 / 1e9);
        }
    }

    /// Counts an answer of 400 or more. `class` is `4xx` or `5xx`; reasons are the codes of problems.
    pub fn refused(&self, listener: &'static str, reason: &str, class: &'static str) {
        self.refusals.get_or_create(&RefusalLabels { listener, reason: reason.to_owned(), class }).inc();
    }

    /// Drops what is kept of a function that was deleted, so that names which come and go do not add up.
    pub fn forget(&self, tenant: &TenantName, function: &FunctionName) {
        let labels = FunctionLabels { tenant: tenant.to_string(), function: function.to_string() };
        for outcome in Outcome::ALL {
            let FunctionLabels { tenant, function } = labels.clone();
            self.invocations.remove(&OutcomeLabels { tenant, function, outcome: outcome.as_str() });
        }
        self.cold_starts.remove(&labels);
        self.duration.remove(&labels);
        self.init_duration.remove(&labels);
        self.billed.remove(&labels);
    }

    /// Everything in the text format of Prometheus.
    pub fn text(&self, now: &Readings) -> String {
        let mut text = String::new();
        let mut readings = Registry::default();
        let mut counter = |name: &str, help: &str, value: f64| {
            readings.register_with_unit(name, help, Unit::Seconds, ConstCounter::new(value));
        };
        counter("vesta_process_cpu", "CPU time of the process by the kernel", now.process_cpu_s);
        counter("vesta_billed_cpu", "CPU time measured for bills", now.billed_cpu_s);
        counter(
            "vesta_platform_cpu",
            "CPU time of the platform's threads beside billed work",
            now.platform_cpu_s,
        );
        let memory = Family::<KindLabels, Gauge>::default();
        for (kind, bytes) in &now.memory_bytes {
            memory.get_or_create(&KindLabels { kind }).set(i64::try_from(*bytes).unwrap_or(i64::MAX));
        }
        let help = "Memory in use, by what for; uncounted is what the process holds beside";
        readings.register_with_unit("vesta_memory", help, Unit::Bytes, memory);
        let mut count = |name: &str, help: &str, value: u64| {
            readings.register(name, help, ConstCounter::new(value));
        };
        count("vesta_evictions", "Functions let go to make room for others", now.evicted);
        count(
            "vesta_memory_refusals",
            "Starts and invocations refused for want of memory",
            now.memory_refused,
        );
        count("vesta_inference_merged", "Runs of models that were merged with others", now.runs_merged);
        for (name, help, value) in &now.books {
            count(name, help, *value);
        }
        let help = "How long the oldest record that the ledger lacks has been waiting";
        readings.register_with_unit(
            "vesta_ledger_lag",
            help,
            Unit::Seconds,
            ConstGauge::new(now.ledger_lag_s),
        );
        let mut gauge = |name: &str, help: &str, value: i64| {
            readings.register(name, help, ConstGauge::new(value));
        };
        let budget = i64::try_from(now.memory_budget_bytes).unwrap_or(i64::MAX);
        gauge("vesta_memory_budget_bytes", "The memory budget of this host", budget);
        gauge("vesta_functions_warm", "Functions in memory", now.warm);
        gauge("vesta_functions_warming", "Functions that are being started", now.warming);
        gauge("vesta_inference_waiting", "Runs of models that wait for a slot", now.inference_waiting);
        gauge("vesta_inference_workers", "Processes that run models, spares included", now.inference_workers);
        gauge(
            "vesta_models_packed",
            "Loaded models whose weights are packed for faster runs",
            now.models_packed,
        );
        gauge(
            "vesta_models_on_onnxruntime",
            "Loaded models that ONNX Runtime serves",
            now.models_on_onnx_runtime,
        );
        let lag = i64::try_from(now.ledger_lag_records).unwrap_or(i64::MAX);
        gauge("vesta_ledger_lag_records", "Records in the journal that the ledger lacks", lag);
        gauge(
            "vesta_journal_healthy",
            "1 while usage records can be written",
            i64::from(now.journal_healthy),
        );
        // Writing into a string cannot fail; the second registry ends the text with its EOF mark.
        let _ = encode(&mut text, &self.registry);
        let ended = text.trim_end_matches("# EOF\n").len();
        text.truncate(ended);
        let _ = encode(&mut text, &readings);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_every_reading_and_one_end() {
        let now = Readings { process_cpu_s: 1.5, warm: 3, ..Readings::default() };
        let text = Metrics::default().text(&now);
        assert!(text.contains("vesta_process_cpu_seconds_total 1.5"), "{text}");
        assert!(text.contains("vesta_functions_warm 3"), "{text}");
        assert_eq!(text.matches("# EOF").count(), 1);
    }
}
