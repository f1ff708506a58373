//! The guest's stdout and stderr, as lines.

use bytes::Bytes;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Longest line, in bytes; the rest of a longer one is dropped.
pub const LINE_BYTES_MAX: usize = 8 << 10;
/// Most bytes of log an invocation may write; what comes after is dropped, and said once.
pub const LOG_BYTES_MAX: usize = 64 << 10;

/// Which of the guest's streams a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// Where the lines of one invocation go. Called on the guest's thread: it must not block.
pub trait LogSink: Send + Sync {
    fn line(&self, stream: Stream, line: &str);
}

struct Lines {
    /// None between two invocations.
    sink: Option<Arc<dyn LogSink>>,
    partial: [Vec<u8>; 2],
    left: usize,
    cut: bool,
}

impl Lines {
    fn begin(sink: Arc<dyn LogSink>) -> Lines {
        Lines { sink: Some(sink), partial: [Vec::new(), Vec::new()], left: LOG_BYTES_MAX, cut: false }
    }

    /// Ends a line of `stream`, if one has begun.
    fn emit(&mut self, stream: Stream) {
        let partial = &mut self.partial[stream as usize];
        if let (Some(sink), false) = (&self.sink, partial.is_empty()) {
            sink.line(stream, &String::from_utf8_lossy(partial));
        }
        partial.clear();
    }

    fn end(&mut self) {
        self.emit(Stream::Stdout);
        self.emit(Stream::Stderr);
        self.sink = None;
        self.left = 0;
    }
}

/// Splits what a guest writes into lines and bounds it. The guest may keep its streams for as long as it
/// lives, so the log changes its sink from one invocation to the next.
pub(crate) struct GuestLog {
    lines: Mutex<Lines>,
}

impl GuestLog {
    pub fn new(sink: Arc<dyn LogSink>) -> Arc<GuestLog> {
        Arc::new(GuestLog { lines: Mutex::new(Lines::begin(sink)) })
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is written from now on belongs to another invocation.
    pub fn begin(&self, sink: Arc<dyn LogSink>) {
        *self.lines() = Lines::begin(sink);
    }

    /// The invocation has ended: its last lines go out.
    pub fn end(&self) {
        self.lines().end();
    }

    /// A line of the host's own, on the guest's standard error.
    pub fn note(&self, line: &str) {
        self.lines().emit(Stream::Stderr);
        self.write(Stream::Stderr, format!("{line}\n").as_bytes());
    }

    fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut lines = self.lines();
        let taken = &bytes[..bytes.len().min(lines.left)];
        lines.left -= taken.len();
        for piece in taken.split_inclusive(|b| *b == b'\n') {
            let (text, ended) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            let partial = &mut lines.partial[stream as usize];
            let room = LINE_BYTES_MAX.saturating_sub(partial.len());
            partial.extend_from_slice(&text[..text.len().min(room)]);
            if ended {
                lines.emit(stream);
            }
        }
        if taken.len() < bytes.len() && !lines.cut {
            lines.cut = true;
            lines.emit(stream);
            if let Some(sink) = &lines.sink {
                let note = format!("log cut: an invocation may write {LOG_BYTES_MAX} bytes");
                sink.line(Stream::Stderr, &note);
            }
        }
    }
}

impl Drop for GuestLog {
    fn drop(&mut self) {
        self.end();
    }
}

/// One of the two streams, as WASI sees it.
#[derive(Clone)]
pub(crate) struct GuestStream {
    pub log: Arc<GuestLog>,
    pub stream: Stream,
}

impl IsTerminal for GuestStream {
    fn is_terminal(&self) -> bool {
        false
    }
}
impl StdoutStream for GuestStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}
impl OutputStream for GuestStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.log.write(self.stream, &bytes);
        Ok(())
    }
    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }
    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(LOG_BYTES_MAX)
    }
}
#[wasmtime_wasi::async_trait]
impl Pollable for GuestStream {
    async fn ready(&mut self) {}
}
impl AsyncWrite for GuestStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.log.write(self.stream, buf);
        Poll::Ready(Ok(buf.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);
    impl LogSink for Kept {
        fn line(&self, _: Stream, line: &str) {
            self.0.lock().expect("lock").push(line.to_string());
        }
    }

    #[test]
    fn lines_are_joined_across_writes_bounded_and_flushed_at_the_end() {
        let kept = Arc::new(Kept::default());
        let log = GuestLog::new(kept.clone());
        log.write(Stream::Stdout, b"one\ntw");
        log.write(Stream::Stderr, b"other\n");
        log.write(Stream::Stdout, b"o\n\nthree");
        drop(log);
        assert_eq!(*kept.0.lock().expect("lock"), ["one", "other", "two", "three"]);
    }

    #[test]
    fn each_invocation_of_an_instance_has_its_own_lines_and_bound() {
        let (first, second) = (Arc::new(Kept::default()), Arc::new(Kept::default()));
        let log = GuestLog::new(first.clone());
        log.write(Stream::Stdout, &[b'x'; LOG_BYTES_MAX + 1]);
        log.write(Stream::Stdout, b"over the bound");
        log.end();
        log.write(Stream::Stdout, b"between two invocations\n");
        log.begin(second.clone());
        log.write(Stream::Stdout, b"one\ntwo");
        log.end();
        assert_eq!(first.0.lock().expect("lock").len(), 2, "a long line, and the note that the log is cut");
        assert_eq!(*second.0.lock().expect("lock"), ["one", "two"]);
    }

    #[test]
    fn a_flood_is_cut_and_said_once() {
        let kept = Arc::new(Kept::default());
        let log = GuestLog::new(kept.clone());
        for _ in 0..100 {
            log.write(Stream::Stdout, &[b'x'; 4096]);
        }
        drop(log);
        let lines = kept.0.lock().expect("lock");
        assert_eq!(lines[0].len(), LINE_BYTES_MAX);
        assert_eq!(lines.iter().filter(|l| l.starts_with("log cut")).count(), 1);
        assert_eq!(lines.len(), 2);
    }
}
