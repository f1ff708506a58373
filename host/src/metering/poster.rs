//! Takes records from the journal to the ledger, in batches, until the ledger has them all.

use super::journal::{Journal, lock};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use vesta_core::UsageRecord;

/// Most records of one transaction.
const BATCH_MAX: usize = 2_000;
/// A batch is let grow for this long: a transaction costs the same for one record as for a hundred. Readers of the ledger wait
/// for it (see [`vesta_core::settlement`]).
const GATHER: Duration = Duration::from_millis(100);
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The ledger refused a batch; it is tried again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PostError(pub String);

/// What takes the records; filled with the ledger by the server.
pub trait Post: Send + Sync {
    /// Takes all of them or none. Records that it has already are left as they are.
    fn post<'a>(
        &'a self,
        records: &'a [UsageRecord],
    ) -> Pin<Box<dyn Future<Output = Result<(), PostError>> + Send + 'a>>;
}

/// Runs until the journal is closed and everything is posted.
pub async fn run_poster(journal: Journal, ledger: std::sync::Arc<dyn Post>) {
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
        let (numbers, records) = batch(&journal);
        while let Err(error) = ledger.post(&records).await {
            tracing::error!(%error, records = records.len(), "the ledger refused a batch of usage records; trying again");
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        let n = records.len();
        lock(&journal.0.backlog).drain(..n);
        journal.0.settlement.post(n as u64);
        let mut segments = lock(&journal.0.segments);
        for (number, count) in numbers {
            segments.posted(number, count);
        }
    }
}

/// The oldest records of the backlog, and how many of them each segment holds.
fn batch(journal: &Journal) -> (BTreeMap<u64, u64>, Vec<UsageRecord>) {
    let backlog = lock(&journal.0.backlog);
    let mut numbers = BTreeMap::new();
    let mut records = Vec::with_capacity(backlog.len().min(BATCH_MAX));
    for (number, record) in backlog.iter().take(BATCH_MAX) {
        *numbers.entry(*number).or_default() += 1;
        records.push(record.clone());
    }
    (numbers, records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::sync::{Arc, Mutex};
    use vesta_core::settlement::Settlement;
    use vesta_core::usage::{Phases, Quantities};
    use vesta_core::vital::Vital;
    use vesta_core::{Charge, InvocationId, Outcome};

    #[derive(Default)]
    struct Kept {
        records: Mutex<Vec<UsageRecord>>,
        failures: Mutex<u32>,
    }
    impl Post for Kept {
        fn post<'a>(
            &'a self,
            records: &'a [UsageRecord],
        ) -> Pin<Box<dyn Future<Output = Result<(), PostError>> + Send + 'a>> {
            Box::pin(async move {
                let mut failures = self.failures.lock().expect("lock");
                if *failures > 0 {
                    *failures -= 1;
                    return Err(PostError("busy".into()));
                }
                self.records.lock().expect("lock").extend_from_slice(records);
                Ok(())
            })
        }
    }

    fn record(n: u64) -> UsageRecord {
        UsageRecord {
            id: InvocationId::new(n, n.into()),
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
        }
    }

    fn files(dir: &Path) -> usize {
        std::fs::read_dir(dir).expect("dir").count()
    }

    #[tokio::test]
    async fn what_was_acknowledged_survives_the_death_of_the_process_and_is_posted_once() {
        let dir = tempfile::tempdir().expect("dir");
        {
            let journal = Journal::open(dir.path(), false, Arc::default(), Vital::unwatched()).expect("open");
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
        let vital = Vital::unwatched();
        let journal = Journal::open(dir.path(), false, settlement.clone(), vital).expect("open");
        assert!(!settlement.reached(settlement.mark()));
        let kept = Arc::new(Kept { failures: Mutex::new(1), ..Kept::default() });
        assert!(journal.submit(record(100)).await);
        journal.close();
        run_poster(journal, kept.clone()).await;
        let records = kept.records.lock().expect("lock");
        assert_eq!(records.len(), 101);
        assert!((0..101).all(|n| records.iter().any(|r| r.id == record(n).id)));
        assert!(settlement.reached(settlement.mark()));
        assert_eq!(files(dir.path()), 1, "posted segments are gone");
    }
}
