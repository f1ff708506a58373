//! Connections held by hand: many at once, HTTP/2, trailers, and clients that go away.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpStream;

pub type Request = http::Request<Full<Bytes>>;

/// A connection over which one request at a time is sent.
pub enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A response and how far it came.
#[derive(Debug)]
pub struct Received {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
    pub trailers: http::HeaderMap,
    /// Whether the body was ended properly by the host.
    pub whole: bool,
}

impl Received {
    /// A header, or else a trailer.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.headers.get(name).or_else(|| self.trailers.get(name)).and_then(|v| v.to_str().ok())
    }
    /// A phase of `Server-Timing`, in milliseconds.
    pub fn timing(&self, phase: &str) -> Option<f64> {
        crate::api::timing(self.value("server-timing")?, phase)
    }
    pub fn invocation(&self) -> &str {
        self.value("vesta-invocation-id").expect("Vesta-Invocation-Id")
    }
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Connection {
    pub async fn http1(address: &str) -> std::io::Result<Self> {
        let io = TokioIo::new(TcpStream::connect(address).await?);
        let (sender, connection) = http1::handshake(io).await.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self::Http1(sender))
    }

    pub async fn http2(address: &str) -> std::io::Result<Self> {
        let io = TokioIo::new(TcpStream::connect(address).await?);
        let handshake = http2::handshake(TokioExecutor::new(), io).await;
        let (sender, connection) = handshake.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self::Http2(sender))
    }

    /// Sends a request and gives the response's head, its body still to come.
    pub async fn begin(&mut self, request: Request) -> hyper::Result<http::Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    /// Sends a request and reads the response to its end, or as far as it came.
    pub async fn send(&mut self, request: Request) -> hyper::Result<Received> {
        Ok(receive(self.begin(request).await?).await)
    }
}

/// Reads a body with its trailers.
pub async fn receive(response: http::Response<Incoming>) -> Received {
    let (head, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    let mut trailers = http::HeaderMap::new();
    let whole = loop {
        match body.frame().await {
            None => break true,
            Some(Err(_)) => break false,
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
            },
        }
    };
    let (status, headers) = (head.status.as_u16(), head.headers);
    Received { status, headers, body: bytes.into(), trailers, whole }
}

/// A request for a path of the data plane.
pub fn request(method: &str, address: &str, path: &str, key: &str, body: impl Into<Bytes>) -> Request {
    http::Request::builder()
        .method(method)
        .uri(format!("http://{address}{path}"))
        .header("host", address)
        .header("authorization", format!("Bearer {key}"))
        .body(Full::new(body.into()))
        .expect("a valid request")
}

/// Sends `total` requests over `clients` connections, each connection one request after another, and
/// gives `each` every response. A connection that fails ends its client; the number of responses
/// received is returned.
pub async fn run(
    address: &str,
    clients: usize,
    total: usize,
    make: impl Fn(usize) -> Request + Send + Sync + 'static,
    each: impl Fn(Received) + Send + Sync + 'static,
) -> usize {
    let next = Arc::new(AtomicUsize::new(0));
    let received = Arc::new(AtomicUsize::new(0));
    let (make, each) = (Arc::new(make), Arc::new(each));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let (next, received, make, each) = (next.clone(), received.clone(), make.clone(), each.clone());
        let address = address.to_string();
        tasks.spawn(async move {
            let Ok(mut connection) = Connection::http1(&address).await else { return };
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= total {
                    return;
                }
                let Ok(response) = connection.send(make(n)).await else { return };
                received.fetch_add(1, Ordering::Relaxed);
                each(response);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("a client does not panic");
    }
    received.load(Ordering::Relaxed)
}

/// A runtime for one test.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}
