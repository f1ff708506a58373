//! Requests that were refused, and answers of functions that say so: counted all, and logged in samples.

use super::metrics::Metrics;
use http::{Extensions, StatusCode};
use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Of each reason and function, one refusal in this time is logged, with the number of those that were not.
const SAMPLE: Duration = Duration::from_secs(1);

/// Most reasons and functions that are told apart; past it all begin anew.
const TOLD_APART_MAX: usize = 1_024;

/// Why a request was refused; travels with the answer, as an extension of it.
#[derive(Debug, Clone)]
pub struct Reason {
    /// The problem's code, or [`Reason::FUNCTION`].
    pub code: Cow<'static, str>,
    /// `tenant/function`, where one was found.
    pub function: Option<String>,
}

impl Reason {
    /// The function itself answered so.
    pub const FUNCTION: &str = "function";
}

/// Counts refusals, and logs a sample of them.
pub struct Refusals {
    metrics: Arc<Metrics>,
    logged: Mutex<HashMap<String, Logged>>,
}

struct Logged {
    at: Instant,
    passed_over: u64,
}

impl Refusals {
    pub fn new(metrics: Arc<Metrics>) -> Arc<Refusals> {
        Arc::new(Refusals { metrics, logged: Mutex::default() })
    }

    /// Notes an answer of 400 or more. `listener` names the listener that gave it, `from` is the caller's
    /// address and `key` the public part of the key that came along, whether or not there is such a key.
    pub fn note(
        &self,
        listener: &'static str,
        status: StatusCode,
        extensions: &Extensions,
        from: SocketAddr,
        key: impl FnOnce() -> Option<String>,
    ) {
        let unknown = Reason { code: "http".into(), function: None };
        let reason = extensions.get::<Reason>().unwrap_or(&unknown);
        let class = if status.is_client_error() { "4xx" } else { "5xx" };
        self.metrics.refused(listener, &reason.code, class);
        let told_by = format!("{} {}", reason.code, reason.function.as_deref().unwrap_or_default());
        let Some(passed_over) = self.is_sampled(told_by) else { return };
        tracing::info!(
            target: "vesta::refusals", listener, reason = %reason.code, status = status.as_u16(),
            function = reason.function.as_deref(), from = %from, key = key().as_deref(), passed_over,
            "refused"
        );
    }

    /// Whether a refusal like this is logged; if so, the number of those since the last one that were not.
    fn is_sampled(&self, told_by: String) -> Option<u64> {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match logged.get_mut(&told_by) {
            Some(last) if now < last.at + SAMPLE => {
                last.passed_over += 1;
                None
            }
            Some(last) => {
                last.at = now;
                Some(std::mem::take(&mut last.passed_over))
            }
            None => {
                if logged.len() >= TOLD_APART_MAX {
                    logged.clear();
                }
                logged.insert(told_by, Logged { at: now, passed_over: 0 });
                Some(0)
            }
        }
    }
}
