//! A function in the making, and its instances: each runs one request at a time.

mod ended;
pub(crate) mod ender;
pub(crate) mod epoch;
pub(crate) mod idle;
mod instance;
pub(crate) mod linker;
mod preempt;
mod run;
pub(crate) mod state;
pub(crate) mod template;

pub use ended::Ended;
pub(crate) use instance::Instance;
pub use run::Run;
pub use state::Invocation;
