//! Builds a function's crate with cargo and finds the component among what it made.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TARGET: &str = "wasm32-wasip2";

/// Why a crate gave no component.
#[derive(Debug, thiserror::Error)]
pub enum CargoError {
    #[error("cannot run `{program}`: {source}; install Rust from https://rustup.rs")]
    Start { program: &'static str, source: std::io::Error },
    #[error("the target {TARGET} is not installed; run `rustup target add {TARGET}`{reason}")]
    Target { reason: String },
    #[error("`cargo build` failed in {dir}; its messages stand above", dir = .0.display())]
    Failed(PathBuf),
    #[error("reading what cargo built: {0}")]
    Output(#[from] std::io::Error),
    #[error("the crate made no .wasm file; give it `[lib]` with `crate-type = [\"cdylib\"]`, or a binary")]
    NoComponent,
    #[error("the crate made {n} .wasm files; name one with `component` in vesta.toml: {list}", n = .0.len(), list = list(.0))]
    SeveralComponents(Vec<PathBuf>),
}

/// Runs `cargo build --target wasm32-wasip2 --release` in a folder, its messages on stderr, and returns the
/// .wasm files of that folder's crate.
pub fn build(dir: &Path, quiet: bool) -> Result<Vec<PathBuf>, CargoError> {
    ensure_target(dir)?;
    let mut command = rust_command("cargo", dir);
    command.args(["build", "--release", "--target", TARGET, "--message-format=json-render-diagnostics"]);
    if quiet {
        command.arg("--quiet");
    }
    let start = |source| CargoError::Start { program: "cargo", source };
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(start)?;
    let mut made = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let manifest = dir.canonicalize()?.join("Cargo.toml");
        for line in BufReader::new(stdout).lines() {
            made.extend(wasm_files(&line?, &manifest));
        }
    }
    if !child.wait()?.success() {
        return Err(CargoError::Failed(dir.to_path_buf()));
    }
    Ok(made)
}

/// The one component among the files that cargo made.
pub fn only(mut made: Vec<PathBuf>) -> Result<PathBuf, CargoError> {
    match made.len() {
        0 => Err(CargoError::NoComponent),
        1 => Ok(made.swap_remove(0)),
        _ => Err(CargoError::SeveralComponents(made)),
    }
}

/// The component that cargo built before, for when it is not to run: in `$CARGO_TARGET_DIR`, or in the
/// target folder of the crate or of a workspace around it.
pub fn built_before(dir: &Path) -> Option<PathBuf> {
    let cargo_toml: toml::Table = std::fs::read_to_string(dir.join("Cargo.toml")).ok()?.parse().ok()?;
    let name_in = |table: &str| cargo_toml.get(table)?.get("name")?.as_str();
    let package = name_in("package")?;
    let library = name_in("lib").map_or_else(|| package.replace('-', "_"), str::to_string);
    let dir = dir.canonicalize().ok()?;
    let own = std::env::var_os("CARGO_TARGET_DIR").map(|target| dir.join(target));
    let around = dir.ancestors().filter(|d| d.join("Cargo.toml").is_file()).map(|d| d.join("target"));
    let release = own.into_iter().chain(around).map(|target| target.join(TARGET).join("release"));
    let names = [format!("{library}.wasm"), format!("{package}.wasm")];
    release.flat_map(|d| names.each_ref().map(|n| d.join(n))).find(|file| file.is_file())
}

/// The .wasm files of one line of cargo's JSON messages, if it tells of an artifact of the crate itself.
fn wasm_files(line: &str, manifest: &Path) -> Vec<PathBuf> {
    let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { return Vec::new() };
    let own = message["manifest_path"].as_str().is_some_and(|p| Path::new(p) == manifest);
    if message["reason"] != "compiler-artifact" || !own {
        return Vec::new();
    }
    let files = message["filenames"].as_array().into_iter().flatten().filter_map(|f| f.as_str());
    files.map(PathBuf::from).filter(|f| f.extension().is_some_and(|e| e == "wasm")).collect()
}

/// Adds the target by rustup where the folder's toolchain lacks it.
fn ensure_target(dir: &Path) -> Result<(), CargoError> {
    if has_target(dir)? {
        return Ok(());
    }
    eprintln!("adding the Rust target {TARGET} ...");
    let added = rust_command("rustup", dir).args(["target", "add", TARGET]).stdout(Stdio::null()).status();
    match added {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(CargoError::Target { reason: String::new() }),
        Err(e) => Err(CargoError::Target { reason: format!(" (rustup: {e})") }),
    }
}

fn has_target(dir: &Path) -> Result<bool, CargoError> {
    let output = rust_command("rustc", dir)
        .args(["--print", "target-libdir", "--target", TARGET])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| CargoError::Start { program: "rustc", source })?;
    let folder = String::from_utf8_lossy(&output.stdout);
    Ok(output.status.success() && Path::new(folder.trim()).is_dir())
}

/// A command of the Rust toolchain, without the flags that were meant for programs of this machine: they
/// would reach the guest too (`-C target-cpu=native` breaks it). Flags for guests belong in
/// CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS or the crate's own .cargo/config.toml.
fn rust_command(program: &str, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir);
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        command.env_remove(name);
    }
    command
}

fn list(files: &[PathBuf]) -> String {
    files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_crates_own_wasm_artifacts_count() {
        let line = |reason: &str, manifest: &str, file: &str| {
            serde_json::json!({"reason": reason, "manifest_path": manifest, "filenames": [file, "x.d"]})
                .to_string()
        };
        let own = Path::new("/f/Cargo.toml");
        let found = wasm_files(&line("compiler-artifact", "/f/Cargo.toml", "/t/f.wasm"), own);
        assert_eq!(found, [PathBuf::from("/t/f.wasm")]);
        assert!(wasm_files(&line("compiler-artifact", "/dep/Cargo.toml", "/t/d.wasm"), own).is_empty());
        assert!(wasm_files(&line("build-finished", "/f/Cargo.toml", "/t/f.wasm"), own).is_empty());
        assert!(wasm_files(&line("compiler-artifact", "/f/Cargo.toml", "/t/f.rlib"), own).is_empty());
        assert!(wasm_files("not json", own).is_empty());
    }

    #[test]
    fn none_and_several_components_are_told_apart() {
        assert!(matches!(only(vec![]), Err(CargoError::NoComponent)));
        let two = only(vec!["a.wasm".into(), "b.wasm".into()]).expect_err("refused").to_string();
        assert!(two.contains("2 .wasm files") && two.contains("a.wasm, b.wasm"), "{two}");
    }
}
