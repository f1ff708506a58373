//! The life of a function on one host, as a pure state machine.
//!
//! ```text
//!          request                loaded                 keep-alive ends, nothing runs
//!  cold ───────────▶ warming ───────────────▶ warm ───────────────────────────────▶ cold
//!   ▲                   │ start failed          │ deleted
//!   └───────────────────┘                       ▼
//!                                            draining ── last invocation ends ──▶ (gone)
//! ```

use crate::{FunctionName, TenantName};
use serde::{Deserialize, Serialize};

/// Where a function stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Only files: no code, model or memory in the process.
    Cold,
    /// One cold start is under way; requests wait for it.
    Warming,
    /// Ready to run.
    Warm,
    /// Takes no new invocations; what runs is let finish.
    Draining,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Cold => "cold",
            State::Warming => "warming",
            State::Warm => "warm",
            State::Draining => "draining",
        }
    }
}

/// Tells where a version of a function stands on this host: the lifecycle room fills it, the control API reads it.
pub trait States: Send + Sync {
    fn state(&self, tenant: &TenantName, function: &FunctionName, version: u32) -> State;
}
