//! The state of one connection, and the moment at which the host has waited for its client long enough.
//!
//! hyper has one time-out for a connection over HTTP/1.1, for the time before a request and for its head
//! together, and it does not know how much of its answers a client has read. So requests and answers are
//! counted here, and so are the bytes of the connection ([`super::watched`]).

use futures_util::task::AtomicWaker;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use vesta_core::memory::{Kind, Memory, Taken};

/// A client has this long to send its request's head, to finish a TLS handshake, and to ask for something at
/// all.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that has closed its own side, and has the head of its answer, may have gone away as well: it is
/// waited for this long after the last byte that it took.
const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(30);
/// A client that takes nothing of an answer that is ready is waited for this long. Linux says that a socket
/// takes more once a third of its buffer is free, which may be a megabyte: a client that reads a few
/// kilobytes a second is slow, and not gone.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(300);
/// How often a connection is looked at, at least.
const LOOK: Duration = Duration::from_secs(5);
/// Most bytes of answers that a client may leave unread before its further requests are refused: what all of
/// its streams together may hold if none is read, and a little.
const UNREAD_BYTES_MAX: u64 = 34 << 20;
/// Heads of answers up to this size, in bytes, are not counted: a connection has few enough of them.
const HEAD_COUNTED_MIN: u64 = 4 << 10;
/// Stands for a moment that has not come.
const NEVER: u64 = u64::MAX;

/// The state of one connection. Moments are in milliseconds since it was accepted.
pub struct Guard {
    begun: Instant,
    keep_alive: Duration,
    http2: AtomicBool,
    /// Requests whose answers have not been taken over as a whole.
    running: AtomicU32,
    /// Requests whose bodies have not come as a whole.
    arriving: AtomicU32,
    /// Whether bytes of an answer may wait in hyper.
    unflushed: AtomicBool,
    /// Whether there was a request.
    has_asked: AtomicBool,
    /// When the last request ended.
    quiet_since: AtomicU64,
    /// When the first byte after that came.
    head_since: AtomicU64,
    /// When the client closed its own side.
    half_closed_since: AtomicU64,
    /// Since when the client takes no bytes.
    stuck_since: AtomicU64,
    /// When it last took some.
    wrote: AtomicU64,
    /// Whether it took some of the answer to its last request.
    answering: AtomicBool,
    /// Bytes of answers that the client has not read.
    unread: AtomicU64,
    /// Those of them that are large heads.
    heads: Mutex<Vec<Taken>>,
    /// When the client last read some of them, or the first of them came.
    unread_since: AtomicU64,
    /// The reader, while the end of the client's side is kept from it.
    reader: AtomicWaker,
    unwanted: AtomicBool,
    changed: Notify,
}

impl Guard {
    /// Of a connection that was just accepted. `keep_alive` is the time for which it may be quiet between
    /// requests.
    pub fn new(keep_alive: Duration) -> Arc<Guard> {
        Arc::new(Guard {
            begun: Instant::now(),
            keep_alive,
            http2: AtomicBool::new(false),
            running: AtomicU32::new(0),
            arriving: AtomicU32::new(0),
            unflushed: AtomicBool::new(false),
            has_asked: AtomicBool::new(false),
            quiet_since: AtomicU64::new(0),
            // The first request has to come as soon as a head has to be complete.
            head_since: AtomicU64::new(0),
            half_closed_since: AtomicU64::new(NEVER),
            stuck_since: AtomicU64::new(NEVER),
            wrote: AtomicU64::new(0),
            answering: AtomicBool::new(false),
            unread: AtomicU64::new(0),
            heads: Mutex::default(),
            unread_since: AtomicU64::new(0),
            reader: AtomicWaker::new(),
            unwanted: AtomicBool::new(false),
            changed: Notify::new(),
        })
    }

    pub fn speaks_http2(&self) {
        self.http2.store(true, SeqCst);
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Whether a request is under way, or its answer is.
    fn is_busy(&self) -> bool {
        self.running.load(SeqCst) > 0 || self.unflushed.load(SeqCst) || self.unread.load(SeqCst) > 0
    }

    /// Since when the client has asked for nothing, in milliseconds since `since`; `None` while it has.
    pub fn quiet_since(&self, since: Instant) -> Option<u64> {
        let quiet = self.quiet_since.load(SeqCst);
        let quiet = self.begun.saturating_duration_since(since).as_millis() as u64 + quiet;
        (!self.is_busy() && !self.unwanted.load(SeqCst)).then_some(quiet)
    }

    /// Ends the connection, if it has asked for nothing meanwhile: its place is wanted.
    pub fn end(&self) {
        self.unwanted.store(true, SeqCst);
        self.changed.notify_one();
    }

    /// Whether the client has to read its answers before it may ask for more.
    pub fn has_too_much_unread(&self) -> bool {
        self.unread.load(SeqCst) > UNREAD_BYTES_MAX
    }

    /// Resolves once the host has waited for the client long enough.
    pub async fn expired(&self) {
        loop {
            let changed = self.changed.notified();
            let (now, deadline) = (self.now(), self.deadline());
            if deadline <= now || (self.unwanted.swap(false, SeqCst) && !self.is_busy()) {
                return;
            }
            let pause = Duration::from_millis(deadline - now).min(LOOK).min(self.keep_alive);
            let _ = tokio::time::timeout(pause, changed).await;
        }
    }

    fn deadline(&self) -> u64 {
        let after = |since: &AtomicU64, time: Duration| {
            since.load(SeqCst).saturating_add(u64::try_from(time.as_millis()).unwrap_or(NEVER))
        };
        let mut deadline = after(&self.stuck_since, UNREAD_TIMEOUT);
        if self.unread.load(SeqCst) > 0 {
            deadline = deadline.min(after(&self.unread_since, UNREAD_TIMEOUT));
        }
        if !self.is_busy() {
            let is_quiet = self.head_since.load(SeqCst) == NEVER;
            let asked = if is_quiet {
                after(&self.quiet_since, self.keep_alive)
            } else {
                after(&self.head_since, HEAD_TIMEOUT)
            };
            deadline.min(asked)
        } else if self.half_closed_since.load(SeqCst) == NEVER || !self.answering.load(SeqCst) {
            deadline
        } else {
            let half_closed = after(&self.half_closed_since, HALF_CLOSED_TIMEOUT);
            deadline.min(half_closed.max(after(&self.wrote, HALF_CLOSED_TIMEOUT)))
        }
    }

    /// Some bytes came.
    pub fn has_read(&self) {
        // HTTP/2 also has pings and settings.
        if !self.http2.load(SeqCst) && !self.is_busy() {
            let _ = self.head_since.compare_exchange(NEVER, self.now(), SeqCst, SeqCst);
        }
    }

    /// The client closed its own side.
    pub fn half_closed(&self) {
        self.half_closed_since.store(self.now(), SeqCst);
        self.changed.notify_one();
    }

    /// Whether a request is there as a whole, over HTTP/1, and its answer is not.
    pub fn only_answers(&self) -> bool {
        !self.http2.load(SeqCst) && self.running.load(SeqCst) > 0 && self.arriving.load(SeqCst) == 0
    }

    /// Whether hyper must not hear yet that the client closed its own side. `reader` is woken once it may.
    pub fn hides_end(&self, reader: &Waker) -> bool {
        self.reader.register(reader);
        self.only_answers()
            || (self.unflushed.load(SeqCst) && !self.http2.load(SeqCst) && self.arriving.load(SeqCst) == 0)
    }

    /// Whether a request is under way of whose answer no byte was sent, nor of one before it that is left.
    pub fn owes_head(&self) -> bool {
        let is_stuck = self.stuck_since.load(SeqCst) != NEVER;
        self.running.load(SeqCst) == 1 && !self.answering.load(SeqCst) && !is_stuck
    }

    /// The client took some bytes of an answer, or it takes none.
    pub fn has_written(&self, is_stuck: bool) {
        self.answering.store(true, SeqCst);
        if is_stuck {
            let _ = self.stuck_since.compare_exchange(NEVER, self.now(), SeqCst, SeqCst);
        } else {
            self.wrote.store(self.now(), SeqCst);
            self.stuck_since.store(NEVER, SeqCst);
        }
    }

    /// Nothing of an answer waits in hyper.
    pub fn has_flushed(&self) {
        if self.unread.load(SeqCst) > 0 {
            let sent: u64 = std::mem::take(&mut *self.heads()).iter().map(Taken::bytes).sum();
            self.unread.fetch_sub(sent, SeqCst);
        }
        if self.running.load(SeqCst) == 0 && self.unflushed.swap(false, SeqCst) {
            self.is_quiet();
            self.reader.wake();
        }
    }

    /// Counts the head of an answer, of so many bytes, until the connection has sent it.
    pub fn holds_head(&self, bytes: u64, memory: &Arc<Memory>) {
        if bytes > HEAD_COUNTED_MIN {
            self.add_unread(bytes);
            self.heads().push(memory.hold(Kind::Buffers, bytes));
        }
    }

    fn add_unread(&self, bytes: u64) {
        // Before they are added: whoever sees the bytes sees the moment.
        if self.unread.load(SeqCst) == 0 {
            self.unread_since.store(self.now(), SeqCst);
        }
        self.unread.fetch_add(bytes, SeqCst);
    }

    fn heads(&self) -> MutexGuard<'_, Vec<Taken>> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the connection is quiet, unless it has not asked for anything yet.
    fn is_quiet(&self) {
        if !self.has_asked.load(SeqCst) {
            return;
        }
        self.quiet_since.store(self.now(), SeqCst);
        self.head_since.store(NEVER, SeqCst);
    }
}

/// A request under way: from its head to the end of its answer.
pub struct Running(Arc<Guard>);

impl Running {
    pub fn begin(guard: &Arc<Guard>) -> Running {
        guard.running.fetch_add(1, SeqCst);
        guard.answering.store(false, SeqCst);
        guard.unflushed.store(true, SeqCst);
        guard.has_asked.store(true, SeqCst);
        Running(guard.clone())
    }

    pub fn guard(&self) -> &Arc<Guard> {
        &self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.is_quiet();
        self.0.running.fetch_sub(1, SeqCst);
    }
}

/// A request's body that has not come as a whole.
pub struct Arriving(Arc<Guard>);

impl Arriving {
    pub fn begin(guard: &Arc<Guard>) -> Arriving {
        guard.arriving.fetch_add(1, SeqCst);
        Arriving(guard.clone())
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.arriving.fetch_sub(1, SeqCst);
    }
}

/// Bytes of an answer that the client has not read.
pub struct Unread {
    guard: Arc<Guard>,
    bytes: u64,
}

impl Unread {
    pub fn begin(guard: &Arc<Guard>, bytes: u64) -> Unread {
        guard.add_unread(bytes);
        Unread { guard: guard.clone(), bytes }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let guard = &self.guard;
        guard.unread_since.store(guard.now(), SeqCst);
        if guard.unread.load(SeqCst) == self.bytes {
            guard.is_quiet();
        }
        guard.unread.fetch_sub(self.bytes, SeqCst);
    }
}
