//! Transactions that write, one at a time.

use super::{Db, DbError};
use sqlx::pool::PoolConnection;
use sqlx::{Sqlite, SqliteConnection};
use std::ops::{Deref, DerefMut};
use tokio::sync::OwnedMutexGuard;

/// A transaction that writes; dropped without [`Write::commit`], it leaves no trace.
///
/// Its connection goes back to the pool only if everything went well. Otherwise it is closed and the pool
/// opens another one: after a failed COMMIT SQLite may have left the transaction, or not, and a connection
/// that is believed to be in one is of no use to anybody.
pub struct Write {
    /// `None` once it is committed.
    connection: Option<PoolConnection<Sqlite>>,
    turn: Option<OwnedMutexGuard<()>>,
    /// Whether statements were given to it that may have written.
    wrote: bool,
    db: Db,
}

impl Write {
    pub(super) async fn begin(db: &Db) -> Result<Write, DbError> {
        let turn = Some(db.writer.clone().lock_owned().await);
        let connection = db.pool.acquire().await.inspect_err(|e| db.writes_failed(e))?;
        // From here on its drop sees to the connection, also where this future is dropped before the answer.
        let mut write = Write { connection: Some(connection), turn, wrote: false, db: db.clone() };
        let begun = sqlx::query("BEGIN IMMEDIATE").execute(write.reading()).await;
        if let Err(e) = begun {
            write.wrote = true;
            db.writes_failed(&e);
            return Err(e.into());
        }
        Ok(write)
    }

    pub async fn commit(mut self) -> Result<(), DbError> {
        self.wrote = true;
        if let Err(e) = sqlx::query("COMMIT").execute(self.reading()).await {
            self.db.writes_failed(&e);
            return Err(e.into());
        }
        self.connection = None;
        self.db.writes_succeeded();
        Ok(())
    }

    /// For statements that only read. What was not written to needs no new connection when it is dropped.
    pub fn reading(&mut self) -> &mut SqliteConnection {
        self.connection.as_mut().expect("only the end of the transaction takes the connection")
    }
}

impl Deref for Write {
    type Target = SqliteConnection;
    fn deref(&self) -> &Self::Target {
        self.connection.as_ref().expect("only the end of the transaction takes the connection")
    }
}

impl DerefMut for Write {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.wrote = true;
        self.reading()
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        let (turn, db, wrote) = (self.turn.take(), self.db.clone(), self.wrote);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return connection.close_on_drop() };
        runtime.spawn(async move {
            let sound = !wrote && sqlx::query("ROLLBACK").execute(&mut *connection).await.is_ok();
            if !sound && let Err(error) = connection.close().await {
                tracing::warn!(%error, "a database connection was not closed well");
            }
            // The next writer begins only now.
            drop(turn);
            if wrote {
                db.probe_writes();
            }
        });
    }
}
