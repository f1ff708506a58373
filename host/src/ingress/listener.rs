//! Accepts connections: bounded in number, with TLS where there is a certificate, until the host drains.

use super::answer::Received;
use super::connection;
use super::guard::Guard;
use crate::telemetry::refusals::Refusals;
use bytes::Bytes;
use dashmap::DashMap;
use http::{Request, Response, StatusCode};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use vesta_core::memory::Memory;
use vesta_engine::handler::Handled;

/// How long a new connection waits for the place of one that was ended, before another one is.
const PLACE_WAIT: Duration = Duration::from_millis(50);

/// What a listener answers with.
pub trait Served: Clone + Send + Sync + 'static {
    type Body: http_body::Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static>
        + Send
        + Unpin
        + 'static;
    fn serve(&self, request: Request<Received>) -> impl Future<Output = Response<Self::Body>> + Send;
    /// Refuses a request that the listener does not let through.
    fn refuse(&self, why: Refused) -> Response<Self::Body>;
}

/// Why a listener lets a request not through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("over 34 MiB of answers on this connection are unread: read them before asking for more")]
    Unread,
    #[error("the request's head is over 64 KiB")]
    Head,
}

impl Refused {
    /// Status and code of the problem.
    pub fn problem(self) -> (StatusCode, &'static str) {
        match self {
            Refused::Unread => (StatusCode::TOO_MANY_REQUESTS, "unread-answers"),
            Refused::Head => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large"),
        }
    }
}

impl Served for Arc<super::Ingress> {
    type Body = super::Body;
    async fn serve(&self, request: Request<Received>) -> Response<super::Body> {
        super::invoke::invoke(self.clone(), request).await
    }
    fn refuse(&self, why: Refused) -> Response<super::Body> {
        super::refusal::Refusal::from(why).into_response()
    }
}

/// What the connections of one listener share.
pub struct Door<S> {
    /// As metrics and logs call it.
    pub name: &'static str,
    pub service: S,
    pub tls: Option<TlsAcceptor>,
    pub refusals: Arc<Refusals>,
    /// Answers that clients have not read are counted here.
    pub memory: Arc<Memory>,
    pub connections_max: usize,
    /// How long a connection may be quiet between requests.
    pub keep_alive: Duration,
}

/// How a listener is run.
pub struct Serving {
    pub listener: TcpListener,
    /// Turns `true` when no more connections are to be taken.
    pub stop: watch::Receiver<bool>,
    /// How long requests that run are waited for then.
    pub grace: Duration,
}

/// Accepts connections until told to stop, then lets requests that run finish within the grace.
pub async fn serve<S: Served>(mut serving: Serving, door: Door<S>) {
    let door = Arc::new(door);
    let open = Arc::new(Open::new(door.connections_max));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            accepted = serving.listener.accept() => accepted,
            _ = serving.stop.wait_for(|stop| *stop) => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly.
                open.end_quietest();
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PLACE_WAIT).await;
                continue;
            }
        };
        let place = tokio::select! {
            place = open.place() => place,
            _ = serving.stop.wait_for(|stop| *stop) => break,
        };
        let _ = stream.set_nodelay(true);
        let guard = Guard::new(door.keep_alive);
        let entry = open.enter(guard.clone(), place);
        let (door, cut, stop) = (door.clone(), cut.clone(), serving.stop.clone());
        connections.spawn(async move {
            tokio::select! {
                () = Handled::new(connection::serve(stream, address, guard, door, stop)) => {}
                () = cut.cancelled() => {}
            }
            drop(entry);
        });
    }
    drop(serving.listener);
    connections.close();
    if tokio::time::timeout(serving.grace, connections.wait()).await.is_err() {
        tracing::warn!(
            seconds = serving.grace.as_secs(),
            "requests still run after the grace; they are cut off"
        );
    }
    cut.cancel();
}

/// The connections of a listener.
struct Open {
    begun: Instant,
    places: Arc<Semaphore>,
    all: DashMap<u64, Arc<Guard>>,
    next: std::sync::atomic::AtomicU64,
}

/// A connection among the open ones, until it is dropped.
struct Entry {
    open: Arc<Open>,
    number: u64,
    _place: OwnedSemaphorePermit,
}

impl Open {
    fn new(max: usize) -> Open {
        let places = Arc::new(Semaphore::new(max));
        Open { begun: Instant::now(), places, all: DashMap::new(), next: Default::default() }
    }

    /// A place: a free one, or that of the client that has asked for nothing the longest.
    async fn place(&self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(place) = self.places.clone().try_acquire_owned() {
                return place;
            }
            self.end_quietest();
            let freed = tokio::time::timeout(PLACE_WAIT, self.places.clone().acquire_owned()).await;
            if let Ok(Ok(place)) = freed {
                return place;
            }
        }
    }

    /// Ends the connection that has had no request under way for the longest time.
    fn end_quietest(&self) {
        let quiet =
            self.all.iter().filter_map(|open| Some((open.quiet_since(self.begun)?, open.value().clone())));
        if let Some((_, guard)) = quiet.min_by_key(|(since, _)| *since) {
            guard.end();
        }
    }

    fn enter(self: &Arc<Self>, guard: Arc<Guard>, place: OwnedSemaphorePermit) -> Entry {
        let number = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.all.insert(number, guard);
        Entry { open: self.clone(), number, _place: place }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.open.all.remove(&self.number);
    }
}
