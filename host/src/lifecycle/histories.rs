//! What was learned of functions outlives the process: written down now and then and at the end, and read before the first request.

use super::activator::Activator;
use crate::db::{Db, DbError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use vesta_core::clock::{Clock, Instant};
use vesta_core::keepalive::SavedHistory;

/// Functions that are looked at after a start follow one another at this distance: working out a plan takes some tens of microseconds.
const LOOK_EVERY: Duration = Duration::from_micros(100);

/// The histories of one host's functions on disk.
pub struct Histories {
    activator: Arc<Activator>,
    db: Db,
    clock: Arc<dyn Clock>,
    /// Who was called since has something new to be saved.
    saved: Mutex<Instant>,
}

impl Histories {
    /// Reads what the last run of the host has left, and gives it to the activator.
    pub async fn open(
        activator: Arc<Activator>,
        db: Db,
        clock: Arc<dyn Clock>,
    ) -> Result<Histories, DbError> {
        let (now, unix_ms) = (clock.now(), clock.unix_ns() / 1_000_000);
        let mut look_at = now;
        for row in store::load(&db).await? {
            let saved = serde_json::from_str::<SavedHistory>(&row.history).ok();
            let Some(history) = saved.and_then(|saved| saved.restore(now, unix_ms)) else {
                tracing::warn!(
                    tenant = row.tenant,
                    function = row.function,
                    version = row.version,
                    "a saved history cannot be read: the function is one that nothing is known of"
                );
                continue;
            };
            look_at += LOOK_EVERY;
            activator.restore(&row.tenant, &row.function, row.version, history, look_at);
        }
        Ok(Histories { activator, db, clock, saved: Mutex::new(now) })
    }

    /// Writes down what is new since the last time.
    pub async fn save(&self) -> Result<u64, DbError> {
        let (now, unix_ms) = (self.clock.now(), self.clock.unix_ns() / 1_000_000);
        let since = std::mem::replace(&mut *self.saved.lock().unwrap_or_else(PoisonError::into_inner), now);
        let histories = self.activator.histories();
        let new = histories.into_iter().filter(|(_, h)| h.last_arrival().is_some_and(|last| last >= since));
        let mut rows = Vec::new();
        for ((tenant, function, version), history) in new {
            let Ok(history) = serde_json::to_string(&SavedHistory::of(&history, now, unix_ms)) else {
                continue;
            };
            let (tenant, function) = (tenant.as_str().to_owned(), function.as_str().to_owned());
            rows.push(store::Row { tenant, function, version, history });
        }
        store::save(&self.db, &rows).await?;
        Ok(rows.len() as u64)
    }
}

mod store {
    //! Statements of this room.

    use crate::db::{Db, DbError};

    /// Rows of one transaction: others wait for the writer meanwhile.
    const ROWS: usize = 500;

    #[derive(sqlx::FromRow)]
    pub struct Row {
        pub tenant: String,
        pub function: String,
        pub version: u32,
        pub history: String,
    }

    pub async fn load(db: &Db) -> Result<Vec<Row>, DbError> {
        let sql = "SELECT tenant, function, version, history FROM histories";
        Ok(sqlx::query_as(sql).fetch_all(db.pool()).await?)
    }

    pub async fn save(db: &Db, rows: &[Row]) -> Result<(), DbError> {
        // A version may have been deleted meanwhile.
        let sql = "
            INSERT INTO histories (tenant, function, version, history)
            SELECT tenant, function, number, ? FROM versions WHERE tenant = ? AND function = ? AND number = ?
            ON CONFLICT (tenant, function, version) DO UPDATE SET history = excluded.history";
        for rows in rows.chunks(ROWS) {
            let mut write = db.write().await?;
            for row in rows {
                let query = sqlx::query(sql).bind(&row.history).bind(&row.tenant);
                query.bind(&row.function).bind(i64::from(row.version)).execute(&mut *write).await?;
            }
            write.commit().await?;
        }
        Ok(())
    }
}
