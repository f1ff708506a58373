//! The engine room: the only user of wasmtime, and of inference engines through `vesta-nn`.
//!
//! An upload is first read by a [`child`] process. A function is then loaded by [`Runtime::load`], run
//! by [`Run::start`], and measured by its [`Meter`].

pub mod child;
mod compile;
mod config;
pub mod cpu;
mod epoch;
pub mod heap;
mod idle;
mod instance;
mod load;
pub mod logs;
mod meter;
mod nn;
mod outbound;
mod pool;
mod preempt;
mod run;
mod runtime;
mod seal;
mod share;
mod snapshot;
mod state;
mod store;

pub use instance::Invocation;
pub use load::{LoadReport, Loaded};
pub use meter::Meter;
pub use run::{Ended, Run};
pub use runtime::{EngineError, Runtime, RuntimeConfig};
pub use vesta_nn::{ModelInfo, ModelLimits};
/// The error of a request body that the host hands to a guest.
pub use wasmtime_wasi_http::Error as BodyError;
