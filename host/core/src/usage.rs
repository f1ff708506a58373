//! The usage record: what one invocation consumed, and what it was charged.

use crate::{Charge, Currency, FunctionName, InvocationId, Outcome, PlanId, TenantName};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// CPU time that adds up while something is done, from several threads.
#[derive(Debug, Default)]
pub struct CpuTime(AtomicU64);

impl CpuTime {
    pub fn add(&self, ns: u64) {
        self.0.fetch_add(ns, Relaxed);
    }
    /// So far, in nanoseconds.
    pub fn ns(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What is metered and priced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Quantities {
    /// Thread CPU time of the guest, instantiation included, in nanoseconds.
    pub guest_cpu_ns: u64,
    /// Thread CPU time of inference on whichever threads it ran, in nanoseconds.
    pub inference_cpu_ns: u64,
    /// Thread CPU time of the cold start that this request triggered, in nanoseconds; 0 where it found the
    /// function warm.
    pub cold_start_cpu_ns: u64,
    /// CPU time of the host for the guest's calls to other hosts, in nanoseconds: looking their names up,
    /// connecting, TLS, HTTP, and passing bodies on.
    // Records of before are without it, in a journal that an older host has left. So it is below.
    #[serde(default)]
    pub outbound_cpu_ns: u64,
    /// CPU time of the host itself for the invocation, from the head of its request to its record, in
    /// nanoseconds: finding the function, reading and writing bodies. Over HTTP/2 the frames of a connection
    /// are not in it.
    #[serde(default)]
    pub handler_cpu_ns: u64,
    /// CPU time of a deployment, in nanoseconds: receiving blobs, compiling, initialising, checking and
    /// trying models.
    #[serde(default)]
    pub deploy_cpu_ns: u64,
    /// The most that the instance held at once: its linear memories and the tensors that the host held for
    /// it, in bytes.
    pub peak_memory_bytes: u64,
    /// The most that a run of a model held beyond the model's weights, in bytes; 0 where none ran. Held for
    /// `model_memory_ns`.
    #[serde(default)]
    pub model_memory_peak_bytes: u64,
    /// How long the invocation held its memory, in nanoseconds: the time in which its guest computed (its CPU
    /// time), its models computed (`model_memory_ns`), or it waited for its own input and output. Waiting for
    /// a core, for an inference slot or for the platform is not in it, so that a busy neighbour makes nothing
    /// dearer.
    pub memory_ns: u64,
    /// How long models computed, in nanoseconds: the CPU time of each run over the threads that it has.
    #[serde(default)]
    pub model_memory_ns: u64,
    /// Bytes of the request's body that were read.
    pub bytes_in: u64,
    /// Bytes of the response's body that were sent.
    pub bytes_out: u64,
}

impl Quantities {
    /// All CPU time that is billed, in nanoseconds.
    pub fn billed_cpu_ns(&self) -> u64 {
        let of_invocation = self.guest_cpu_ns + self.inference_cpu_ns + self.cold_start_cpu_ns;
        of_invocation + self.outbound_cpu_ns + self.handler_cpu_ns + self.deploy_cpu_ns
    }

    /// Memory of the instance, as long as it was held: bytes times nanoseconds.
    pub fn memory_byte_ns(&self) -> i128 {
        i128::from(self.peak_memory_bytes).saturating_mul(self.memory_ns.into())
    }

    /// Memory of the models' runs, as long as they computed: bytes times nanoseconds.
    pub fn model_memory_byte_ns(&self) -> i128 {
        i128::from(self.model_memory_peak_bytes).saturating_mul(self.model_memory_ns.into())
    }
}

/// Wall-clock durations of an invocation's phases, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Phases {
    /// Waiting for admission and for an inference slot.
    pub queue_ns: u64,
    /// Waiting for the function to become warm.
    pub cold_ns: u64,
    /// Of the cold start: mapping and linking the code.
    pub cold_code_ns: u64,
    /// Of the cold start: mapping and loading the models.
    pub cold_model_ns: u64,
    /// From the instance's creation to the guest's return, less inference and its queue.
    pub guest_ns: u64,
    /// Running models.
    pub infer_ns: u64,
    /// From the request's arrival to the end of the guest.
    pub total_ns: u64,
}

/// What a record is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    #[default]
    Invocation,
    Deployment,
}

impl Kind {
    /// The name used in records and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Invocation => "invocation",
            Kind::Deployment => "deployment",
        }
    }
    /// The kind of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Kind> {
        [Kind::Invocation, Kind::Deployment].into_iter().find(|kind| kind.as_str() == name)
    }
}

/// One invocation, or one deployment, as it is billed. Its id is permanent and unique; posting it twice
/// changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRecord {
    pub id: InvocationId,
    #[serde(default)]
    pub kind: Kind,
    pub tenant: TenantName,
    pub function: FunctionName,
    /// The version that ran, or that came of the deployment; 0 where none did.
    pub version: u32,
    /// Start of the invocation: nanoseconds since 1970 by the wall clock.
    pub started_unix_ns: i64,
    pub outcome: Outcome,
    /// HTTP status sent to the client.
    pub status: u16,
    /// Whether this request triggered a cold start.
    pub cold: bool,
    /// How many times a model ran.
    pub inferences: u32,
    #[serde(flatten)]
    pub quantities: Quantities,
    #[serde(flatten)]
    pub phases: Phases,
    /// In `currency`.
    pub charge: Charge,
    /// The currency of the price plan in force when it was recorded.
    // Records from before are without it and the next, in a journal that an older host has left.
    #[serde(default)]
    pub currency: Currency,
    /// The price plan that the charge was computed by. `None`: recorded before plans had identities.
    #[serde(default)]
    pub price_plan: Option<PlanId>,
}

impl UsageRecord {
    /// Whether anything is charged. What a guest computed is charged, whatever it asked for at its end; what
    /// never began, and what the platform failed at, is free.
    pub fn is_charged(&self) -> bool {
        match self.outcome {
            Outcome::PlatformError | Outcome::StartFailed => false,
            Outcome::HostMemory => self.quantities.guest_cpu_ns > 0,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> UsageRecord {
        UsageRecord {
            id: InvocationId::new(1, 1),
            kind: Kind::Invocation,
            tenant: "acme".parse().expect("name"),
            function: "hello".parse().expect("name"),
            version: 1,
            started_unix_ns: 1,
            outcome: Outcome::Ok,
            status: 200,
            cold: false,
            inferences: 1,
            quantities: Quantities { peak_memory_bytes: 7, ..Quantities::default() },
            phases: Phases::default(),
            charge: Charge::ZERO,
            currency: "EUR".parse().expect("code"),
            price_plan: Some("0123456789ab".parse().expect("id")),
        }
    }

    #[test]
    fn a_record_of_before_is_read_without_what_came_later() {
        let line = serde_json::to_value(record()).expect("JSON");
        assert_eq!((&line["currency"], &line["price_plan"]), (&"EUR".into(), &"0123456789ab".into()));
        assert_eq!(serde_json::from_value::<UsageRecord>(line.clone()).expect("read"), record());
        let mut line = line;
        let fields = line.as_object_mut().expect("an object");
        for (field, default) in [
            ("kind", "invocation".into()),
            ("model_memory_peak_bytes", 0.into()),
            ("model_memory_ns", 0.into()),
            ("outbound_cpu_ns", 0.into()),
            ("handler_cpu_ns", 0.into()),
            ("deploy_cpu_ns", serde_json::Value::from(0)),
        ] {
            assert_eq!(fields.remove(field), Some(default), "{field}");
        }
        for field in ["currency", "price_plan"] {
            assert!(fields.remove(field).is_some(), "{field}");
        }
        let old = UsageRecord { currency: Currency::UNSTATED, price_plan: None, ..record() };
        assert_eq!(serde_json::from_value::<UsageRecord>(line).expect("read"), old);
    }

    #[test]
    fn what_never_began_is_free_and_what_a_guest_computed_is_not() {
        let ended = |outcome, guest_cpu_ns| {
            let quantities = Quantities { guest_cpu_ns, ..Quantities::default() };
            UsageRecord { outcome, quantities, ..record() }.is_charged()
        };
        for outcome in Outcome::ALL {
            let is_free = matches!(outcome, Outcome::PlatformError | Outcome::StartFailed);
            assert_eq!(ended(*outcome, 1_000), !is_free, "{outcome:?}");
        }
        assert!(!ended(Outcome::HostMemory, 0));
    }
}
