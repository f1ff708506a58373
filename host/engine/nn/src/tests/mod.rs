//! Models from their file to their answer.

mod build;
mod refusals;
mod runs;
