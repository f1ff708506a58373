//! Deployments on the books: one record each, as invocations have.

use crate::artifact::{DeployBill, Deployed};
use crate::metering::Journal;
use crate::telemetry::metrics::Metrics;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use vesta_core::clock::Clock;
use vesta_core::price::Prices;
use vesta_core::usage::{Kind, Phases, Quantities};
use vesta_core::{Charge, Outcome, UsageRecord};
use vesta_engine::cpu;

/// Writes a record of each deployment that ends.
pub struct ToTheBooks {
    pub journal: Journal,
    pub metrics: Arc<Metrics>,
    pub prices: Prices,
    pub clock: Arc<dyn Clock>,
}

impl DeployBill for ToTheBooks {
    fn thread_cpu_ns(&self) -> u64 {
        cpu::thread_cpu_ns()
    }

    fn deployed(&self, deployed: Deployed) -> BoxFuture<'_, ()> {
        cpu::add_billed(deployed.cpu_ns);
        let (outcome, status) = match &deployed.ended {
            Ok(_) => (Outcome::Ok, 200),
            Err(e) if e.platform => (Outcome::PlatformError, 500),
            Err(_) => (Outcome::Refused, 422),
        };
        let started_unix_ns = deployed.began_unix_ms.saturating_mul(1_000_000);
        let total_ns = u64::try_from(self.clock.unix_ns().saturating_sub(started_unix_ns)).unwrap_or(0);
        let mut record = UsageRecord {
            id: deployed.id,
            kind: Kind::Deployment,
            tenant: deployed.tenant,
            function: deployed.function,
            version: deployed.ended.unwrap_or(0),
            started_unix_ns,
            outcome,
            status,
            cold: false,
            inferences: 0,
            quantities: Quantities { deploy_cpu_ns: deployed.cpu_ns, ..Quantities::default() },
            phases: Phases { total_ns, ..Phases::default() },
            charge: Charge::ZERO,
            currency: self.prices.currency,
            price_plan: Some(self.prices.id),
        };
        record.charge = self.prices.charge(&record);
        self.metrics.record(&record);
        Box::pin(async move {
            let id = record.id;
            if !self.journal.submit(record).await {
                tracing::error!(%id, "the record of a deployment cannot be written: nobody pays for it");
            }
        })
    }
}
