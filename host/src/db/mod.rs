//! The embedded database: SQLite in the data directory.
//!
//! This room opens and migrates it. Each room's statements stand in its own `store.rs`, in plain SQL, so that
//! another database can be put behind the same functions.

pub mod changes;
mod health;
mod write;

pub use write::Write;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Row};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore};
use tokio_util::task::TaskTracker;

/// Connections, each with a thread of its own, all of them open for as long as the host runs: what they hold
/// is held from the beginning. One writes; readers do not wait for it.
const CONNECTIONS: u32 = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Pages that a connection keeps for itself, in KiB, negative as SQLite wants it. The kernel's page cache
/// holds them for all; with SQLite's own 2,000 whoever reads far would add megabytes to the process for good.
const CACHE_SIZE: &str = "-256";

/// Changes under way at once whose clients may be gone. Others wait for a place, and leave with their client.
/// More than the packages that are unpacked at once, each of which is one and waits for others.
const CHANGES_MAX: usize = 64;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("src/db/migrations");

/// The database failed. Never the fault of a caller.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error("database: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("database migration: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A row that this build cannot read: damage, or a newer version's data.
    #[error("database: {table}: unreadable row: {detail}")]
    Row { table: &'static str, detail: String },
    #[error("the task that changed something broke off: {0}")]
    BrokeOff(String),
}

impl DbError {
    /// Whether the disk is full.
    pub fn is_storage_full(&self) -> bool {
        /// SQLite's result code SQLITE_FULL (https://www.sqlite.org/rescode.html#full).
        const FULL: &str = "13";
        let DbError::Sql(sqlx::Error::Database(e)) = self else { return false };
        e.code().is_some_and(|code| code == FULL)
    }
}

/// An open database. Clones share it.
#[derive(Clone)]
pub struct Db {
    pool: SqlitePool,
    writer: Arc<Mutex<()>>,
    health: Arc<health::Health>,
    changes: TaskTracker,
    places: Arc<Semaphore>,
}

impl Db {
    /// Opens the file, creating it when it is missing, and brings its tables up to this build's version.
    ///
    /// Every commit survives the death of the process; with `durable` it survives a power cut as well.
    pub async fn open(path: &Path, durable: bool) -> Result<Db, DbError> {
        let synchronous = if durable { SqliteSynchronous::Full } else { SqliteSynchronous::Normal };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true)
            .pragma("cache_size", CACHE_SIZE)
            .disable_statement_logging();
        let pool =
            SqlitePoolOptions::new().max_connections(CONNECTIONS).idle_timeout(None).max_lifetime(None);
        let pool = pool.connect_with(options).await?;
        MIGRATIONS.run(&pool).await?;
        // One after another: a new database is locked as a whole while the first turns its journal on.
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS {
            open.push(pool.acquire().await?);
        }
        drop(open);
        let (changes, places) = (TaskTracker::new(), Arc::new(Semaphore::new(CHANGES_MAX)));
        Ok(Db { pool, writer: Arc::default(), health: Arc::default(), changes, places })
    }

    /// For reading. Writes go through [`Db::write`].
    pub fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// Begins a transaction that writes. SQLite takes one writer at a time: they queue here, in order, and
    /// not in its busy loop.
    pub async fn write(&self) -> Result<Write, DbError> {
        Write::begin(self).await
    }

    /// Runs a change to its end in a task of its own, though whoever waits for it goes away: a client that
    /// hangs up drops its request's future wherever that waits, and half a change would remain. At most
    /// [`CHANGES_MAX`] run at once.
    pub async fn to_the_end<T, E>(
        &self,
        change: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DbError> + Send + 'static,
    {
        let place = self.places.clone().acquire_owned().await;
        let task = self.changes.spawn(async move {
            let _place = place;
            change.await
        });
        task.await.unwrap_or_else(|e| Err(DbError::BrokeOff(e.to_string()).into()))
    }

    /// Waits until the changes that run have ended. To be asked once no new ones begin.
    pub async fn changes_ended(&self) {
        self.changes.close();
        self.changes.wait().await;
    }

    /// Closes all connections; the write-ahead log is folded into the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// What a row says; one that cannot be read is logged with its table and key and passed over, so that it
/// costs itself and not the start.
pub fn readable<T>(
    table: &'static str,
    keys: &[&str],
    row: &SqliteRow,
    read: impl FnOnce(&SqliteRow) -> Result<T, DbError>,
) -> Option<T> {
    let read = read(row);
    if let Err(error) = &read {
        let key = keys.iter().map(|k| row.try_get_unchecked::<String, _>(*k).unwrap_or_default());
        let key = key.collect::<Vec<_>>().join("/");
        tracing::error!(%error, table, key, "a row of the database cannot be read and is passed over");
    }
    read.ok()
}

#[cfg(test)]
pub mod testing {
    //! A database in a directory that goes away with the test.

    use super::*;

    pub async fn db(dir: &tempfile::TempDir) -> Db {
        Db::open(&dir.path().join("vesta.db"), false).await.expect("open")
    }

    /// As [`db`], with tenants.
    pub async fn db_with_tenants(dir: &tempfile::TempDir, tenants: &[&str]) -> Db {
        let db = db(dir).await;
        let mut write = db.write().await.expect("write");
        for name in tenants {
            sqlx::query("INSERT INTO tenants (name, created_unix_ms) VALUES (?, 0) ON CONFLICT DO NOTHING")
                .bind(*name)
                .execute(&mut *write)
                .await
                .expect("insert");
        }
        write.commit().await.expect("commit");
        db
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dropped_write_leaves_no_trace_and_a_second_open_keeps_what_was_written() {
        let dir = tempfile::tempdir().expect("dir");
        let db = testing::db_with_tenants(&dir, &["kept"]).await;
        let mut write = db.write().await.expect("write");
        sqlx::query("INSERT INTO tenants (name, created_unix_ms) VALUES ('dropped', 0)")
            .execute(&mut *write)
            .await
            .expect("insert");
        drop(write);
        db.close().await;
        let db = testing::db(&dir).await;
        let names: Vec<String> =
            sqlx::query_scalar("SELECT name FROM tenants").fetch_all(db.pool()).await.expect("select");
        assert_eq!(names, ["kept"]);
    }

    #[tokio::test]
    async fn a_change_runs_to_its_end_though_nobody_waits_for_it() {
        let dir = tempfile::tempdir().expect("dir");
        let db = testing::db(&dir).await;
        let (begun, may_go_on) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
        let change = {
            let (db, begun, may_go_on) = (db.clone(), begun.clone(), may_go_on.clone());
            async move {
                let mut write = db.write().await?;
                begun.notify_one();
                may_go_on.notified().await;
                let sql = "INSERT INTO tenants (name, created_unix_ms) VALUES ('kept', 0)";
                sqlx::query(sql).execute(&mut *write).await?;
                write.commit().await
            }
        };
        tokio::select! {
            _ = db.to_the_end::<(), DbError>(change) => panic!("it cannot have ended"),
            () = begun.notified() => {}
        }
        may_go_on.notify_one();
        db.changes_ended().await;
        let names: Vec<String> =
            sqlx::query_scalar("SELECT name FROM tenants").fetch_all(db.pool()).await.expect("select");
        assert_eq!(names, ["kept"]);
    }

    /// A transaction whose COMMIT fails, and which SQLite leaves open.
    async fn cannot_commit(db: &Db) {
        let mut write = db.write().await.expect("write");
        for sql in [
            "PRAGMA defer_foreign_keys = ON",
            "INSERT INTO tenant_blobs (tenant, digest, size, uploaded_unix_ms) VALUES ('nobody', 'x', 0, 0)",
        ] {
            sqlx::query(sql).execute(&mut *write).await.expect("statement");
        }
        assert!(write.commit().await.is_err());
    }

    #[tokio::test]
    async fn a_connection_on_which_something_failed_is_not_used_again() {
        let dir = tempfile::tempdir().expect("dir");
        let db = testing::db(&dir).await;
        // More often than there are connections, each of which would be left in a transaction.
        for _ in 0..2 * CONNECTIONS {
            cannot_commit(&db).await;
            let mut write = db.write().await.expect("write");
            assert!(sqlx::query("INSERT INTO nothing VALUES (1)").execute(&mut *write).await.is_err());
        }
        let mut write = db.write().await.expect("write");
        let sql = "INSERT INTO tenants (name, created_unix_ms) VALUES ('a', 0)";
        sqlx::query(sql).execute(&mut *write).await.expect("insert");
        write.commit().await.expect("commit");
        let blobs: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM tenant_blobs")
            .fetch_one(db.pool())
            .await
            .expect("select");
        assert_eq!(blobs, 0);
    }

    #[tokio::test]
    async fn a_database_that_cannot_be_written_is_known_until_a_probe_has_written() {
        let dir = tempfile::tempdir().expect("dir");
        let db = testing::db(&dir).await;
        assert_eq!(db.write_failure(), None);
        cannot_commit(&db).await;
        assert!(db.write_failure().is_some_and(|why| why.contains("FOREIGN KEY")));
        let healed = async {
            while db.write_failure().is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), healed).await.expect("the probe writes");
    }
}
