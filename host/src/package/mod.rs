//! Packages: from a folder with a `vesta.toml` to a manifest of digests and its blobs, and the same as one
//! file.
//!
//! The command line builds packages and the server receives them; both use this room, which knows the core
//! only.

pub mod archive;
pub mod build;
mod cargo;
mod component;
pub mod manifest_file;
#[cfg(test)]
mod mutated_tests;
mod reader;
pub mod units;

pub use archive::{ArchiveError, ArchiveLimits, BlobSink};
pub use build::{BuildError, BuildOptions, build};
pub use component::{ComponentError, check_header};
pub use manifest_file::{MANIFEST_FILE, ManifestFile};
pub use reader::{ManifestFileError, Problem};

use std::collections::BTreeMap;
use std::path::PathBuf;
use vesta_core::Digest;
use vesta_core::manifest::PackageManifest;

/// A package on this machine: its manifest, and where each of its blobs lies.
#[derive(Debug, Clone)]
pub struct Package {
    pub manifest: PackageManifest,
    /// A file with the bytes of each blob of the manifest.
    pub blobs: BTreeMap<Digest, PathBuf>,
}
