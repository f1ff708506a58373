//! What a guest may import.

use super::state::State;
use crate::imports::nn;
use wasmtime::component::Linker;

/// Everything that a guest may import.
pub(crate) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    nn::add_to_linker(&mut linker, State::nn)?;
    Ok(linker)
}
