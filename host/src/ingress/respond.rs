//! From a running guest to its client: held back until it can be billed in headers, or streamed.

use super::bill::{self, Bill, write_headers};
use super::invoke::fail;
use super::refusal::{Refusal, full};
use super::streaming::Streaming;
use super::{Body, BrokenOff};
use crate::lifecycle::Admitted;
use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version, header, request, response,
};
use http_body_util::BodyExt;
use std::future::poll_fn;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use vesta_core::Outcome;
use vesta_core::limits::Limits;
use vesta_engine::{Ended, Run};

/// A body that ends within this many bytes is held until its guest has returned, so that its headers can say
/// what it cost.
const HELD_BYTES_MAX: usize = 64 << 10;
/// Longest head of an answer, in bytes. A connection may have to hold one for each of its streams.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// A body of undeclared length is a stream: from its first byte on it is held for this long at most.
const HELD_TIME_MAX: Duration = Duration::from_millis(20);
/// Stands for "no limit yet" while nothing of a body has come.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// What matters of the client for its answer.
pub struct Client {
    http2: bool,
    /// It asked for the head only.
    head_only: bool,
    takes_trailers: bool,
}

impl Client {
    pub fn of(parts: &request::Parts) -> Client {
        let http2 = parts.version == Version::HTTP_2;
        let te = parts.headers.get_all(header::TE).iter().filter_map(|v| v.to_str().ok());
        let says_trailers = te.flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case("trailers"));
        Client { http2, head_only: parts.method == Method::HEAD, takes_trailers: http2 || says_trailers }
    }
}

/// An invocation whose guest runs: dropped as a whole when the client goes away, the guest first.
pub struct Invoked {
    pub run: Run,
    pub bill: Bill,
    /// A place among the function's invocations, which keeps it warm.
    pub held: Admitted,
    pub limits: Limits,
}

/// What was read of a body before its head was sent.
#[derive(Default)]
struct Begun {
    data: BytesMut,
    trailers: Option<HeaderMap>,
    /// The body is complete.
    whole: bool,
    /// It broke off, or is over its limit.
    broken: Option<Ended>,
}

/// Waits for the guest's answer and sends it; the record is safe before the answer ends.
pub async fn respond(mut invoked: Invoked, client: Client) -> Response<Body> {
    let head = match invoked.run.head().await {
        Ok(head) => head,
        Err(ended) => return invoked.fail(ended).await,
    };
    if head_bytes(&head.headers) > HEAD_BYTES_MAX {
        let detail = format!("the head of the function's answer is over {HEAD_BYTES_MAX} bytes");
        return invoked.fail(Ended { outcome: Outcome::GuestError, detail }).await;
    }
    if !(200..=599).contains(&head.status.as_u16()) {
        let detail =
            format!("the function answered with status {}; an answer has 200 to 599", head.status.as_u16());
        return invoked.fail(Ended { outcome: Outcome::GuestError, detail }).await;
    }
    let is_bodyless = client.head_only || has_no_body(head.status);
    let begun = match is_bodyless {
        true => pass_over(&mut invoked, client.head_only).await,
        false => hold(&mut invoked, &head).await,
    };
    if let Some(ended) = begun.broken {
        return invoked.fail(ended).await;
    }
    if is_bodyless {
        return bodyless(invoked, head, begun.whole, client).await;
    }
    if begun.whole {
        let ended = invoked.run.ended().await;
        whole(invoked, head, begun, ended, client).await
    } else {
        stream(invoked, head, begun.data.freeze(), client)
    }
}

fn head_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// Statuses whose answers have no body (RFC 9110, section 15).
fn has_no_body(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

impl Invoked {
    /// Answers for a guest that gave no whole response.
    async fn fail(self, ended: Ended) -> Response<Body> {
        let Invoked { run, bill, held, limits } = self;
        drop(run);
        drop(held);
        let ended = if bill.body.is_over_limit() { request_over_limit() } else { ended };
        let refusal = match ended.outcome {
            // A guest that cannot go on without its input is not to blame.
            Outcome::Trap | Outcome::GuestError if bill.body.is_broken() => Refusal::body_broken(),
            Outcome::RequestLimit => Refusal::body_too_large(limits.request_body_bytes),
            _ => Refusal::from(&ended),
        };
        fail(bill, ended.outcome, refusal).await
    }
}

fn request_over_limit() -> Ended {
    Ended { outcome: Outcome::RequestLimit, detail: "the request's body is over its limit".into() }
}

/// Answers with the head alone. A guest whose body is not whole by then is ended: nobody would read it.
async fn bodyless(
    mut invoked: Invoked,
    mut head: response::Parts,
    is_whole: bool,
    client: Client,
) -> Response<Body> {
    let ended = if is_whole {
        invoked.run.ended().await
    } else {
        invoked.run.stop();
        Ended::well()
    };
    let length = head.headers.remove(header::CONTENT_LENGTH);
    let may_have_length = client.head_only && !has_no_body(head.status);
    let mut response = whole(invoked, head, Begun::default(), ended, client).await;
    if let (true, Some(length)) = (may_have_length && response.status().is_success(), length) {
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
    }
    response
}

/// Reads a body that is not sent: to its end, or only for as long as one is held.
async fn pass_over(invoked: &mut Invoked, head_only: bool) -> Begun {
    let until = Instant::now() + if head_only { HELD_TIME_MAX } else { FAR };
    let (mut begun, mut bytes) = (Begun::default(), 0);
    // One that always has more never lets the time-out see its time.
    while Instant::now() < until {
        let run = &mut invoked.run;
        match timeout_at(until, poll_fn(|cx| run.poll_frame(cx))).await {
            Err(_) => break,
            Ok(Some(Ok(frame))) => bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            Ok(Some(Err(())) | None) => {
                begun.whole = true;
                begun.broken = invoked.bill.body.is_over_limit().then(request_over_limit);
                return begun;
            }
        }
        if bytes > invoked.limits.response_body_bytes {
            break;
        }
    }
    begun
}

/// Reads the body until it ends, is too long or too slow to be held.
async fn hold(invoked: &mut Invoked, head: &response::Parts) -> Begun {
    let declared = declared_length(&head.headers);
    let mut begun = Begun::default();
    if declared.is_some_and(|n| n > HELD_BYTES_MAX as u64) || is_event_stream(&head.headers) {
        return begun;
    }
    let mut until = Instant::now() + FAR;
    loop {
        let run = &mut invoked.run;
        let frame = match timeout_at(until, poll_fn(|cx| run.poll_frame(cx))).await {
            Err(_) => return begun,
            Ok(frame) => frame,
        };
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => begun.data.extend_from_slice(&data),
                Err(frame) => begun.trailers = frame.into_trailers().ok(),
            },
            Some(Err(())) => {
                let ended = invoked.run.ended().await;
                begun.broken = Some(broken_off(&invoked.run, ended));
                return begun;
            }
            None => {
                begun.whole = true;
                return finish_held(invoked, begun, declared).await;
            }
        }
        if begun.data.len() as u64 > invoked.limits.response_body_bytes {
            invoked.run.stop();
            begun.broken = Some(response_over_limit(&invoked.limits));
            return begun;
        }
        if begun.data.len() > HELD_BYTES_MAX {
            return begun;
        }
        if declared.is_none() && until > Instant::now() + HELD_TIME_MAX {
            until = Instant::now() + HELD_TIME_MAX;
        }
    }
}

/// Whether events come one by one, each when it happens.
fn is_event_stream(headers: &HeaderMap) -> bool {
    const EVENTS: &str = "text/event-stream";
    let ty = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    ty.and_then(|ty| ty.trim().get(..EVENTS.len())).is_some_and(|ty| ty.eq_ignore_ascii_case(EVENTS))
}

/// The body has ended; the guest may still work. A body that ended because its guest was ended is not whole,
/// unless the guest had finished it, or it has all the bytes that it declared.
async fn finish_held(invoked: &mut Invoked, mut begun: Begun, declared: Option<u64>) -> Begun {
    let ended_before = invoked.run.has_ended() && !invoked.run.is_whole();
    let complete = declared == Some(begun.data.len() as u64);
    let ended = invoked.run.ended().await;
    let other_length = declared.is_some() && !complete;
    if invoked.bill.body.is_over_limit() {
        begun.broken = Some(request_over_limit());
    } else if other_length || (ended.outcome != Outcome::Ok && ended_before && !complete) {
        begun.broken = Some(broken_off(&invoked.run, ended));
    }
    begun
}

/// A response that is there as a whole, with its bill in the headers.
async fn whole(
    invoked: Invoked,
    head: response::Parts,
    begun: Begun,
    ended: Ended,
    client: Client,
) -> Response<Body> {
    let Invoked { run, mut bill, held, .. } = invoked;
    drop(run);
    drop(held);
    bill.status = head.status.as_u16();
    bill.bytes_out = begun.data.len() as u64;
    // A guest that was ended after its answer may have left a model that runs: the record of an answer comes
    // first.
    bill.meter.settled().await;
    let (record, ack) = bill.close(ended.outcome);
    if !ack.await {
        return Refusal::unrecorded().into_response();
    }
    let data = begun.data.freeze();
    let mut head = own_headers_out(head);
    if head.headers.contains_key(header::CONTENT_LENGTH) {
        // One length, and the right one, whatever the guest set: the next response begins behind it.
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(data.len()));
    }
    let trailers = begun.trailers.filter(|_| client.takes_trailers).map(own_trailers_out);
    let body = match trailers.filter(|trailers| !trailers.is_empty()) {
        None => full(data),
        Some(trailers) => {
            if !client.http2 {
                // Trailers need the chunked coding, which a length rules out, and are sent where they are
                // named.
                head.headers.remove(header::CONTENT_LENGTH);
                head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                for name in trailers.keys() {
                    head.headers.append(header::TRAILER, HeaderValue::from(name.clone()));
                }
            }
            let with = http_body_util::Full::new(data).with_trailers(async move { Some(Ok(trailers)) });
            with.map_err(|never| match never {}).boxed_unsync()
        }
    };
    let mut response = Response::from_parts(head, body);
    write_headers(&record, response.headers_mut());
    response
}

/// A response that is sent as it comes; its bill comes as trailers where the client takes them.
fn stream(mut invoked: Invoked, head: response::Parts, begun: Bytes, client: Client) -> Response<Body> {
    let announced: Vec<HeaderValue> = head.headers.get_all(header::TRAILER).iter().cloned().collect();
    let mut head = own_headers_out(head);
    let declared = declared_length(&head.headers);
    invoked.bill.status = head.status.as_u16();
    if let Ok(id) = HeaderValue::try_from(invoked.bill.id.to_string()) {
        head.headers.insert(bill::INVOCATION_ID, id);
    }
    if client.takes_trailers {
        let names = "server-timing, vesta-billed-cpu-us, vesta-cost";
        head.headers.insert(header::TRAILER, HeaderValue::from_static(names));
        // HTTP/1.1 sends those alone that are announced.
        for names in announced {
            head.headers.append(header::TRAILER, names);
        }
        if !client.http2 {
            // Trailers need the chunked coding, which a declared length rules out.
            head.headers.remove(header::CONTENT_LENGTH);
        }
    }
    let body = Streaming::new(invoked, begun, client.takes_trailers, declared);
    Response::from_parts(head, body.boxed_unsync())
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The guest's head without the headers that only the host may set.
fn own_headers_out(mut head: response::Parts) -> response::Parts {
    let ours = |name: &HeaderName| name.as_str().starts_with("vesta-");
    let names: Vec<HeaderName> = head.headers.keys().filter(|n| ours(n)).cloned().collect();
    for name in names {
        head.headers.remove(name);
    }
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::TRAILER] {
        head.headers.remove(name);
    }
    head
}

/// The guest's trailers without those that only the host may set.
pub fn own_trailers_out(trailers: HeaderMap) -> HeaderMap {
    let ours = |name: &HeaderName| name.as_str().starts_with("vesta-") || name == bill::SERVER_TIMING;
    trailers.iter().filter(|(name, _)| !ours(name)).map(|(n, v)| (n.clone(), v.clone())).collect()
}

/// How a body that broke off is told, also where its guest ended well.
pub fn broken_off(run: &Run, ended: Ended) -> Ended {
    match ended.outcome {
        Outcome::Ok => run.guest_error("the function broke its response off"),
        _ => ended,
    }
}

pub fn response_over_limit(limits: &Limits) -> Ended {
    let max = limits.response_body_bytes;
    let detail = format!("the function's response is over its limit of {max} bytes (limits.response_body)");
    Ended { outcome: Outcome::ResponseLimit, detail }
}

impl From<Ended> for BrokenOff {
    fn from(ended: Ended) -> Self {
        BrokenOff(ended.detail)
    }
}
