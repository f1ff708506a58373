//! Files that the host trusts: compiled code and prepared models, under MACs of its own.

mod choices;
mod seal;
mod store;

pub(crate) use choices::{Choice, Choices};
pub(crate) use seal::{SealError, Sealed, Seals};
pub(crate) use store::{CodeStore, Source};
