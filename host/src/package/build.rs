//! From a function's folder to a package.

use super::Package;
use super::cargo::{self, CargoError};
use super::component::{ComponentError, check_header};
use super::manifest_file::{ManifestFile, find_file};
use super::reader::ManifestFileError;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use vesta_core::Digest;
use vesta_core::manifest::{BlobRef, ManifestError};

/// How [`build`] works.
#[derive(Debug, Clone, Copy, Default)]
pub struct BuildOptions {
    /// Take the component that is there, without running cargo.
    pub no_cargo: bool,
    /// Let cargo tell of errors and warnings only.
    pub quiet: bool,
}

/// Why a folder gave no package.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Manifest(#[from] ManifestFileError),
    #[error(transparent)]
    Cargo(#[from] CargoError),
    #[error("{path}: {source}", path = path.display())]
    Component { path: PathBuf, source: ComponentError },
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{dir}: no `component` in vesta.toml, and {why}", dir = dir.display())]
    NoComponent { dir: PathBuf, why: &'static str },
    #[error(transparent)]
    Package(#[from] ManifestError),
}

/// Builds the package of a folder: reads `vesta.toml`, runs cargo where there is a Cargo.toml, and computes
/// the digest of the component and of each model. Nothing is copied: the package names the files.
pub fn build(dir: &Path, options: &BuildOptions) -> Result<Package, BuildError> {
    let file = ManifestFile::read(dir)?;
    let component = component_path(dir, &file, options)?;
    check_component(&component).map_err(|e| match (&file.component, e) {
        (Some(named), BuildError::Component { source, .. }) => {
            file.component_error(format!("{}: {source}", named.display())).into()
        }
        (_, e) => e,
    })?;
    let mut blobs = BTreeMap::new();
    let component = add_blob(&component, &mut blobs)?;
    let mut models = Vec::new();
    for (i, model) in file.models.iter().enumerate() {
        let path = find_file(dir, &model.file).map_err(|e| file.model_error(i, e))?;
        let blob = add_blob(&path, &mut blobs)?;
        if blob.size == 0 {
            return Err(file.model_error(i, "the file is empty").into());
        }
        models.push(blob);
    }
    let manifest = file.package(component, models);
    manifest.check()?;
    Ok(Package { manifest, blobs })
}

fn component_path(dir: &Path, file: &ManifestFile, options: &BuildOptions) -> Result<PathBuf, BuildError> {
    let crate_here = dir.join("Cargo.toml").is_file();
    let made = match crate_here && !options.no_cargo {
        true => Some(cargo::build(dir, options.quiet)?),
        false => None,
    };
    match (&file.component, made) {
        (Some(path), _) => Ok(find_file(dir, path).map_err(|e| file.component_error(e))?),
        (None, Some(made)) => Ok(cargo::only(made)?),
        (None, None) => cargo::built_before(dir).ok_or_else(|| {
            let why = match crate_here {
                true => "cargo has built none here, and was not to run",
                false => "no Cargo.toml to build one from",
            };
            BuildError::NoComponent { dir: dir.to_path_buf(), why }
        }),
    }
}

fn check_component(path: &Path) -> Result<(), BuildError> {
    let mut first = Vec::new();
    File::open(path)
        .and_then(|f| f.take(8).read_to_end(&mut first))
        .map_err(|source| BuildError::Io { path: path.to_path_buf(), source })?;
    check_header(&first).map_err(|source| BuildError::Component { path: path.to_path_buf(), source })
}

fn add_blob(path: &Path, blobs: &mut BTreeMap<Digest, PathBuf>) -> Result<BlobRef, BuildError> {
    let blob = digest(path).map_err(|source| BuildError::Io { path: path.to_path_buf(), source })?;
    blobs.insert(blob.digest, path.to_path_buf());
    Ok(blob)
}

/// The SHA-256 digest and the size of a file, read in pieces.
fn digest(path: &Path) -> io::Result<BlobRef> {
    let mut file = File::open(path)?;
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut piece = vec![0; 256 * 1024];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            n => {
                hash.update(&piece[..n]);
                size += n as u64;
            }
        }
    }
    Ok(BlobRef { digest: Digest::from_bytes(hash.finalize().into()), size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn folder(manifest: &str, files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::write(dir.path().join("vesta.toml"), manifest).expect("written");
        for (name, bytes) in files {
            fs::write(dir.path().join(name), bytes).expect("written");
        }
        dir
    }

    fn built(manifest: &str, files: &[(&str, &[u8])]) -> Result<Package, String> {
        build(folder(manifest, files).path(), &BuildOptions::default()).map_err(|e| e.to_string())
    }

    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    #[test]
    fn a_folder_becomes_a_manifest_of_digests() {
        let manifest = "name = \"a\"\ncomponent = \"a.wasm\"\n[[models]]\nname = \"m\"\nfile = \"m.onnx\"\n";
        let package = built(manifest, &[("a.wasm", COMPONENT), ("m.onnx", b"abc")]).expect("built");
        let model = &package.manifest.models[0].blob;
        let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((model.digest.to_string().as_str(), model.size), (abc, 3));
        assert_eq!(package.manifest.component.size, 8);
        assert_eq!(package.blobs.len(), 2);
        assert_eq!(package.manifest.check(), Ok(()));
    }

    #[test]
    fn what_is_not_a_component_is_refused_with_what_to_do() {
        let with = |bytes: &[u8]| built("name = \"a\"\ncomponent = \"a.wasm\"", &[("a.wasm", bytes)]);
        let core = with(b"\0asm\x01\0\0\0").expect_err("refused");
        assert!(
            core.contains("core WebAssembly module") && core.contains("--target wasm32-wasip2"),
            "{core}"
        );
        assert!(core.contains("vesta.toml:2: component: a.wasm: a core"), "{core}");
        assert!(with(b"hello").expect_err("refused").contains("not a WebAssembly component"));
        assert!(with(b"").expect_err("refused").contains("not a WebAssembly component"));
    }

    #[test]
    fn without_cargo_what_it_built_before_is_found_in_the_workspaces_target_folder() {
        let workspace = folder("", &[("Cargo.toml", b"[workspace]")]);
        let dir = workspace.path().join("a");
        let release = workspace.path().join("target/wasm32-wasip2/release");
        fs::create_dir_all(&dir).and_then(|()| fs::create_dir_all(&release)).expect("folders");
        fs::write(dir.join("Cargo.toml"), "[package]\nname = \"my-fn\"").expect("written");
        fs::write(dir.join("vesta.toml"), "name = \"a\"").expect("written");
        let options = BuildOptions { no_cargo: true, quiet: true };
        let refused = build(&dir, &options).expect_err("nothing was built").to_string();
        assert!(refused.contains("cargo has built none here"), "{refused}");
        fs::write(release.join("my_fn.wasm"), COMPONENT).expect("written");
        assert_eq!(build(&dir, &options).expect("built").manifest.component.size, 8);
    }

    #[test]
    fn missing_pieces_are_named() {
        let missing = built("name = \"a\"\n\ncomponent = \"a.wasm\"", &[]).expect_err("refused");
        assert!(missing.ends_with("vesta.toml:3: component: a.wasm does not exist"), "{missing}");
        let nothing = built("name = \"a\"", &[]).expect_err("refused");
        assert!(nothing.contains("no `component`") && nothing.contains("no Cargo.toml"), "{nothing}");
        let empty = "name = \"a\"\ncomponent = \"a.wasm\"\n[[models]]\nname = \"m\"\nfile = \"m.onnx\"";
        let empty = built(empty, &[("a.wasm", COMPONENT), ("m.onnx", b"")]).expect_err("refused");
        assert!(empty.contains(":5: models[0].file: the file is empty"), "{empty}");
    }
}
