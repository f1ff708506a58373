//! A connection's bytes on their way to hyper and back.

use super::guard::Guard;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
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

/// A connection that tells its [`Guard`] of what passes.
///
/// A client may close its own side and wait for its answer; one that has gone away looks the same. hyper would end
/// the request of either. Here hyper does not hear of it before the answer is there, and the client is sent the
/// first bytes of the answer, which are always the same: from a client that has gone they come back as an error.
pub struct Watched<T> {
    io: T,
    guard: Arc<Guard>,
    end: Option<End>,
}

/// The client has closed its own side.
struct End {
    at: Instant,
    /// Bytes of [`BEGINNING`] that were sent, which the answer begins behind; each is a probe.
    sent: usize,
    next: Pin<Box<Sleep>>,
}

impl<T> Watched<T> {
    pub fn new(io: T, guard: Arc<Guard>) -> Watched<T> {
        Watched { io, guard, end: None }
    }

    /// How many of the bytes that are to be written were sent already.
    fn sent_before(&self, buf: &[u8]) -> io::Result<usize> {
        let sent = self.end.as_ref().map_or(0, |end| end.sent);
        match buf.get(..sent) {
            Some(beginning) if beginning == &BEGINNING[..sent] => Ok(sent),
            _ => Err(io::Error::other("an answer does not begin as it must")),
        }
    }
}

impl<T: AsyncWrite + Unpin> Watched<T> {
    /// Asks whether a client that has closed its own side is there.
    fn probe(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(end) = &mut self.end else { return Ok(()) };
        while end.sent < PROBES.len() && self.guard.owes_head() && end.next.as_mut().poll(cx).is_ready() {
            match Pin::new(&mut self.io).poll_write(cx, &BEGINNING[end.sent..=end.sent]) {
                Poll::Pending => return Ok(()),
                Poll::Ready(written) => end.sent += written?,
            }
            if let Some(pause) = PROBES.get(end.sent) {
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
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.is_none() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
            if buf.filled().len() > before || buf.remaining() == 0 {
                self.guard.has_read();
                return Poll::Ready(Ok(()));
            }
            let at = Instant::now();
            self.end = Some(End { at, sent: 0, next: Box::pin(sleep_until(at)) });
        }
        self.guard.half_closed(cx.waker());
        if !self.guard.hides_end() {
            return Poll::Ready(Ok(()));
        }
        match self.probe(cx) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let before = self.sent_before(buf)?;
        let written = Pin::new(&mut self.io).poll_write(cx, &buf[before..]);
        self.guard.has_written(written.is_pending());
        let written = ready!(written)?;
        if let Some(end) = &mut self.end {
            end.sent = 0;
        }
        Poll::Ready(Ok(before + written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.end.as_ref().is_some_and(|end| end.sent > 0) {
            let first = bufs.iter().find(|buf| !buf.is_empty());
            return self.poll_write(cx, first.map_or(&[][..], |buf| &buf[..]));
        }
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.guard.has_written(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
