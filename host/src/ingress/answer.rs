//! Answers on their way to a connection, and the requests that they belong to.

use super::guard::{Arriving, Guard, Running, Unread};
use super::shares::Place;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll, ready};
use vesta_core::memory::{Kind, Memory, Taken};

/// A request's body as it comes from its connection.
pub struct Received {
    body: Incoming,
    /// Until the body has come as a whole.
    arriving: Option<Arriving>,
}

impl Received {
    pub fn new(body: Incoming, guard: &Arc<Guard>) -> Received {
        let arriving = (!body.is_end_stream()).then(|| Arriving::begin(guard));
        Received { body, arriving }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) || self.body.is_end_stream() {
            self.arriving = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Most bytes of one answer that wait for the connection; the rest waits in its guest. All of a connection's
/// streams together stay below what makes it be refused further requests.
const WAITING_MAX: u64 = 128 << 10;
/// Counted for each piece beside its bytes, in bytes: what hyper, h2 and this file keep of it.
const PIECE_BYTES: u64 = 512;
/// Longest piece in bytes: a client that reads a long one slowly is seen to read.
const PIECE_MAX: usize = 64 << 10;

/// An answer's body, each piece of which is counted until the connection has taken it.
pub struct Answer<B> {
    body: B,
    /// What is left of a piece that is too long.
    rest: Bytes,
    waiting: Arc<Waiting>,
    running: Running,
    place: Option<Arc<Place>>,
    memory: Arc<Memory>,
}

impl<B> Answer<B> {
    /// `place` is that of the tenant whose function answers, where one does.
    pub fn new(body: B, running: Running, place: Option<Arc<Place>>, memory: Arc<Memory>) -> Answer<B> {
        Answer { body, rest: Bytes::new(), waiting: Arc::default(), running, place, memory }
    }

    /// The next piece of what is there, counted.
    fn next_piece(&mut self) -> Bytes {
        let piece = self.rest.split_to(self.rest.len().min(PIECE_MAX));
        self.counted(piece)
    }

    fn counted(&self, data: Bytes) -> Bytes {
        if data.is_empty() {
            return data;
        }
        let bytes = data.len() as u64 + PIECE_BYTES;
        self.waiting.bytes.fetch_add(bytes, SeqCst);
        Bytes::from_owner(Piece {
            data,
            waiting: self.waiting.clone(),
            bytes,
            _unread: Unread::begin(self.running.guard(), bytes),
            _of_tenant: self.place.as_ref().map(|place| place.unread(bytes)),
            _taken: self.memory.hold(Kind::Buffers, bytes),
        })
    }
}

/// What of one answer waits for the connection.
#[derive(Default)]
struct Waiting {
    bytes: AtomicU64,
    answer: AtomicWaker,
}

/// A piece of an answer that its client has not read.
struct Piece {
    data: Bytes,
    waiting: Arc<Waiting>,
    bytes: u64,
    _unread: Unread,
    _of_tenant: Option<super::shares::Unread>,
    _taken: Taken,
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.waiting.bytes.fetch_sub(self.bytes, SeqCst);
        self.waiting.answer.wake();
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.waiting.bytes.load(SeqCst) >= WAITING_MAX {
            self.waiting.answer.register(cx.waker());
            // It may have been taken in between.
            if self.waiting.bytes.load(SeqCst) >= WAITING_MAX {
                return Poll::Pending;
            }
        }
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                other => return Poll::Ready(other),
            }
        }
        Poll::Ready(Some(Ok(Frame::data(self.next_piece()))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(body.lower() + rest);
        hint
    }
}
