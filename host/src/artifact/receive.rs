//! Takes the bytes of one blob from a client: bounded, verified, and visible only when they are whole.

use super::{ArtifactError, Artifacts, at, store};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use sha2::{Digest as _, Sha256};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tempfile::TempPath;
use tokio::io::AsyncWriteExt;
use vesta_core::manifest::BlobRef;
use vesta_core::{Digest, TenantName};

/// Longest wait for a client's next bytes.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Why a blob was not taken. Nothing of it is kept.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    #[error("the upload is longer than the {size} bytes that the manifest states")]
    TooLong { size: u64 },
    #[error("the upload ended after {got} of {size} bytes")]
    Short { got: u64, size: u64 },
    #[error("the bytes have the digest {got}, and not {expected}")]
    WrongDigest { got: Digest, expected: Digest },
    #[error("the upload was silent for {SILENCE_MAX:?}")]
    Silent,
    #[error("the upload broke off: {0}")]
    Broken(String),
    #[error(transparent)]
    Store(#[from] ArtifactError),
}

impl Artifacts {
    /// Receives a blob that a tenant uploads. Where the same bytes are here already, they are verified and not stored again.
    pub async fn receive<E: std::fmt::Display>(
        &self,
        tenant: &TenantName,
        blob: &BlobRef,
        bytes: impl Stream<Item = Result<Bytes, E>>,
        now_unix_ms: i64,
    ) -> Result<(), ReceiveError> {
        let temporary = self.write_verified(blob, bytes).await?;
        self.keep(temporary, &blob.digest).await?;
        store::uploaded(&self.db, tenant, blob, now_unix_ms).await.map_err(ArtifactError::Db)?;
        Ok(())
    }

    async fn write_verified<E: std::fmt::Display>(
        &self,
        blob: &BlobRef,
        bytes: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<TempPath, ReceiveError> {
        let (file, path) =
            tempfile::NamedTempFile::new_in(&self.uploads).map_err(at(&self.uploads))?.into_parts();
        let mut file = tokio::fs::File::from_std(file);
        let mut hash = Sha256::new();
        let mut got = 0;
        let mut bytes = std::pin::pin!(bytes);
        while let Some(chunk) =
            tokio::time::timeout(SILENCE_MAX, bytes.next()).await.map_err(|_| ReceiveError::Silent)?
        {
            let chunk = chunk.map_err(|e| ReceiveError::Broken(e.to_string()))?;
            got += chunk.len() as u64;
            if got > blob.size {
                return Err(ReceiveError::TooLong { size: blob.size });
            }
            hash.update(&chunk);
            file.write_all(&chunk).await.map_err(at(&path))?;
        }
        if got < blob.size {
            return Err(ReceiveError::Short { got, size: blob.size });
        }
        let got = Digest::from_bytes(hash.finalize().into());
        if got != blob.digest {
            return Err(ReceiveError::WrongDigest { got, expected: blob.digest });
        }
        file.flush().await.map_err(at(&path))?;
        file.sync_all().await.map_err(at(&path))?;
        Ok(path)
    }

    /// Moves a verified file to its place, unless the same bytes are there.
    async fn keep(&self, temporary: TempPath, digest: &Digest) -> Result<(), ArtifactError> {
        let place = self.blob_path(digest);
        if tokio::fs::try_exists(&place).await.map_err(at(&place))? {
            return Ok(());
        }
        let moved = tokio::task::spawn_blocking(move || move_into_place(temporary, &place));
        moved.await.expect("moving a file does not panic, and is not cancelled")
    }
}

fn move_into_place(temporary: TempPath, place: &Path) -> Result<(), ArtifactError> {
    let folder = place.parent().expect("a blob's path ends with a folder and a file");
    std::fs::create_dir_all(folder).map_err(at(folder))?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o400)).map_err(at(&temporary))?;
    temporary.persist(place).map_err(|e| at(place)(e.error))?;
    // So that the name survives a power cut as the bytes do.
    std::fs::File::open(folder).and_then(|f| f.sync_all()).map_err(at(folder))
}
