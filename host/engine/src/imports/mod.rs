//! What a guest may import beside WASI: one file an interface.

pub mod logs;
pub(crate) mod lookups;
pub(crate) mod nn;
pub(crate) mod outbound;
