//! A connection's bytes on their way to hyper and back.

use super::guard::Guard;
use bytes::{Buf, BytesMut};
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// What every answer over HTTP/1 begins with.
const BEGINNING: &[u8] = b"HTTP/1.";
/// When a client that has closed its own side is sent a byte more of that, after it has.
const PROBES: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_millis(600),
    Duration::from_millis(1_500),
    Duration::from_secs(4),
    Duration::from_secs(10),
];
/// Most bytes that are read of a client that sends its next request before it has its answer.
const AHEAD_MAX: usize = 8 << 10;

/// A connection that tells its [`Guard`] of what passes; hyper reads and writes it.
pub struct Watched<T>(Arc<Shared<T>>);

/// Sees whether the client is there while its answer is in the making, when hyper does not read.
///
/// A client may close its own side and wait for its answer; one that has gone away looks the same. It is sent
/// the first bytes of the answer, which are always the same: from a client that has gone they come back as an
/// error.
pub struct Presence<T>(Arc<Shared<T>>);

struct Shared<T> {
    guard: Arc<Guard>,
    /// Locked by the connection's own task only, and not across its polls.
    io: Mutex<Io<T>>,
}

struct Io<T> {
    io: T,
    /// Bytes that came while hyper did not read.
    ahead: BytesMut,
    end: Option<End>,
    /// Bytes of [`BEGINNING`] that were sent, which the answer begins behind.
    sent: usize,
}

/// The client has closed its own side.
struct End {
    at: Instant,
    next: Pin<Box<Sleep>>,
}

/// The two views of a connection.
pub fn watched<T>(io: T, guard: Arc<Guard>) -> (Watched<T>, Presence<T>) {
    let io = Mutex::new(Io { io, ahead: BytesMut::new(), end: None, sent: 0 });
    let shared = Arc::new(Shared { guard, io });
    (Watched(shared.clone()), Presence(shared))
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Io<T>> {
        // Nothing in a critical section of this lock can panic halfway.
        self.io.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Presence<T> {
    /// Ready once the client has gone. To be polled by the connection's task, after the connection.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let guard = &self.0.guard;
        // While nothing is asked, and while a body comes, hyper reads.
        if !guard.only_answers() {
            return Poll::Pending;
        }
        let mut io = self.0.lock();
        while io.end.is_none() {
            if !io.ahead.is_empty() {
                return Poll::Pending;
            }
            let mut bytes = [0; AHEAD_MAX];
            let mut buf = ReadBuf::new(&mut bytes);
            if ready!(Pin::new(&mut io.io).poll_read(cx, &mut buf)).is_err() {
                return Poll::Ready(());
            }
            match buf.filled() {
                [] => io.half_closed(guard),
                read => io.ahead.extend_from_slice(read),
            }
        }
        if io.probe(cx, guard).is_err() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl<T> Io<T> {
    fn half_closed(&mut self, guard: &Guard) {
        let at = Instant::now();
        self.end = Some(End { at, next: Box::pin(sleep_until(at)) });
        guard.half_closed();
    }

    /// How many of the bytes that are to be written were sent already.
    fn sent_before(&self, buf: &[u8]) -> io::Result<usize> {
        match buf.get(..self.sent) {
            Some(beginning) if beginning == &BEGINNING[..self.sent] => Ok(self.sent),
            _ => Err(io::Error::other("an answer does not begin as it must")),
        }
    }
}

impl<T: AsyncWrite + Unpin> Io<T> {
    /// Asks whether a client that has closed its own side is there.
    fn probe(&mut self, cx: &mut Context<'_>, guard: &Guard) -> io::Result<()> {
        let Some(end) = &mut self.end else { return Ok(()) };
        while self.sent < PROBES.len() && guard.owes_head() && end.next.as_mut().poll(cx).is_ready() {
            match Pin::new(&mut self.io).poll_write(cx, &BEGINNING[self.sent..=self.sent]) {
                Poll::Pending => return Ok(()),
                Poll::Ready(written) => self.sent += written?,
            }
            if let Some(pause) = PROBES.get(self.sent) {
                end.next.as_mut().reset(end.at + *pause);
            }
            if let Poll::Ready(Err(error)) = Pin::new(&mut self.io).poll_flush(cx) {
                return Err(error);
            }
        }
        Ok(())
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Watched<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let guard = &self.0.guard;
        let mut io = self.0.lock();
        if !io.ahead.is_empty() {
            let n = io.ahead.len().min(buf.remaining());
            buf.put_slice(&io.ahead[..n]);
            io.ahead.advance(n);
            guard.has_read();
            return Poll::Ready(Ok(()));
        }
        if io.end.is_none() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut io.io).poll_read(cx, buf))?;
            if buf.filled().len() > before || buf.remaining() == 0 {
                guard.has_read();
                return Poll::Ready(Ok(()));
            }
            io.half_closed(guard);
        }
        // An answer that is being sent would be cut off by it.
        if guard.hides_end(cx.waker()) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut io = self.0.lock();
        let before = io.sent_before(buf)?;
        let written = Pin::new(&mut io.io).poll_write(cx, &buf[before..]);
        self.0.guard.has_written(written.is_pending());
        let written = ready!(written)?;
        io.sent = 0;
        Poll::Ready(Ok(before + written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut io = self.0.lock();
        if io.sent > 0 {
            drop(io);
            let first = bufs.iter().find(|buf| !buf.is_empty());
            return self.poll_write(cx, first.map_or(&[][..], |buf| &buf[..]));
        }
        let written = Pin::new(&mut io.io).poll_write_vectored(cx, bufs);
        self.0.guard.has_written(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.0.lock().io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper asks for it once it has nothing left to write.
        let flushed = Pin::new(&mut self.0.lock().io).poll_flush(cx);
        if let Poll::Ready(Ok(())) = flushed {
            self.0.guard.has_flushed();
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().io).poll_shutdown(cx)
    }
}
