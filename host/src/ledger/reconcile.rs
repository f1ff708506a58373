//! Sums are compared with their records, for days that are over and whose records are all still there. A pass
//! reads a bounded number of records and goes on where the last one ended.

use super::store::started_between;
use super::usage::{self, DayRow};
use super::{DAY_NS, Day, Ledger, LedgerError, Sums};
use std::sync::atomic::Ordering::SeqCst;
use vesta_core::InvocationId;

/// Records that one pass reads, and rows of sums.
const RECORDS_MAX: usize = 20_000;
const ROWS_MAX: usize = 2_000;
/// Records of one query.
const PAGE: i64 = 500;

/// How far the comparison has come.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// The last day row that was compared.
    done: Option<DayRow>,
    /// The one that is being compared.
    at: Option<Counting>,
}

#[derive(Debug)]
struct Counting {
    row: DayRow,
    sums: Sums,
    /// The last id that was read.
    after: String,
    /// Whether all ids are looked at. At first only those made from a day before to a day after: an id is
    /// made just before its invocation starts, unless the clock was set in between.
    all_ids: bool,
}

impl Counting {
    fn new(row: DayRow, all_ids: bool) -> Self {
        let after = if all_ids { String::new() } else { id_of(row.day.0 - 1) };
        Counting { row, sums: Sums::default(), after, all_ids }
    }
    fn up_to(&self) -> String {
        if self.all_ids { "~".into() } else { id_of(self.row.day.0 + 2) }
    }
}

/// Below all ids that were made on a day or later.
fn id_of(day: i64) -> String {
    InvocationId::new(u64::try_from(day.saturating_mul(DAY_NS / 1_000_000)).unwrap_or(0), 0).to_string()
}

impl Ledger {
    /// One pass of the comparison. A difference is logged and counted.
    pub(super) async fn reconcile(&self, today: Day) -> Result<(), LedgerError> {
        let first = self.first_whole_day().await?;
        let mut walk = self.housekeeping.walk.lock().await;
        let (mut rows, mut records) = (0, 0);
        while rows < ROWS_MAX && records < RECORDS_MAX {
            let Some(mut counting) = walk.at.take() else {
                let (after, days) = (walk.done.clone(), first.0..today.0);
                let next = self.reads.run(None, move |c| {
                    Box::pin(async move { usage::day_after(c, after.as_ref(), days).await })
                });
                match next.await? {
                    Some(row) => walk.at = Some(Counting::new(row, false)),
                    // The next pass begins anew.
                    None => {
                        walk.done = None;
                        return Ok(());
                    }
                }
                rows += 1;
                continue;
            };
            // A day that cannot be read is passed over, so that the others are compared.
            walk.done = Some(counting.row.clone());
            let read = self.page(&mut counting).await?;
            records += read;
            self.housekeeping.compared.fetch_add(read as u64, SeqCst);
            if read < PAGE as usize {
                walk.at = self.compare(&counting).await?;
            } else {
                walk.at = Some(counting);
            }
        }
        Ok(())
    }

    /// Counts the next page of records, and says how many it has.
    async fn page(&self, counting: &mut Counting) -> Result<usize, LedgerError> {
        let (before, row) = (self.before, counting.row.clone());
        let (after, up_to) = (counting.after.clone(), counting.up_to());
        let read = self.reads.run(None, move |c| {
            Box::pin(async move {
                let started = row.day.0 * DAY_NS..(row.day.0 + 1) * DAY_NS;
                started_between(c, before, (&row.tenant, &row.function), started, (&after, &up_to), PAGE)
                    .await
            })
        });
        let records = read.await?;
        for record in &records {
            if record.currency == counting.row.currency {
                counting.sums.add(&Sums::of(record));
            }
        }
        if let Some(last) = records.last() {
            counting.after = last.id.to_string();
        }
        Ok(records.len())
    }

    /// All records of a day are counted: what is to be counted next, where that was not enough.
    async fn compare(&self, counting: &Counting) -> Result<Option<Counting>, LedgerError> {
        if counting.sums == counting.row.sums {
            return Ok(None);
        }
        if !counting.all_ids {
            return Ok(Some(Counting::new(counting.row.clone(), true)));
        }
        let of = counting.row.clone();
        let now = self.reads.run(None, move |c| Box::pin(async move { usage::day(c, &of).await })).await?;
        // What changed meanwhile is compared next time.
        if now.as_ref() == Some(&counting.row) {
            self.housekeeping.differences.fetch_add(1, SeqCst);
            let DayRow { tenant, function, currency, day, sums } = &counting.row;
            tracing::error!(
                %tenant, %function, %currency, day = day.0, sums = ?sums, records = ?counting.sums,
                "the sums of a day are not those of its records"
            );
        }
        Ok(None)
    }
}
