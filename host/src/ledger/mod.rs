//! The ledger: usage records, and the sums that bills are made from.
//!
//! A record is posted once, by its place in the journal; posting it again changes nothing. The sums of each
//! tenant, function, day and currency are kept up in the same transaction, so that they are those of all
//! records ever posted, pruned ones included.

mod housekeeping;
mod reads;
mod reconcile;
mod store;
mod usage;
mod wide;

pub use housekeeping::Findings;
pub use usage::{By, Period, RowKey, Usage, UsageQuery, UsageRow};

use crate::db::{Db, DbError};
use housekeeping::Housekeeping;
use reads::Reads;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vesta_core::clock::Clock;
use vesta_core::price::Prices;
use vesta_core::settlement::{Journaled, Position, Settlement};
use vesta_core::usage::Kind;
use vesta_core::{Charge, Currency, FunctionName, InvocationId, TenantName, UsageRecord};

/// Most records or rows of one answer.
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
    #[error("other reads of this tenant are under way, and it was not this one's turn within {0:?}")]
    TenantBusy(Duration),
    #[error("other reads are under way, and it was not this one's turn within {0:?}")]
    Busy(Duration),
    #[error("the read took longer than {0:?}; ask for less")]
    TooLong(Duration),
    #[error("the read was ended: {0}")]
    Ended(String),
}

impl LedgerError {
    /// Whether a record is the cause, so that trying again is of no use: its quantities, or what the tables
    /// refuse. Anything else (a lock, a full disk, a damaged file) is the database's.
    fn is_of_a_record(&self) -> bool {
        /// SQLite's primary result codes TOOBIG, CONSTRAINT, MISMATCH and RANGE.
        const OF_VALUES: [i32; 4] = [18, 19, 20, 25];
        match self {
            LedgerError::TooLarge { .. } => true,
            LedgerError::Db(DbError::Sql(sqlx::Error::Encode(_))) => true,
            LedgerError::Db(DbError::Sql(sqlx::Error::Database(e))) => {
                let code = e.code().and_then(|code| code.parse::<i32>().ok());
                code.is_some_and(|code| OF_VALUES.contains(&(code & 0xff)))
            }
            _ => false,
        }
    }
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

/// Exact sums over usage records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sums {
    pub invocations: u64,
    pub deployments: u64,
    pub guest_cpu_ns: u64,
    pub inference_cpu_ns: u64,
    pub cold_start_cpu_ns: u64,
    pub outbound_cpu_ns: u64,
    pub handler_cpu_ns: u64,
    pub deploy_cpu_ns: u64,
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
            invocations: u64::from(record.kind == Kind::Invocation),
            deployments: u64::from(record.kind == Kind::Deployment),
            guest_cpu_ns: q.guest_cpu_ns,
            inference_cpu_ns: q.inference_cpu_ns,
            cold_start_cpu_ns: q.cold_start_cpu_ns,
            outbound_cpu_ns: q.outbound_cpu_ns,
            handler_cpu_ns: q.handler_cpu_ns,
            deploy_cpu_ns: q.deploy_cpu_ns,
            memory_byte_ns: q.memory_byte_ns() + q.model_memory_byte_ns(),
            bytes_in: q.bytes_in,
            bytes_out: q.bytes_out,
            charge: record.charge,
        }
    }

    fn add(&mut self, other: &Sums) {
        self.invocations += other.invocations;
        self.deployments += other.deployments;
        self.guest_cpu_ns += other.guest_cpu_ns;
        self.inference_cpu_ns += other.inference_cpu_ns;
        self.cold_start_cpu_ns += other.cold_start_cpu_ns;
        self.outbound_cpu_ns += other.outbound_cpu_ns;
        self.handler_cpu_ns += other.handler_cpu_ns;
        self.deploy_cpu_ns += other.deploy_cpu_ns;
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

/// A price plan that the host has started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPlan {
    pub id: String,
    /// As [`Prices::text`].
    pub text: String,
    /// When the host first started with it, in milliseconds since 1970.
    pub first_used_unix_ms: i64,
}

/// What was found, and how far it can be relied on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<T> {
    pub found: T,
    /// Whether every invocation is in it whose response had ended when it was asked for.
    pub complete: bool,
    /// Every invocation is in it whose response had ended at this moment, in nanoseconds since 1970.
    pub as_of_unix_ns: i64,
}

/// What became of records that were posted.
#[derive(Debug, Default)]
pub struct Posting {
    /// How many are done with, from the first on.
    pub done: usize,
    /// Those of them that were refused for what they say, with the reason: their indices.
    pub refused: Vec<(usize, LedgerError)>,
}

/// Usage records of one host.
pub struct Ledger {
    db: Db,
    reads: Reads,
    clock: Arc<dyn Clock>,
    settlement: Arc<Settlement>,
    /// The currency of what was recorded before records stated one.
    before: Currency,
    housekeeping: Housekeeping,
}

impl Ledger {
    /// Opens the ledger of a host that starts with the plan `prices`, which is written down.
    ///
    /// What was recorded before records stated their currency has that of the plan with which this is called
    /// for the first time: it is decided once, and no later plan changes it.
    pub async fn open(
        db: Db,
        settlement: Arc<Settlement>,
        prices: &Prices,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, LedgerError> {
        let (before, decided) = store::open(&db, prices, clock.unix_ns() / 1_000_000).await?;
        if decided {
            tracing::warn!(
                currency = %before,
                "the usage recorded before this version states no currency; it is taken to be the price plan's, for good"
            );
        }
        let housekeeping = Housekeeping::open(&db, &*clock).await?;
        Ok(Arc::new(Self { reads: Reads::new(db.clone()), db, clock, settlement, before, housekeeping }))
    }

    /// Every price plan that the host has started with, the newest first; at most 1,000.
    pub async fn plans(&self) -> Result<Vec<StoredPlan>, LedgerError> {
        let plans = self.reads.run(None, |c| Box::pin(store::plans(c))).await?.into_iter();
        Ok(plans.map(|(id, text, first_used_unix_ms)| StoredPlan { id, text, first_used_unix_ms }).collect())
    }

    /// The place in the journal of the last record that the ledger has taken.
    pub async fn progress(&self) -> Result<Option<Position>, LedgerError> {
        self.reads.run(None, |c| Box::pin(store::progress(c))).await
    }

    /// Stores records, in the order of their places in the journal. A record that has been stored before,
    /// also one that has been pruned since, is known by its place and changes nothing. A record that cannot
    /// be stored for what it says is passed over. Telling the settlement is the caller's part.
    pub async fn post(&self, records: &[Journaled]) -> Result<Posting, LedgerError> {
        let mut posting = Posting::default();
        // Halves of what was refused, the first on top: so the record is found that is the cause.
        let mut parts = vec![records];
        while let Some(part) = parts.pop() {
            let result = match store::post(&self.db, self.before, part).await {
                Err(error) if error.is_of_a_record() && part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                    continue;
                }
                Err(error) if error.is_of_a_record() => {
                    let passed = store::pass_over(&self.db, &part[0]).await;
                    if passed.is_ok() {
                        posting.refused.push((posting.done, error));
                    }
                    passed
                }
                result => result,
            };
            match result {
                Ok(()) => posting.done += part.len(),
                Err(error) if posting.done == 0 => return Err(error),
                // What was done is done; the rest comes again.
                Err(_) => break,
            }
        }
        Ok(posting)
    }

    /// A tenant's record of an invocation.
    pub async fn find(
        &self,
        tenant: &TenantName,
        id: InvocationId,
    ) -> Result<Answer<Option<UsageRecord>>, LedgerError> {
        let (before, owner) = (self.before, tenant.clone());
        let read =
            self.settled(tenant, move |c| Box::pin(async move { store::find(c, before, &owner, id).await }));
        read.await
    }

    /// A tenant's newest records of a kind with ids below `id_before`, newest first; at most `limit` and
    /// [`LIST_MAX`].
    pub async fn list(
        &self,
        tenant: &TenantName,
        kind: Kind,
        function: Option<FunctionName>,
        id_before: Option<InvocationId>,
        limit: u32,
    ) -> Result<Answer<Vec<UsageRecord>>, LedgerError> {
        let (before, owner, limit) = (self.before, tenant.clone(), limit.min(LIST_MAX));
        let read = self.settled(tenant, move |c| {
            Box::pin(async move {
                store::list(c, before, &owner, kind, function.as_ref(), id_before, limit).await
            })
        });
        read.await
    }

    /// A page of a tenant's usage; a record counts on the day it started (UTC).
    pub async fn usage(&self, tenant: &TenantName, query: UsageQuery) -> Result<Answer<Usage>, LedgerError> {
        let owner = tenant.clone();
        self.settled(tenant, move |c| Box::pin(async move { usage::report(c, &owner, &query).await })).await
    }

    /// Reads when everything that was accepted up to now is posted, so that a client which has its response
    /// finds its record. Bounded: where the ledger lags the answer is what it has, and says so.
    async fn settled<T, F>(&self, tenant: &TenantName, read: F) -> Result<Answer<T>, LedgerError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(
                &'c mut sqlx::SqliteConnection,
            ) -> futures_util::future::BoxFuture<'c, Result<T, LedgerError>>
            + Send
            + 'static,
    {
        let (asked_unix_ns, mark) = (self.clock.unix_ns(), self.settlement.mark());
        let settled = async {
            while !self.settlement.reached(mark) {
                tokio::time::sleep(SETTLE_POLL).await;
            }
        };
        let complete = tokio::time::timeout(SETTLE_MAX, settled).await.is_ok();
        // Taken before the read: what is older than the oldest record that the ledger lacks is in it.
        let as_of_unix_ns = match complete {
            true => asked_unix_ns,
            false => {
                // In this order: what passes between the two makes it earlier.
                let now = self.clock.unix_ns();
                let lag = self.settlement.lag(Instant::now()).as_nanos();
                now.saturating_sub(i64::try_from(lag).unwrap_or(i64::MAX))
            }
        };
        Ok(Answer { found: self.reads.run(Some(tenant), read).await?, complete, as_of_unix_ns })
    }
}

#[cfg(test)]
mod tests;
