//! Metering: from what an invocation used to a record that no crash loses.
//!
//! A record is in the [`journal`] before its response ends, and in the ledger soon after.

mod journal;
mod line;
mod poster;
mod segments;

pub use journal::{Ack, Journal, Losses};
pub use poster::{Post, PostError, Posted, Refusal, run_poster};

#[cfg(test)]
mod testing {
    use vesta_core::usage::{Phases, Quantities};
    use vesta_core::{Charge, InvocationId, Outcome, UsageRecord};

    pub fn record(n: u64) -> UsageRecord {
        UsageRecord {
            id: InvocationId::new(n, n.into()),
            kind: vesta_core::usage::Kind::Invocation,
            tenant: "t".parse().expect("name"),
            function: "f".parse().expect("name"),
            version: 1,
            started_unix_ns: 0,
            outcome: Outcome::Ok,
            status: 200,
            cold: false,
            inferences: 0,
            quantities: Quantities::default(),
            phases: Phases::default(),
            charge: Charge::from_attos(n.into()),
            currency: "USD".parse().expect("code"),
            price_plan: Some("0123456789ab".parse().expect("id")),
        }
    }
}
