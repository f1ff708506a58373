//! Answers on their way to a connection, and the requests that they belong to.

use super::guard::{Arriving, Guard, Running, Unread};
use super::shares::Place;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
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

/// An answer's body, each piece of which is counted until the connection has taken it.
pub struct Answer<B> {
    body: B,
    running: Running,
    place: Option<Arc<Place>>,
    memory: Arc<Memory>,
}

impl<B> Answer<B> {
    /// `place` is that of the tenant whose function answers, where one does.
    pub fn new(body: B, running: Running, place: Option<Arc<Place>>, memory: Arc<Memory>) -> Answer<B> {
        Answer { body, running, place, memory }
    }

    fn counted(&self, data: Bytes) -> Bytes {
        if data.is_empty() {
            return data;
        }
        let bytes = data.len() as u64;
        Bytes::from_owner(Piece {
            data,
            _unread: Unread::begin(self.running.guard(), bytes),
            _of_tenant: self.place.as_ref().map(|place| place.unread(bytes)),
            _taken: self.memory.hold(Kind::Buffers, bytes),
        })
    }
}

/// A piece of an answer that its client has not read.
struct Piece {
    data: Bytes,
    _unread: Unread,
    _of_tenant: Option<super::shares::Unread>,
    _taken: Taken,
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
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        frame.map_ok(|frame| frame.map_data(|data| self.counted(data)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
