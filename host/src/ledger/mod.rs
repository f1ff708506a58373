//! The ledger: usage records, and the sums that bills are made from.
//!
//! A record is posted once by its id; posting it again changes nothing. The sums of each tenant, function and
//! day are kept up in the same transaction, so that they are those of all records ever posted, pruned ones
//! included.

mod store;
mod wide;

use crate::db::{Db, DbError};
use std::sync::Arc;
use std::time::Duration;
use vesta_core::settlement::Settlement;
use vesta_core::{Charge, FunctionName, InvocationId, TenantName, UsageRecord};

/// Most records of one [`Ledger::list`].
pub const LIST_MAX: u32 = 1_000;
/// How long a reader waits for the records that were accepted before it asked.
const SETTLE_MAX: Duration = Duration::from_secs(2);
const SETTLE_POLL: Duration = Duration::from_millis(2);
const DAY_NS: i64 = 86_400_000_000_000;

/// The ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error(transparent)]
    Db(#[from] DbError),
    /// A quantity past what the store can hold; such a record is nobody's real usage.
    #[error("record {id}: {field} is too large to be stored")]
    TooLarge { id: InvocationId, field: &'static str },
}

impl From<sqlx::Error> for LedgerError {
    fn from(e: sqlx::Error) -> Self {
        LedgerError::Db(e.into())
    }
}

/// A day of the calendar in UTC, as days since 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub i64);

impl Day {
    /// The day in which a moment (nanoseconds since 1970) lies.
    pub fn of(unix_ns: i64) -> Day {
        Day(unix_ns.div_euclid(DAY_NS))
    }
}

/// What the rows of a usage report are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct By {
    pub function: bool,
    pub day: bool,
}

/// Exact sums over usage records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sums {
    pub invocations: u64,
    pub guest_cpu_ns: u64,
    pub inference_cpu_ns: u64,
    pub cold_start_cpu_ns: u64,
    /// Bytes of peak memory, of instances and of models' runs, times nanoseconds held: 10^18 make a
    /// gigabyte-second.
    pub memory_byte_ns: i128,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub charge: Charge,
}

impl Sums {
    fn of(record: &UsageRecord) -> Sums {
        let q = &record.quantities;
        Sums {
            invocations: 1,
            guest_cpu_ns: q.guest_cpu_ns,
            inference_cpu_ns: q.inference_cpu_ns,
            cold_start_cpu_ns: q.cold_start_cpu_ns,
            memory_byte_ns: q.memory_byte_ns() + q.model_memory_byte_ns(&record.phases),
            bytes_in: q.bytes_in,
            bytes_out: q.bytes_out,
            charge: record.charge,
        }
    }

    fn add(&mut self, other: &Sums) {
        self.invocations += other.invocations;
        self.guest_cpu_ns += other.guest_cpu_ns;
        self.inference_cpu_ns += other.inference_cpu_ns;
        self.cold_start_cpu_ns += other.cold_start_cpu_ns;
        self.memory_byte_ns += other.memory_byte_ns;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.charge += other.charge;
    }

    /// Gigabyte-seconds as a decimal number with 18 places.
    pub fn memory_gb_s(&self) -> String {
        // The same scale as money: 10^18 of what is counted make one unit.
        Charge::from_attos(self.memory_byte_ns).to_string()
    }
}

/// One row of a usage report; the fields that it is told apart by are set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRow {
    pub function: Option<FunctionName>,
    pub day: Option<Day>,
    pub sums: Sums,
}

/// A tenant's usage: rows by day, then function; the total is their sum.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    pub rows: Vec<UsageRow>,
    pub total: Sums,
}

/// Usage records of one host.
pub struct Ledger {
    db: Db,
    settlement: Arc<Settlement>,
}

impl Ledger {
    pub async fn open(db: Db, settlement: Arc<Settlement>) -> Result<Arc<Self>, LedgerError> {
        Ok(Arc::new(Self { db, settlement }))
    }

    /// Stores records in one transaction. A record that is there already, or was and has been pruned, changes
    /// nothing. Telling the settlement is the caller's part.
    pub async fn post(&self, records: &[UsageRecord]) -> Result<(), LedgerError> {
        if records.is_empty() {
            return Ok(());
        }
        store::post(&self.db, records).await
    }

    /// The record of an invocation, whoever's it is: the caller checks the tenant.
    pub async fn find(&self, id: InvocationId) -> Result<Option<UsageRecord>, LedgerError> {
        self.settle().await;
        store::find(&self.db, id).await
    }

    /// A tenant's newest records, newest first; at most `limit` and [`LIST_MAX`].
    pub async fn list(
        &self,
        tenant: &TenantName,
        function: Option<&FunctionName>,
        limit: u32,
    ) -> Result<Vec<UsageRecord>, LedgerError> {
        self.settle().await;
        store::list(&self.db, tenant, function, limit.min(LIST_MAX)).await
    }

    /// A tenant's usage from the first to the last day, both included; a record counts on the day it started
    /// (UTC).
    pub async fn usage(
        &self,
        tenant: &TenantName,
        from: Option<Day>,
        to: Option<Day>,
        by: By,
    ) -> Result<Usage, LedgerError> {
        self.settle().await;
        let from = from.unwrap_or(Day(i64::MIN));
        let to = to.unwrap_or(Day(i64::MAX));
        let mut usage = Usage::default();
        for (function, day, sums) in store::days(&self.db, tenant, from, to).await? {
            usage.total.add(&sums);
            let key = (by.function.then_some(function), by.day.then_some(day));
            match usage.rows.iter_mut().find(|r| (&r.function, &r.day) == (&key.0, &key.1)) {
                Some(row) => row.sums.add(&sums),
                None => usage.rows.push(UsageRow { function: key.0, day: key.1, sums }),
            }
        }
        usage.rows.sort_by(|a, b| (a.day, &a.function).cmp(&(b.day, &b.function)));
        Ok(usage)
    }

    /// Deletes the records that started before a moment (nanoseconds since 1970), and says how many. Their
    /// sums stay.
    pub async fn prune(&self, before_unix_ns: i64) -> Result<u64, LedgerError> {
        store::prune(&self.db, before_unix_ns).await
    }

    /// Waits until everything that was accepted up to now is posted, so that a client which has its response
    /// finds its record. Bounded: a ledger that lags answers with what it has.
    async fn settle(&self) {
        let mark = self.settlement.mark();
        let settled = async {
            while !self.settlement.reached(mark) {
                tokio::time::sleep(SETTLE_POLL).await;
            }
        };
        if tokio::time::timeout(SETTLE_MAX, settled).await.is_err() {
            tracing::warn!("the ledger lags behind the journal by more than {SETTLE_MAX:?}");
        }
    }
}

#[cfg(test)]
mod tests;
