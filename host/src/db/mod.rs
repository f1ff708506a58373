//! The embedded database: SQLite in the data directory.
//!
//! This room opens and migrates it. Each room's statements stand in its own `store.rs`, in plain SQL, so that
//! another database can be put behind the same functions.

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Sqlite, Transaction};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OwnedMutexGuard};

/// Connections, each with a thread of its own, all of them open for as long as the host runs: what they hold is held from the
/// beginning. One writes; readers do not wait for it.
const CONNECTIONS: u32 = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Pages that a connection keeps for itself, in KiB, negative as SQLite wants it. The kernel's page cache holds them for all; with SQLite's
/// own 2,000 whoever reads far would add megabytes to the process for good.
const CACHE_SIZE: &str = "-256";

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
}

/// An open database. Clones share it.
#[derive(Clone)]
pub struct Db {
    pool: SqlitePool,
    writer: Arc<Mutex<()>>,
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
        Ok(Db { pool, writer: Arc::default() })
    }

    /// For reading. Writes go through [`Db::write`].
    pub fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// Begins a transaction that writes. SQLite takes one writer at a time: they queue here, in order, and not in its
    /// busy loop.
    pub async fn write(&self) -> Result<Write, DbError> {
        let turn = self.writer.clone().lock_owned().await;
        let transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        Ok(Write { transaction, _turn: turn })
    }

    /// Closes all connections; the write-ahead log is folded into the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A transaction that writes; dropped without [`Write::commit`], it leaves no trace.
pub struct Write {
    // Before the turn, so that it is rolled back before the next writer begins.
    transaction: Transaction<'static, Sqlite>,
    _turn: OwnedMutexGuard<()>,
}

impl Write {
    pub async fn commit(self) -> Result<(), DbError> {
        Ok(self.transaction.commit().await?)
    }
}
impl Deref for Write {
    type Target = sqlx::SqliteConnection;
    fn deref(&self) -> &Self::Target {
        &self.transaction
    }
}
impl DerefMut for Write {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.transaction
    }
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
}
