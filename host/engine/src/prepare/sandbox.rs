//! From an uploaded component to native code. Runs in the child process only.

use super::bulk;
use super::snapshot::{self, SnapshotError};
use super::text::one_line;
use crate::config;
use crate::guest::linker::linker;
use std::path::Path;
use wasmtime::component::Component;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

/// Why a component was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    #[error("this is a core module; a function is a component: build it for wasm32-wasip2")]
    CoreModule,
    #[error("this is not a WebAssembly component")]
    NotAComponent,
    #[error("the component is invalid: {0}")]
    Invalid(String),
    #[error("the component imports what this host does not offer: {0}")]
    Import(String),
    #[error("the component does not export wasi:http/incoming-handler: {0}")]
    Export(String),
    #[error("{0}; `snapshot = false` in vesta.toml has it initialised in each instance instead")]
    Snapshot(#[from] SnapshotError),
    #[error("the compiled component cannot be written: {0}")]
    Io(String),
}

impl CompileError {
    /// A stable name for the API.
    pub fn code(&self) -> &'static str {
        match self {
            CompileError::CoreModule => "core-module",
            CompileError::NotAComponent => "not-a-component",
            CompileError::Invalid(_) => "invalid-component",
            CompileError::Import(_) => "unknown-import",
            CompileError::Export(_) => "missing-export",
            CompileError::Snapshot(_) => "snapshot-refused",
            CompileError::Io(_) => "io",
        }
    }
}

/// Compiles a component, checks what it imports and exports, and writes its native code; with `snapshot`, a
/// component that asks for it is initialised before.
pub(crate) fn compile(source: &Path, out: &Path, snapshot: bool) -> Result<(), CompileError> {
    let io = |e: std::io::Error| CompileError::Io(e.to_string());
    let bytes = std::fs::read(source).map_err(io)?;
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', _, _, 1, 0]) => {}
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => return Err(CompileError::CoreModule),
        _ => return Err(CompileError::NotAComponent),
    }
    let invalid = |e: wasmtime::Error| CompileError::Invalid(one_line(&e));
    let engine = config::compiling_engine().map_err(invalid)?;
    let bytes = match bulk::in_pieces(&bytes) {
        Ok(bytes) => bytes,
        Err(e) => {
            // The compiler tells in better words what is not valid.
            Component::new(&engine, &bytes).map_err(invalid)?;
            return Err(CompileError::Invalid(format!(
                "it consists of something that this host does not know: {e}"
            )));
        }
    };
    let mut component = Component::new(&engine, &bytes).map_err(invalid)?;
    let linker = linker(&engine).map_err(invalid)?;
    let pre = linker.instantiate_pre(&component).map_err(|e| CompileError::Import(one_line(&e)))?;
    ProxyPre::new(pre).map_err(|e| CompileError::Export(one_line(&e)))?;
    if snapshot && snapshot::is_wanted(&component) {
        let initialised = snapshot::take(&linker, &bytes)?;
        component = Component::new(&engine, initialised).map_err(invalid)?;
    }
    let code = component.serialize().map_err(invalid)?;
    std::fs::write(out, code).map_err(io)
}
