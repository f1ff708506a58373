use super::*;
use std::fs;
use vesta_core::limits::Limits;
use vesta_core::manifest::{Encoding, FORMAT, ModelRef, Precision, Scaling};

fn blob_of(bytes: &[u8]) -> BlobRef {
    BlobRef { digest: Digest::from_bytes(Sha256::digest(bytes).into()), size: bytes.len() as u64 }
}

const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0 and more";
const MODEL: &[u8] = &[7; 5000];

fn manifest() -> PackageManifest {
    PackageManifest {
        format: FORMAT.into(),
        name: "hello".parse().expect("a name"),
        component: blob_of(COMPONENT),
        models: vec![ModelRef {
            name: "m".into(),
            encoding: Encoding::Onnx,
            blob: blob_of(MODEL),
            threads: 1,
            batch: Default::default(),
            engine: Default::default(),
            samples: Vec::new(),
            precision: Precision::Full,
        }],
        limits: Limits::default(),
        scaling: Scaling::default(),
        outbound: Vec::new(),
        variables: BTreeMap::new(),
        public: false,
        snapshot: true,
    }
}

fn package(dir: &Path) -> Package {
    let mut blobs = BTreeMap::new();
    for (name, bytes) in [("component", COMPONENT), ("model", MODEL)] {
        fs::write(dir.join(name), bytes).expect("written");
        blobs.insert(blob_of(bytes).digest, dir.join(name));
    }
    Package { manifest: manifest(), blobs }
}

pub fn written() -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut out = Vec::new();
    write(&package(dir.path()), &mut out).expect("written");
    out
}

/// A sink that keeps what it is given in memory.
#[derive(Default)]
struct Memory(Vec<Vec<u8>>);

impl BlobSink for Memory {
    fn manifest(&mut self, _: &PackageManifest) -> io::Result<()> {
        Ok(())
    }
    fn blob(&mut self, _: &BlobRef, content: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        self.0.push(bytes);
        Ok(())
    }
}

fn code_of(bytes: &[u8]) -> &'static str {
    match read(bytes, &ArchiveLimits::default(), &mut Memory::default()) {
        Ok(_) => "accepted",
        Err(e) => e.code(),
    }
}

type Change = fn(&mut Header);

/// An archive of the given entries; each header may be changed before its checksum is made.
fn archive(entries: &[(&str, &[u8], Change)]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (name, bytes, change) in entries {
        let mut header = header("x", bytes.len() as u64).expect("a header");
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        change(&mut header);
        header.set_cksum();
        tar.append(&header, *bytes).expect("appended");
    }
    tar.into_inner().expect("finished")
}

fn as_is(_: &mut Header) {}

fn json(manifest: &PackageManifest) -> Vec<u8> {
    serde_json::to_vec(manifest).expect("json")
}

/// The code of an archive of a sound manifest, followed by these entries.
fn code_after_manifest(entries: &[(&str, &[u8], Change)]) -> &'static str {
    let json = json(&manifest());
    let mut all: Vec<(&str, &[u8], Change)> = vec![(MANIFEST_ENTRY, &json, as_is)];
    all.extend_from_slice(entries);
    code_of(&archive(&all))
}

fn component_name() -> String {
    entry_name(&blob_of(COMPONENT).digest)
}

#[test]
fn a_package_comes_back_as_it_went_and_always_as_the_same_bytes() {
    let bytes = written();
    assert_eq!(bytes, written());
    let mut sink = Memory::default();
    let read = read(bytes.as_slice(), &ArchiveLimits::default(), &mut sink).expect("read");
    assert_eq!(read, manifest());
    assert_eq!(sink.0, [COMPONENT.to_vec(), MODEL.to_vec()]);

    let dir = tempfile::tempdir().expect("a temporary folder");
    let package = unpack(bytes.as_slice(), &ArchiveLimits::default(), dir.path()).expect("unpacked");
    let model = fs::read(&package.blobs[&blob_of(MODEL).digest]).expect("read");
    assert_eq!(model, MODEL);
}

#[test]
fn a_sink_need_not_read_what_it_has_already() {
    struct Lazy;
    impl BlobSink for Lazy {
        fn manifest(&mut self, _: &PackageManifest) -> io::Result<()> {
            Ok(())
        }
        fn blob(&mut self, _: &BlobRef, _: &mut dyn Read) -> io::Result<()> {
            Ok(())
        }
    }
    assert!(read(written().as_slice(), &ArchiveLimits::default(), &mut Lazy).is_ok());
    let mut wrong = written();
    let at = wrong.len() - 3 * 512;
    wrong[at] ^= 1;
    let refused = read(wrong.as_slice(), &ArchiveLimits::default(), &mut Lazy).expect_err("refused");
    assert_eq!(refused.code(), "blob-wrong-digest");
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    for name in ["../x", "blobs/../../x", "/etc/passwd", "blobs\\..\\x", ".."] {
        assert_eq!(code_after_manifest(&[(name, b"x", as_is)]), "archive-unsafe-path", "{name}");
    }
}

#[test]
fn only_regular_files_are_taken() {
    let kinds: [Change; 10] = [
        |h| h.set_entry_type(EntryType::Symlink),
        |h| h.set_entry_type(EntryType::Link),
        |h| h.set_entry_type(EntryType::Directory),
        |h| h.set_entry_type(EntryType::Char),
        |h| h.set_entry_type(EntryType::Block),
        |h| h.set_entry_type(EntryType::Fifo),
        |h| h.set_entry_type(EntryType::GNUSparse),
        |h| h.set_entry_type(EntryType::GNULongName),
        |h| h.set_entry_type(EntryType::XHeader),
        |h| h.set_entry_type(EntryType::Continuous),
    ];
    for (i, kind) in kinds.into_iter().enumerate() {
        let name = component_name();
        assert_eq!(code_after_manifest(&[(&name, COMPONENT, kind)]), "archive-entry-kind", "kind {i}");
    }
}

#[test]
fn entries_that_the_manifest_does_not_name_are_refused() {
    let name = component_name();
    let stranger = entry_name(&Digest::from_bytes([9; 32]));
    assert_eq!(code_after_manifest(&[(&stranger, b"x", as_is)]), "archive-unexpected-entry");
    assert_eq!(code_after_manifest(&[("readme", b"x", as_is)]), "archive-unexpected-entry");
    let upper = name.to_uppercase();
    assert_eq!(code_after_manifest(&[(&upper, COMPONENT, as_is)]), "archive-unexpected-entry");
    let twice: [(&str, &[u8], Change); 2] = [(&name, COMPONENT, as_is), (&name, COMPONENT, as_is)];
    assert_eq!(code_after_manifest(&twice), "archive-duplicate-entry");
    assert_eq!(code_after_manifest(&[(MANIFEST_ENTRY, b"{}", as_is)]), "archive-duplicate-entry");
    assert_eq!(code_after_manifest(&[(&name, COMPONENT, as_is)]), "blob-missing");
}

#[test]
fn sizes_are_those_of_the_manifest() {
    let name = component_name();
    assert_eq!(code_after_manifest(&[(&name, b"short", as_is)]), "blob-wrong-size");
    let huge: Change = |h| h.set_size(u64::MAX / 2);
    assert_eq!(code_after_manifest(&[(&name, COMPONENT, huge)]), "blob-wrong-size");
    let same_size = [1; COMPONENT.len()];
    assert_eq!(code_after_manifest(&[(&name, &same_size, as_is)]), "blob-wrong-digest");
}

#[test]
fn wrong_content_never_reaches_the_sink_whole() {
    let mut bytes = written();
    let at = bytes.len() - 3 * 512; // inside the model
    bytes[at] ^= 1;
    let mut sink = Memory::default();
    let refused = read(bytes.as_slice(), &ArchiveLimits::default(), &mut sink).expect_err("refused");
    assert_eq!(refused.code(), "blob-wrong-digest");
    assert_eq!(sink.0, [COMPONENT.to_vec()]);
}

#[test]
fn every_cut_before_the_end_is_noticed() {
    let bytes = written();
    let content_end = bytes.len() - 1024;
    for cut in (0..content_end - 512).step_by(37) {
        let code = code_of(&bytes[..cut]);
        let wanted = ["archive-empty", "archive-not-tar", "archive-truncated", "blob-missing"];
        assert!(wanted.contains(&code), "cut at {cut}: {code}");
    }
}

#[test]
fn no_single_changed_byte_makes_it_panic_or_changes_what_is_read() {
    let bytes = written();
    for at in (0..bytes.len()).step_by(3) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x55;
        let mut sink = Memory::default();
        if read(changed.as_slice(), &ArchiveLimits::default(), &mut sink).is_ok() {
            assert_eq!(sink.0, [COMPONENT.to_vec(), MODEL.to_vec()], "byte {at}");
        }
    }
}

#[test]
fn compressed_archives_are_told_to_be_plain() {
    for magic in [&[0x1f, 0x8b, 8, 0][..], &[0x28, 0xb5, 0x2f, 0xfd], b"BZh9", b"PK\x03\x04"] {
        assert_eq!(code_of(&[magic, &[0; 600]].concat()), "archive-compressed");
    }
    assert_eq!(code_of(b"hello"), "archive-not-tar");
    assert_eq!(code_of(&[b'x'; 2000]), "archive-not-tar");
    assert_eq!(code_of(b""), "archive-empty");
    assert_eq!(code_of(&[0; 1024]), "archive-empty");
}

#[test]
fn the_manifest_comes_first_and_is_sound() {
    let name = component_name();
    assert_eq!(code_of(&archive(&[(&name, COMPONENT, as_is)])), "archive-manifest-not-first");
    assert_eq!(code_of(&archive(&[(MANIFEST_ENTRY, b"{]", as_is)])), "manifest-syntax");
    assert_eq!(code_of(&archive(&[(MANIFEST_ENTRY, b"{\"name\":1}", as_is)])), "manifest-syntax");
    let mut bad = manifest();
    bad.limits.cpu_ms = 0;
    assert_eq!(code_of(&archive(&[(MANIFEST_ENTRY, &json(&bad), as_is)])), "manifest-invalid");
    let large = vec![b' '; (1 << 20) + 1];
    assert_eq!(code_of(&archive(&[(MANIFEST_ENTRY, &large, as_is)])), "archive-manifest-too-large");
}

#[test]
fn limits_are_held_before_anything_is_stored() {
    let bytes = written();
    let code = |limits: ArchiveLimits| {
        let mut sink = Memory::default();
        let refused = read(bytes.as_slice(), &limits, &mut sink).expect_err("refused");
        assert!(sink.0.len() < 2);
        refused.code()
    };
    let default = ArchiveLimits::default();
    assert_eq!(code(ArchiveLimits { blob_bytes_max: 4999, ..default }), "blob-too-large");
    assert_eq!(code(ArchiveLimits { total_bytes_max: 5000, ..default }), "package-too-large");
    assert_eq!(code(ArchiveLimits { entries_max: 2, ..default }), "archive-too-many-entries");
}

#[test]
fn nothing_may_follow_the_end() {
    let mut padded = written();
    padded.extend_from_slice(&[0; 4096]);
    assert_eq!(code_of(&padded), "accepted");
    padded.push(1);
    assert_eq!(code_of(&padded), "archive-trailing-data");
}

#[test]
fn failures_of_the_sink_and_of_the_reader_are_told_apart() {
    struct Full;
    impl BlobSink for Full {
        fn manifest(&mut self, _: &PackageManifest) -> io::Result<()> {
            Ok(())
        }
        fn blob(&mut self, _: &BlobRef, _: &mut dyn Read) -> io::Result<()> {
            Err(io::Error::from(io::ErrorKind::StorageFull))
        }
    }
    let refused = read(written().as_slice(), &ArchiveLimits::default(), &mut Full).expect_err("refused");
    assert_eq!(refused.code(), "storage");

    struct Broken<'a>(&'a [u8]);
    impl Read for Broken<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buf)? {
                0 => Err(io::Error::from(io::ErrorKind::ConnectionReset)),
                n => Ok(n),
            }
        }
    }
    let bytes = written();
    for cut in [0, 100, 512, 700, 2000, bytes.len() - 1500] {
        let limits = ArchiveLimits::default();
        let refused = read(Broken(&bytes[..cut]), &limits, &mut Memory::default()).expect_err("refused");
        assert_eq!(refused.code(), "archive-read", "cut at {cut}");
    }
}

#[test]
fn a_blob_file_that_changed_since_the_build_is_not_written() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let package = package(dir.path());
    fs::write(dir.path().join("model"), b"other").expect("written");
    let e = write(&package, Vec::new()).expect_err("refused");
    assert_eq!(e.kind(), io::ErrorKind::InvalidInput);
}
