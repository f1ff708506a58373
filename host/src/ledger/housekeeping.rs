//! What is done to old records and sums from time to time: records are pruned, days become months, and sums
//! are compared with their records.

use super::reconcile::Walk;
use super::store::{self, SumsKey, damaged};
use super::usage::{self, DayRow};
use super::{DAY_NS, Day, Ledger, LedgerError, Period, Sums};
use crate::db::Db;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use tokio::sync::Mutex;
use vesta_core::InvocationId;
use vesta_core::clock::Clock;
use vesta_core::retention::{Believer, Doubt};

/// Days that single days are kept as such; after that they become months. A month does once all of it is
/// older.
pub const DAYS_KEPT: i64 = 400;
/// Rows of one transaction: short, so that posting never waits long.
const PRUNE_ROWS: i64 = 10_000;
const ROLL_UP_ROWS: i64 = 2_000;
/// Transactions of one pass that turn days into months; the next pass goes on.
const ROLL_UPS_MAX: usize = 50;

/// What housekeeping has found since the host started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Findings {
    /// Passes in which nothing was pruned, since the clock was not believed.
    pub prunings_refused: u64,
    /// Sums of a day that were not those of its records.
    pub differences: u64,
    /// Records that were compared with the sums of their day.
    pub records_compared: u64,
}

/// Its state.
pub(super) struct Housekeeping {
    believer: Mutex<Believer>,
    pub walk: Mutex<Walk>,
    refused: AtomicU64,
    pub differences: AtomicU64,
    pub compared: AtomicU64,
}

fn told(doubt: Doubt) {
    match doubt {
        Doubt::Held => tracing::debug!(%doubt, "no usage records are pruned"),
        _ => {
            tracing::error!(%doubt, "no usage records are pruned until the clock has run evenly for a while")
        }
    }
}

impl Housekeeping {
    pub async fn open(db: &Db, clock: &dyn Clock) -> Result<Self, LedgerError> {
        let believed: Option<i64> = sqlx::query_scalar("SELECT believed_unix_ns FROM ledger_housekeeping")
            .fetch_one(db.pool())
            .await?;
        let newest = sqlx::query_scalar("SELECT started_unix_ns FROM usage_records ORDER BY id DESC LIMIT 1");
        let last = match believed {
            Some(believed) => Some(believed),
            None => newest.fetch_optional(db.pool()).await?,
        };
        let mut believer = Believer::new(last);
        // From now on a jump is seen, also one before the first pass.
        if let Err(doubt) = believer.look(clock.unix_ns(), clock.now()) {
            told(doubt);
        }
        Ok(Self {
            believer: Mutex::new(believer),
            walk: Mutex::default(),
            refused: AtomicU64::new(0),
            differences: AtomicU64::new(0),
            compared: AtomicU64::new(0),
        })
    }
}

impl Ledger {
    pub fn findings(&self) -> Findings {
        Findings {
            prunings_refused: self.housekeeping.refused.load(SeqCst),
            differences: self.housekeeping.differences.load(SeqCst),
            records_compared: self.housekeeping.compared.load(SeqCst),
        }
    }

    /// One pass: deletes records that started more than `retention_ns` ago (their sums stay), turns old days
    /// into months, and compares some days with their records. Returns how many records were deleted.
    ///
    /// Where the wall clock has jumped, nothing is deleted and no day becomes a month until it is believed
    /// again.
    pub async fn housekeep(&self, retention_ns: i64) -> Result<u64, LedgerError> {
        let now = self.clock.unix_ns();
        let mut deleted = 0;
        let believed = self.housekeeping.believer.lock().await.look(now, self.clock.now());
        match believed {
            Ok(()) => {
                deleted = self.prune(now, now.saturating_sub(retention_ns)).await?;
                self.roll_up(Day::of(now)).await?;
            }
            Err(doubt) => {
                self.housekeeping.refused.fetch_add(1, SeqCst);
                told(doubt);
            }
        }
        self.reconcile(Day::of(now)).await?;
        Ok(deleted)
    }

    /// Deletes the records that started before a moment, and says how many.
    pub(super) async fn prune(&self, now_unix_ns: i64, before_unix_ns: i64) -> Result<u64, LedgerError> {
        let mut write = self.db.write().await?;
        sqlx::query(
            "UPDATE ledger_housekeeping SET believed_unix_ns = ?, pruned_before_unix_ns = max(pruned_before_unix_ns, ?)",
        )
        .bind(now_unix_ns)
        .bind(before_unix_ns)
        .execute(&mut *write)
        .await?;
        write.commit().await?;
        let mut deleted = 0;
        // Found on a reader's connection: the writer is held for the deletion alone.
        while let Some(last) = self.last_of_oldest(before_unix_ns).await? {
            let mut write = self.db.write().await?;
            let done = sqlx::query("DELETE FROM usage_records WHERE id <= ? AND started_unix_ns < ?")
                .bind(last)
                .bind(before_unix_ns)
                .execute(&mut *write)
                .await?;
            write.commit().await?;
            deleted += done.rows_affected();
        }
        Ok(deleted)
    }

    /// Of the first [`PRUNE_ROWS`] that are to go, the last. Found by the time in their ids, so that nothing
    /// is read of what stays: an id is made just before its invocation starts. Where a clock was set in
    /// between, the record goes with a later pruning.
    async fn last_of_oldest(&self, before_unix_ns: i64) -> Result<Option<String>, LedgerError> {
        let first_to_stay = InvocationId::new(u64::try_from(before_unix_ns / 1_000_000).unwrap_or(0), 0);
        let read = self.reads.run(None, move |c| {
            Box::pin(async move {
                let sql = "SELECT max(id) FROM
                     (SELECT id FROM usage_records WHERE id < ? AND started_unix_ns < ? ORDER BY id LIMIT ?)";
                let query = sqlx::query_scalar(sql).bind(first_to_stay.to_string());
                Ok(query.bind(before_unix_ns).bind(PRUNE_ROWS).fetch_one(c).await?)
            })
        });
        read.await
    }

    /// Turns days into months, of which all days are older than [`DAYS_KEPT`].
    pub(super) async fn roll_up(&self, today: Day) -> Result<(), LedgerError> {
        let Some(before) = month_of(Day(today.0 - DAYS_KEPT)) else { return Ok(()) };
        for _ in 0..ROLL_UPS_MAX {
            let days =
                self.reads.run(None, move |c| Box::pin(usage::days_before(c, before, ROLL_UP_ROWS))).await?;
            if days.is_empty() {
                break;
            }
            self.fold_into_months(&days).await?;
        }
        Ok(())
    }

    async fn fold_into_months(&self, days: &[DayRow]) -> Result<(), LedgerError> {
        let mut write = self.db.write().await?;
        let mut months: HashMap<_, Sums> = HashMap::new();
        for of in days {
            // Posting may have added to it since it was found: what is in the transaction counts.
            let Some(row) = usage::day(&mut write, of).await? else { continue };
            let month = month_of(row.day).ok_or_else(|| damaged(format!("day {}", row.day.0)))?;
            months.entry((&of.tenant, &of.function, of.currency, month)).or_default().add(&row.sums);
            sqlx::query(
                "DELETE FROM usage_days
                 WHERE tenant = ? AND day = ? AND period = 'day' AND function = ? AND currency = ?",
            )
            .bind(of.tenant.as_str())
            .bind(of.day.0)
            .bind(of.function.as_str())
            .bind(of.currency.as_str())
            .execute(&mut *write)
            .await?;
        }
        for ((tenant, function, currency, day), sums) in months {
            let key = SumsKey { tenant, function, currency, day, period: Period::Month };
            store::add_to_sums(&mut write, &key, &sums, InvocationId::new(0, 0)).await?;
        }
        Ok(write.commit().await?)
    }

    /// The first day of which all records are still there.
    pub(super) async fn first_whole_day(&self) -> Result<Day, LedgerError> {
        let sql = "SELECT pruned_before_unix_ns FROM ledger_housekeeping";
        let pruned = self.reads.run(None, move |c| {
            Box::pin(async move { Ok(sqlx::query_scalar::<_, i64>(sql).fetch_one(c).await?) })
        });
        let pruned = pruned.await?;
        Ok(Day(pruned.saturating_add(DAY_NS - 1).div_euclid(DAY_NS)))
    }
}

/// The first day of the month in which a day lies; `None` where the calendar has no such day.
pub(super) fn month_of(day: Day) -> Option<Day> {
    let epoch = jiff::civil::date(1970, 1, 1);
    let since = jiff::SignedDuration::try_from_hours(day.0.checked_mul(24)?)?;
    let first = epoch.checked_add(since).ok()?.first_of_month();
    Some(Day(first.duration_since(epoch).as_hours() / 24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_belongs_to_its_month() {
        // 1970-01-01 to 1970-01-31, 1970-02-01, 2024-02-29, 1969-12-31.
        for (day, month) in [(0, 0), (30, 0), (31, 31), (19_782, 19_754), (-1, -31)] {
            assert_eq!(month_of(Day(day)), Some(Day(month)), "{day}");
        }
        assert_eq!(month_of(Day(i64::MAX)), None);
    }
}
