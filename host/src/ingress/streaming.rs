//! A response that is sent as it comes. The body runs the guest, so that a slow client slows its guest down
//! and a client that goes away ends it. A client that stops reading without going away polls nothing any
//! more: a watchdog ends its guest at the deadline.

use super::BrokenOff;
use super::bill::write_headers;
use super::respond::{Invoked, broken_off, own_trailers_out, response_over_limit};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::JoinHandle;
use vesta_core::Outcome;
use vesta_engine::Ended;

/// How long after the deadline the watchdog ends a guest that nobody polls; a body that is polled sees to it
/// itself.
const WATCHDOG_SLACK: Duration = Duration::from_millis(500);

/// The end of a stream: its trailers, or why it broke off.
type End = Result<Option<HeaderMap>, BrokenOff>;

enum State {
    /// The guest writes.
    Open(Box<Open>),
    /// The body has ended. A task of its own sees the guest return and makes the record safe, whether or not
    /// the client still reads.
    ///
    /// The last piece of a body of declared length is held back until then: the client takes the response for
    /// whole once it has it, and hyper asks for nothing behind it.
    Ending(JoinHandle<End>, Option<Bytes>),
    /// Everything but the trailers has been sent.
    Last(Option<HeaderMap>),
    Done,
}

struct Open {
    invoked: Invoked,
    sent: u64,
    /// The length that the guest declared, which the client counts on.
    declared: Option<u64>,
    takes_trailers: bool,
    /// The guest's own trailers.
    trailers: Option<HeaderMap>,
}

/// The body of a streamed response.
pub struct Streaming {
    state: Arc<Mutex<State>>,
    /// What was held back until it was clear that this is a stream.
    begun: Option<Bytes>,
    watchdog: JoinHandle<()>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // The state is replaced as a whole; a panic elsewhere leaves it usable.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Streaming {
    pub fn new(invoked: Invoked, begun: Bytes, takes_trailers: bool, declared: Option<u64>) -> Streaming {
        let begun = Some(begun).filter(|b| !b.is_empty());
        let deadline = invoked.run.deadline() + WATCHDOG_SLACK;
        let open = Open { invoked, sent: 0, declared, takes_trailers, trailers: None };
        let state = Arc::new(Mutex::new(State::Open(Box::new(open))));
        let watched = state.clone();
        let watchdog = tokio::spawn(async move {
            tokio::time::sleep_until(deadline.into()).await;
            lock(&watched).end(Some(Ended::wall_limit()));
        });
        Streaming { state, begun, watchdog }
    }
}

impl Drop for Streaming {
    /// Sent as a whole, or the client went away: then the guest ends here, and its bill is closed.
    fn drop(&mut self) {
        self.watchdog.abort();
        let state = std::mem::replace(&mut *lock(&self.state), State::Done);
        drop(state);
    }
}

impl State {
    /// Goes over to the end: `broken` says why, where the host cuts the response.
    fn end(&mut self, broken: Option<Ended>) {
        match std::mem::replace(self, State::Done) {
            State::Open(open) => *self = State::Ending(tokio::spawn(end(*open, broken)), None),
            other => *self = other,
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        loop {
            match self {
                State::Open(open) => match ready!(open.invoked.run.poll_frame(cx)) {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => match open.count(&data) {
                            Ok(()) if open.declared == Some(open.sent) => {
                                self.end(None);
                                if let State::Ending(_, last) = self {
                                    *last = Some(data);
                                }
                            }
                            Ok(()) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                            Err(ended) => self.end(Some(ended)),
                        },
                        Err(frame) => open.trailers = frame.into_trailers().ok().map(own_trailers_out),
                    },
                    Some(Err(())) => {
                        let ended = broken_off(&open.invoked.run, Ended::well());
                        self.end(Some(ended));
                    }
                    None => self.end(None),
                },
                State::Ending(task, last) => {
                    let end = ready!(Pin::new(task).poll(cx));
                    let last = last.take();
                    *self = State::Done;
                    match end {
                        Ok(Ok(trailers)) => *self = State::Last(trailers),
                        Ok(Err(broken)) => return Poll::Ready(Some(Err(broken))),
                        Err(_) => return Poll::Ready(Some(Err(BrokenOff("the host failed".into())))),
                    }
                    if let Some(last) = last {
                        return Poll::Ready(Some(Ok(Frame::data(last))));
                    }
                }
                State::Last(trailers) => {
                    let trailers = trailers.take();
                    *self = State::Done;
                    return Poll::Ready(trailers.map(|t| Ok(Frame::trailers(t))));
                }
                State::Done => return Poll::Ready(None),
            }
        }
    }
}

impl Open {
    /// Counts a piece; an error says that the response is over its limit.
    fn count(&mut self, data: &Bytes) -> Result<(), Ended> {
        self.sent += data.len() as u64;
        self.invoked.bill.bytes_out = self.sent;
        if self.sent > self.invoked.limits.response_body_bytes {
            return Err(response_over_limit(&self.invoked.limits));
        }
        Ok(())
    }
}

async fn end(open: Open, broken: Option<Ended>) -> End {
    let Open { invoked: Invoked { mut run, bill, held, .. }, sent, declared, takes_trailers, trailers } =
        open;
    let (short, complete) = (declared.is_some_and(|n| n != sent), declared == Some(sent));
    let ended_before = run.has_ended() && !run.is_whole();
    let (ended, cut) = match broken {
        Some(ended) => {
            run.stop();
            (ended, true)
        }
        None => {
            let ended = run.ended().await;
            (if short { broken_off(&run, ended) } else { ended }, short)
        }
    };
    drop(run);
    drop(held);
    // What went wrong after the body had ended is on the record; the client has its answer.
    let whole = !cut && (ended.outcome == Outcome::Ok || !ended_before || complete);
    if !whole && !bill.meter.is_settled() {
        bill.close_later(ended.outcome);
        return Err(ended.into());
    }
    bill.meter.settled().await;
    let (record, ack) = bill.close(ended.outcome);
    if !ack.await {
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
        let begun = self.begun.take();
        let mut state = lock(&self.state);
        if let (Some(begun), State::Open(open)) = (begun, &mut *state) {
            match open.count(&begun) {
                Ok(()) => return Poll::Ready(Some(Ok(Frame::data(begun)))),
                Err(ended) => state.end(Some(ended)),
            }
        }
        state.poll_frame(cx)
    }
}
