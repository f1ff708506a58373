//! Models: by the names that a function has for them, in worker processes, behind the inference slots.

mod batch;
mod loaded;
mod model;
mod payers;
mod queue;
mod run;
mod slots;
mod tiering;
mod tiers;
mod worker;

pub(crate) use loaded::LoadedModels;
pub(crate) use model::{Inference, Model};
pub(crate) use run::{Call, InferenceError};
pub(crate) use slots::InferenceSlots;
pub(crate) use tiering::review as review_tiers;
pub(crate) use tiers::FasterTier;
pub(crate) use worker::{Program, Settings, StartError, Stocks, Tier, private_bytes};

use std::collections::HashMap;
use std::sync::Arc;
use vesta_core::memory::Reservation;

/// The models that a function may name. Whoever refers to them keeps all that the function holds on the
/// host's books.
#[derive(Default)]
pub(crate) struct Models {
    // Dropped in this order: memory is given back once it is free.
    pub by_name: HashMap<String, Arc<Model>>,
    /// What the function's code and models take of the host's memory.
    pub held: Option<Arc<Reservation>>,
}
