//! Models from their file to their answer.

mod build;
mod digits;
mod refusals;
mod runs;
