//! Compiled code on disk: native code that this host compiled, and no other.
//!
//! A file is named by the component's digest, by whether its initialisation may be in it, and by the settings
//! it depends on, and is believed only where its seal agrees.

use super::seal::{SealError, Sealed, Seals};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vesta_core::Digest;

/// What code is compiled from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source {
    pub component: Digest,
    /// Whether it is initialised before, if it asks for that.
    pub snapshot: bool,
}

/// Where compiled components lie.
pub(crate) struct CodeStore {
    dir: PathBuf,
    compat: String,
    seals: Arc<Seals>,
}

impl CodeStore {
    pub fn new(dir: PathBuf, compat: String, seals: Arc<Seals>) -> std::io::Result<CodeStore> {
        std::fs::create_dir_all(&dir)?;
        Ok(CodeStore { dir, compat, seals })
    }

    /// The file of a component's code.
    pub fn path(&self, source: &Source) -> PathBuf {
        let without = if source.snapshot { "" } else { "-without-snapshot" };
        self.dir.join(format!("{}-{}{without}.cwasm", source.component.hex(), self.compat))
    }

    /// Takes over a file that the child just wrote.
    pub fn adopt(&self, source: &Source, written: &Path) -> std::io::Result<()> {
        let path = self.path(source);
        std::fs::rename(written, &path)?;
        self.seals.seal(&sealed(&path))
    }

    /// The file of a component's code, once its MAC agrees.
    pub fn verified(&self, source: &Source) -> Result<PathBuf, SealError> {
        let path = self.path(source);
        self.seals.check(&sealed(&path))?;
        Ok(path)
    }

    /// Removes a component's code.
    pub fn discard(&self, component: &Digest) {
        for snapshot in [true, false] {
            let path = self.path(&Source { component: *component, snapshot });
            self.seals.forget(&path);
            let _ = std::fs::remove_file(path.with_extension("mac"));
            let _ = std::fs::remove_file(path);
        }
    }
}

fn sealed(path: &Path) -> Sealed<'_> {
    Sealed { subject: path, files: vec![path.to_path_buf()], seal: path.with_extension("mac") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(dir: &Path, key: u8) -> CodeStore {
        CodeStore::new(dir.join("code"), "compat".into(), Arc::new(Seals::new([key; 32]))).expect("store")
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
        assert!(matches!(mine.verified(&source), Err(SealError::Missing)));
        adopt(&mine, dir.path(), &source);
        assert!(mine.verified(&source).is_ok());
        assert!(matches!(store(dir.path(), 2).verified(&source), Err(SealError::Altered)));
        std::fs::write(mine.path(&source), b"c0de").expect("write");
        assert!(matches!(store(dir.path(), 1).verified(&source), Err(SealError::Altered)));
    }

    #[test]
    fn one_components_code_cannot_stand_in_for_anothers() {
        let dir = tempfile::tempdir().expect("dir");
        let store = store(dir.path(), 1);
        let a = source(1, true);
        adopt(&store, dir.path(), &a);
        for b in [source(2, true), source(1, false)] {
            assert!(matches!(store.verified(&b), Err(SealError::Missing)));
            for ext in ["cwasm", "mac"] {
                std::fs::copy(store.path(&a).with_extension(ext), store.path(&b).with_extension(ext))
                    .expect("copy");
            }
            assert!(matches!(store.verified(&b), Err(SealError::Altered)));
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
            assert!(matches!(store.verified(source), Err(SealError::Missing)));
        }
    }
}
