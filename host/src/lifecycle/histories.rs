//! What was learned of functions outlives the process: written down now and then and at the end, and read
//! before the first request.

use super::activator::Activator;
use super::entry::{Entry, Mark, mark};
use crate::db::{Db, DbError};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex;
use vesta_core::clock::Clock;
use vesta_core::keepalive::{History, SavedHistory};

/// Functions that are looked at after a start follow one another at this distance: working out a plan takes
/// some tens of microseconds.
const LOOK_EVERY: Duration = Duration::from_micros(100);
/// Histories of one transaction: others wait for the writer, and for the worker, meanwhile.
const SAVED_AT_ONCE: usize = 500;

/// The histories of one host's functions on disk.
pub struct Histories {
    activator: Arc<Activator>,
    db: Db,
    clock: Arc<dyn Clock>,
    /// One saves at a time, so that none writes an older state over a newer one.
    saving: Mutex<()>,
}

impl Histories {
    /// Gives the activator what the last run of the host has left. What of it cannot be read is said and
    /// passed over.
    pub async fn open(activator: Arc<Activator>, db: Db, clock: Arc<dyn Clock>) -> Arc<Histories> {
        let (now, unix_ms) = (clock.now(), clock.unix_ns() / 1_000_000);
        let rows = store::load(&db).await.unwrap_or_else(|error| {
            tracing::error!(%error, "the saved histories cannot be read: nothing is known of any function");
            Vec::new()
        });
        let (mut look_at, mut damaged) = (now, 0);
        for row in rows {
            let history = row.ok().and_then(|(name, saved)| Some((name, saved.restore(now, unix_ms)?)));
            let Some(((tenant, function, version), history)) = history else {
                damaged += 1;
                continue;
            };
            look_at += LOOK_EVERY;
            activator.restore(&tenant, &function, version, history, look_at);
        }
        if damaged > 0 {
            tracing::warn!(damaged, "saved histories cannot be read: of their functions nothing is known");
        }
        Arc::new(Histories { activator, db, clock, saving: Mutex::new(()) })
    }

    /// Writes down what is new since the last time; how many histories that were.
    pub async fn save(&self) -> Result<u64, DbError> {
        let _turn = self.saving.lock().await;
        let mut saved = 0;
        for entries in self.activator.entries().chunks(SAVED_AT_ONCE) {
            let (now, unix_ms) = (self.clock.now(), self.clock.unix_ns() / 1_000_000);
            let new: Vec<_> = entries.iter().filter_map(|entry| Some((entry, unsaved(entry)?))).collect();
            let rows = new.iter().map(|(entry, (_, history))| {
                (&*entry.owner.version, SavedHistory::of(history, now, unix_ms))
            });
            store::save(&self.db, rows.collect()).await?;
            for (entry, (mark, _)) in &new {
                set_saved(entry, *mark);
            }
            saved += new.len() as u64;
        }
        Ok(saved)
    }
}

/// A version's history, if it is not the one that was saved.
fn unsaved(entry: &Entry) -> Option<(Mark, History)> {
    let history = entry.history();
    let mark = mark(&history);
    let saved = *entry.owner.saved.lock().unwrap_or_else(PoisonError::into_inner);
    (mark != saved).then_some((mark, history))
}

fn set_saved(entry: &Entry, mark: Mark) {
    *entry.owner.saved.lock().unwrap_or_else(PoisonError::into_inner) = mark;
}

mod store {
    //! Statements of this room.

    use crate::db::{Db, DbError};
    use crate::registry::Version;
    use sqlx::Row;
    use sqlx::sqlite::SqliteRow;
    use vesta_core::keepalive::SavedHistory;

    /// Tenant, function and number of a version.
    type Name = (String, String, u32);

    /// All that was saved, each row by itself: one that is damaged leaves the others readable.
    pub async fn load(db: &Db) -> Result<Vec<Result<(Name, SavedHistory), DbError>>, DbError> {
        let sql = "SELECT tenant, function, version, history FROM histories";
        Ok(sqlx::query(sql).fetch_all(db.pool()).await?.iter().map(saved).collect())
    }

    fn saved(row: &SqliteRow) -> Result<(Name, SavedHistory), DbError> {
        let name = (row.try_get("tenant")?, row.try_get("function")?, row.try_get("version")?);
        let damaged = |e: serde_json::Error| DbError::Row { table: "histories", detail: e.to_string() };
        Ok((name, serde_json::from_str(row.try_get("history")?).map_err(damaged)?))
    }

    pub async fn save(db: &Db, rows: Vec<(&Version, SavedHistory)>) -> Result<(), DbError> {
        if rows.is_empty() {
            return Ok(());
        }
        // A version may have been deleted meanwhile.
        let sql = "
            INSERT INTO histories (tenant, function, version, history)
            SELECT tenant, function, number, ? FROM versions WHERE tenant = ? AND function = ? AND number = ?
            ON CONFLICT (tenant, function, version) DO UPDATE SET history = excluded.history";
        let mut write = db.write().await?;
        for (version, history) in rows {
            // Numbers under fixed names. One that JSON does not have (an infinity) is written as null, and
            // known as damage.
            let Ok(history) = serde_json::to_string(&history) else { continue };
            let query = sqlx::query(sql).bind(history).bind(version.tenant.as_str());
            let query = query.bind(version.function.as_str()).bind(i64::from(version.number));
            query.execute(&mut *write).await?;
        }
        write.commit().await
    }
}
