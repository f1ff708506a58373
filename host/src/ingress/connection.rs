//! One connection, from its first byte to its last.

use super::answer::{Answer, Received};
use super::guard::{Guard, HEAD_TIMEOUT, Running};
use super::listener::{Door, Refused, Served};
use super::shares::Place;
use super::watched::watched;
use crate::tenancy;
use http::{HeaderMap, Request, Response, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use vesta_engine::handler::Handled;

/// Most bytes of a request's head; past it the answer is 431.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Most headers of a request.
const HEADERS_MAX: usize = 128;
/// Most streams that a client of HTTP/2 may have open at once.
const STREAMS_MAX: u32 = 256;
/// Streams that a client may reset before they were answered; past it the connection ends (rapid reset).
const RESETS_MAX: usize = 64;
/// Bytes of an answer over HTTP/2 that h2 takes before the client reads them, beside one piece.
const SEND_BYTES_MAX: usize = 32 << 10;
/// A connection that is ended while nothing runs has this long to say so.
const GOODBYE: Duration = Duration::from_millis(500);

/// Serves a connection until it ends, or the host has waited for its client long enough.
pub async fn serve<S: Served>(
    stream: TcpStream,
    address: SocketAddr,
    guard: Arc<Guard>,
    door: Arc<Door<S>>,
    mut stop: watch::Receiver<bool>,
) {
    match &door.tls {
        None => {
            // A connection on which nothing has been asked yet does not hold up a drain.
            let looked = tokio::select! {
                biased;
                looked = tokio::time::timeout(HEAD_TIMEOUT, speaks_http2(&stream)) => looked,
                _ = stop.wait_for(|stop| *stop) => return,
                () = guard.expired() => return,
            };
            let Ok(Ok(http2)) = looked else { return };
            exchange(stream, http2, address, guard, door, stop).await;
        }
        Some(tls) => {
            let shaken = tokio::select! {
                shaken = tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)) => shaken,
                () = guard.expired() => return,
            };
            let Ok(Ok(stream)) = shaken else { return };
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            exchange(stream, http2, address, guard, door, stop).await;
        }
    }
}

async fn exchange<S: Served>(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    http2: bool,
    address: SocketAddr,
    guard: Arc<Guard>,
    door: Arc<Door<S>>,
    mut stop: watch::Receiver<bool>,
) {
    if http2 {
        guard.speaks_http2();
    }
    let (io, presence) = watched(io, guard.clone());
    let asked = guard.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let door = door.clone();
        // At once: the future is polled only after the connection was read again.
        let running = Running::begin(&asked);
        let request = request.map(|body| Received::new(body, &asked));
        async move { Ok::<_, Infallible>(answer(&door, running, address, request).await) }
    });
    let builder = builder(http2);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut stopped = false;
    loop {
        tokio::select! {
            // The client is looked for after the connection has seen whether it asks for something.
            biased;
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection ended with an error");
                }
                return;
            }
            () = poll_fn(|cx| presence.poll_gone(cx)) => return,
            () = guard.expired() => break,
            _ = stop.wait_for(|stop| *stop), if !stopped => {
                stopped = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
    tracing::debug!(%address, "a connection is ended: its client was waited for, or its place is wanted");
    if http2 {
        // It says which requests it has seen, where the client still listens.
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(GOODBYE, connection).await;
    }
}

/// Answers one request.
async fn answer<S: Served>(
    door: &Door<S>,
    running: Running,
    address: SocketAddr,
    request: Request<Received>,
) -> Response<Answer<S::Body>> {
    let authorization = request.headers().get(header::AUTHORIZATION).cloned();
    let mut response = if running.guard().has_too_much_unread() {
        door.service.refuse(Refused::Unread)
    } else if head_bytes(&request) > HEAD_BYTES_MAX {
        door.service.refuse(Refused::Head)
    } else {
        door.service.serve(request).await
    };
    if response.status().as_u16() >= 400 {
        let key = || authorization.as_ref().and_then(tenancy::claimed_prefix);
        door.refusals.note(door.name, response.status(), response.extensions(), address, key);
    }
    let place = response.extensions_mut().remove::<Arc<Place>>();
    running.guard().holds_head(head_of(response.headers()) as u64, &door.memory);
    response.map(|body| Answer::new(body, running, place, door.memory.clone()))
}

/// The size of a request's head, about: hyper bounds what of it comes in more than one piece.
fn head_bytes(request: &Request<Received>) -> usize {
    head_of(request.headers()) + request.uri().path_and_query().map_or(0, |path| path.as_str().len())
}

fn head_of(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// Whether a client without TLS begins with the preface of HTTP/2. Looked at here, under a time-out:
/// hyper-util would wait for it for ever.
async fn speaks_http2(stream: &TcpStream) -> std::io::Result<bool> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut begun = [0; PREFACE.len()];
    loop {
        let n = stream.peek(&mut begun).await?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if begun[..n] != PREFACE[..n] {
            return Ok(false);
        }
        if n == PREFACE.len() {
            return Ok(true);
        }
        // A part of the preface: the rest is looked for a little later, since peeking sees the same bytes at
        // once.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Runs the streams of a connection of HTTP/2, each in a task of its own that its invocation pays for.
#[derive(Clone)]
struct Streams;

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        TokioExecutor::new().execute(Handled::new(stream));
    }
}

fn builder(http2: bool) -> auto::Builder<Streams> {
    let builder = auto::Builder::new(Streams);
    let mut builder = if http2 { builder.http2_only() } else { builder.http1_only() };
    builder
        .http1()
        .timer(TokioTimer::new())
        // The guard sees to it: it tells the time before a request from that for its head.
        .header_read_timeout(None)
        // A client that has gone is seen by its [`Presence`].
        .half_close(true)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(RESETS_MAX)
        .max_send_buf_size(SEND_BYTES_MAX)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}
