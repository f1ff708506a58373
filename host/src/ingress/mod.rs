//! The data plane's front door: from a connection to a billed answer.
//!
//! The way of a request stands in [`invoke`], top to bottom.

mod answer;
mod bill;
mod connection;
mod guard;
mod guest_log;
mod invoke;
mod listener;
mod refusal;
mod request_body;
mod respond;
mod route;
mod shares;
mod streaming;
mod watched;

pub use answer::Received;
pub use listener::{Door, Refused, Served, Serving, serve};
pub use shares::Shares;

use crate::lifecycle::Activator;
use crate::metering::Journal;
use crate::registry::Registry;
use crate::telemetry::logs::LogStore;
use crate::telemetry::metrics::Metrics;
use crate::tenancy::Tenancy;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use std::sync::Arc;
use tokio_util::task::TaskTracker;
use vesta_core::clock::Clock;
use vesta_core::price::Prices;

/// What the front door stands on.
pub struct Ingress {
    pub tenancy: Arc<Tenancy>,
    pub registry: Arc<Registry>,
    pub activator: Arc<Activator>,
    pub journal: Journal,
    pub logs: Arc<LogStore>,
    pub metrics: Arc<Metrics>,
    pub clock: Arc<dyn Clock>,
    pub prices: Prices,
    /// Host names `{function}.{tenant}.{domain}` are routed too.
    pub domain: String,
    /// Pages of functions that a path names are kept apart from one another.
    pub path_sandbox: bool,
    pub tls: bool,
    /// Bills that are open: a drain waits for them, also where their client is gone.
    pub bills: TaskTracker,
    /// What each tenant may hold of the front door.
    pub shares: Shares,
}

/// The body of a response. An error ends the connection (HTTP/1.1) or resets the stream (HTTP/2).
pub type Body = UnsyncBoxBody<Bytes, BrokenOff>;

/// A response whose guest was ended before its body was: the client must not take it for whole.
#[derive(Debug, thiserror::Error)]
#[error("the response broke off: {0}")]
pub struct BrokenOff(pub String);
