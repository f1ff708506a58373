//! Connections: HTTP/1.1 and HTTP/2, TLS where there is a certificate, bounded in every dimension.

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// A client has this long to send its request's head, and to finish a TLS handshake.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of a request's head; past it the answer is 431.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Most headers of a request.
const HEADERS_MAX: usize = 128;
/// Most streams that a client of HTTP/2 may have open at once.
const STREAMS_MAX: u32 = 256;
/// Streams that a client may reset before they were answered; past it the connection ends (rapid reset).
const RESETS_MAX: usize = 64;

/// What a listener answers with.
pub trait Served: Clone + Send + Sync + 'static {
    type Body: http_body::Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static>
        + Send
        + 'static;
    fn serve(&self, request: Request<Incoming>) -> impl Future<Output = Response<Self::Body>> + Send;
}

impl Served for Arc<super::Ingress> {
    type Body = super::Body;
    async fn serve(&self, request: Request<Incoming>) -> Response<super::Body> {
        super::invoke::invoke(self.clone(), request).await
    }
}

/// How a listener is run.
pub struct Serving {
    pub listener: TcpListener,
    pub tls: Option<TlsAcceptor>,
    pub connections_max: usize,
    /// Turns `true` when no more connections are to be taken.
    pub stop: watch::Receiver<bool>,
    /// How long requests that run are waited for then.
    pub grace: Duration,
}

/// Accepts connections until told to stop, then lets requests that run finish within the grace.
pub async fn serve<S: Served>(mut serving: Serving, service: S) {
    let places = Arc::new(Semaphore::new(serving.connections_max));
    let graceful = GracefulShutdown::new();
    let cut = CancellationToken::new();
    loop {
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place,
            _ = serving.stop.wait_for(|stop| *stop) => break,
        };
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            accepted = serving.listener.accept() => accepted,
            _ = serving.stop.wait_for(|stop| *stop) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, mostly: others need a moment to close.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let watcher = graceful.watcher();
        let (tls, service, cut) = (serving.tls.clone(), service.clone(), cut.clone());
        let stop = serving.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = connection(stream, tls, service, watcher, stop) => {}
                () = cut.cancelled() => {}
            }
            drop(place);
        });
    }
    drop(serving.listener);
    if tokio::time::timeout(serving.grace, graceful.shutdown()).await.is_err() {
        tracing::warn!(
            seconds = serving.grace.as_secs(),
            "requests still run after the grace; they are cut off"
        );
    }
    cut.cancel();
}

async fn connection<S: Served>(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    service: S,
    watcher: hyper_util::server::graceful::Watcher,
    mut stop: watch::Receiver<bool>,
) {
    let service = service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, std::convert::Infallible>(service.serve(request).await) }
    });
    let result = match tls {
        None => {
            // A connection on which nothing has been asked yet does not hold up a drain.
            let looked = tokio::select! {
                biased;
                looked = tokio::time::timeout(HEAD_TIMEOUT, speaks_http2(&stream)) => looked,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let Ok(Ok(http2)) = looked else { return };
            let builder = builder(http2);
            watcher.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned()).await
        }
        Some(tls) => {
            let Ok(Ok(stream)) = tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)).await else { return };
            let builder = builder(stream.get_ref().1.alpn_protocol() == Some(b"h2"));
            watcher.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned()).await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

/// Whether a client without TLS begins with the preface of HTTP/2. Looked at here, under a time-out: hyper-util would
/// wait for it for ever.
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
        // A part of the preface: the rest is looked for a little later, since peeking sees the same bytes at once.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn builder(http2: bool) -> auto::Builder<TokioExecutor> {
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut builder = if http2 { builder.http2_only() } else { builder.http1_only() };
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(RESETS_MAX)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}
