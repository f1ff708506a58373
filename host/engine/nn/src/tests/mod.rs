//! Models from their file to their answer.

pub(crate) mod build;
mod confine;
mod digits;
mod exact;
mod exact_onnx_runtime;
mod exported;
mod functions;
mod hostile;
mod inlined;
#[path = "../../../../../tests/support/mutate.rs"]
mod mutate;
mod mutated;
mod onnx_runtime;
mod quantized;
mod refusals;
mod rewrites;
mod runs;
mod weights;
