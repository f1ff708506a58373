//! The life of a function on one host, as pure state machines: the host's lifecycle room adds the waiting,
//! the loading and the timers, and nothing else.
//!
//! ```text
//!          request, prewarm, minimum            loaded
//!  cold ──────────────────────────▶ warming ───────────────▶ warm ◀─┐ used: never let go
//!   ▲ ▲                                │                     │ │ └──┘
//!   │ └── start failed; the next one ──┘                     │ │ deleted
//!   │     only after a back-off                              │ ▼
//!   └──── nobody uses it, and its plan ends or room is needed┘ draining ── last use ends ──▶ (gone)
//! ```
//!
//! [`Function`] is one version of a function, [`Fleet`] are all of them together with the memory budget and
//! the moments at which keep-alive has something to do. A request to a warm function takes its own lock and
//! no other.

mod agenda;
mod backoff;
mod cold_start;
mod fleet;
mod function;

pub use backoff::{BACKOFF_FIRST, BACKOFF_MAX};
pub use cold_start::{CodeStart, ColdStartParts, ModelStart};
pub use fleet::{Due, Fleet, MEMORY_WAIT_MAX, PREWARMS_AT_ONCE, Slot};
pub use function::{Failure, Function, Next, NotAdmitted, Refused, Resident, SetAside, Standing};

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

/// Tells where a version of a function stands on this host: the lifecycle room fills it, the control API
/// reads it.
pub trait States: Send + Sync {
    fn state(&self, tenant: &TenantName, function: &FunctionName, version: u32) -> State;

    /// All that is known of it; nothing where it was never asked for.
    fn standing(&self, tenant: &TenantName, function: &FunctionName, version: u32) -> Option<Standing>;
}
