//! Whether the database can be written: known from what is written, and after a failure from a probe.

use super::{Db, DbError, Write};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

/// How long a probe waits after one that failed.
const PROBE_PAUSE: Duration = Duration::from_millis(250);
/// What a probe writes, in bytes: as much as a transaction of the control API, so that a disk with a few free
/// blocks is not taken for one with room.
const PROBE_BYTES: i64 = 64 << 10;

#[derive(Default)]
pub(super) struct Health {
    /// Why the last write failed, if it did.
    failure: Mutex<Option<String>>,
    probing: AtomicBool,
}

impl Db {
    /// Why the database cannot be written, if it could not be when it was last tried.
    pub fn write_failure(&self) -> Option<String> {
        self.health.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes a failure, and probes until the database can be written again.
    pub(super) fn writes_failed(&self, error: &sqlx::Error) {
        self.set_failure(Some(error.to_string()));
        self.probe_writes();
    }

    pub(super) fn writes_succeeded(&self) {
        self.set_failure(None);
    }

    fn set_failure(&self, failure: Option<String>) {
        let mut now = self.health.failure.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*now, &failure) {
            (None, Some(error)) => tracing::error!(%error, "the database cannot be written"),
            (Some(_), None) => tracing::info!("the database can be written again"),
            _ => {}
        }
        *now = failure;
    }

    /// Tries to write until it succeeds, unless that is being tried already.
    pub(super) fn probe_writes(&self) {
        if self.health.probing.swap(true, SeqCst) {
            return;
        }
        let db = self.clone();
        tokio::spawn(async move {
            while !db.pool.is_closed() && probe(&db).await.is_err() {
                tokio::time::sleep(PROBE_PAUSE).await;
            }
            db.health.probing.store(false, SeqCst);
        });
    }
}

async fn probe(db: &Db) -> Result<(), DbError> {
    let mut write = Write::begin(db).await?;
    let written = sqlx::query(
        "INSERT INTO probe (only, filler) VALUES (1, zeroblob(?)) ON CONFLICT (only) DO UPDATE SET filler = excluded.filler",
    )
    .bind(PROBE_BYTES)
    .execute(&mut *write)
    .await;
    written.inspect_err(|e| db.writes_failed(e))?;
    write.commit().await
}
