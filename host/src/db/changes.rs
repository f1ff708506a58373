//! How memory follows the database: by a sequence of changes.
//!
//! A change of tenants, keys or functions is noted in the transaction that makes it ([`note`]). A room that
//! keeps such things in memory (a [`Follower`]) brings them up by the changes since the last that it has
//! seen, in order, by reading the rows of what changed. It knows nothing of a change but what the database
//! says, so that another process's changes are followed like its own.
//!
//! ```text
//!  lock ─▶ BEGIN ─▶ follow what others changed ─▶ check ─▶ write, note ─▶ read what changed ─▶ COMMIT ─▶ memory ─▶ unlock
//! ```

use super::{Db, DbError, Write};
use sqlx::SqliteConnection;
use std::collections::HashSet;
use std::future::Future;
use tokio::sync::{Mutex, MutexGuard};

/// Changes that are kept, at least; housekeeping removes older ones. A follower that is farther behind reads
/// everything again.
pub const KEPT: i64 = 10_000;

/// What a change is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Change {
    /// `tenant`, `key` or `function`.
    pub kind: String,
    /// The tenant of a function; else empty.
    pub tenant: String,
    /// The name of the tenant or function, or the prefix of the key.
    pub name: String,
}

/// What a follower has not seen yet.
#[derive(Debug, PartialEq, Eq)]
pub enum Since {
    /// These changed, each named once.
    These(Vec<Change>),
    /// Some of what changed is not kept any more: everything may have changed.
    Everything,
}

/// The last change that a follower has seen; locked while it follows, and while something changes.
pub struct Seen(Mutex<i64>);

/// A part of the host that holds in memory what the database says.
pub trait Follower: Send + Sync {
    /// What was read of the database, for memory.
    type News: Send;
    /// The kinds of changes that it follows.
    const KINDS: &'static [&'static str];

    fn db(&self) -> &Db;
    fn seen(&self) -> &Seen;
    /// Reads the rows of what changed.
    fn read(
        &self,
        connection: &mut SqliteConnection,
        since: Since,
    ) -> impl Future<Output = Result<Self::News, DbError>> + Send;
    /// Puts them into memory. This cannot fail.
    fn apply(&self, news: Self::News);
}

/// A change that is being made: nobody else changes anything meanwhile, and memory is what the database says.
pub struct Changing<'a> {
    pub write: Write,
    seen: MutexGuard<'a, i64>,
}

impl Seen {
    /// The newest change there is. To be asked for before everything is read.
    pub async fn newest(db: &Db) -> Result<Seen, DbError> {
        Ok(Seen(Mutex::new(newest(&mut *db.pool().acquire().await?).await?)))
    }
}

/// Begins a change.
pub async fn begin<F: Follower>(follower: &F) -> Result<Changing<'_>, DbError> {
    let mut seen = follower.seen().0.lock().await;
    let mut write = follower.db().write().await?;
    let (news, newest) = news(follower, write.reading(), *seen).await?;
    follower.apply(news);
    *seen = newest;
    Ok(Changing { write, seen })
}

/// Notes what is changed in this transaction.
pub async fn note(
    write: &mut Write,
    kind: &'static str,
    tenant: &str,
    name: &str,
    unix_ms: i64,
) -> Result<(), DbError> {
    sqlx::query("INSERT INTO changes (kind, tenant, name, unix_ms) VALUES (?, ?, ?, ?)")
        .bind(kind)
        .bind(tenant)
        .bind(name)
        .bind(unix_ms)
        .execute(&mut **write)
        .await?;
    Ok(())
}

/// Makes a change last; when this returns, memory has it.
pub async fn commit<F: Follower>(follower: &F, changing: Changing<'_>) -> Result<(), DbError> {
    let Changing { mut write, mut seen } = changing;
    let (news, newest) = news(follower, write.reading(), *seen).await?;
    let committed = write.commit().await;
    if committed.is_ok() {
        follower.apply(news);
        *seen = newest;
        return Ok(());
    }
    // Whether it lasts is for the database to say.
    if let Err(error) = follow_locked(follower, &mut seen).await {
        tracing::warn!(%error, "memory follows the database with the next change");
    }
    committed
}

/// Brings memory up to the database.
pub async fn follow<F: Follower>(follower: &F) -> Result<(), DbError> {
    follow_locked(follower, &mut *follower.seen().0.lock().await).await
}

async fn follow_locked<F: Follower>(follower: &F, seen: &mut i64) -> Result<(), DbError> {
    let mut connection = follower.db().pool().acquire().await?;
    let (news, newest) = news(follower, &mut connection, *seen).await?;
    follower.apply(news);
    *seen = newest;
    Ok(())
}

/// Removes all but the newest changes; how many it removed.
pub async fn prune(db: &Db) -> Result<u64, DbError> {
    let mut write = db.write().await?;
    let removed = sqlx::query("DELETE FROM changes WHERE seq <= (SELECT MAX(seq) FROM changes) - ?")
        .bind(KEPT)
        .execute(&mut *write)
        .await?;
    write.commit().await?;
    Ok(removed.rows_affected())
}

async fn news<F: Follower>(
    follower: &F,
    connection: &mut SqliteConnection,
    seen: i64,
) -> Result<(F::News, i64), DbError> {
    // Before the rows: what changes in between is read, and read again.
    let newest = newest(connection).await?;
    let since = since(connection, seen, F::KINDS).await?;
    Ok((follower.read(connection, since).await?, newest))
}

async fn newest(connection: &mut SqliteConnection) -> Result<i64, DbError> {
    let newest: Option<i64> =
        sqlx::query_scalar("SELECT MAX(seq) FROM changes").fetch_one(connection).await?;
    Ok(newest.unwrap_or(0))
}

async fn since(connection: &mut SqliteConnection, seen: i64, kinds: &[&str]) -> Result<Since, DbError> {
    let oldest: Option<i64> =
        sqlx::query_scalar("SELECT MIN(seq) FROM changes").fetch_one(&mut *connection).await?;
    if oldest.is_some_and(|oldest| seen + 1 < oldest) {
        return Ok(Since::Everything);
    }
    let sql = "SELECT kind, tenant, name FROM changes WHERE seq > ? ORDER BY seq";
    let rows: Vec<(String, String, String)> =
        sqlx::query_as(sql).bind(seen).fetch_all(&mut *connection).await?;
    let changes = rows.into_iter().map(|(kind, tenant, name)| Change { kind, tenant, name });
    let mut met = HashSet::new();
    // The rows are read once, whatever happened to them meanwhile.
    let these = changes.filter(|c| kinds.contains(&c.kind.as_str()) && met.insert(c.clone()));
    Ok(Since::These(these.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::testing;

    async fn noted(db: &Db, n: i64) {
        let mut write = db.write().await.expect("write");
        for i in 0..n {
            note(&mut write, if i % 2 == 0 { "key" } else { "function" }, "", "x", 0).await.expect("noted");
        }
        write.commit().await.expect("commit");
    }

    async fn after(db: &Db, seen: i64) -> Since {
        since(&mut db.pool().acquire().await.expect("connection"), seen, &["key"]).await.expect("read")
    }

    #[tokio::test]
    async fn only_the_newest_changes_are_kept_and_who_is_behind_them_reads_everything() {
        let dir = tempfile::tempdir().expect("dir");
        let db = testing::db(&dir).await;
        assert_eq!(after(&db, 0).await, Since::These(Vec::new()));
        noted(&db, 20).await;
        let key = Change { kind: "key".into(), tenant: String::new(), name: "x".into() };
        assert_eq!(after(&db, 0).await, Since::These(vec![key.clone()]));
        assert_eq!(after(&db, 19).await, Since::These(Vec::new()), "the last one is a function's");
        assert_eq!(prune(&db).await.expect("prune"), 0);
        noted(&db, KEPT - 10).await;
        assert_eq!(prune(&db).await.expect("prune"), 10);
        assert_eq!(after(&db, 9).await, Since::Everything);
        assert_eq!(after(&db, 10).await, Since::These(vec![key]));
        // A number is never given twice, also where its row is gone.
        assert_eq!(after(&db, KEPT + 10).await, Since::These(Vec::new()));
    }
}
