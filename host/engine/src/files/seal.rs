//! Files that this host wrote, believed only where their MAC agrees.
//!
//! The check reads them as a whole, so it is done once for each file and process, and again where a file is
//! not the one that was read then, by what the kernel says of it. Beside that, the private directory is what
//! protects them.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vesta_nn::{GRAPH_FILE, INFO_FILE, WEIGHTS_FILE};

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("nothing was prepared by this version of the host")]
    Missing,
    #[error("what was prepared has been altered on disk")]
    Altered,
    #[error("what was prepared cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// The host's key, and what was found sound.
pub(crate) struct Seals {
    key: [u8; 32],
    sound: Mutex<HashMap<PathBuf, Vec<Stamp>>>,
}

/// What a file is recognised by: device, inode, size, and when it and its inode last changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp(u64, u64, u64, (i64, i64), (i64, i64));

/// Files under one MAC.
pub(crate) struct Sealed<'a> {
    /// Part of the MAC by its name: what was made of one upload cannot stand in for another's.
    pub subject: &'a Path,
    pub files: Vec<PathBuf>,
    /// The file of the MAC.
    pub seal: PathBuf,
}

/// The prepared files in `dir` of the model whose place is `subject`.
pub(crate) fn sealed_model<'a>(subject: &'a Path, dir: &Path) -> Sealed<'a> {
    let files = [GRAPH_FILE, WEIGHTS_FILE, INFO_FILE].map(|name| dir.join(name)).into();
    Sealed { subject, files, seal: dir.join("mac") }
}

impl Seals {
    pub fn new(key: [u8; 32]) -> Seals {
        Seals { key, sound: Mutex::default() }
    }

    fn sound(&self) -> MutexGuard<'_, HashMap<PathBuf, Vec<Stamp>>> {
        self.sound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mac(&self, sealed: &Sealed<'_>) -> io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(sealed.subject.file_name().unwrap_or_default().as_encoded_bytes());
        for path in &sealed.files {
            let file = File::open(path)?;
            hasher.update(&file.metadata()?.len().to_le_bytes());
            hasher.update_reader(file)?;
        }
        Ok(hasher.finalize())
    }

    /// Writes the MAC of files that were just made.
    pub fn seal(&self, sealed: &Sealed<'_>) -> io::Result<()> {
        let mac = self.mac(sealed)?;
        let temporary = sealed.seal.with_extension("mac.new");
        std::fs::write(&temporary, mac.as_bytes())?;
        std::fs::rename(temporary, &sealed.seal)
    }

    /// Whether the files are those that were sealed.
    pub fn check(&self, sealed: &Sealed<'_>) -> Result<(), SealError> {
        let missing = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => SealError::Missing,
            _ => SealError::Io(e),
        };
        // Taken before the files are read: a change meanwhile is noticed the next time.
        let stamps =
            sealed.files.iter().map(|p| stamp(p)).collect::<io::Result<Vec<_>>>().map_err(missing)?;
        if self.sound().get(sealed.subject) == Some(&stamps) {
            return Ok(());
        }
        self.forget(sealed.subject);
        let expected = std::fs::read(&sealed.seal).map_err(missing)?;
        let actual = self.mac(sealed).map_err(missing)?;
        // Hash's own comparison takes constant time.
        let expected: [u8; 32] = expected.try_into().map_err(|_| SealError::Altered)?;
        if blake3::Hash::from_bytes(expected) != actual {
            return Err(SealError::Altered);
        }
        self.sound().insert(sealed.subject.to_path_buf(), stamps);
        Ok(())
    }

    /// The files are gone.
    pub fn forget(&self, subject: &Path) {
        self.sound().remove(subject);
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let m = std::fs::metadata(path)?;
    Ok(Stamp(m.dev(), m.ino(), m.size(), (m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_after_the_first_check_is_noticed() {
        let dir = tempfile::tempdir().expect("dir");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, b"one").expect("write");
        std::fs::write(&b, b"two").expect("write");
        let seals = Seals::new([1; 32]);
        let sealed =
            Sealed { subject: dir.path(), files: vec![a.clone(), b.clone()], seal: dir.path().join("mac") };
        assert!(matches!(seals.check(&sealed), Err(SealError::Missing)));
        seals.seal(&sealed).expect("seal");
        assert!(seals.check(&sealed).is_ok());
        assert!(seals.check(&sealed).is_ok());
        std::fs::write(&b, b"twO").expect("write");
        assert!(matches!(seals.check(&sealed), Err(SealError::Altered)));
        // The same bytes in all, but not in each.
        std::fs::write(&a, b"onet").expect("write");
        std::fs::write(&b, b"wo").expect("write");
        assert!(matches!(seals.check(&sealed), Err(SealError::Altered)));
        std::fs::write(&a, b"one").expect("write");
        std::fs::write(&b, b"two").expect("write");
        assert!(seals.check(&sealed).is_ok());
        std::fs::remove_file(&a).expect("remove");
        assert!(matches!(seals.check(&sealed), Err(SealError::Missing)));
    }
}
