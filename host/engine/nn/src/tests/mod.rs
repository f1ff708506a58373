//! Models from their file to their answer.

pub(crate) mod build;
mod confine;
mod digits;
mod exported;
mod hostile;
#[path = "../../../../../tests/support/mutate.rs"]
mod mutate;
mod mutated;
mod refusals;
mod rewrites;
mod runs;
mod weights;
