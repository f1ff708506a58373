//! What the host tells of itself and of its functions.

pub mod logs;
pub mod metrics;
pub mod refusals;
