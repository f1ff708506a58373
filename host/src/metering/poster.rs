//! Takes records from the journal to the ledger, in batches, until the ledger has them all.

use super::journal::{Journal, lock};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use vesta_core::settlement::Journaled;

/// Most records of one transaction.
const BATCH_MAX: usize = 2_000;
/// A batch is let grow for this long: a transaction costs the same for one record as for a hundred. Readers
/// of the ledger wait for it (see [`vesta_core::settlement`]).
const GATHER: Duration = Duration::from_millis(100);
/// After a failure the ledger is asked again; doubled with each up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE: Duration = Duration::from_millis(250);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// The ledger failed to take a batch; it is tried again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PostError(pub String);

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Posted {
    /// How many of the batch's records are done with, from its beginning.
    pub done: usize,
    /// Those of them that will never be in the ledger.
    pub refused: Vec<Refusal>,
}

/// A record that the ledger cannot hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its index in the batch.
    pub index: usize,
    pub reason: String,
}

/// What takes the records; filled with the ledger by the server.
pub trait Post: Send + Sync {
    /// Takes records from the beginning on, in the order of their places. Records that it has already are
    /// left as they are.
    fn post<'a>(
        &'a self,
        records: &'a [Journaled],
    ) -> Pin<Box<dyn Future<Output = Result<Posted, PostError>> + Send + 'a>>;
}

/// Runs until the journal is closed and everything is posted.
pub async fn run_poster(journal: Journal, ledger: std::sync::Arc<dyn Post>) {
    let mut pause = RETRY_PAUSE;
    loop {
        let grew = journal.0.backlog_grew.notified();
        // Asked before the backlog is looked at: what came in between is seen.
        let closed = journal.is_closed();
        let waiting = lock(&journal.0.backlog).len();
        match (waiting, closed) {
            (0, true) => return,
            (0, false) => {
                grew.await;
                continue;
            }
            (1..BATCH_MAX, false) => tokio::time::sleep(GATHER).await,
            _ => {}
        }
        let records: Vec<Journaled> =
            lock(&journal.0.backlog).iter().take(BATCH_MAX).map(|(_, record)| record.clone()).collect();
        match ledger.post(&records).await {
            Ok(posted) => {
                pause = RETRY_PAUSE;
                settle(&journal, &records, &posted);
            }
            Err(error) => {
                journal.0.settlement.fail();
                tracing::error!(%error, records = waiting, "the ledger failed to take usage records; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_PAUSE_MAX);
            }
        }
    }
}

/// The ledger is done with the first records of the backlog.
fn settle(journal: &Journal, records: &[Journaled], posted: &Posted) {
    let mut lines = Vec::new();
    for refusal in &posted.refused {
        let Some(Journaled { record, .. }) = records.get(refusal.index) else { continue };
        let reason = &refusal.reason;
        tracing::error!(id = %record.id, %reason, "the ledger cannot hold a usage record; it is set aside");
        journal.0.records_refused.fetch_add(1, SeqCst);
        let line = serde_json::json!({ "reason": reason, "record": record });
        lines.extend_from_slice(format!("{line}\n").as_bytes());
    }
    if !lines.is_empty() {
        lock(&journal.0.segments).keep_refused(&lines);
    }
    let mut backlog = lock(&journal.0.backlog);
    backlog.drain(..posted.done);
    journal.0.settlement.post(posted.done as u64, backlog.front().map(|(accepted, _)| *accepted));
    drop(backlog);
    if let Some(last) = posted.done.checked_sub(1).and_then(|last| records.get(last)) {
        lock(&journal.0.segments).posted(last.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metering::testing::record;
    use std::path::Path;
    use std::sync::{Arc, Mutex};
    use vesta_core::UsageRecord;
    use vesta_core::settlement::{Position, Settlement};
    use vesta_core::vital::Vital;

    #[derive(Default)]
    struct Kept {
        records: Mutex<Vec<UsageRecord>>,
        place: Mutex<Option<Position>>,
        failures: Mutex<u32>,
        /// The charge of a record that is refused.
        refuses: Option<i128>,
    }
    impl Post for Kept {
        fn post<'a>(
            &'a self,
            records: &'a [Journaled],
        ) -> Pin<Box<dyn Future<Output = Result<Posted, PostError>> + Send + 'a>> {
            Box::pin(async move {
                let mut failures = self.failures.lock().expect("lock");
                if *failures > 0 {
                    *failures -= 1;
                    return Err(PostError("busy".into()));
                }
                assert!(records.is_sorted_by_key(|r| r.end), "records come in the order of the journal");
                let mut refused = Vec::new();
                for (index, Journaled { record, .. }) in records.iter().enumerate() {
                    if self.refuses == Some(record.charge.attos()) {
                        refused.push(Refusal { index, reason: "too dear".into() });
                    } else {
                        self.records.lock().expect("lock").push(record.clone());
                    }
                }
                *self.place.lock().expect("lock") = records.last().map(|r| r.end);
                Ok(Posted { done: records.len(), refused })
            })
        }
    }

    fn files(dir: &Path, extension: &str) -> usize {
        let files = std::fs::read_dir(dir).expect("dir").flatten();
        files.filter(|e| e.path().extension().is_some_and(|x| x == extension)).count()
    }

    fn open(dir: &Path, settlement: Arc<Settlement>, posted: Option<Position>) -> Journal {
        Journal::open(dir, false, settlement, posted, Vital::unwatched()).expect("open")
    }

    #[tokio::test]
    async fn what_was_acknowledged_survives_the_death_of_the_process_and_is_posted_once() {
        let dir = tempfile::tempdir().expect("dir");
        {
            let journal = open(dir.path(), Arc::default(), None);
            for n in 0..100 {
                assert!(journal.submit(record(n)).await);
            }
            // No poster and no close: as after kill -9.
        }
        // A line that was being written when the process died.
        let segment =
            std::fs::read_dir(dir.path()).expect("dir").next().expect("a file").expect("entry").path();
        let mut text = std::fs::read(&segment).expect("read");
        text.extend_from_slice(b"{\"id\":\"01AR");
        std::fs::write(&segment, text).expect("write");

        let settlement: Arc<Settlement> = Arc::default();
        let journal = open(dir.path(), settlement.clone(), None);
        assert!(!settlement.reached(settlement.mark()));
        let kept = Arc::new(Kept { failures: Mutex::new(2), ..Kept::default() });
        assert!(journal.submit(record(100)).await);
        journal.close();
        run_poster(journal.clone(), kept.clone()).await;
        assert_eq!(kept.records.lock().expect("lock").len(), 101);
        assert!((0..101).all(|n| kept.records.lock().expect("lock").iter().any(|r| r.id == record(n).id)));
        assert!(settlement.reached(settlement.mark()));
        assert_eq!((settlement.failures(), settlement.failures_in_a_row()), (2, 0));
        assert_eq!(files(dir.path(), "jsonl"), 1, "posted segments are gone");
        assert_eq!(journal.losses(), Default::default());
        // A third start finds nothing that the ledger lacks.
        let place = *kept.place.lock().expect("lock");
        let settlement: Arc<Settlement> = Arc::default();
        let _again = open(dir.path(), settlement.clone(), place);
        assert_eq!(settlement.pending(), 0);
    }

    #[tokio::test]
    async fn a_record_that_the_ledger_refuses_costs_itself_alone_and_is_set_aside() {
        let dir = tempfile::tempdir().expect("dir");
        let journal = open(dir.path(), Arc::default(), None);
        for n in 0..10 {
            assert!(journal.submit(record(n)).await);
        }
        journal.close();
        let kept = Arc::new(Kept { refuses: Some(4), ..Kept::default() });
        run_poster(journal.clone(), kept.clone()).await;
        assert_eq!(kept.records.lock().expect("lock").len(), 9);
        assert_eq!(journal.losses().records_refused, 1);
        assert_eq!(files(dir.path(), "refused"), 1);
    }
}
