//! Vesta's core: the words of the platform and its decisions, without any I/O.
//!
//! Nothing here reads a clock, a file or a socket: time comes in through [`clock::Clock`], and the
//! state machines are driven by their callers, so that a test can hold every input.

pub mod clock;
pub mod forms;
pub mod id;
pub mod keepalive;
pub mod lifecycle;
pub mod limits;
pub mod manifest;
pub mod memory;
pub mod money;
pub mod outcome;
pub mod pace;
pub mod price;
pub mod retention;
pub mod sample;
pub mod settlement;
pub mod slots;
pub mod usage;
pub mod vital;

pub use id::{Digest, FunctionName, InvocationId, TenantName};
pub use money::{Charge, Currency};
pub use outcome::Outcome;
pub use price::PlanId;
pub use usage::UsageRecord;
