//! What a function may use, and the bounds of what it may ask for.

use serde::{Deserialize, Serialize};

const MIB: u64 = 1 << 20;

/// The limits of a function. Every field is set: defaults are filled in when the package is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Linear memory of one instance, in bytes.
    pub memory_bytes: u64,
    /// Guest CPU time of one invocation, in milliseconds.
    pub cpu_ms: u64,
    /// Wall-clock time of one invocation, inference and waiting included, in milliseconds.
    pub wall_ms: u64,
    /// Request body, in bytes.
    pub request_body_bytes: u64,
    /// Response body, in bytes.
    pub response_body_bytes: u64,
    /// Invocations of the function that run at once.
    pub concurrency: u32,
    /// Memory that runs of a model may hold at once beyond the model's mapped weights, in bytes.
    #[serde(default = "default_model_memory_bytes")]
    pub model_memory_bytes: u64,
    /// CPU time of one run of a model, in milliseconds.
    #[serde(default = "default_inference_ms")]
    pub inference_ms: u64,
}

/// The default of [`Limits::model_memory_bytes`]: 1 GiB.
fn default_model_memory_bytes() -> u64 {
    1024 * MIB
}

/// The default of [`Limits::inference_ms`]: 30 s.
fn default_inference_ms() -> u64 {
    30_000
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 128 * MIB,
            cpu_ms: 1_000,
            wall_ms: 30_000,
            request_body_bytes: 4 * MIB,
            response_body_bytes: 16 * MIB,
            concurrency: 64,
            model_memory_bytes: default_model_memory_bytes(),
            inference_ms: default_inference_ms(),
        }
    }
}

/// Least and most of each limit.
pub const MEMORY_BYTES: (u64, u64) = (MIB, 4096 * MIB);
pub const CPU_MS: (u64, u64) = (1, 600_000);
pub const WALL_MS: (u64, u64) = (1, 900_000);
pub const BODY_BYTES: (u64, u64) = (0, 1024 * MIB);
pub const CONCURRENCY: (u64, u64) = (1, 1_000);
pub const MODEL_MEMORY_BYTES: (u64, u64) = (16 * MIB, 64 * 1024 * MIB);
pub const INFERENCE_MS: (u64, u64) = (1, 600_000);
/// Longest keep-alive, in milliseconds: 7 days.
pub const KEEP_ALIVE_MS_MAX: u64 = 7 * 24 * 3_600_000;
/// Most instances that may be kept warm at least.
pub const MINIMUM_MAX: u32 = 100;
/// Requests that one instance may serve.
pub const REUSE: (u64, u64) = (1, 1_000_000);
/// Threads that compute a run of a model.
pub const THREADS: (u64, u64) = (1, 64);
/// Rows of a merged run of a model.
pub const BATCH: (u64, u64) = (1, 256);
/// Longest time for which a run waits for others, in milliseconds.
pub const BATCH_WAIT_MS_MAX: u64 = 1_000;
/// Most models, outbound hosts and variables of a function.
pub const MODELS_MAX: usize = 32;
pub const OUTBOUND_HOSTS_MAX: usize = 64;
pub const VARIABLES_MAX: usize = 128;
/// Most bytes of all names and values of variables together.
pub const VARIABLES_BYTES_MAX: usize = 64 * 1024;

/// A limit out of its bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} = {value} is out of bounds: {min} to {max}")]
pub struct LimitError {
    pub field: &'static str,
    pub value: u64,
    pub min: u64,
    pub max: u64,
}

/// Checks one value against its bounds.
pub fn check(field: &'static str, value: u64, (min, max): (u64, u64)) -> Result<(), LimitError> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(LimitError { field, value, min, max }) }
}

impl Limits {
    /// Checks every field; the error names the first that is out of bounds.
    pub fn check(&self) -> Result<(), LimitError> {
        check("limits.memory_bytes", self.memory_bytes, MEMORY_BYTES)?;
        check("limits.cpu_ms", self.cpu_ms, CPU_MS)?;
        check("limits.wall_ms", self.wall_ms, WALL_MS)?;
        check("limits.request_body_bytes", self.request_body_bytes, BODY_BYTES)?;
        check("limits.response_body_bytes", self.response_body_bytes, BODY_BYTES)?;
        check("limits.concurrency", u64::from(self.concurrency), CONCURRENCY)?;
        check("limits.model_memory_bytes", self.model_memory_bytes, MODEL_MEMORY_BYTES)?;
        check("limits.inference_ms", self.inference_ms, INFERENCE_MS)
    }
}
