//! How long an idle function is kept warm.

use crate::clock::Instant;
use std::time::Duration;

/// What a policy is told of a function when it becomes idle.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    /// When the last invocation ended.
    pub since: Instant,
    /// Keep-alive that the manifest asks for.
    pub keep_alive: Duration,
    /// Bytes that the function holds while it is warm.
    pub resident_bytes: u64,
    /// CPU time of its last cold start.
    pub cold_start_cpu: Duration,
}

/// Decides when an idle function goes cold. Pure: the caller brings the time and acts on the answer.
pub trait KeepAlive: Send + Sync {
    /// The moment at which a function that stays idle is let go.
    fn until(&self, idle: &Idle) -> Instant;
}

/// Keeps a function for the time its manifest states.
pub struct FixedKeepAlive;

impl KeepAlive for FixedKeepAlive {
    fn until(&self, idle: &Idle) -> Instant {
        idle.since.saturating_add(idle.keep_alive)
    }
}
