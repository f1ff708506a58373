//! Whose turn it is to read. Reading takes one of few connections: a tenant has one at a time, and all
//! tenants together leave some to the rest of the host. Waiting for a turn is bounded, and so is the read
//! itself.

use super::LedgerError;
use crate::db::Db;
use futures_util::future::BoxFuture;
use sqlx::SqliteConnection;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use vesta_core::TenantName;

/// Reads at once, of all tenants and of housekeeping. The database has 4 connections: one is the writer's,
/// and one is left to the other rooms.
const READS_MAX: usize = 2;
/// Reads at once of one tenant.
const READS_OF_TENANT_MAX: usize = 1;
/// How long a read waits for its turn.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// How long a read may take once it has begun: then it is interrupted.
const READ_MAX: Duration = Duration::from_secs(5);
/// Steps of SQLite's virtual machine between two looks at the time: some microseconds.
const STEPS: i32 = 10_000;

pub struct Reads {
    db: Db,
    all: Arc<Semaphore>,
    tenants: Mutex<HashMap<TenantName, Arc<Semaphore>>>,
}

/// Interrupts a read when its reader goes away.
struct Interrupt(Arc<AtomicBool>);

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

impl Reads {
    pub fn new(db: Db) -> Self {
        Self { db, all: Arc::new(Semaphore::new(READS_MAX)), tenants: Mutex::default() }
    }

    /// Reads for a tenant, or for the host itself, once it is its turn.
    ///
    /// The read is a task of its own. Its turn ends when the connection is free again, and not already when
    /// the reader goes away.
    pub async fn run<T, F>(&self, tenant: Option<&TenantName>, read: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, LedgerError>> + Send + 'static,
    {
        let turn = self.turn(tenant).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let _interrupt = Interrupt(stop.clone());
        let db = self.db.clone();
        let task = tokio::spawn(async move {
            let _turn = turn;
            let mut connection = db.pool().acquire().await?;
            let interrupted = stop.clone();
            connection.lock_handle().await?.set_progress_handler(STEPS, move || !interrupted.load(Relaxed));
            let (result, late) = {
                let mut reading = read(&mut connection);
                match tokio::time::timeout(READ_MAX, &mut reading).await {
                    Ok(result) => (result, false),
                    Err(_) => {
                        stop.store(true, Relaxed);
                        (reading.await, true)
                    }
                }
            };
            connection.lock_handle().await?.remove_progress_handler();
            match result {
                Err(_) if late => Err(LedgerError::TooLong(READ_MAX)),
                result => result,
            }
        });
        // A task that panicked, or that the end of the host has cancelled.
        task.await.unwrap_or_else(|e| Err(LedgerError::Ended(e.to_string())))
    }

    async fn turn(
        &self,
        tenant: Option<&TenantName>,
    ) -> Result<(Option<OwnedSemaphorePermit>, OwnedSemaphorePermit), LedgerError> {
        let own = match tenant {
            None => None,
            Some(tenant) => {
                let share = {
                    let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
                    let share = || Arc::new(Semaphore::new(READS_OF_TENANT_MAX));
                    tenants.entry(tenant.clone()).or_insert_with(share).clone()
                };
                let own = tokio::time::timeout(WAIT_MAX, share.acquire_owned()).await;
                Some(own.map_err(|_| LedgerError::TenantBusy(WAIT_MAX))?.map_err(closed)?)
            }
        };
        let one = tokio::time::timeout(WAIT_MAX, self.all.clone().acquire_owned()).await;
        Ok((own, one.map_err(|_| LedgerError::Busy(WAIT_MAX))?.map_err(closed)?))
    }
}

fn closed(_: tokio::sync::AcquireError) -> LedgerError {
    LedgerError::Ended("the host ends".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::testing;
    use std::time::Instant;

    /// Counts without end.
    const ENDLESS: &str =
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

    async fn endless(reads: &Reads, tenant: &str) -> Result<i64, LedgerError> {
        let tenant = tenant.parse().expect("name");
        let read = reads.run(Some(&tenant), |c| {
            Box::pin(async move { Ok(sqlx::query_scalar(ENDLESS).fetch_one(c).await?) })
        });
        read.await
    }

    async fn quick(reads: &Reads, tenant: Option<&str>) -> Result<i64, LedgerError> {
        let tenant = tenant.map(|t| t.parse().expect("name"));
        let read = reads.run(tenant.as_ref(), |c| {
            Box::pin(async move { Ok(sqlx::query_scalar("SELECT 1").fetch_one(c).await?) })
        });
        read.await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_tenants_endless_read_holds_nobody_and_ends_with_its_reader() {
        let dir = tempfile::tempdir().expect("dir");
        let reads = Arc::new(Reads::new(testing::db(&dir).await));
        let readers: Vec<_> = (0..5)
            .map(|_| {
                let reads = reads.clone();
                tokio::spawn(async move { endless(&reads, "mallory").await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        // The other tenant and the host have their turns, at once.
        let begin = Instant::now();
        for tenant in [Some("acme"), None] {
            assert_eq!(quick(&reads, tenant).await.expect("read"), 1);
        }
        assert!(begin.elapsed() < WAIT_MAX / 2, "{:?}", begin.elapsed());
        // Further reads of the same tenant are refused after a while.
        let busy = quick(&reads, Some("mallory")).await;
        assert!(matches!(busy, Err(LedgerError::TenantBusy(_))), "{busy:?}");
        for reader in readers {
            reader.abort();
            let _ = reader.await;
        }
        assert_eq!(quick(&reads, Some("mallory")).await.expect("read"), 1);
    }

    #[tokio::test]
    async fn a_read_that_takes_too_long_is_interrupted() {
        let dir = tempfile::tempdir().expect("dir");
        let reads = Reads::new(testing::db(&dir).await);
        let begin = Instant::now();
        let late = endless(&reads, "acme").await;
        assert!(matches!(late, Err(LedgerError::TooLong(_))), "{late:?}");
        assert!(begin.elapsed() < READ_MAX + Duration::from_secs(5));
        // The connection is of use again, to readers and to the writer.
        for _ in 0..4 {
            assert_eq!(quick(&reads, Some("acme")).await.expect("read"), 1);
        }
        reads.db.write().await.expect("write").commit().await.expect("commit");
    }
}
