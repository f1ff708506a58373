//! Why a function is kept, in numbers.

use super::{Asked, History, KeepAlive, Plan, Price};
use crate::clock::Instant;
use serde::{Deserialize, Serialize};

/// What a plan rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The manifest states a keep-alive.
    Fixed,
    /// Keeping it is worth its memory until `kept_until_ms`.
    Worth,
    /// As `worth`, and it comes back at `prewarm_at_ms`.
    Prewarm,
    /// It has never been asked for.
    Unused,
}

/// Why a function is kept, until when and at what cost. Times are milliseconds after the last arrival.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub reason: Reason,
    /// Since the last arrival; nothing if there was none.
    pub age_ms: Option<u64>,
    /// Milliseconds of cold start saved per MB and second, now.
    pub index: f64,
    /// What memory costs, in the same unit: it stays while its index is above.
    pub price: Price,
    /// Average cold start.
    pub cold_ms: f64,
    /// What the tenant's tier multiplies it with.
    pub cost_multiplier: f64,
    /// Average size in MB (2^20 bytes).
    pub resident_mb: f64,
    pub kept_until_ms: u64,
    pub prewarm_at_ms: Option<u64>,
    pub prewarmed_until_ms: Option<u64>,
    /// Gaps between arrivals seen so far.
    pub gaps: u32,
}

impl Explanation {
    /// Of a function, `now`, at this price of memory.
    pub fn of(policy: &dyn KeepAlive, history: &History, asked: &Asked, price: Price, now: Instant) -> Self {
        let plan: Plan = policy.plan(history, asked, price);
        let age = history.last_arrival().map(|last| now.saturating_sub(last));
        let prewarm = plan.prewarm_at();
        let reason = match (age, asked.keep_alive, prewarm) {
            (None, ..) => Reason::Unused,
            (_, Some(_), _) => Reason::Fixed,
            (.., Some(_)) => Reason::Prewarm,
            _ => Reason::Worth,
        };
        let ms = |t: std::time::Duration| u64::try_from(t.as_millis()).unwrap_or(u64::MAX);
        Self {
            reason,
            age_ms: age.map(ms),
            index: policy.index(history, asked, age.unwrap_or_default()),
            price,
            cold_ms: history.cold_ms(),
            cost_multiplier: asked.cost_multiplier,
            resident_mb: history.resident_mb(),
            kept_until_ms: ms(plan.linger),
            prewarm_at_ms: prewarm.map(ms),
            prewarmed_until_ms: prewarm.map(|_| ms(plan.resident.until)),
            gaps: history.gaps(),
        }
    }
}
