//! Vesta's integration tests: the real binary, real guests, real sockets; one file a behaviour.

mod access;
mod architecture;
mod bad_components;
mod bad_guests;
mod bad_manifests;
mod bad_models;
mod bill;
mod cli;
mod crash;
mod deploy;
mod documents;
mod drain;
mod examples;
mod keep_alive;
mod limits;
mod logs;
mod memory;
mod onnx;
mod openapi;
mod portability;
mod responses;
mod reuse;
mod sandbox;
mod scale_to_zero;
mod snapshots;
mod upload;
