//! How long an idle function is kept warm, when it is warmed before it is asked for, and who goes when memory
//! is short.
//!
//! All of it is pure: the caller brings the time and acts on the answers. [`History`] is what a host
//! remembers of a function, [`KeepAlive`] judges it, [`price()`] says what memory costs at the moment, and
//! [`Explanation`] says all of that in numbers, and [`SavedHistory`] carries it over a restart. Who makes
//! room when memory is short is [`crate::lifecycle`]'s part. Every time in a [`Plan`] counts from the
//! function's last arrival.

mod explain;
mod history;
mod index;
mod price;
mod saved;
#[cfg(test)]
mod tests;

pub use explain::{Explanation, Reason};
pub use history::{History, MB, MERGE};
pub use index::IndexPolicy;
pub use price::{BASE_PRICE, Price, price};
pub use saved::SavedHistory;

use std::time::Duration;

/// What is saved by a start that nobody waits for, as a part of one that a request waits for: its CPU is
/// spent all the same.
pub const PREWARM_GAIN: f64 = 0.5;

/// A span of time after the last arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub from: Duration,
    pub until: Duration,
}

/// When a function should be in memory, if no request comes. A request makes a new plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// It stays this long after its last arrival.
    pub linger: Duration,
    /// Where `from` is 0 this is the time that it stays, and `until` is `linger`. Else it leaves after
    /// `linger`, comes back at `from` if memory is spare, and leaves again at `until`.
    pub resident: Window,
}

impl Plan {
    /// Stays for so long, and does not come back by itself.
    pub fn stay(until: Duration) -> Self {
        Self { linger: until, resident: Window { from: Duration::ZERO, until } }
    }

    /// Whether it should be in memory at this age (time since the last arrival).
    pub fn is_resident(&self, age: Duration) -> bool {
        age < self.linger || (self.resident.from <= age && age < self.resident.until)
    }

    /// When it is to come back, if it leaves before that.
    pub fn prewarm_at(&self) -> Option<Duration> {
        (self.resident.from > self.linger).then_some(self.resident.from)
    }
}

/// What is asked for a function besides its history.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Asked {
    /// The manifest's fixed keep-alive, if it states one.
    pub keep_alive: Option<Duration>,
    /// What a millisecond of the tenant's cold starts counts: 1, or more in a paid tier. Below 0 or not a
    /// number counts as 0.
    pub cost_multiplier: f64,
}

impl Default for Asked {
    fn default() -> Self {
        Self { keep_alive: None, cost_multiplier: 1.0 }
    }
}

/// Decides how long functions stay warm.
pub trait KeepAlive: Send + Sync {
    /// When the function should be in memory, at this price of memory.
    fn plan(&self, history: &History, asked: &Asked, price: Price) -> Plan;

    /// What keeping it for now is worth, `age` after its last arrival: milliseconds of cold start saved per
    /// MB and second. Never negative, always finite. When memory is short the lowest goes first.
    fn index(&self, history: &History, asked: &Asked, age: Duration) -> f64;
}
