//! Compiled code on disk: native code that this host compiled, and no other.
//!
//! A file is named by the component's digest, by whether its initialisation may be in it, and by the settings it depends
//! on, and carries a MAC under the
//! host's own key; it is believed only where the MAC agrees. The check reads the whole file, so it is done once
//! for each file and process; after that the private directory is what protects it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use vesta_core::Digest;

/// What code is compiled from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source {
    pub component: Digest,
    /// Whether it is initialised before, if it asks for that.
    pub snapshot: bool,
}

/// Where compiled components and prepared models lie.
pub(crate) struct CodeStore {
    dir: PathBuf,
    compat: String,
    key: [u8; 32],
    verified: Mutex<HashSet<PathBuf>>,
}

/// Why a compiled component cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the component was not compiled for this version of the host")]
    Missing,
    #[error("the compiled component was altered")]
    Altered,
    #[error("the compiled component cannot be read: {0}")]
    Io(#[from] std::io::Error),
}

impl CodeStore {
    pub fn new(dir: PathBuf, compat: String, key: [u8; 32]) -> std::io::Result<CodeStore> {
        std::fs::create_dir_all(&dir)?;
        Ok(CodeStore { dir, compat, key, verified: Mutex::new(HashSet::new()) })
    }

    /// The file of a component's code.
    pub fn path(&self, source: &Source) -> PathBuf {
        let without = if source.snapshot { "" } else { "-without-snapshot" };
        self.dir.join(format!("{}-{}{without}.cwasm", source.component.hex(), self.compat))
    }

    fn mac(&self, path: &Path) -> std::io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        // The name is part of it: one component's code cannot stand in for another's.
        hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        hasher.update_reader(std::fs::File::open(path)?)?;
        Ok(hasher.finalize())
    }

    /// Takes over a file that the child just wrote.
    pub fn adopt(&self, source: &Source, written: &Path) -> std::io::Result<()> {
        let path = self.path(source);
        std::fs::rename(written, &path)?;
        let mac = self.mac(&path)?;
        let mac_path = path.with_extension("mac");
        let temporary = path.with_extension("mac.new");
        std::fs::write(&temporary, mac.as_bytes())?;
        std::fs::rename(temporary, mac_path)
    }

    /// The file of a component's code, once its MAC agrees.
    pub fn verified(&self, source: &Source) -> Result<PathBuf, StoreError> {
        let path = self.path(source);
        if self.known().contains(&path) && path.exists() {
            return Ok(path);
        }
        let missing = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => StoreError::Missing,
            _ => StoreError::Io(e),
        };
        let expected = std::fs::read(path.with_extension("mac")).map_err(missing)?;
        let actual = self.mac(&path).map_err(missing)?;
        // Hash's own comparison takes constant time.
        let expected: [u8; 32] = expected.try_into().map_err(|_| StoreError::Altered)?;
        if blake3::Hash::from_bytes(expected) != actual {
            return Err(StoreError::Altered);
        }
        self.known().insert(path.clone());
        Ok(path)
    }

    /// Removes a component's code.
    pub fn discard(&self, component: &Digest) {
        for snapshot in [true, false] {
            let path = self.path(&Source { component: *component, snapshot });
            self.known().remove(&path);
            let _ = std::fs::remove_file(path.with_extension("mac"));
            let _ = std::fs::remove_file(path);
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(dir: &Path, key: u8) -> CodeStore {
        CodeStore::new(dir.join("code"), "compat".into(), [key; 32]).expect("store")
    }

    fn source(component: u8, snapshot: bool) -> Source {
        Source { component: Digest::from_bytes([component; 32]), snapshot }
    }

    fn adopt(store: &CodeStore, dir: &Path, source: &Source) {
        let written = dir.join("written");
        std::fs::write(&written, b"code").expect("write");
        store.adopt(source, &written).expect("adopt");
    }

    #[test]
    fn only_what_this_host_wrote_is_believed() {
        let dir = tempfile::tempdir().expect("dir");
        let source = source(7, true);
        let mine = store(dir.path(), 1);
        assert!(matches!(mine.verified(&source), Err(StoreError::Missing)));
        adopt(&mine, dir.path(), &source);
        assert!(mine.verified(&source).is_ok());
        assert!(matches!(store(dir.path(), 2).verified(&source), Err(StoreError::Altered)));
        std::fs::write(mine.path(&source), b"c0de").expect("write");
        assert!(matches!(store(dir.path(), 1).verified(&source), Err(StoreError::Altered)));
    }

    #[test]
    fn one_components_code_cannot_stand_in_for_anothers() {
        let dir = tempfile::tempdir().expect("dir");
        let store = store(dir.path(), 1);
        let a = source(1, true);
        adopt(&store, dir.path(), &a);
        for b in [source(2, true), source(1, false)] {
            assert!(matches!(store.verified(&b), Err(StoreError::Missing)));
            for ext in ["cwasm", "mac"] {
                std::fs::copy(store.path(&a).with_extension(ext), store.path(&b).with_extension(ext))
                    .expect("copy");
            }
            assert!(matches!(store.verified(&b), Err(StoreError::Altered)));
        }
    }

    #[test]
    fn what_is_discarded_is_gone() {
        let dir = tempfile::tempdir().expect("dir");
        let store = store(dir.path(), 1);
        let both = [source(7, true), source(7, false)];
        for source in &both {
            adopt(&store, dir.path(), source);
        }
        store.discard(&both[0].component);
        for source in &both {
            assert!(matches!(store.verified(source), Err(StoreError::Missing)));
        }
    }
}
