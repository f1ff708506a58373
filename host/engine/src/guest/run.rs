//! One invocation, polled by whoever waits for its response.
//!
//! Nothing is spawned: [`Run`] is polled by the task of its request, as part of waiting for the head, for the
//! next piece of the body, or for the end. Dropping it ends the guest at once.

use super::ended::{Ended, classify};
use super::epoch::Ticker;
use super::idle::Idle;
use super::instance::Instance;
use super::state::Invocation;
use super::template::Template;
use crate::meter::Meter;
use crate::meter::waits::Waits;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use tokio::sync::oneshot;
use tokio::task::coop::{has_budget_remaining, unconstrained};
use vesta_core::Outcome;
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

type Head = Result<hyper::Response<HyperOutgoingBody>, ErrorCode>;

/// A guest that has returned, or trapped. Its instance is there still, and with it what is unfinished of the
/// response.
struct Returned {
    result: wasmtime::Result<()>,
    instance: Option<Instance>,
    /// The instance can serve another request.
    again: bool,
}

/// A guest that runs, or has run.
pub struct Run {
    guest: Option<Pin<Box<dyn Future<Output = Returned> + Send>>>,
    head: oneshot::Receiver<Head>,
    /// The head was taken out of its channel, which must not be asked again.
    has_head: bool,
    /// The head, where it was there when the guest ended.
    left_head: Option<Result<Head, oneshot::error::RecvError>>,
    body: Option<HyperOutgoingBody>,
    /// What of the body was there when the guest ended.
    left: VecDeque<Result<Frame<Bytes>, ()>>,
    /// The guest had finished the body when it ended.
    is_whole: bool,
    meter: Arc<Meter>,
    waits: Waits,
    timer: Pin<Box<tokio::time::Sleep>>,
    ended: Option<Ended>,
    ticker: Arc<Ticker>,
    again: Option<Instance>,
    /// Where an instance waits for another request, if the function allows reuse.
    idle: Option<Arc<Idle<Instance>>>,
}

async fn run_guest<B>(
    template: Arc<Template>,
    request: http::Request<B>,
    tls: bool,
    invocation: Invocation,
    send_head: oneshot::Sender<Head>,
) -> Returned
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<wasmtime_wasi_http::Error>,
{
    let mut instance = match template.instance(&invocation).await {
        Ok(instance) => instance,
        Err(e) => {
            // Before it had any memory nothing of the guest's has run.
            if invocation.meter.memory_peak() == 0 {
                invocation.meter.spare_poll();
            }
            return Returned { result: Err(e), instance: None, again: false };
        }
    };
    let held = Arc::new(());
    let request = request.map(|body| Marked { body, _held: held.clone() });
    let result = handle(&mut instance, request, tls, send_head).await;
    instance.served += 1;
    let again = result.is_ok() && instance.can_serve_again(template.reuse, Arc::strong_count(&held) > 1);
    if again {
        instance.store.data_mut().end();
    }
    Returned { result, instance: Some(instance), again }
}

async fn handle<B>(
    instance: &mut Instance,
    request: http::Request<B>,
    tls: bool,
    send_head: oneshot::Sender<Head>,
) -> wasmtime::Result<()>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<wasmtime_wasi_http::Error>,
{
    let store = &mut instance.store;
    let scheme = if tls { Scheme::Https } else { Scheme::Http };
    let request = store.data_mut().http().new_incoming_request(scheme, request)?;
    let head = store.data_mut().http().new_response_outparam(send_head)?;
    instance.proxy.wasi_http_incoming_handler().call_handle(&mut *store, request, head).await
}

/// A request's body by which one can see whether the guest still holds it.
struct Marked<B> {
    body: B,
    _held: Arc<()>,
}

impl<B: Body + Unpin> Body for Marked<B> {
    type Data = B::Data;
    type Error = B::Error;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Run {
    /// An invocation of a loaded function; nothing runs before it is polled. `request` is what the guest
    /// sees; `tls` is the scheme it is told.
    pub(crate) fn start<B>(
        template: Arc<Template>,
        request: http::Request<B>,
        tls: bool,
        invocation: Invocation,
    ) -> Run
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<wasmtime_wasi_http::Error>,
    {
        let (send_head, head) = oneshot::channel::<Head>();
        let meter = invocation.meter.clone();
        let waits = Waits::new(meter.clone(), invocation.deadline);
        let timer = Box::pin(tokio::time::sleep_until(invocation.deadline.into()));
        let (idle, ticker) = (template.idle.clone(), template.world.ticker.clone());
        let guest = run_guest(template, request, tls, invocation, send_head);
        Run {
            guest: Some(Box::pin(guest)),
            head,
            has_head: false,
            left_head: None,
            body: None,
            left: VecDeque::new(),
            is_whole: false,
            meter,
            waits,
            timer,
            ended: None,
            ticker,
            again: None,
            idle,
        }
    }

    /// Runs the guest until it sends the head of its response. An error says how it ended without one.
    pub async fn head(&mut self) -> Result<http::response::Parts, Ended> {
        let head = poll_fn(|cx| {
            if let Poll::Ready(head) = self.poll_head(cx) {
                return Poll::Ready(head);
            }
            self.poll_guest(cx);
            match self.poll_head(cx) {
                Poll::Pending if self.holds_back() => self.poll_head(cx),
                head => head,
            }
        })
        .await;
        match head {
            Ok(Ok(response)) => {
                let (parts, body) = response.into_parts();
                // A guest that has ended has left its body already.
                if self.body.is_none() && !self.is_whole {
                    self.body = Some(body);
                }
                Ok(parts)
            }
            Ok(Err(code)) => {
                let ended = self.ended().await;
                if ended.outcome != Outcome::Ok {
                    return Err(ended);
                }
                Err(self.guest_error(format!("the function answered with the error {}", name_of(&code))))
            }
            Err(_) => {
                let ended = self.ended().await;
                if ended.outcome != Outcome::Ok {
                    return Err(ended);
                }
                Err(self.guest_error("the function returned without sending a response"))
            }
        }
    }

    /// The next piece of the response's body, running the guest meanwhile. `None` once the body has ended;
    /// the guest may still run then. A body that breaks off because its guest was ended also ends here: ask
    /// [`Run::ended`] how.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
        let frame = self.poll_next(cx);
        if frame.is_ready() {
            self.waits.is_read();
        }
        frame
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
        if let Poll::Ready(frame) = self.poll_body(cx) {
            return Poll::Ready(frame);
        }
        self.poll_guest(cx);
        match self.poll_body(cx) {
            Poll::Pending if self.holds_back() => self.poll_body(cx),
            frame => frame,
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, oneshot::error::RecvError>> {
        match self.left_head.take() {
            Some(head) => Poll::Ready(head),
            None => Pin::new(&mut self.head).poll(cx).map(|head| {
                self.has_head = true;
                head
            }),
        }
    }

    /// Whether a guest that has returned kept hold of a response that was not complete. Nothing more will
    /// come of it: its instance is ended, which ends the response.
    fn holds_back(&mut self) -> bool {
        // A channel also says "pending" to a task that has to let others run.
        has_budget_remaining() && self.again.take().is_some()
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
        if let Some(frame) = self.left.pop_front() {
            return Poll::Ready(Some(frame));
        }
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(None) => {
                self.body = None;
                self.is_whole |= self.guest.is_some();
                Poll::Ready(None)
            }
            Poll::Ready(Some(frame)) => Poll::Ready(Some(frame.map_err(|_| ()))),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Runs the guest to its end and waits for what runs beside it: the meter is final then. At the
    /// wall-clock limit nothing is waited for; ask the meter whether it is settled.
    pub async fn ended(&mut self) -> Ended {
        let ended = poll_fn(|cx| {
            self.poll_guest(cx);
            match &self.ended {
                Some(ended) => Poll::Ready(ended.clone()),
                None => Poll::Pending,
            }
        })
        .await;
        if ended.outcome != Outcome::WallLimit {
            self.meter.settled().await;
        }
        ended
    }

    /// How a guest ended that returned without a proper response: by `detail`, unless the failure of a model
    /// explains it.
    pub fn guest_error(&self, detail: impl Into<String>) -> Ended {
        match self.meter.model_failure() {
            Some(why) => Ended::model_failed(why),
            None => Ended { outcome: Outcome::GuestError, detail: detail.into() },
        }
    }

    /// Whether the guest had finished its response when it ended.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// When the guest is ended, whatever it does.
    pub fn deadline(&self) -> Instant {
        self.timer.deadline().into_std()
    }

    /// Whether the guest has returned, or was ended.
    pub fn has_ended(&self) -> bool {
        self.guest.is_none()
    }

    /// Ends the guest where it stands.
    pub fn stop(&mut self) {
        self.waits.end();
        self.guest = None;
        self.again = None;
    }

    fn poll_guest(&mut self, cx: &mut Context<'_>) {
        let Some(guest) = &mut self.guest else { return };
        let running = self.ticker.enter();
        let waker = self.waits.begin_poll(cx.waker());
        let polled = self.meter.poll(guest.as_mut(), &mut Context::from_waker(waker));
        if polled.is_pending() {
            self.waits.is_pending();
        }
        drop(running);
        let (ended, returned) = match polled {
            Poll::Ready(returned) => match &returned.result {
                Ok(()) => (Ended::well(), Some(returned)),
                Err(error) => (classify(error, &self.meter), Some(returned)),
            },
            Poll::Pending if self.timer.as_mut().poll(cx).is_ready() => (Ended::wall_limit(), None),
            Poll::Pending => return,
        };
        if ended.outcome != Outcome::Ok {
            self.keep_what_is_left();
        }
        self.stop();
        self.ended = Some(ended);
        if let Some(Returned { instance, again, .. }) = returned {
            if again {
                self.again = instance;
            } else {
                // To take an instance down is its own affair, and billed.
                let _running = self.ticker.enter();
                let _ = self.meter.poll(pin!(async move { drop(instance) }).as_mut(), cx);
            }
        }
    }

    /// The guest ends badly. As long as its instance is there, an unfinished response can be told from one
    /// that is whole: what there is of it is taken now.
    fn keep_what_is_left(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        if !self.has_head {
            let Poll::Ready(head) = now(&mut self.head, &mut cx) else { return };
            self.has_head = true;
            self.left_head = Some(match head {
                Ok(Ok(response)) => {
                    let (parts, body) = response.into_parts();
                    self.body = Some(body);
                    let empty = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
                    Ok(Ok(http::Response::from_parts(parts, empty)))
                }
                other => other,
            });
        }
        let Some(body) = &mut self.body else { return };
        let mut next = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
        while let Poll::Ready(frame) = now(&mut next, &mut cx) {
            let Some(frame) = frame else {
                self.is_whole = true;
                break;
            };
            self.left.push_back(frame.map_err(|_| ()));
        }
        if self.is_whole {
            self.body = None;
        }
    }

    /// Whether all of the response has come.
    fn is_complete(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            match self.poll_body(&mut cx) {
                Poll::Ready(None) => return true,
                Poll::Ready(Some(_)) => {}
                Poll::Pending => return false,
            }
        }
    }
}

/// Polls a channel, which also says "pending" to a task that has to let others run: not here.
fn now<F: Future + Unpin>(future: &mut F, cx: &mut Context<'_>) -> Poll<F::Output> {
    Pin::new(&mut unconstrained(future)).poll(cx)
}

impl Drop for Run {
    /// Puts the instance back, for the next request.
    fn drop(&mut self) {
        self.waits.end();
        if let Some(again) = self.again.take()
            && let Some(idle) = self.idle.take()
            && self.is_complete()
        {
            idle.put(again);
        }
    }
}

/// The name of an error of `wasi:http`, without the guest's own text.
fn name_of(code: &ErrorCode) -> String {
    let debug = format!("{code:?}");
    debug.split(['(', ' ', '{']).next().unwrap_or("error").trim_start_matches("ErrorCode::").to_string()
}
