//! An instance's share of the host's memory budget.

use super::{Meter, cpu};
use std::sync::Arc;
use vesta_core::memory::{Grant, Kind, Memory, Short, Taken};

/// What is idle and can be ended for its memory.
pub(crate) trait EndIdle: Send + Sync {
    /// Ends what has been idle the longest; false where nothing is.
    fn end_oldest(&self) -> bool;
}

/// Gives memory to instances: what is free, then what idle instances hold, then what the host makes room for.
pub(crate) struct InstanceMemory {
    pub host: Arc<dyn Grant>,
    pub idle: Arc<dyn EndIdle>,
}

impl Grant for InstanceMemory {
    fn memory(&self) -> &Arc<Memory> {
        self.host.memory()
    }
    fn grow(&self, taken: &mut Taken, more: u64) -> Result<(), Short> {
        while taken.grow(more).is_err() {
            if !self.idle.end_oldest() {
                return self.host.grow(taken, more);
            }
        }
        Ok(())
    }
}

/// What an instance holds of one kind; given back when dropped.
pub(crate) struct Share(Option<(Arc<InstanceMemory>, Taken)>);

impl Share {
    pub fn of(memory: &Arc<InstanceMemory>, kind: Kind) -> Share {
        Share(Some((memory.clone(), memory.memory().none(kind))))
    }

    /// Of a process that has no budget: the child has limits of its own.
    pub fn without_budget() -> Share {
        Share(None)
    }

    /// Takes more. An error ends the invocation, and the meter knows that the host is to blame.
    pub fn grow(&mut self, more: u64, meter: &Meter) -> wasmtime::Result<()> {
        let Some((memory, taken)) = &mut self.0 else { return Ok(()) };
        if taken.grow(more).is_ok() {
            return Ok(());
        }
        // Making room is the host's work, though it is done within the guest's turn.
        let begun = cpu::thread_cpu_ns();
        let result = memory.grow(taken, more);
        meter.spare(cpu::thread_cpu_ns() - begun);
        result.map_err(|short| {
            meter.lack_host_memory();
            wasmtime::Error::new(short)
        })
    }

    pub fn shrink(&mut self, less: u64) {
        if let Some((_, taken)) = &mut self.0 {
            taken.shrink(less);
        }
    }
}
