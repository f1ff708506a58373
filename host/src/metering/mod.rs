//! Metering: from what an invocation used to a record that no crash loses.
//!
//! A record is in the [`journal`] before its response ends, and in the ledger soon after.

mod journal;
mod poster;
mod segments;

pub use journal::{Ack, Journal};
pub use poster::{Post, PostError, run_poster};
