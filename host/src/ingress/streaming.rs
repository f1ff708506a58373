//! A response that is sent as it comes. The body runs the guest, so that a slow client slows its guest down
//! and a client that goes away ends it.

use super::BrokenOff;
use super::bill::write_headers;
use super::respond::{Invoked, broken_off, response_over_limit};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use http_body::{Body, Frame};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use vesta_core::Outcome;
use vesta_engine::Ended;

/// The end of a stream: its trailers, or why it broke off.
type End = Result<Option<HeaderMap>, BrokenOff>;

enum State {
    /// The guest writes.
    Open(Box<Invoked>),
    /// The body has ended: the guest returns, and the record is made safe.
    Ending(BoxFuture<'static, End>),
    Done,
}

/// The body of a streamed response.
pub struct Streaming {
    state: State,
    /// What was held back until it was clear that this is a stream.
    begun: Option<Bytes>,
    sent: u64,
    /// The length that the guest declared, which the client counts on.
    declared: Option<u64>,
    takes_trailers: bool,
    /// The guest's own trailers.
    trailers: Option<HeaderMap>,
}

impl Streaming {
    pub fn new(invoked: Invoked, begun: Bytes, takes_trailers: bool, declared: Option<u64>) -> Streaming {
        let begun = Some(begun).filter(|b| !b.is_empty());
        let state = State::Open(Box::new(invoked));
        Streaming { state, begun, sent: 0, declared, takes_trailers, trailers: None }
    }

    /// Counts a piece and lets it through, unless the response is over its limit.
    fn pass(&mut self, data: Bytes) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let State::Open(invoked) = &mut self.state else { return Poll::Ready(None) };
        self.sent += data.len() as u64;
        invoked.bill.bytes_out = self.sent;
        if self.sent > invoked.limits.response_body_bytes {
            let ended = response_over_limit(&invoked.limits);
            self.end(Some(ended));
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    /// Goes over to the end: `broken` says why, where the host cuts the response.
    fn end(&mut self, broken: Option<Ended>) {
        let State::Open(invoked) = std::mem::replace(&mut self.state, State::Done) else { return };
        let trailers = self.trailers.take();
        let short = self.declared.is_some_and(|n| n != self.sent);
        let end = end(*invoked, broken, short, trailers, self.takes_trailers);
        self.state = State::Ending(Box::pin(end));
    }
}

async fn end(
    invoked: Invoked,
    broken: Option<Ended>,
    short: bool,
    trailers: Option<HeaderMap>,
    takes_trailers: bool,
) -> End {
    let Invoked { mut run, bill, held, .. } = invoked;
    let ended_before = run.has_ended();
    let ended = match broken {
        Some(ended) => {
            run.stop();
            ended
        }
        None => {
            let ended = run.ended().await;
            if short { broken_off(ended) } else { ended }
        }
    };
    drop(run);
    drop(held);
    bill.meter.settled().await;
    // What went wrong after the body had ended is on the record; the client has its answer.
    let whole = ended.outcome == Outcome::Ok || (!ended_before && !short && ended.outcome != Outcome::ResponseLimit);
    let (record, ack) = bill.close(ended.outcome);
    if !ack.await.unwrap_or(false) {
        return Err(BrokenOff("usage cannot be recorded".into()));
    }
    if !whole {
        return Err(ended.into());
    }
    if !takes_trailers {
        return Ok(trailers);
    }
    let mut trailers = trailers.unwrap_or_default();
    write_headers(&record, &mut trailers);
    Ok(Some(trailers))
}

impl Body for Streaming {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        loop {
            if let Some(begun) = self.begun.take()
                && let Poll::Ready(frame) = self.pass(begun)
            {
                return Poll::Ready(frame);
            }
            match &mut self.state {
                State::Open(invoked) => match ready!(invoked.run.poll_frame(cx)) {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => {
                            if let Poll::Ready(frame) = self.pass(data) {
                                return Poll::Ready(frame);
                            }
                        }
                        Err(frame) => self.trailers = frame.into_trailers().ok(),
                    },
                    Some(Err(())) => {
                        let detail = "the function broke its response off".into();
                        self.end(Some(Ended { outcome: Outcome::GuestError, detail }));
                    }
                    None => self.end(None),
                },
                State::Ending(end) => {
                    let end = ready!(end.as_mut().poll(cx));
                    self.state = State::Done;
                    return Poll::Ready(match end {
                        Ok(trailers) => trailers.map(|t| Ok(Frame::trailers(t))),
                        Err(broken) => Some(Err(broken)),
                    });
                }
                State::Done => return Poll::Ready(None),
            }
        }
    }
}
