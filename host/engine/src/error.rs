//! Why the engine could not do what it was asked.

use crate::files::SealError;
use crate::prepare::child::ChildError;
use vesta_core::memory::Short;

/// Why something uploaded cannot be used, or the runtime failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// What was uploaded is at fault.
    #[error("{detail}")]
    Refused { code: String, detail: String },
    #[error(transparent)]
    Child(#[from] ChildError),
    #[error(transparent)]
    Code(#[from] SealError),
    #[error(transparent)]
    Memory(#[from] Short),
    #[error("model {name:?} cannot be loaded: {detail}")]
    Model { name: String, detail: String },
    #[error("model {name:?} cannot be served: {detail}")]
    Worker { name: String, detail: String },
    #[error("the runtime failed: {0}")]
    Runtime(String),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl EngineError {
    /// A stable name for the API.
    pub fn code(&self) -> &str {
        match self {
            EngineError::Refused { code, .. } => code,
            EngineError::Child(e) => e.code(),
            EngineError::Code(_) => "code-cache",
            EngineError::Memory(_) => "host-memory",
            EngineError::Model { .. } => "model-load",
            EngineError::Worker { .. } => "model-worker",
            EngineError::Runtime(_) | EngineError::Io(_) => "runtime",
        }
    }
    /// Whether the host is to blame rather than what was uploaded.
    pub fn is_platform(&self) -> bool {
        match self {
            EngineError::Refused { .. } => false,
            EngineError::Child(e) => e.is_platform(),
            _ => true,
        }
    }
    /// Whether preparing the function's files anew may mend it.
    pub fn wants_preparation(&self) -> bool {
        // What could not be read this time may well be sound.
        matches!(self, EngineError::Code(SealError::Missing | SealError::Altered) | EngineError::Model { .. })
    }
}

pub(crate) fn runtime_error(e: wasmtime::Error) -> EngineError {
    EngineError::Runtime(format!("{e:#}"))
}
