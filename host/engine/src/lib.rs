//! The engine room: the only user of wasmtime, and of inference engines through `vesta-nn`.
//!
//! An upload is first read by a child process, [`child_main`]. A function is then loaded by
//! [`Runtime::load`], run by [`Loaded::run`], and measured by its [`Meter`]. The modules are floors: each
//! knows only those below it.

mod runtime;

mod prepared;

mod load;

mod error;

mod prepare;

mod guest;

mod imports;

mod models;

mod meter;

mod files;

mod config;

pub mod engines;

pub use error::EngineError;
pub use guest::{Ended, Invocation, Run};
pub use imports::logs;
pub use load::{LoadReport, Loaded};
pub use meter::{Meter, ModelFailure, cpu, handler, processes};
pub use prepare::child::ChildLimits;
pub use prepare::child_main;
pub use prepared::PreparedModel;
pub use runtime::{Runtime, RuntimeConfig};
/// The worker's whole life, in a process of its own; returns its exit code.
pub use vesta_nn::worker::main as worker_main;
pub use vesta_nn::{ModelInfo, ModelLimits, RTEN_VERSION, confine, heap};
/// The error of a request body that the host hands to a guest.
pub use wasmtime_wasi_http::Error as BodyError;
