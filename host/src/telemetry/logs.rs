//! What functions write: kept in the database for a while, and passed on to whoever follows.
//!
//! Writing never holds a function up: entries wait in a bounded queue for one writer, of which each function
//! and each tenant has a share. Past that they are dropped and counted, and the log that they are missing
//! from says so.

use crate::db::{Db, DbError};
use dashmap::DashMap;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, mpsc, oneshot};
use vesta_core::pace::Pace;
use vesta_core::vital::Vital;
use vesta_core::{FunctionName, InvocationId, TenantName};

/// Entries that wait for the writer.
const QUEUE_MAX: usize = 8_192;
/// Those of one function, while the queue is less than half full, and when it is fuller.
const OF_FUNCTION_MAX: usize = QUEUE_MAX / 4;
const OF_FUNCTION_LEAST: usize = 256;
/// The same of all functions of one tenant.
const OF_TENANT_MAX: usize = QUEUE_MAX / 2;
const OF_TENANT_LEAST: usize = 512;
/// Entries of one function: so many at once, and then one in each of these times, 1,000 a second. Nobody is
/// billed for their way into the database, a few microseconds of CPU time for each.
const AT_ONCE: u32 = 10_000;
const EACH: Duration = Duration::from_millis(1);
/// Entries of one transaction.
const BATCH_MAX: usize = 512;
/// Entries kept for a follower that falls behind.
const FOLLOW_MAX: usize = 4_096;
/// Most entries of one [`LogStore::tail`].
pub const TAIL_MAX: u32 = 1_000;
/// Newest entries kept of each function when [`LogStore::prune`] runs.
pub const KEPT_PER_FUNCTION: u32 = 100_000;
/// How long a reader waits for the entries before it to be written.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// How grave an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
    /// The level of that name in any case, if there is one.
    pub fn from_name(name: &str) -> Option<Level> {
        let all = [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error];
        all.into_iter().find(|l| l.as_str().eq_ignore_ascii_case(name))
    }
}

/// One line that a function wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct LogEntry {
    pub unix_ns: i64,
    pub tenant: TenantName,
    pub function: FunctionName,
    pub version: u32,
    pub invocation: InvocationId,
    pub level: Level,
    pub message: String,
    /// Further keys of a structured line, as a JSON object.
    pub fields: Option<serde_json::Value>,
}

/// An entry that was written, under the number that orders it among all.
#[derive(Debug, Clone)]
pub struct Written {
    pub seq: i64,
    pub entry: LogEntry,
}

enum Message {
    Entry(Box<LogEntry>),
    Flush(oneshot::Sender<()>),
}

/// What of a function's log waits, and what was dropped since an entry was last written.
#[derive(Debug, Default, Clone, Copy)]
struct Share {
    waiting: usize,
    dropped: u64,
    /// Version and invocation of the last entry that was dropped, and its moment.
    last: Option<(u32, InvocationId, i64)>,
}

/// The shares of functions, and the entries of each tenant that wait.
#[derive(Default)]
struct Shares {
    functions: DashMap<(TenantName, FunctionName), Share>,
    tenants: DashMap<TenantName, usize>,
}

/// The logs of all functions of one host.
pub struct LogStore {
    db: Db,
    queue: mpsc::Sender<Message>,
    shares: Arc<Shares>,
    followers: broadcast::Sender<Arc<Written>>,
    dropped: AtomicU64,
    pace: Pace<(TenantName, FunctionName)>,
    began: Instant,
}

impl LogStore {
    /// Starts the writer, which holds `vital`; it ends with the store.
    pub fn open(db: Db, vital: Vital) -> Arc<Self> {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let (followers, _) = broadcast::channel(FOLLOW_MAX);
        let shares = Arc::<Shares>::default();
        let writer = write_all(db.clone(), waiting, shares.clone(), followers.clone());
        tokio::spawn(async move {
            let _vital = vital;
            writer.await;
        });
        Arc::new(Self {
            db,
            queue,
            shares,
            followers,
            dropped: AtomicU64::new(0),
            pace: Pace::new(AT_ONCE, EACH),
            began: Instant::now(),
        })
    }

    /// Takes an entry without waiting; drops and counts it where the writer is too far behind, or its
    /// function has its share of what waits.
    pub fn append(&self, entry: LogEntry) {
        let shares = &self.shares;
        let of = (entry.tenant.clone(), entry.function.clone());
        let is_paced = self.pace.take(&of, self.began.elapsed()).is_ok();
        // Locked in this order everywhere.
        let mut share = shares.functions.entry(of).or_default();
        let mut of_tenant = shares.tenants.entry(entry.tenant.clone()).or_default();
        let is_full = self.queue.capacity() < QUEUE_MAX / 2;
        let (most, most_of_tenant) = match is_full {
            true => (OF_FUNCTION_LEAST, OF_TENANT_LEAST),
            false => (OF_FUNCTION_MAX, OF_TENANT_MAX),
        };
        let has_room = is_paced && share.waiting < most && *of_tenant < most_of_tenant;
        let last = (entry.version, entry.invocation, entry.unix_ns);
        if has_room && self.queue.try_send(Message::Entry(Box::new(entry))).is_ok() {
            share.waiting += 1;
            *of_tenant += 1;
            return;
        }
        share.last = Some(last);
        share.dropped += 1;
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// How many entries were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits, for 2 s at most, until what was appended before is written.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        let flushed = async {
            if self.queue.send(Message::Flush(done)).await.is_ok() {
                // An error means that the writer has ended: there is nothing to wait for.
                let _ = written.await;
            }
        };
        let _ = tokio::time::timeout(FLUSH_MAX, flushed).await;
    }

    /// A function's newest entries, oldest first; at most `limit` and [`TAIL_MAX`].
    pub async fn tail(
        &self,
        tenant: &TenantName,
        function: &FunctionName,
        limit: u32,
    ) -> Result<Vec<Written>, DbError> {
        self.flush().await;
        store::tail(&self.db, tenant, function, limit.min(TAIL_MAX)).await
    }

    /// Entries of all functions from now on, each after it was written.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Written>> {
        self.followers.subscribe()
    }

    /// Deletes the entries from before a moment (nanoseconds since 1970), and all but the newest
    /// [`KEPT_PER_FUNCTION`] of each function. Returns how many.
    pub async fn prune(&self, before_unix_ns: i64) -> Result<u64, DbError> {
        store::prune(&self.db, before_unix_ns, KEPT_PER_FUNCTION).await
    }
}

/// Entries leave the queue; gives those that tell of the ones that were dropped since: one for a function.
fn left(shares: &Shares, entries: &[Written]) -> Vec<LogEntry> {
    let mut last = HashMap::new();
    for Written { entry, .. } in entries {
        let (count, of) = last.entry((&entry.tenant, &entry.function)).or_insert((0, entry));
        *count += 1;
        *of = entry;
    }
    let note = |((tenant, function), (count, last)): ((&TenantName, &FunctionName), (usize, &LogEntry))| {
        let mut dropped = 0;
        shares.functions.remove_if_mut(&(tenant.clone(), function.clone()), |_, share| {
            share.waiting = share.waiting.saturating_sub(count);
            dropped = std::mem::take(&mut share.dropped);
            share.waiting == 0
        });
        shares.tenants.remove_if_mut(tenant, |_, waiting| {
            *waiting = waiting.saturating_sub(count);
            *waiting == 0
        });
        let of = (last.version, last.invocation, last.unix_ns);
        (dropped > 0).then(|| note_of_dropped(tenant, function, dropped, of))
    };
    last.into_iter().filter_map(note).collect()
}

/// Of functions that have nothing in the queue any more, the notes of what was dropped: no entry of theirs
/// brings them along.
fn left_alone(shares: &Shares) -> Vec<LogEntry> {
    let mut notes = Vec::new();
    shares.functions.retain(|(tenant, function), share| {
        if share.waiting > 0 {
            return true;
        }
        if let Some(last) = share.last.filter(|_| share.dropped > 0) {
            notes.push(note_of_dropped(tenant, function, share.dropped, last));
        }
        false
    });
    notes
}

fn note_of_dropped(
    tenant: &TenantName,
    function: &FunctionName,
    dropped: u64,
    (version, invocation, unix_ns): (u32, InvocationId, i64),
) -> LogEntry {
    LogEntry {
        unix_ns,
        tenant: tenant.clone(),
        function: function.clone(),
        version,
        invocation,
        level: Level::Warn,
        message: format!("{dropped} lines of this log were dropped: they came faster than logs are written"),
        fields: None,
    }
}

async fn write_all(
    db: Db,
    mut waiting: mpsc::Receiver<Message>,
    shares: Arc<Shares>,
    followers: broadcast::Sender<Arc<Written>>,
) {
    // The numbers are this writer's to give: nobody else writes.
    let mut last_seq = store::last_seq(&db).await.unwrap_or_else(|e| {
        tracing::error!("function logs: {e}");
        // Past any number that was given.
        i64::MAX / 2
    });
    let mut messages = Vec::with_capacity(BATCH_MAX);
    while waiting.recv_many(&mut messages, BATCH_MAX).await > 0 {
        let mut entries = Vec::new();
        let mut flushes = Vec::new();
        for message in messages.drain(..) {
            match message {
                Message::Entry(entry) => {
                    last_seq += 1;
                    entries.push(Written { seq: last_seq, entry: *entry });
                }
                Message::Flush(done) => flushes.push(done),
            }
        }
        let mut notes = left(&shares, &entries);
        if waiting.is_empty() {
            notes.extend(left_alone(&shares));
        }
        for entry in notes {
            last_seq += 1;
            entries.push(Written { seq: last_seq, entry });
        }
        match store::write(&db, &entries).await {
            Ok(()) => {
                for entry in entries {
                    // An error means that nobody follows.
                    let _ = followers.send(Arc::new(entry));
                }
            }
            Err(e) => tracing::error!("function logs were lost: {e}"),
        }
        for done in flushes {
            let _ = done.send(());
        }
    }
}

mod store {
    //! Statements of the logs.

    use super::{LogEntry, Written};
    use crate::db::{Db, DbError};
    use sqlx::sqlite::SqliteRow;
    use sqlx::{AssertSqlSafe, Row};
    use std::sync::LazyLock;
    use vesta_core::{FunctionName, TenantName};

    const COLUMNS: usize = 9;
    /// Rows of one statement: of two sizes only, so that both stay prepared.
    const ROWS: usize = 32;
    static INSERT_ONE: LazyLock<String> = LazyLock::new(|| insert_sql(1));
    static INSERT_MANY: LazyLock<String> = LazyLock::new(|| insert_sql(ROWS));

    fn insert_sql(rows: usize) -> String {
        let row = format!("({})", ["?"; COLUMNS].join(", "));
        let columns = "seq, unix_ns, tenant, function, version, invocation, level, message, fields";
        format!("INSERT INTO guest_logs ({columns}) VALUES {}", vec![row; rows].join(", "))
    }

    /// The number of the newest entry.
    pub async fn last_seq(db: &Db) -> Result<i64, DbError> {
        let sql = "SELECT coalesce(max(seq), 0) FROM guest_logs";
        Ok(sqlx::query_scalar(sql).fetch_one(db.pool()).await?)
    }

    pub async fn write(db: &Db, entries: &[Written]) -> Result<(), DbError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut write = db.write().await?;
        let chunks = entries.chunks_exact(ROWS);
        let rest = chunks.remainder();
        for chunk in chunks.chain(rest.chunks(1)) {
            let sql = if chunk.len() == ROWS { &INSERT_MANY } else { &INSERT_ONE };
            let mut query = sqlx::query(AssertSqlSafe(sql.as_str()));
            for Written { seq, entry } in chunk {
                query = query
                    .bind(seq)
                    .bind(entry.unix_ns)
                    .bind(entry.tenant.as_str())
                    .bind(entry.function.as_str())
                    .bind(i64::from(entry.version))
                    .bind(entry.invocation.to_string())
                    .bind(entry.level.as_str())
                    .bind(&entry.message)
                    .bind(entry.fields.as_ref().map(serde_json::Value::to_string));
            }
            query.execute(&mut *write).await?;
        }
        write.commit().await
    }

    pub async fn tail(
        db: &Db,
        tenant: &TenantName,
        function: &FunctionName,
        limit: u32,
    ) -> Result<Vec<Written>, DbError> {
        let rows = sqlx::query(
            "SELECT seq, unix_ns, version, invocation, level, message, fields FROM guest_logs
             WHERE tenant = ? AND function = ? ORDER BY seq DESC LIMIT ?",
        )
        .bind(tenant.as_str())
        .bind(function.as_str())
        .bind(i64::from(limit))
        .fetch_all(db.pool())
        .await?;
        rows.iter().rev().map(|row| written(row, tenant, function)).collect()
    }

    pub async fn prune(db: &Db, before_unix_ns: i64, kept: u32) -> Result<u64, DbError> {
        let mut write = db.write().await?;
        let old = sqlx::query("DELETE FROM guest_logs WHERE unix_ns < ?")
            .bind(before_unix_ns)
            .execute(&mut *write)
            .await?;
        write.commit().await?;
        let mut deleted = old.rows_affected();
        let mut after = (String::new(), String::new());
        while let Some((tenant, function, first_beyond)) = next_function(db, &after, kept).await? {
            if let Some(first_beyond) = first_beyond {
                let mut write = db.write().await?;
                let sql = "DELETE FROM guest_logs WHERE tenant = ? AND function = ? AND seq <= ?";
                let query = sqlx::query(sql).bind(&tenant).bind(&function).bind(first_beyond);
                deleted += query.execute(&mut *write).await?.rows_affected();
                write.commit().await?;
            }
            after = (tenant, function);
        }
        Ok(deleted)
    }

    /// The first tenant and function with logs after `after`, and the newest of its entries that are not
    /// among the newest `kept`, if it has any. One function at a time, from the index: a window over all
    /// entries would take memory for each of them. A function whose first and last are less than `kept` apart
    /// has none, and is not counted.
    async fn next_function(
        db: &Db,
        after: &(String, String),
        kept: u32,
    ) -> Result<Option<(String, String, Option<i64>)>, DbError> {
        let sql = "
            SELECT tenant, function, CASE WHEN
                (SELECT max(seq) FROM guest_logs WHERE tenant = logs.tenant AND function = logs.function)
                - (SELECT min(seq) FROM guest_logs WHERE tenant = logs.tenant AND function = logs.function) >= ?
                THEN (SELECT seq FROM guest_logs WHERE tenant = logs.tenant AND function = logs.function
                      ORDER BY seq DESC LIMIT 1 OFFSET ?) END AS first_beyond
            FROM guest_logs AS logs WHERE (tenant, function) > (?, ?) ORDER BY tenant, function LIMIT 1";
        let kept = i64::from(kept);
        let query = sqlx::query_as(sql).bind(kept).bind(kept).bind(&after.0).bind(&after.1);
        Ok(query.fetch_optional(db.pool()).await?)
    }

    fn written(row: &SqliteRow, tenant: &TenantName, function: &FunctionName) -> Result<Written, DbError> {
        let damaged = |detail: String| DbError::Row { table: "guest_logs", detail };
        let level: &str = row.try_get("level")?;
        let fields: Option<&str> = row.try_get("fields")?;
        let version: i64 = row.try_get("version")?;
        let invocation: &str = row.try_get("invocation")?;
        let entry = LogEntry {
            unix_ns: row.try_get("unix_ns")?,
            tenant: tenant.clone(),
            function: function.clone(),
            version: u32::try_from(version).map_err(|e| damaged(e.to_string()))?,
            invocation: invocation.parse().map_err(|e| damaged(format!("{e}")))?,
            level: super::Level::from_name(level).ok_or_else(|| damaged(level.to_owned()))?,
            message: row.try_get("message")?,
            fields: fields.map(serde_json::from_str).transpose().map_err(|e| damaged(e.to_string()))?,
        };
        Ok(Written { seq: row.try_get("seq")?, entry })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::testing;

    fn entry(n: i64, function: &str) -> LogEntry {
        LogEntry {
            unix_ns: n,
            tenant: "acme".parse().expect("name"),
            function: function.parse().expect("name"),
            version: 1,
            invocation: InvocationId::new(1, 1),
            level: Level::Warn,
            message: format!("line {n}"),
            fields: (n % 2 == 0).then(|| serde_json::json!({ "n": n })),
        }
    }

    #[tokio::test]
    async fn entries_come_back_in_order_and_reach_followers_once_written() {
        let dir = tempfile::tempdir().expect("dir");
        let logs = LogStore::open(testing::db(&dir).await, Vital::unwatched());
        let mut follower = logs.subscribe();
        for n in 0..1_000 {
            logs.append(entry(n, if n < 990 { "a" } else { "b" }));
        }
        let (a, b) = (entry(0, "a"), entry(0, "b"));
        let tail = logs.tail(&a.tenant, &a.function, 3).await.expect("tail");
        let entries: Vec<_> = tail.into_iter().map(|w| w.entry).collect();
        assert_eq!(entries, [entry(987, "a"), entry(988, "a"), entry(989, "a")]);
        assert_eq!(follower.recv().await.expect("entry").entry, a);

        assert_eq!(logs.prune(991).await.expect("prune"), 991);
        assert!(logs.tail(&a.tenant, &a.function, 9).await.expect("tail").is_empty());
        assert_eq!(logs.tail(&b.tenant, &b.function, 100).await.expect("tail").len(), 9);
        for (function, entries) in [("c", 3), ("d", 6), ("e", 4)] {
            (0..entries).for_each(|n| logs.append(entry(n, function)));
        }
        logs.flush().await;
        assert_eq!(store::prune(&logs.db, 0, 4).await.expect("prune"), 5 + 2);
        for (function, left) in [("b", 4), ("c", 3), ("d", 4), ("e", 4)] {
            let tail = logs.tail(&a.tenant, &entry(0, function).function, 100).await.expect("tail");
            assert_eq!(tail.len(), left, "{function}");
        }
        assert_eq!(logs.dropped(), 0);
    }

    #[tokio::test]
    async fn a_function_that_logs_faster_than_its_pace_loses_lines_and_its_log_says_how_many() {
        let dir = tempfile::tempdir().expect("dir");
        let logs = LogStore::open(testing::db(&dir).await, Vital::unwatched());
        // Never more than its share of the queue at once.
        for n in 0..2 * i64::from(AT_ONCE) {
            logs.append(entry(n, "fast"));
            if n % 1_000 == 0 {
                logs.flush().await;
            }
        }
        let dropped = logs.dropped();
        assert!(dropped > 0 && dropped <= u64::from(AT_ONCE), "{dropped}");
        logs.append(entry(1, "other"));
        assert_eq!(logs.dropped(), dropped, "each function has a pace of its own");
        tokio::time::sleep(2 * EACH).await;
        let last = entry(1, "fast");
        logs.append(last.clone());
        let tail = logs.tail(&last.tenant, &last.function, 2).await.expect("tail");
        assert!(tail.iter().any(|w| w.entry.message.contains("lines of this log were dropped")), "{tail:?}");
    }

    #[tokio::test]
    async fn a_writer_that_falls_behind_drops_and_counts_and_holds_nobody_up() {
        let dir = tempfile::tempdir().expect("dir");
        let db = testing::db(&dir).await;
        let logs = LogStore::open(db.clone(), Vital::unwatched());
        let turn = db.write().await.expect("write");
        let sent = OF_FUNCTION_MAX + BATCH_MAX + 100;
        for n in 0..sent {
            logs.append(entry(i64::try_from(n).expect("small"), "a"));
        }
        let dropped = logs.dropped();
        assert!(dropped >= 100);
        // Another function has its own share.
        logs.append(entry(1, "b"));
        assert_eq!(logs.dropped(), dropped);
        drop(turn);
        logs.flush().await;
        let rows = |like: &'static str| {
            let sql = "SELECT count(*) FROM guest_logs WHERE message LIKE ?";
            sqlx::query_scalar::<_, i64>(sql).bind(like).fetch_one(db.pool())
        };
        assert_eq!(rows("line %").await.expect("count") as u64 + dropped, sent as u64 + 1);
        // The log says what it lacks, once the writer goes on; and nothing is left of the shares.
        let sql = "SELECT message FROM guest_logs WHERE function = 'a' AND message LIKE '% were dropped: %'";
        let notes: Vec<String> = sqlx::query_scalar(sql).fetch_all(db.pool()).await.expect("notes");
        let said = notes.iter().filter_map(|note| note.split(' ').next()?.parse::<u64>().ok());
        assert_eq!(said.sum::<u64>(), dropped);
        assert!(logs.shares.functions.is_empty() && logs.shares.tenants.is_empty());
    }

    #[tokio::test]
    async fn a_tenant_with_many_functions_leaves_room_in_the_queue_and_each_log_tells_of_its_loss() {
        let dir = tempfile::tempdir().expect("dir");
        let db = testing::db(&dir).await;
        let logs = LogStore::open(db.clone(), Vital::unwatched());
        let turn = db.write().await.expect("write");
        let functions: Vec<String> = (0..17).map(|n| format!("f{n}")).collect();
        for n in 0..OF_FUNCTION_MAX as i64 {
            functions.iter().for_each(|function| logs.append(entry(n, function)));
        }
        let late = entry(1, "late");
        logs.append(late.clone());
        let dropped = logs.dropped();
        // Another tenant still has its share.
        for n in 0..OF_FUNCTION_LEAST as i64 {
            logs.append(LogEntry { tenant: "other".parse().expect("name"), ..entry(n, "f0") });
        }
        assert_eq!(logs.dropped(), dropped);
        drop(turn);
        logs.flush().await;
        // Also a log of which nothing waited.
        for function in functions.iter().map(String::as_str).chain(["late"]) {
            let tail = logs.tail(&late.tenant, &entry(0, function).function, TAIL_MAX).await.expect("tail");
            assert!(tail.iter().any(|w| w.entry.message.contains("were dropped")), "{function}");
        }
        assert!(logs.shares.functions.is_empty() && logs.shares.tenants.is_empty());
    }
}
