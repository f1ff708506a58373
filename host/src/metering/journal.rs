//! The usage journal. Whoever got a whole response has a record that survives `kill -9`.
//!
//! Where nobody else is writing, an invocation writes its own record: one system call into the page cache.
//! Otherwise, and always where the disk is waited for (`durable`, a new segment, a failure), a thread writes
//! what has come together since its last write, and then tells everybody who waits.

use super::line;
use super::segments::Segments;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};
use vesta_core::UsageRecord;
use vesta_core::settlement::{Journaled, Position, Settlement};
use vesta_core::vital::Vital;

/// Records that the ledger may lag behind before new invocations are refused.
const BACKLOG_MAX: u64 = 200_000;
/// Room for the line of most records.
const LINE_BYTES: usize = 1_024;
/// How long a journal that failed waits before it tries the disk again.
const PROBE_PAUSE: Duration = Duration::from_secs(1);

/// Resolves to `true` once the record is in the journal, and to `false` if it could not be written: then the
/// response must not end well, and nothing is billed.
pub struct Ack(State);

enum State {
    Written,
    Waiting(oneshot::Receiver<bool>),
}

impl Future for Ack {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        match &mut self.0 {
            State::Written => Poll::Ready(true),
            // A sender that is gone has written nothing.
            State::Waiting(ack) => Pin::new(ack).poll(cx).map(|written| written.unwrap_or(false)),
        }
    }
}

#[derive(Default)]
struct Waiting {
    entries: Vec<(UsageRecord, oneshot::Sender<bool>)>,
    closed: bool,
}

pub(super) struct Shared {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    pub segments: Mutex<Segments>,
    /// Written records that the ledger does not have yet, in the order of their places, and when each was
    /// accepted.
    pub backlog: Mutex<VecDeque<(Instant, Journaled)>>,
    pub backlog_grew: Notify,
    pub settlement: Arc<Settlement>,
    healthy: AtomicBool,
    closed: AtomicBool,
    durable: bool,
    lines_unreadable: u64,
    segments_missing: u64,
    pub records_refused: AtomicU64,
}

/// What of the journal never came to the ledger, since the host started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Lines that an earlier run had left and that could not be read.
    pub lines_unreadable: u64,
    /// Segments that should have been there at the start and were not.
    pub segments_missing: u64,
    /// Records that the ledger refused for what they say.
    pub records_refused: u64,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these guard is whole between statements; a panic elsewhere leaves it usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The usage journal of a host.
#[derive(Clone)]
pub struct Journal(pub(super) Arc<Shared>);

impl Journal {
    /// Opens the journal's directory and starts its thread, which holds `vital`. What a crash left there goes
    /// to the ledger first; `posted` is the place of the last record that the ledger has.
    pub fn open(
        dir: &Path,
        durable: bool,
        settlement: Arc<Settlement>,
        posted: Option<Position>,
        vital: Vital,
    ) -> io::Result<Journal> {
        let (segments, left) = Segments::open(dir, posted)?;
        let now = Instant::now();
        settlement.accept(left.records.len() as u64, now);
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            arrived: Condvar::new(),
            segments: Mutex::new(segments),
            backlog: Mutex::new(left.records.into_iter().map(|record| (now, record)).collect()),
            backlog_grew: Notify::new(),
            settlement,
            healthy: AtomicBool::new(true),
            closed: AtomicBool::new(false),
            durable,
            lines_unreadable: left.lines_unreadable,
            segments_missing: left.segments_missing,
            records_refused: AtomicU64::new(0),
        });
        let thread = shared.clone();
        std::thread::Builder::new().name("vesta-journal".into()).spawn(move || {
            let _vital = vital;
            vesta_engine::cpu::register_thread("journal");
            write_until_closed(&thread);
            vesta_engine::cpu::unregister_thread();
        })?;
        Ok(Journal(shared))
    }

    /// Writes a record, or hands it over to be written. Waits for no lock that is held while the disk is; the
    /// number of records under way is that of invocations.
    pub fn submit(&self, record: UsageRecord) -> Ack {
        let Some(record) = self.0.write_now(record) else { return Ack(State::Written) };
        let (ack, written) = oneshot::channel();
        let written = Ack(State::Waiting(written));
        let mut waiting = lock(&self.0.waiting);
        if waiting.closed {
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
        self.0.healthy.load(SeqCst) && self.0.settlement.pending() < BACKLOG_MAX
    }

    pub fn losses(&self) -> Losses {
        Losses {
            lines_unreadable: self.0.lines_unreadable,
            segments_missing: self.0.segments_missing,
            records_refused: self.0.records_refused.load(SeqCst),
        }
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

impl Shared {
    /// Writes one record at once, if that waits for nobody; else gives it back.
    fn write_now(&self, record: UsageRecord) -> Option<UsageRecord> {
        if self.durable || !self.healthy.load(SeqCst) || self.closed.load(SeqCst) {
            return Some(record);
        }
        let mut line = Vec::with_capacity(LINE_BYTES);
        if line::encode(&record, &mut line).is_err() {
            return Some(record);
        }
        let mut segments = match self.segments.try_lock() {
            Ok(segments) => segments,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Some(record),
        };
        if segments.is_full() {
            return Some(record);
        }
        // After an error nothing of the line is left: the thread tries again, and says what is wrong.
        let Ok(end) = segments.append(&line, false) else { return Some(record) };
        self.accept(&segments, [Journaled { record, end }]);
        drop(segments);
        self.backlog_grew.notify_one();
        None
    }

    /// Records are in the journal: the ledger is to have them. The segments are still held, so that the
    /// backlog has the order of the journal.
    fn accept(&self, _: &MutexGuard<'_, Segments>, records: impl IntoIterator<Item = Journaled>) {
        let now = Instant::now();
        let mut backlog = lock(&self.backlog);
        let before = backlog.len();
        backlog.extend(records.into_iter().map(|record| (now, record)));
        self.settlement.accept((backlog.len() - before) as u64, now);
    }
}

fn write_until_closed(shared: &Shared) {
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
        write(shared, entries, &mut lines);
    }
    shared.closed.store(true, SeqCst);
    shared.backlog_grew.notify_one();
}

fn write(shared: &Shared, entries: Vec<(UsageRecord, oneshot::Sender<bool>)>, lines: &mut Vec<u8>) {
    lines.clear();
    let mut ends = Vec::with_capacity(entries.len());
    for (record, _) in &entries {
        // Plain numbers and strings: encoding into memory cannot fail.
        let _ = line::encode(record, lines);
        ends.push(lines.len() as u64);
    }
    let count = entries.len();
    let (records, acks): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
    let mut segments = lock(&shared.segments);
    let written = segments.append(lines, shared.durable);
    match &written {
        Ok(end) => {
            let begin = end.bytes - lines.len() as u64;
            let place = |bytes: u64| Position { segment: end.segment, bytes: begin + bytes };
            let places = ends.into_iter().map(place);
            let records = records.into_iter().zip(places).map(|(record, end)| Journaled { record, end });
            shared.accept(&segments, records);
            drop(segments);
            shared.backlog_grew.notify_one();
        }
        Err(error) => {
            drop(segments);
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
