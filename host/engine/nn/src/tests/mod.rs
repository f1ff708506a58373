//! Models from their file to their answer.

pub(crate) mod build;
mod confine;
mod digits;
mod hostile;
mod refusals;
mod runs;
mod weights;
