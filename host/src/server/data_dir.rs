//! The data directory: its format, its secret, and that only one host uses it.

use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The format of the directory that this build reads and writes.
const FORMAT: &str = "1";

/// The file of the database.
pub const DATABASE: &str = "vesta.db";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} has format {found:?}; this version of Vesta reads format {FORMAT:?}", path = path.display())]
    Format { path: PathBuf, found: String },
    #[error("{path} is in use by another vesta serve", path = path.display())]
    InUse { path: PathBuf },
    #[error("{path} is damaged: the secret must be 32 bytes", path = path.display())]
    Secret { path: PathBuf },
    #[error("{path} is not a new directory, but {missing} is missing or empty. Put it back from a backup; to begin anew instead, without \
             the functions, keys and usage records of before, move everything out of the directory", path = path.display())]
    Incomplete { path: PathBuf, missing: &'static str },
}

/// An open data directory, held until dropped.
pub struct DataDir {
    pub path: PathBuf,
    pub secret: [u8; 32],
    _lock: File,
}

impl DataDir {
    /// Opens a directory, or makes a new one that only its owner can read.
    pub fn open(path: &Path) -> Result<DataDir, DataDirError> {
        let io = |source| DataDirError::Io { path: path.into(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        // Also where it was there before: what lies below is trusted by nobody else having written it.
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io)?;
        let path = path.canonicalize().map_err(io)?;
        let io = |source| DataDirError::Io { path: path.clone(), source };
        let lock = private().create(true).truncate(false).open(path.join("lock")).map_err(io)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(DataDirError::InUse { path });
        }
        check_format(&path)?;
        check_complete(&path)?;
        let secret = secret(&path)?;
        Ok(DataDir { path, secret, _lock: lock })
    }

    /// A key for one purpose, derived from the secret.
    pub fn key(&self, purpose: &str) -> [u8; 32] {
        use hmac::{Hmac, KeyInit, Mac};
        let mut mac =
            Hmac::<sha2::Sha256>::new_from_slice(&self.secret).expect("HMAC takes a key of any length");
        mac.update(purpose.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

fn check_format(dir: &Path) -> Result<(), DataDirError> {
    let path = dir.join("VERSION");
    let io = |source| DataDirError::Io { path: path.clone(), source };
    match fs::read_to_string(&path) {
        Ok(found) if found.trim() == FORMAT => Ok(()),
        Ok(found) => {
            Err(DataDirError::Format { path: dir.into(), found: found.trim().chars().take(20).collect() })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => fs::write(&path, FORMAT).map_err(io),
        Err(e) => Err(io(e)),
    }
}

/// A directory that was in use has both its database and its secret. A new one in their place would look like
/// an empty host, whose housekeeping deletes the blobs; a new secret makes every key worthless.
fn check_complete(dir: &Path) -> Result<(), DataDirError> {
    let missing = |missing| Err(DataDirError::Incomplete { path: dir.into(), missing });
    // SQLite takes an empty file for a new database.
    let no_database = fs::metadata(dir.join(DATABASE)).map_or(true, |file| file.len() == 0);
    // Both folders are made once there is a database.
    if no_database && ["blobs", "journal"].iter().any(|folder| dir.join(folder).exists()) {
        return missing(DATABASE);
    }
    if !no_database && !dir.join("secret").exists() {
        return missing("secret");
    }
    Ok(())
}

fn secret(dir: &Path) -> Result<[u8; 32], DataDirError> {
    let path = dir.join("secret");
    let io = |source| DataDirError::Io { path: path.clone(), source };
    match fs::read(&path) {
        Ok(bytes) => bytes.try_into().map_err(|_| DataDirError::Secret { path: path.clone() }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let secret: [u8; 32] = rand::random();
            let temporary = dir.join("secret.new");
            let mut file = private().create(true).truncate(true).open(&temporary).map_err(io)?;
            file.write_all(&secret).and_then(|()| file.sync_all()).map_err(io)?;
            fs::rename(&temporary, &path).map_err(io)?;
            Ok(secret)
        }
        Err(e) => Err(io(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_secret_is_private_and_has_one_user() {
        let parent = tempfile::tempdir().expect("dir");
        let path = parent.path().join("data");
        let first = DataDir::open(&path).expect("open");
        assert!(matches!(DataDir::open(&path), Err(DataDirError::InUse { .. })));
        let (secret, key) = (first.secret, first.key("a"));
        assert_ne!(key, first.key("b"));
        drop(first);
        assert_eq!(DataDir::open(&path).expect("open").secret, secret);
        let mode = |name: &str| fs::metadata(path.join(name)).expect("file").permissions().mode() & 0o777;
        assert_eq!((mode("."), mode("secret")), (0o700, 0o600));
    }

    #[test]
    fn a_directory_that_was_in_use_and_lacks_its_database_or_its_secret_is_not_taken_for_a_new_one() {
        let parent = tempfile::tempdir().expect("dir");
        let path = parent.path();
        let missing = |expected: Option<&str>| match DataDir::open(path) {
            Ok(_) => assert_eq!(expected, None),
            Err(DataDirError::Incomplete { missing, .. }) => assert_eq!(expected, Some(missing)),
            Err(e) => panic!("{e}"),
        };
        // As where the first start was cut off before there was a database.
        missing(None);
        missing(None);
        fs::create_dir(path.join("blobs")).expect("folder");
        missing(Some("vesta.db"));
        fs::write(path.join("vesta.db"), "").expect("file");
        missing(Some("vesta.db"));
        fs::write(path.join("vesta.db"), "not empty").expect("file");
        missing(None);
        fs::remove_file(path.join("secret")).expect("removed");
        missing(Some("secret"));
        assert!(!path.join("secret").exists());
    }

    #[test]
    fn another_format_and_a_damaged_secret_are_refused() {
        let parent = tempfile::tempdir().expect("dir");
        let path = parent.path();
        drop(DataDir::open(path).expect("open"));
        fs::write(path.join("secret"), "short").expect("write");
        assert!(matches!(DataDir::open(path), Err(DataDirError::Secret { .. })));
        fs::write(path.join("VERSION"), "99").expect("write");
        assert!(matches!(DataDir::open(path), Err(DataDirError::Format { .. })));
    }
}
