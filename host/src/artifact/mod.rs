//! The bytes of functions: blobs by their SHA-256 digest, stored once however many versions or tenants use
//! them.
//!
//! Knowing a digest gives nobody anything: a tenant skips only the upload of what it has uploaded itself, and
//! what it sends is verified in full before it is found to be here already.

pub mod deploy;
mod prepare;
mod receive;
mod store;

#[cfg(test)]
pub use prepare::testing;
pub use prepare::{DeployBill, Deployed, Prepare, PrepareError};
pub use receive::ReceiveError;

use crate::db::{Db, DbError};
use sha2::{Digest as _, Sha256};
use std::collections::HashSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use vesta_core::manifest::{BlobRef, PackageManifest};
use vesta_core::{Digest, TenantName};

/// The store of blobs failed. Never the fault of a caller.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error("blob store: {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("an uploaded file is damaged on disk and was set aside: deploy the function again")]
    Damaged,
}

impl From<sqlx::Error> for ArtifactError {
    fn from(e: sqlx::Error) -> Self {
        ArtifactError::Db(e.into())
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ArtifactError {
    move |source| ArtifactError::Io { path: path.to_owned(), source }
}

/// What a tenant refers to, by its versions or its open deployments.
pub type References = HashSet<(TenantName, Digest)>;

/// The blobs of one data directory.
pub struct Artifacts {
    blobs: PathBuf,
    uploads: PathBuf,
    db: Db,
}

impl Artifacts {
    /// Makes the folders `blobs` and `uploads`, and drops what an earlier run left in `uploads`.
    pub async fn open(data_dir: &Path, db: Db) -> Result<Self, ArtifactError> {
        let (blobs, uploads) = (data_dir.join("blobs"), data_dir.join("uploads"));
        match tokio::fs::remove_dir_all(&uploads).await {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(&uploads)(e)),
            _ => {}
        }
        for folder in [&blobs, &uploads] {
            tokio::fs::create_dir_all(folder).await.map_err(at(folder))?;
        }
        Ok(Self { blobs, uploads, db })
    }

    /// Where a blob lies when it is here: `blobs/ab/<64 hex digits>`.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.blobs.join(&hex[..2]).join(hex)
    }

    /// Reads a blob as a whole to see whether it is what was uploaded. One that is not is set aside, so that
    /// it can be uploaded again.
    pub async fn verify(&self, digest: Digest) -> Result<(), ArtifactError> {
        let path = self.blob_path(&digest);
        let checking = tokio::task::spawn_blocking(move || {
            let mut hash = Sha256::new();
            let mut file = std::fs::File::open(&path).map_err(at(&path))?;
            let mut piece = vec![0; 1 << 20];
            loop {
                match file.read(&mut piece).map_err(at(&path))? {
                    0 => break,
                    n => hash.update(&piece[..n]),
                }
            }
            if Digest::from_bytes(hash.finalize().into()) == digest {
                return Ok(());
            }
            std::fs::rename(&path, path.with_extension("damaged")).map_err(at(&path))?;
            Err(ArtifactError::Damaged)
        });
        checking.await.expect("reading a file does not panic, and is not cancelled")
    }

    /// The blobs of a package that the tenant has not uploaded before.
    pub async fn missing(
        &self,
        tenant: &TenantName,
        manifest: &PackageManifest,
    ) -> Result<Vec<BlobRef>, ArtifactError> {
        let mut missing = Vec::new();
        for blob in manifest.blobs() {
            let known = store::uploaded_size(&self.db, tenant, &blob.digest).await? == Some(blob.size);
            let path = self.blob_path(&blob.digest);
            if !known || !tokio::fs::try_exists(&path).await.map_err(at(&path))? {
                missing.push(blob.clone());
            }
        }
        Ok(missing)
    }

    /// Forgets the uploads from before `uploaded_before_unix_ms` that their tenant no longer refers to,
    /// deletes the blobs that nobody refers to or has uploaded, and has what was prepared of them discarded.
    /// Returns how many it deleted.
    ///
    /// No deployment may begin while this runs: it could count on a blob that is about to go.
    pub async fn collect(
        &self,
        references: &References,
        uploaded_before_unix_ms: i64,
        prepare: &dyn Prepare,
    ) -> Result<usize, ArtifactError> {
        let mut kept: HashSet<Digest> = references.iter().map(|(_, digest)| *digest).collect();
        let mut forgotten = Vec::new();
        for upload in store::uploads(&self.db).await? {
            let owner = (upload.tenant, upload.digest);
            if references.contains(&owner) || upload.uploaded_unix_ms >= uploaded_before_unix_ms {
                kept.insert(owner.1);
            } else {
                forgotten.push(owner);
            }
        }
        store::forget(&self.db, &forgotten).await?;
        let mut deleted = 0;
        for (digest, path) in self.files().await? {
            if !kept.contains(&digest) {
                prepare.discard(&digest);
                tokio::fs::remove_file(&path).await.map_err(at(&path))?;
                deleted += 1;
            }
        }
        Ok(deleted)
    }

    async fn files(&self) -> Result<Vec<(Digest, PathBuf)>, ArtifactError> {
        let mut found = Vec::new();
        let mut folders = tokio::fs::read_dir(&self.blobs).await.map_err(at(&self.blobs))?;
        while let Some(folder) = folders.next_entry().await.map_err(at(&self.blobs))? {
            let folder = folder.path();
            let mut files = tokio::fs::read_dir(&folder).await.map_err(at(&folder))?;
            while let Some(file) = files.next_entry().await.map_err(at(&folder))? {
                // What has another name is not ours, and stays.
                if let Some(Ok(digest)) = file.file_name().to_str().map(|n| format!("sha256:{n}").parse()) {
                    found.push((digest, file.path()));
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
