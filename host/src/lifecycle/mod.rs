//! Functions become warm and cold: one cold start for all who wait, within the host's memory, and let go when
//! they are not worth it any more. The decisions are [`vesta_core::lifecycle`]'s; here is what waits, loads
//! and sleeps.

mod activator;
mod entry;
mod follow;
mod functions;
mod histories;
mod prepare;
mod reaper;
mod start;

pub use activator::{Activation, Activator, Lifecycle};
pub use entry::{Admitted, ColdStart, StartError};
pub use follow::follow_registry;
pub use functions::{Functions, SeveralTenants};
pub use histories::Histories;
pub use prepare::EnginePreparer;
pub use reaper::reap;
pub use vesta_core::lifecycle::NotAdmitted;
