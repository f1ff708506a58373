//! Libraries of inference engines that are not part of this program: where they lie, and whether they are the
//! pinned ones. Nothing here loads a library; only workers and preparing children do.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The release of ONNX Runtime that this version of Vesta is tested with.
pub const ONNX_RUNTIME_VERSION: &str = "1.32.0";

/// Name of the library's file in its folder.
pub const ONNX_RUNTIME_FILE: &str = "libonnxruntime.so";

/// The pinned wheel of PyPI's package `onnxruntime`, of which the library is taken.
#[derive(Debug, Clone, Copy)]
pub struct Wheel {
    /// What pip is asked for: platform, interpreter and ABI.
    pub platform: &'static str,
    pub python: &'static str,
    pub abi: &'static str,
    /// SHA-256 of the wheel.
    pub sha256: &'static str,
    /// The library's path in it, and its SHA-256.
    pub library: &'static str,
    pub library_sha256: &'static str,
}

/// The pinned wheel for this machine, where there is one. Any wheel of the platform has the library; this one
/// is taken whichever Python is installed.
pub const ONNX_RUNTIME_WHEEL: Option<Wheel> = if cfg!(all(target_arch = "x86_64", target_env = "gnu")) {
    Some(Wheel {
        platform: "manylinux_2_28_x86_64",
        python: "3.11",
        abi: "cp311",
        sha256: "5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d",
        library: "onnxruntime/capi/libonnxruntime.so.1.32.0",
        library_sha256: "6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f",
    })
} else {
    None
};

/// An engine that runs models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    Rten,
    OnnxRuntime,
}

impl Engine {
    /// The name in manifests and answers.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Rten => vesta_nn::RTEN,
            Engine::OnnxRuntime => vesta_nn::ONNX_RUNTIME,
        }
    }
}

/// A library that may be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    pub path: PathBuf,
    /// [`ONNX_RUNTIME_VERSION`] for the pinned library. Any other one, which the configuration names, is
    /// known
    /// by the beginning of its SHA-256.
    pub version: String,
}

impl Library {
    /// A name for what models are prepared with: part of the names of their folders.
    pub(crate) fn compat(&self) -> String {
        vesta_nn::onnx_runtime_compat(&self.version)
    }

    /// The versions of the embedded engine and this one, which are compared at deploy.
    pub(crate) fn compared(&self) -> [String; 2] {
        [vesta_nn::compat(), self.compat()]
    }
}

/// What is known of ONNX Runtime on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    NotInstalled,
    /// A file lies in its place that is not the pinned library.
    WrongChecksum {
        path: PathBuf,
        /// SHA-256 of the file.
        found: String,
    },
    /// The file cannot be read.
    Unreadable {
        path: PathBuf,
        reason: String,
    },
    Installed(Library),
}

/// Finds ONNX Runtime.
#[derive(Debug)]
pub struct Engines {
    /// Folder of the data directory in which engines are installed.
    dir: PathBuf,
    /// The library that the configuration names.
    configured: Option<PathBuf>,
    /// The last file that was read: what the kernel said of it, and what it is.
    known: Mutex<Option<(Stamp, State)>>,
    /// The library that this process goes by.
    used: OnceLock<Library>,
}

/// What a file is recognised by: device, inode, size, and when it last changed.
type Stamp = (u64, u64, u64, i64, i64);

impl Engines {
    /// `dir` is the folder in which `vesta engines install` installs. A library that the configuration names
    /// is taken as it is, and in the place of an installed one.
    pub fn new(dir: PathBuf, configured: Option<PathBuf>) -> Engines {
        Engines { dir, configured, known: Mutex::default(), used: OnceLock::new() }
    }

    /// Where the pinned library is installed.
    pub fn installed_path(dir: &Path) -> PathBuf {
        dir.join(format!("onnxruntime-{ONNX_RUNTIME_VERSION}")).join(ONNX_RUNTIME_FILE)
    }

    /// What there is of ONNX Runtime. Reads the whole library the first time, and again where its file has
    /// changed: some tens of milliseconds.
    pub fn onnx_runtime(&self) -> State {
        let path = self.configured.clone().unwrap_or_else(|| Engines::installed_path(&self.dir));
        let unreadable = |e: io::Error| State::Unreadable { path: path.clone(), reason: e.to_string() };
        let stamp = match std::fs::metadata(&path) {
            Ok(m) => (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()),
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.configured.is_none() => {
                return State::NotInstalled;
            }
            Err(e) => return unreadable(e),
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, state)) = known.as_ref()
            && *of == stamp
        {
            return state.clone();
        }
        let state = match sha256(&path) {
            Ok(found) => self.judge(path, found),
            Err(e) => return unreadable(e),
        };
        *known = Some((stamp, state.clone()));
        state
    }

    /// The library, where it can be used. The first one that is found is used as long as this process lives:
    /// models are prepared for it, and workers have it open.
    pub fn library(&self) -> Option<Library> {
        self.find().ok().flatten()
    }

    /// As [`library`](Engines::library), for which a file that cannot be read is none.
    ///
    /// # Errors
    /// A file that cannot be read. The error names no path, which stands in the log.
    pub(crate) fn find(&self) -> Result<Option<Library>, String> {
        if let Some(library) = self.used.get() {
            return Ok(Some(library.clone()));
        }
        match self.onnx_runtime() {
            State::Installed(library) => Ok(Some(self.used.get_or_init(|| library).clone())),
            State::Unreadable { path, reason } => {
                tracing::warn!(path = %path.display(), %reason, "the library of ONNX Runtime cannot be read");
                Err("the library of ONNX Runtime cannot be read".into())
            }
            State::NotInstalled | State::WrongChecksum { .. } => Ok(None),
        }
    }

    fn judge(&self, path: PathBuf, found: String) -> State {
        let is_pinned = ONNX_RUNTIME_WHEEL.is_some_and(|wheel| wheel.library_sha256 == found);
        match (is_pinned, &self.configured) {
            (true, _) => State::Installed(Library { path, version: ONNX_RUNTIME_VERSION.into() }),
            (false, Some(_)) => State::Installed(Library { path, version: found[..12].into() }),
            (false, None) => State::WrongChecksum { path, found },
        }
    }
}

/// SHA-256 of a file, in hexadecimal.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let (mut file, mut buffer) = (File::open(path)?, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    Ok(hasher.finalize().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_installed_in_an_empty_directory() {
        let dir = tempfile::tempdir().expect("dir");
        assert_eq!(Engines::new(dir.path().into(), None).onnx_runtime(), State::NotInstalled);
    }

    #[test]
    fn a_file_that_is_not_the_pinned_library_is_not_used() {
        let dir = tempfile::tempdir().expect("dir");
        let path = Engines::installed_path(dir.path());
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(&path, "not a library").expect("written");
        let engines = Engines::new(dir.path().into(), None);
        let State::WrongChecksum { found, .. } = engines.onnx_runtime() else { panic!("it is used") };
        assert_eq!(found, sha256(&path).expect("read"));
        assert_eq!(engines.find(), Ok(None));
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(engines.onnx_runtime(), State::NotInstalled);
    }

    #[test]
    fn a_library_that_the_configuration_names_is_known_by_its_checksum() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("own.so");
        let engines = Engines::new(dir.path().into(), Some(path.clone()));
        assert!(matches!(engines.onnx_runtime(), State::Unreadable { .. }));
        let error = engines.find().expect_err("it is not there");
        assert!(!error.contains('/'), "{error}");
        std::fs::write(&path, "one").expect("written");
        let version = |engines: &Engines| match engines.onnx_runtime() {
            State::Installed(library) => library.version,
            other => panic!("{other:?}"),
        };
        let first = version(&engines);
        assert_eq!(first.len(), 12);
        assert_eq!(engines.library().expect("usable").version, first);
        std::fs::write(&path, "another").expect("written");
        assert_ne!(version(&engines), first);
        assert_eq!(
            engines.library().expect("usable").version,
            first,
            "it is used as long as the process lives"
        );
    }
}
