//! Models from their file to their answer.

pub(crate) mod build;
mod confine;
mod digits;
mod hostile;
#[path = "../../../../../tests/support/mutate.rs"]
mod mutate;
mod mutated;
mod onnx_runtime;
mod refusals;
mod runs;
mod weights;
