//! Vesta's host: one binary that stores, starts, runs and bills inference functions.
//!
//! Each module is a room; ARCHITECTURE.md says which may know which.

pub mod artifact;
pub mod cli;
pub mod config;
pub mod control;
pub mod db;
pub mod ingress;
pub mod ledger;
pub mod lifecycle;
pub mod metering;
pub mod package;
pub mod registry;
pub mod server;
pub mod telemetry;
pub mod tenancy;

#[cfg(test)]
#[path = "../../tests/support/mutate.rs"]
mod mutate;
