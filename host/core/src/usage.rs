//! The usage record: what one invocation consumed, and what it was charged.

use crate::{Charge, Currency, FunctionName, InvocationId, Outcome, PlanId, TenantName};
use serde::{Deserialize, Serialize};

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
    /// The most that the instance held at once: its linear memories and the tensors that the host held for
    /// it, in bytes.
    pub peak_memory_bytes: u64,
    /// The most that a run of a model held beyond the model's weights, in bytes; 0 where none ran. Held for
    /// [`Phases::infer_ns`].
    // Records of before are without it, in a journal that an older host has left.
    #[serde(default)]
    pub model_memory_peak_bytes: u64,
    /// The instance's life without the platform's queueing, in nanoseconds.
    pub memory_ns: u64,
    /// Bytes of the request's body that were read.
    pub bytes_in: u64,
    /// Bytes of the response's body that were sent.
    pub bytes_out: u64,
}

impl Quantities {
    /// All CPU time that is billed, in nanoseconds.
    pub fn billed_cpu_ns(&self) -> u64 {
        self.guest_cpu_ns + self.inference_cpu_ns + self.cold_start_cpu_ns
    }

    /// Memory of the instance, as long as it was held: bytes times nanoseconds.
    pub fn memory_byte_ns(&self) -> i128 {
        i128::from(self.peak_memory_bytes).saturating_mul(self.memory_ns.into())
    }

    /// Memory of the models' runs, as long as they ran: bytes times nanoseconds.
    pub fn model_memory_byte_ns(&self, phases: &Phases) -> i128 {
        i128::from(self.model_memory_peak_bytes).saturating_mul(phases.infer_ns.into())
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

/// One invocation as it is billed. Its id is permanent and unique; posting it twice changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRecord {
    pub id: InvocationId,
    pub tenant: TenantName,
    pub function: FunctionName,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_before_is_read_and_has_no_model_memory_currency_or_plan() {
        let record = UsageRecord {
            id: InvocationId::new(1, 1),
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
        };
        let line = serde_json::to_value(&record).expect("JSON");
        assert_eq!((&line["currency"], &line["price_plan"]), (&"EUR".into(), &"0123456789ab".into()));
        assert_eq!(serde_json::from_value::<UsageRecord>(line).expect("read"), record);
        let mut line = serde_json::to_value(&record).expect("JSON");
        let fields = line.as_object_mut().expect("an object");
        for field in ["model_memory_peak_bytes", "currency", "price_plan"] {
            assert!(fields.remove(field).is_some(), "{field}");
        }
        let old = UsageRecord { currency: Currency::UNSTATED, price_plan: None, ..record };
        assert_eq!(serde_json::from_value::<UsageRecord>(line).expect("read"), old);
    }
}
