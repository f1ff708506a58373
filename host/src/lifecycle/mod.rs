//! Which functions are in memory, and why: cold starts, keep-alive, draining.
//!
//! ```text
//! ingress ──admit──▶ Entry ──activate──▶ Lease ──(runs)──▶ dropped ──▶ idle ──reaper──▶ cold
//! ```

mod activator;
mod entry;
mod prepare;
mod reaper;

pub use activator::{Activation, Activator, Lifecycle};
pub use entry::{Admitted, ColdStart, Lease, NotAdmitted, StartError};
pub use prepare::EnginePreparer;
pub use reaper::{follow_registry, reap};
