//! Packages and manifests that were changed at random: each is read or refused.

use super::archive::{self, ArchiveLimits, BlobSink};
use super::manifest_file::ManifestFile;
use super::units::{format_duration_ms, format_size, parse_duration_ms, parse_size};
use crate::mutate;
use std::io::{self, Read};
use std::path::Path;
use vesta_core::manifest::{BlobRef, PackageManifest};

const MANIFEST: &str = r#"name = "digits"
component = "target/digits.wasm"
public = true
[[models]]
name = "digits"
file = "models/digits.onnx"
encoding = "onnx"
threads = 2
[[models.sample]]
input = "image"
shape = [1, 64]
values = [0.5, -1e3]
[limits]
memory = "64MiB"
cpu = "500ms"
concurrency = 16
[scaling]
keep_alive = "2h"
[outbound]
hosts = ["api.example.com:443"]
[variables]
GREETING = "hi"
"#;

const JSON: &str = r#"{"format":"vesta-package/1","name":"f","component":{"digest":
"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":10},"models":[],"limits":{"memory_bytes":134217728,
"cpu_ms":1000,"wall_ms":30000,"request_body_bytes":1,"response_body_bytes":1,"concurrency":64},"scaling":{"minimum":0,
"keep_alive_ms":60000},"outbound":["example.com"],"variables":{"A":"b"},"public":false,"snapshot":true}"#;

/// Reads each blob to its end.
struct Nowhere;

impl BlobSink for Nowhere {
    fn manifest(&mut self, _: &PackageManifest) -> io::Result<()> {
        Ok(())
    }
    fn blob(&mut self, blob: &BlobRef, content: &mut dyn Read) -> io::Result<()> {
        let got = io::copy(content, &mut io::sink())?;
        assert!(got <= blob.size, "{got} bytes of {}", blob.size);
        Ok(())
    }
}

#[test]
fn an_archive_that_was_changed_at_random_is_read_or_refused() {
    let archive = super::archive::tests::written();
    let limits = ArchiveLimits::default();
    mutate::each(&[&archive], |bytes| {
        if let Err(e) = archive::read(bytes, &limits, &mut Nowhere) {
            assert!(!e.code().is_empty() && e.to_string().len() < 2_000, "{e}");
        }
    });
}

#[test]
fn a_manifest_that_was_changed_at_random_is_read_or_refused() {
    mutate::each(&[MANIFEST.as_bytes()], |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Err(e) = ManifestFile::parse(&text, Path::new("vesta.toml")) {
            assert!(!e.to_string().is_empty());
        }
    });
    mutate::each(&[JSON.as_bytes()], |bytes| {
        let Ok(manifest) = serde_json::from_slice::<PackageManifest>(bytes) else { return };
        if manifest.check().is_ok() {
            let again = serde_json::to_vec(&manifest).expect("JSON");
            assert_eq!(serde_json::from_slice::<PackageManifest>(&again).expect("read"), manifest);
        }
    });
}

#[test]
fn a_size_or_duration_that_was_changed_at_random_is_read_or_refused() {
    let samples: [&[u8]; 6] = [b"64MiB", b"1.5 GB", b"9999999999999999999", b"500ms", b"2h 30m", b"1d"];
    mutate::each(&samples, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(size) = parse_size(&text) {
            format_size(size);
        }
        if let Ok(ms) = parse_duration_ms(&text) {
            format_duration_ms(ms);
        }
    });
}
