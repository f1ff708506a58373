//! Files that the host trusts: compiled code and prepared models, under MACs of its own.

mod choices;
mod seal;
mod store;

pub(crate) use choices::{Choice, Choices, Gained};
pub(crate) use seal::{SealError, Seals, sealed_model};
pub(crate) use store::{CodeStore, Source};
