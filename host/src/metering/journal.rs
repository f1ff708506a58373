//! The usage journal: one thread that writes what has come together since its last write, and then tells
//! everybody who waits. Whoever got a whole response has a record that survives `kill -9`.

use super::segments::Segments;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use vesta_core::UsageRecord;
use vesta_core::settlement::Settlement;

/// Records that the ledger may lag behind before new invocations are refused.
const BACKLOG_MAX: usize = 200_000;
/// How long a journal that failed waits before it tries the disk again.
const PROBE_PAUSE: Duration = Duration::from_secs(1);

/// Resolves to `true` once the record is in the journal, and to `false` if it could not be written: then the
/// response must not end well, and nothing is billed.
pub type Ack = oneshot::Receiver<bool>;

#[derive(Default)]
struct Waiting {
    entries: Vec<(UsageRecord, oneshot::Sender<bool>)>,
    closed: bool,
}

pub(super) struct Shared {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    pub segments: Mutex<Segments>,
    /// Written records that the ledger does not have yet, with their segment.
    pub backlog: Mutex<VecDeque<(u64, UsageRecord)>>,
    pub backlog_grew: Notify,
    pub settlement: Arc<Settlement>,
    healthy: AtomicBool,
    closed: AtomicBool,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these guard is whole between statements; a panic elsewhere leaves it usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The usage journal of a host.
#[derive(Clone)]
pub struct Journal(pub(super) Arc<Shared>);

impl Journal {
    /// Opens the journal's directory and starts its thread. What a crash left there goes to the ledger first.
    pub fn open(dir: &Path, durable: bool, settlement: Arc<Settlement>) -> io::Result<Journal> {
        let (segments, left) = Segments::open(dir)?;
        settlement.accept(left.len() as u64);
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            arrived: Condvar::new(),
            segments: Mutex::new(segments),
            backlog: Mutex::new(left.into()),
            backlog_grew: Notify::new(),
            settlement,
            healthy: AtomicBool::new(true),
            closed: AtomicBool::new(false),
        });
        let thread = shared.clone();
        std::thread::Builder::new().name("vesta-journal".into()).spawn(move || {
            vesta_engine::cpu::register_thread("journal");
            write_until_closed(&thread, durable);
            vesta_engine::cpu::unregister_thread();
        })?;
        Ok(Journal(shared))
    }

    /// Hands over a record. Never blocks; the number of records under way is that of invocations.
    pub fn submit(&self, record: UsageRecord) -> Ack {
        let (ack, written) = oneshot::channel();
        let mut waiting = lock(&self.0.waiting);
        if waiting.closed {
            // The sender goes: whoever waits is told that nothing was written.
            return written;
        }
        let first = waiting.entries.is_empty();
        waiting.entries.push((record, ack));
        drop(waiting);
        if first {
            self.0.arrived.notify_one();
        }
        written
    }

    /// Whether records can be written now; while not, no invocation may begin.
    pub fn is_healthy(&self) -> bool {
        self.0.healthy.load(SeqCst) && lock(&self.0.backlog).len() < BACKLOG_MAX
    }

    /// Writes what is waiting and ends the thread; the poster ends once the ledger has everything.
    pub fn close(&self) {
        lock(&self.0.waiting).closed = true;
        self.0.arrived.notify_one();
    }

    /// Whether the thread has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.0.closed.load(SeqCst)
    }
}

fn write_until_closed(shared: &Shared, durable: bool) {
    let mut lines = Vec::new();
    loop {
        let mut waiting = lock(&shared.waiting);
        while waiting.entries.is_empty() && !waiting.closed {
            waiting = shared.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let entries = std::mem::take(&mut waiting.entries);
        drop(waiting);
        if entries.is_empty() {
            break;
        }
        write(shared, entries, &mut lines, durable);
    }
    shared.closed.store(true, SeqCst);
    shared.backlog_grew.notify_one();
}

fn write(
    shared: &Shared,
    entries: Vec<(UsageRecord, oneshot::Sender<bool>)>,
    lines: &mut Vec<u8>,
    durable: bool,
) {
    lines.clear();
    for (record, _) in &entries {
        // Plain numbers and strings: encoding into memory cannot fail.
        if serde_json::to_writer(&mut *lines, record).is_ok() {
            lines.push(b'\n');
        }
    }
    let count = entries.len() as u64;
    let written = lock(&shared.segments).append(lines, count, durable);
    let (records, acks): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
    match &written {
        Ok(number) => {
            shared.settlement.accept(count);
            lock(&shared.backlog).extend(records.into_iter().map(|r| (*number, r)));
            shared.backlog_grew.notify_one();
        }
        Err(error) => {
            tracing::error!(%error, records = count, "the usage journal cannot be written; invocations are refused");
            shared.healthy.store(false, SeqCst);
        }
    }
    for ack in acks {
        let _ = ack.send(written.is_ok());
    }
    while !shared.healthy.load(SeqCst) {
        std::thread::sleep(PROBE_PAUSE);
        if lock(&shared.segments).probe().is_ok() {
            tracing::info!("the usage journal can be written again");
            shared.healthy.store(true, SeqCst);
        }
        if lock(&shared.waiting).closed {
            return;
        }
    }
}
