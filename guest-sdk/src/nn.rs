//! Bindings to `wasi:nn`, made from `wit/nn.wit`.
#![allow(unsafe_code, missing_docs, reason = "generated: calling a host's function is unsafe in Rust")]

wit_bindgen::generate!({ path: "wit", world: "ml", generate_all });

pub(crate) use wasi::nn::{errors, graph, inference, tensor};
