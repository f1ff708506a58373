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

/// Bytes after which the disk is looked at again.
const LOOK_BYTES: u64 = 16 << 20;

/// Longest wait for a client's next bytes.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Why a blob was not taken. Nothing of it is kept.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    #[error("the upload is longer than {size} bytes, which is what was announced or allowed")]
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
    /// Receives the bytes of a blob and verifies them.
    pub async fn receive<E: std::fmt::Display>(
        &self,
        blob: &BlobRef,
        bytes: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<TempPath, ReceiveError> {
        let (mut file, path) = self.temporary_file()?;
        let mut hash = Sha256::new();
        let got = write(&mut file, &path, bytes, blob.size, |chunk| hash.update(chunk)).await?;
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

    /// Keeps a blob that a tenant has uploaded. Where the same bytes are here already, they are not stored
    /// again.
    pub async fn keep(
        &self,
        tenant: &TenantName,
        blob: &BlobRef,
        verified: TempPath,
        now_unix_ms: i64,
    ) -> Result<(), ArtifactError> {
        self.keep_file(verified, &blob.digest).await?;
        Ok(store::uploaded(&self.db, tenant, blob, now_unix_ms).await?)
    }

    /// Receives a file of at most `bytes_max` that is looked at before it is believed, and that goes away
    /// when dropped.
    pub async fn receive_file<E: std::fmt::Display>(
        &self,
        bytes: impl Stream<Item = Result<Bytes, E>>,
        bytes_max: u64,
    ) -> Result<TempPath, ReceiveError> {
        let (mut file, path) = self.temporary_file()?;
        write(&mut file, &path, bytes, bytes_max, |_| ()).await?;
        file.flush().await.map_err(at(&path))?;
        Ok(path)
    }

    fn temporary_file(&self) -> Result<(tokio::fs::File, TempPath), ArtifactError> {
        let file = tempfile::NamedTempFile::new_in(&self.uploads).map_err(at(&self.uploads))?;
        let (file, path) = file.into_parts();
        Ok((tokio::fs::File::from_std(file), path))
    }

    /// Moves a verified file to its place, unless the same bytes are there.
    async fn keep_file(&self, temporary: TempPath, digest: &Digest) -> Result<(), ArtifactError> {
        let place = self.blob_path(digest);
        if tokio::fs::try_exists(&place).await.map_err(at(&place))? {
            return Ok(());
        }
        let moved = tokio::task::spawn_blocking(move || move_into_place(temporary, &place));
        moved.await.expect("moving a file does not panic, and is not cancelled")
    }
}

/// Writes what comes, up to a bound, and returns how much it was.
async fn write<E: std::fmt::Display>(
    file: &mut tokio::fs::File,
    path: &Path,
    bytes: impl Stream<Item = Result<Bytes, E>>,
    bytes_max: u64,
    mut look: impl FnMut(&[u8]),
) -> Result<u64, ReceiveError> {
    let (mut got, mut looked) = (0, 0);
    let mut bytes = std::pin::pin!(bytes);
    leaves_room(path).map_err(at(path))?;
    while let Some(chunk) =
        tokio::time::timeout(SILENCE_MAX, bytes.next()).await.map_err(|_| ReceiveError::Silent)?
    {
        let chunk = chunk.map_err(|e| ReceiveError::Broken(e.to_string()))?;
        got += chunk.len() as u64;
        if got > bytes_max {
            return Err(ReceiveError::TooLong { size: bytes_max });
        }
        if got - looked > LOOK_BYTES {
            leaves_room(path).map_err(at(path))?;
            looked = got;
        }
        look(&chunk);
        file.write_all(&chunk).await.map_err(at(path))?;
    }
    Ok(got)
}

/// Whether a disk has room beside what the host itself needs to go on recording usage: a twentieth of it, or
/// 1 GiB.
fn leaves_room(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    let disk = rustix::fs::statvfs(folder)?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    if bytes(disk.f_bavail) < (bytes(disk.f_blocks) / 20).min(1 << 30) {
        return Err(std::io::ErrorKind::StorageFull.into());
    }
    Ok(())
}

fn move_into_place(temporary: TempPath, place: &Path) -> Result<(), ArtifactError> {
    let folder = place.parent().expect("a blob's path ends with a folder and a file");
    std::fs::create_dir_all(folder).map_err(at(folder))?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o400)).map_err(at(&temporary))?;
    temporary.persist(place).map_err(|e| at(place)(e.error))?;
    // So that the name survives a power cut as the bytes do.
    std::fs::File::open(folder).and_then(|f| f.sync_all()).map_err(at(folder))
}
