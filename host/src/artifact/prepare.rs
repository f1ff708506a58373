//! What is done to blobs before a version may be published: filled by the room that compiles and checks models.

use futures_util::future::BoxFuture;
use std::path::Path;
use vesta_core::Digest;
use vesta_core::manifest::{ModelRef, PackageManifest};

/// Why a blob could not be prepared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct PrepareError {
    /// In kebab case, such as `not-a-component`.
    pub code: String,
    /// For the developer: what is wrong, and where.
    pub detail: String,
    /// The platform's own failure, and not the package's.
    pub platform: bool,
}

/// Prepares blobs. Preparing the same blob again is cheap, and two at once share one preparation.
pub trait Prepare: Send + Sync {
    /// Compiles a function's component.
    fn component<'a>(
        &'a self,
        manifest: &'a PackageManifest,
        blob: &'a Path,
    ) -> BoxFuture<'a, Result<(), PrepareError>>;
    /// Checks a model and rewrites it for mapping; returns what is known of it: name, inputs, outputs.
    fn model<'a>(
        &'a self,
        model: &'a ModelRef,
        blob: &'a Path,
    ) -> BoxFuture<'a, Result<serde_json::Value, PrepareError>>;
    /// Whether what was prepared of a package fits into this host at all.
    fn fits(&self, manifest: &PackageManifest) -> Result<(), PrepareError>;
    /// Drops whatever was prepared of a blob that is being deleted.
    fn discard(&self, digest: &Digest);
}
