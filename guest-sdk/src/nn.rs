//! Bindings to `wasi:nn` and `vesta:nn`, made from `wit/`.
#![allow(unsafe_code, missing_docs, reason = "generated: calling a host's function is unsafe in Rust")]

wit_bindgen::generate!({ path: "wit", world: "vesta:nn/ml", generate_all });

pub(crate) use vesta::nn::{signatures, tensors};
pub(crate) use wasi::nn::{errors, graph, inference, tensor};
