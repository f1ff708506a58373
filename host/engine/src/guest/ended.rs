//! How a guest ended, and what its client is told of that.

use super::instance::NoPlace;
use crate::meter::{Meter, ModelFailure, Stop};
use vesta_core::Outcome;
use wasmtime::Trap;

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub outcome: Outcome,
    /// What to tell the client, without inner detail; empty for [`Outcome::Ok`].
    pub detail: String,
}

impl Ended {
    /// The guest returned.
    pub fn well() -> Ended {
        Ended { outcome: Outcome::Ok, detail: String::new() }
    }
    /// It ran past its wall-clock limit.
    pub fn wall_limit() -> Ended {
        let detail = "the function ran past its wall-clock limit (limits.wall)".into();
        Ended { outcome: Outcome::WallLimit, detail }
    }
    /// A run of one of its models failed, and the guest did not answer well after it.
    pub(super) fn model_failed(why: ModelFailure) -> Ended {
        let (outcome, detail) = match why {
            ModelFailure::Memory => (
                Outcome::ModelMemory,
                "a run of the function's model needed more memory than it may have (limits.model_memory)",
            ),
            ModelFailure::InferenceLimit => (
                Outcome::InferenceLimit,
                "a run of the function's model used up its CPU time (limits.inference)",
            ),
            ModelFailure::Crashed => (Outcome::ModelCrashed, "a run of the function's model crashed"),
        };
        Ended { outcome, detail: detail.into() }
    }
}

/// How a guest ended that did not return.
pub(super) fn classify(error: &wasmtime::Error, meter: &Meter) -> Ended {
    let ended = |outcome, detail: String| Ended { outcome, detail };
    match meter.stopped() {
        Some(Stop::CpuLimit) => {
            let detail = "the function used up its CPU time (limits.cpu)".into();
            return ended(Outcome::CpuLimit, detail);
        }
        Some(Stop::WallLimit) => return Ended::wall_limit(),
        None => {}
    }
    if meter.host_memory_lacks() {
        let detail =
            "this host is short of memory at the moment, or the tenant's functions hold their share of it"
                .into();
        return ended(Outcome::HostMemory, detail);
    }
    if meter.memory_was_refused() {
        let detail = "the function needed more memory than it may have (limits.memory)".into();
        return ended(Outcome::OutOfMemory, detail);
    }
    if error.is::<wasmtime::PoolConcurrencyLimitError>() || error.is::<NoPlace>() {
        tracing::warn!(error = %error, "no slot for another instance");
        return ended(Outcome::PlatformError, "this host runs as many instances as it can".into());
    }
    if let Some(why) = meter.model_failure() {
        return Ended::model_failed(why);
    }
    match error.downcast_ref::<Trap>() {
        // Rust puts a guest's stack first in its memory: running off it is an access out of bounds.
        Some(Trap::MemoryOutOfBounds) => {
            let detail = "the function trapped: out-of-bounds memory access or stack overflow".into();
            ended(Outcome::Trap, detail)
        }
        Some(Trap::UnreachableCodeReached) => {
            ended(Outcome::Trap, "the function trapped: it panicked or aborted (see its logs)".into())
        }
        Some(trap) => ended(Outcome::Trap, format!("the function trapped: {trap}")),
        None => {
            tracing::debug!(error = ?error, "guest ended with an error of a host call");
            ended(Outcome::Trap, "the function trapped in a host call".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(meter: &Meter) -> Outcome {
        classify(&wasmtime::Error::from(Trap::UnreachableCodeReached), meter).outcome
    }

    #[test]
    fn a_trap_after_the_failure_of_a_model_is_the_models() {
        for (why, wanted, words) in [
            (ModelFailure::Memory, Outcome::ModelMemory, "limits.model_memory"),
            (ModelFailure::InferenceLimit, Outcome::InferenceLimit, "limits.inference"),
            (ModelFailure::Crashed, Outcome::ModelCrashed, "crashed"),
        ] {
            let meter = Meter::default();
            assert_eq!(outcome(&meter), Outcome::Trap);
            meter.model_failed(why);
            let ended = classify(&wasmtime::Error::from(Trap::UnreachableCodeReached), &meter);
            assert_eq!(ended.outcome, wanted);
            assert!(ended.detail.contains(words), "{}", ended.detail);
        }
    }

    #[test]
    fn the_first_failure_of_a_model_is_kept_and_the_guests_own_limits_come_before_it() {
        let failed = || {
            let meter = Meter::default();
            meter.model_failed(ModelFailure::Memory);
            meter.model_failed(ModelFailure::Crashed);
            meter
        };
        assert_eq!(outcome(&failed()), Outcome::ModelMemory);
        for (stop, wanted) in [(Stop::CpuLimit, Outcome::CpuLimit), (Stop::WallLimit, Outcome::WallLimit)] {
            let meter = failed();
            meter.stop(stop);
            assert_eq!(outcome(&meter), wanted);
        }
        let meter = failed();
        meter.refuse_memory();
        assert_eq!(outcome(&meter), Outcome::OutOfMemory);
        meter.lack_host_memory();
        assert_eq!(outcome(&meter), Outcome::HostMemory);
    }
}
