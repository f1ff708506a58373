//! The binary under test and the guests it runs, each built once.

use crate::{in_root, root};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::SystemTime;

/// The `vesta` binary beside the tests; built here only where `cargo test` was told not to.
pub fn vesta() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let beside = std::env::current_exe().expect("the test's own path");
        let beside = beside.ancestors().nth(2).expect("target/debug/deps/it").join("vesta");
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or(in_root("target"), PathBuf::from);
        let path = if beside.exists() { beside } else { target.join("debug/vesta") };
        let sources = newest(&in_root("host"));
        if std::fs::metadata(&path).and_then(|m| m.modified()).is_ok_and(|built| built >= sources) {
            return path;
        }
        // `cargo test -p vesta-tests` alone does not build another package's binary.
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--bin", "vesta"]).current_dir(root());
        let status = build.status().expect("run cargo");
        assert!(status.success(), "cargo build -p vesta failed");
        let built = target.join("debug/vesta");
        assert!(built.exists(), "{} is missing", built.display());
        built
    })
}

/// A worker in the place of the host's own, which misbehaves as it is called (`tests/worker`): a file of that
/// name in a folder.
pub fn rogue_worker(name: &str, dir: &Path) -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let built = PATH.get_or_init(|| {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or(in_root("target"), PathBuf::from);
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--profile", "unchecked", "--package", "vesta-rogue-worker"]);
        let status = build.env("CARGO_TARGET_DIR", &target).current_dir(root()).status();
        assert!(status.expect("run cargo").success(), "vesta-rogue-worker does not build");
        target.join("unchecked/vesta-rogue-worker")
    });
    let path = dir.join(name);
    std::fs::copy(built, &path).expect("a copy");
    path
}

fn newest(dir: &Path) -> SystemTime {
    let mut latest = SystemTime::UNIX_EPOCH;
    for entry in std::fs::read_dir(dir).expect("the sources").flatten() {
        let path = entry.path();
        let relevant = path.extension().is_some_and(|e| e == "rs" || e == "sql");
        if path.is_dir() {
            latest = latest.max(newest(&path));
        } else if relevant && !path.components().any(|c| c.as_os_str() == "tests") {
            latest = latest.max(entry.metadata().and_then(|m| m.modified()).unwrap_or(latest));
        }
    }
    latest
}

/// Builds a package of a workspace of guests with plain cargo, and gives its component.
fn build(workspace: &Path, target: &Path, package: &str) -> Vec<u8> {
    std::fs::create_dir_all(target).expect("create the guests' target directory");
    // Two runs of the tests may meet here: cargo's lock covers a build, and this one the build and the
    // reading.
    let lock = File::create(target.join("tests.lock")).expect("create a lock file");
    lock.lock().expect("lock");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = || {
        let mut command = Command::new(&cargo);
        command.args(["build", "--release", "--target", "wasm32-wasip2", "--quiet", "--package", package]);
        for name in ["CARGO_BUILD_BUILD_DIR", "CARGO_BUILD_TARGET", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS"] {
            command.env_remove(name);
        }
        command.env("CARGO_TARGET_DIR", target).current_dir(workspace);
        command.output().expect("run cargo")
    };
    let mut out = run();
    if String::from_utf8_lossy(&out.stderr).contains("target may not be installed") {
        let added = Command::new("rustup").args(["target", "add", "wasm32-wasip2"]).status();
        assert!(added.is_ok_and(|s| s.success()), "wasm32-wasip2 is missing, and rustup could not add it");
        out = run();
    }
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "the guest {package} does not build:\n{errors}");
    let path = target.join("wasm32-wasip2/release").join(format!("{}.wasm", package.replace('-', "_")));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What has been built in this run, by the folder of its workspace and its name.
fn built(workspace: &str, target: &str, package: &str) -> Vec<u8> {
    static BUILT: Mutex<BTreeMap<String, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(|e| e.into_inner());
    let component = || build(&in_root(workspace), &in_root(target), package);
    built.entry(format!("{workspace}/{package}")).or_insert_with(component).clone()
}

/// The component of `tests/fixtures/{name}`.
pub fn fixture(name: &str) -> Vec<u8> {
    built("tests/fixtures", "target/guests/fixtures", name)
}

/// A function of `examples/`.
pub struct Example {
    /// Its folder, with `vesta.toml`.
    pub dir: PathBuf,
    pub component: Vec<u8>,
}

/// The examples are built where their manifests look for them, as a developer would.
pub fn example(name: &str) -> Example {
    let component = built("examples", "examples/target", name);
    Example { dir: in_root("examples").join(name), component }
}

/// The bytes of an example's model, if they are on this machine.
pub fn model(path: &str) -> Option<Vec<u8>> {
    std::fs::read(in_root("examples").join(path)).ok()
}
