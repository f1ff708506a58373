//! Models from their file to their answer.

pub(crate) mod build;
mod digits;
mod refusals;
mod runs;
mod weights;
