//! The one-file form of a package, `NAME.vesta`: an uncompressed tar of `manifest.json` and then
//! `blobs/<64 hexadecimal digits>`, each blob once, in the manifest's order.
//!
//! The same package always gives the same bytes. The reader takes nothing else: an archive comes from
//! anybody, so whatever the writer would not have written is refused, and content reaches a
//! [`BlobSink`] only under a digest of the manifest, never under a path of the archive.

use super::Package;
use sha2::{Digest as _, Sha256};
use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use tar::{Archive, Builder, EntryType, Header};
use vesta_core::Digest;
use vesta_core::limits::MODELS_MAX;
use vesta_core::manifest::{BlobRef, ManifestError, PackageManifest};

/// Name of the first entry.
pub const MANIFEST_ENTRY: &str = "manifest.json";

/// What an archive may cost its reader.
#[derive(Debug, Clone, Copy)]
pub struct ArchiveLimits {
    /// Entries, the manifest included.
    pub entries_max: usize,
    /// Size of the manifest, in bytes.
    pub manifest_bytes_max: u64,
    /// Size of one blob, in bytes.
    pub blob_bytes_max: u64,
    /// Size of all blobs together, in bytes.
    pub total_bytes_max: u64,
}

impl Default for ArchiveLimits {
    /// As many entries as a manifest may name, 1 MiB of manifest, blobs of 4 GiB and 8 GiB together.
    fn default() -> Self {
        Self {
            entries_max: MODELS_MAX + 2,
            manifest_bytes_max: 1 << 20,
            blob_bytes_max: 4 << 30,
            total_bytes_max: 8 << 30,
        }
    }
}

/// Where the content of an archive goes.
pub trait BlobSink {
    /// Called once, first, with the checked manifest. An error ends the reading.
    fn manifest(&mut self, manifest: &PackageManifest) -> io::Result<()>;
    /// Called once for each blob. `content` gives exactly `blob.size` bytes; where their digest is not the
    /// blob's, it fails before it gives the last of them. What is left unread is still verified. The sink
    /// passes errors of `content` on, and keeps nothing that it could not read to the end.
    fn blob(&mut self, blob: &BlobRef, content: &mut dyn Read) -> io::Result<()>;
}

/// Why an archive was refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("the archive is compressed ({0}); it must be a plain tar")]
    Compressed(&'static str),
    #[error("not a tar archive, or a damaged one")]
    NotTar,
    #[error("the archive ends in the middle of {0:?}")]
    Truncated(String),
    #[error("the archive has more than {0} entries")]
    TooManyEntries(usize),
    #[error("the first entry is {0:?}; it must be \"manifest.json\"")]
    ManifestNotFirst(String),
    #[error("the archive is empty")]
    Empty,
    #[error("manifest.json has {size} bytes; at most {max} are allowed")]
    ManifestTooLarge { size: u64, max: u64 },
    #[error("manifest.json: {0}")]
    ManifestSyntax(#[from] serde_json::Error),
    #[error("manifest.json: {0}")]
    Manifest(#[from] ManifestError),
    #[error("entry {0:?}: an absolute path, or one with '..'")]
    UnsafePath(String),
    #[error("entry {name:?} is a {kind}; only regular files are allowed")]
    EntryKind { name: String, kind: &'static str },
    #[error("entry {0:?} does not belong to the package: it is neither the manifest nor one of its blobs")]
    Unexpected(String),
    #[error("entry {0:?} occurs twice")]
    Duplicate(String),
    #[error("blob {digest} has {actual} bytes; the manifest says {stated}")]
    WrongSize { digest: Digest, stated: u64, actual: u64 },
    #[error("blob {digest} has {size} bytes; at most {max} are allowed")]
    BlobTooLarge { digest: Digest, size: u64, max: u64 },
    #[error("the blobs have {size} bytes together; at most {max} are allowed")]
    PackageTooLarge { size: u64, max: u64 },
    #[error("the content of blob {stated} has the digest {actual}")]
    WrongDigest { stated: Digest, actual: Digest },
    #[error("blob {0} is missing from the archive")]
    MissingBlob(Digest),
    #[error("there is more after the end of the archive")]
    TrailingData,
    #[error("reading the archive: {0}")]
    Read(io::Error),
    #[error("storing the package: {0}")]
    Sink(io::Error),
}

impl ArchiveError {
    /// A stable name for use in an API.
    pub fn code(&self) -> &'static str {
        match self {
            ArchiveError::Compressed(_) => "archive-compressed",
            ArchiveError::NotTar => "archive-not-tar",
            ArchiveError::Truncated(_) => "archive-truncated",
            ArchiveError::TooManyEntries(_) => "archive-too-many-entries",
            ArchiveError::ManifestNotFirst(_) => "archive-manifest-not-first",
            ArchiveError::Empty => "archive-empty",
            ArchiveError::ManifestTooLarge { .. } => "archive-manifest-too-large",
            ArchiveError::ManifestSyntax(_) => "manifest-syntax",
            ArchiveError::Manifest(_) => "manifest-invalid",
            ArchiveError::UnsafePath(_) => "archive-unsafe-path",
            ArchiveError::EntryKind { .. } => "archive-entry-kind",
            ArchiveError::Unexpected(_) => "archive-unexpected-entry",
            ArchiveError::Duplicate(_) => "archive-duplicate-entry",
            ArchiveError::WrongSize { .. } => "blob-wrong-size",
            ArchiveError::BlobTooLarge { .. } => "blob-too-large",
            ArchiveError::PackageTooLarge { .. } => "package-too-large",
            ArchiveError::WrongDigest { .. } => "blob-wrong-digest",
            ArchiveError::MissingBlob(_) => "blob-missing",
            ArchiveError::TrailingData => "archive-trailing-data",
            ArchiveError::Read(_) => "archive-read",
            ArchiveError::Sink(_) => "storage",
        }
    }
}

/// Writes a package as one file. Fails with `InvalidInput` where a blob's file has changed its size since
/// the package was built.
pub fn write(package: &Package, out: impl Write) -> io::Result<()> {
    let mut tar = Builder::new(out);
    let manifest = serde_json::to_vec_pretty(&package.manifest)?;
    tar.append(&header(MANIFEST_ENTRY, manifest.len() as u64)?, manifest.as_slice())?;
    for blob in package.manifest.blobs() {
        let changed =
            |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{} {what}", blob.digest));
        let path = package.blobs.get(&blob.digest).ok_or_else(|| changed("has no file"))?;
        let file = File::open(path)?;
        if file.metadata()?.len() != blob.size {
            return Err(changed("changed while the package was built"));
        }
        tar.append(&header(&entry_name(&blob.digest), blob.size)?, file.take(blob.size))?;
    }
    tar.into_inner()?.flush()
}

/// Nothing of the machine or the moment goes into a header.
fn header(name: &str, size: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_entry_type(EntryType::Regular);
    header.set_cksum();
    Ok(header)
}

fn entry_name(digest: &Digest) -> String {
    format!("blobs/{}", digest.hex())
}

/// Reads an archive that comes from anybody. Returns the manifest once every blob of it went to the sink and
/// was verified; on an error the sink may hold some of them. Reads in pieces, and no entry's size is
/// believed before it agrees with the manifest and the limits.
pub fn read(
    archive: impl Read,
    limits: &ArchiveLimits,
    sink: &mut impl BlobSink,
) -> Result<PackageManifest, ArchiveError> {
    let reader = Cell::new(Seen::Bytes);
    let mut tar = Archive::new(Watched { inner: refuse_compressed(archive)?, seen: &reader });
    // Raw: long names and extended headers come as entries of their own kind, and are refused as such.
    let entries = tar.entries().map_err(ArchiveError::Read)?.raw(true);
    let mut manifest = None;
    let mut missing: BTreeMap<String, BlobRef> = BTreeMap::new();
    let mut seen = HashSet::new();
    for entry in entries {
        let mut entry = entry.map_err(|e| bad_entry(e, reader.get(), seen.is_empty()))?;
        if seen.len() >= limits.entries_max {
            return Err(ArchiveError::TooManyEntries(limits.entries_max));
        }
        let name = checked_name(&entry)?;
        if !seen.insert(name.clone()) {
            return Err(ArchiveError::Duplicate(name));
        }
        if manifest.is_none() {
            let read = read_manifest(&mut entry, &name, limits)?;
            missing = read.blobs().into_iter().map(|b| (entry_name(&b.digest), b.clone())).collect();
            sink.manifest(&read).map_err(ArchiveError::Sink)?;
            manifest = Some(read);
            continue;
        }
        let Some(blob) = missing.remove(&name) else { return Err(ArchiveError::Unexpected(name)) };
        if entry.size() != blob.size {
            let (digest, stated, actual) = (blob.digest, blob.size, entry.size());
            return Err(ArchiveError::WrongSize { digest, stated, actual });
        }
        read_blob(&mut entry, &blob, name, sink)?;
    }
    let manifest = manifest.ok_or(ArchiveError::Empty)?;
    if let Some(blob) = missing.into_values().next() {
        return Err(ArchiveError::MissingBlob(blob.digest));
    }
    refuse_trailing_data(tar.into_inner())?;
    Ok(manifest)
}

/// Refuses what would be read as a broken tar otherwise, by the first bytes of the usual compressions.
fn refuse_compressed<R: Read>(mut archive: R) -> Result<io::Chain<io::Cursor<Vec<u8>>, R>, ArchiveError> {
    const MAGICS: [(&[u8], &str); 5] = [
        (&[0x1f, 0x8b], "gzip"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
        (b"BZh", "bzip2"),
        (&[0xfd, b'7', b'z', b'X', b'Z'], "xz"),
        (b"PK\x03\x04", "zip"),
    ];
    let mut first = Vec::new();
    archive.by_ref().take(8).read_to_end(&mut first).map_err(ArchiveError::Read)?;
    match MAGICS.iter().find(|(magic, _)| first.starts_with(magic)) {
        Some((_, name)) => Err(ArchiveError::Compressed(name)),
        None => Ok(io::Cursor::new(first).chain(archive)),
    }
}

/// Tells the tar crate's complaints from the reader's own.
struct Watched<'a, R> {
    inner: R,
    seen: &'a Cell<Seen>,
}

#[derive(Clone, Copy, PartialEq)]
enum Seen {
    Bytes,
    End,
    Error,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf);
        match &read {
            Ok(0) if !buf.is_empty() => self.seen.set(Seen::End),
            Ok(_) => {}
            Err(_) => self.seen.set(Seen::Error),
        }
        read
    }
}

/// What a failure to find the next entry means.
fn bad_entry(e: io::Error, seen: Seen, first: bool) -> ArchiveError {
    match seen {
        Seen::Error => ArchiveError::Read(e),
        Seen::End if !first => ArchiveError::Truncated("an entry".into()),
        _ => ArchiveError::NotTar,
    }
}

fn checked_name(entry: &tar::Entry<'_, impl Read>) -> Result<String, ArchiveError> {
    let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let kind = match entry.header().entry_type() {
        EntryType::Regular => None,
        EntryType::Directory => Some("directory"),
        EntryType::Symlink => Some("symbolic link"),
        EntryType::Link => Some("hard link"),
        EntryType::Char | EntryType::Block => Some("device"),
        EntryType::Fifo => Some("pipe"),
        EntryType::GNUSparse => Some("sparse file"),
        EntryType::GNULongName | EntryType::GNULongLink => Some("long name (GNU)"),
        EntryType::XHeader | EntryType::XGlobalHeader => Some("extended header (pax)"),
        _ => Some("file of an unknown kind"),
    };
    if name.starts_with('/') || name.split(['/', '\\']).any(|part| part == "..") {
        return Err(ArchiveError::UnsafePath(name));
    }
    match kind {
        Some(kind) => Err(ArchiveError::EntryKind { name, kind }),
        None => Ok(name),
    }
}

fn read_manifest(
    entry: &mut tar::Entry<'_, impl Read>,
    name: &str,
    limits: &ArchiveLimits,
) -> Result<PackageManifest, ArchiveError> {
    if name != MANIFEST_ENTRY {
        return Err(ArchiveError::ManifestNotFirst(name.to_string()));
    }
    let (size, max) = (entry.size(), limits.manifest_bytes_max);
    if size > max {
        return Err(ArchiveError::ManifestTooLarge { size, max });
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(ArchiveError::Read)?;
    if bytes.len() as u64 != size {
        return Err(ArchiveError::Truncated(name.to_string()));
    }
    let manifest: PackageManifest = serde_json::from_slice(&bytes)?;
    manifest.check()?;
    let mut total: u64 = 0;
    for blob in manifest.blobs() {
        let (digest, size, max) = (blob.digest, blob.size, limits.blob_bytes_max);
        if size > max {
            return Err(ArchiveError::BlobTooLarge { digest, size, max });
        }
        total = total.saturating_add(size);
    }
    match total > limits.total_bytes_max {
        true => Err(ArchiveError::PackageTooLarge { size: total, max: limits.total_bytes_max }),
        false => Ok(manifest),
    }
}

fn read_blob(
    entry: &mut impl Read,
    blob: &BlobRef,
    name: String,
    sink: &mut impl BlobSink,
) -> Result<(), ArchiveError> {
    let mut content =
        Verified { inner: entry, left: blob.size, hash: Sha256::new(), blob, name, failure: None };
    let taken = sink.blob(blob, &mut content);
    // The archive's fault comes before whatever the sink made of it.
    let drained = match (&content.failure, &taken) {
        (None, Ok(())) => io::copy(&mut content, &mut io::sink()).map(|_| ()),
        _ => Ok(()),
    };
    match content.failure {
        Some(failure) => Err(failure),
        None => taken.and(drained).map_err(ArchiveError::Sink),
    }
}

/// Gives a blob's bytes, and withholds the last piece unless the whole has the right digest.
struct Verified<'a, R> {
    inner: &'a mut R,
    left: u64,
    hash: Sha256,
    blob: &'a BlobRef,
    name: String,
    failure: Option<ArchiveError>,
}

impl<R: Read> Verified<'_, R> {
    fn read_checked(&mut self, buf: &mut [u8]) -> Result<usize, ArchiveError> {
        let n = self.inner.read(buf).map_err(ArchiveError::Read)?;
        if n == 0 {
            return Err(ArchiveError::Truncated(self.name.clone()));
        }
        self.hash.update(&buf[..n]);
        self.left = self.left.saturating_sub(n as u64);
        if self.left == 0 {
            let actual = Digest::from_bytes(self.hash.clone().finalize().into());
            if actual != self.blob.digest {
                return Err(ArchiveError::WrongDigest { stated: self.blob.digest, actual });
            }
        }
        Ok(n)
    }
}

impl<R: Read> Read for Verified<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.failure.is_some() {
            return Err(io::Error::other("the archive was refused"));
        }
        if self.left == 0 || buf.is_empty() {
            return Ok(0);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        self.read_checked(&mut buf[..most]).map_err(|failure| {
            let e = io::Error::new(io::ErrorKind::InvalidData, failure.to_string());
            self.failure = Some(failure);
            e
        })
    }
}

/// After the two blocks of zeros that end a tar, other writers pad with at most a record of zeros.
fn refuse_trailing_data(rest: impl Read) -> Result<(), ArchiveError> {
    const RECORD: u64 = 10 * 1024;
    let mut bytes = Vec::new();
    rest.take(RECORD + 1).read_to_end(&mut bytes).map_err(ArchiveError::Read)?;
    match bytes.len() as u64 > RECORD || bytes.iter().any(|b| *b != 0) {
        true => Err(ArchiveError::TrailingData),
        false => Ok(()),
    }
}

/// Unpacks an archive into a folder, which should be empty: one file for each blob, named by its digest.
pub fn unpack(archive: impl Read, limits: &ArchiveLimits, dir: &Path) -> Result<Package, ArchiveError> {
    struct Folder<'a>(&'a Path, BTreeMap<Digest, PathBuf>);
    impl BlobSink for Folder<'_> {
        fn manifest(&mut self, _: &PackageManifest) -> io::Result<()> {
            Ok(())
        }
        fn blob(&mut self, blob: &BlobRef, content: &mut dyn Read) -> io::Result<()> {
            let path = self.0.join(blob.digest.hex());
            io::copy(content, &mut File::create_new(&path)?)?;
            self.1.insert(blob.digest, path);
            Ok(())
        }
    }
    let mut folder = Folder(dir, BTreeMap::new());
    let manifest = read(archive, limits, &mut folder)?;
    Ok(Package { manifest, blobs: folder.1 })
}

#[cfg(test)]
#[path = "archive_tests.rs"]
pub(super) mod tests;
