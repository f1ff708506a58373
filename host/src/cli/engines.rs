//! `vesta engines`: the inference engines of a host, and the installation of those that are not part of this
//! program. Works on the data directory, without a running host.

use super::exit::{Exit, Failure};
use super::output;
use crate::server::{HostConfig, ServeArgs};
use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use serde_json::json;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};
use vesta_engine::engines::{Engines, ONNX_RUNTIME_VERSION, ONNX_RUNTIME_WHEEL, State, Wheel, sha256};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    place: Place,
}

/// Whose engines.
#[derive(Debug, clap::Args)]
struct Place {
    /// Configuration file of the host (TOML)
    #[arg(long, value_name = "FILE", env = "VESTA_HOST_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// Data directory of the host
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Install an engine's library into the data directory
    Install {
        engine: Installable,
        /// Take this file instead of asking pip for it: the pinned wheel, or the library out of it
        #[arg(long, value_name = "PATH")]
        from: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Installable {
    Onnxruntime,
}

pub fn run(args: &Args, as_json: bool) -> anyhow::Result<()> {
    let serve = ServeArgs {
        config: args.place.config.clone(),
        data: args.place.data.clone(),
        ..ServeArgs::default()
    };
    let (config, _) = HostConfig::load(&serve)?;
    let dir = config.data_dir()?.join("engines");
    match &args.command {
        None => list(&Engines::new(dir, config.onnx_runtime), as_json),
        Some(Command::Install { engine: Installable::Onnxruntime, from }) => {
            install(&dir, from.as_deref(), as_json)
        }
    }
}

fn list(engines: &Engines, as_json: bool) -> anyhow::Result<()> {
    let (version, state, path) = match engines.onnx_runtime() {
        State::NotInstalled => (None, "not installed (vesta engines install onnxruntime)".to_owned(), None),
        State::WrongChecksum { path, found } => {
            (None, format!("wrong checksum: its SHA-256 is {found}; install it again"), Some(path))
        }
        State::Unreadable { path, reason } => (None, format!("unreadable: {reason}"), Some(path)),
        State::Installed(library) => (Some(library.version), "installed".into(), Some(library.path)),
    };
    let embedded = vesta_engine::RTEN_VERSION;
    let path = path.map(|path| path.display().to_string());
    if as_json {
        return output::json(&json!([
            { "engine": "rten", "version": embedded, "state": "embedded" },
            { "engine": "onnxruntime", "version": version, "state": state, "path": path },
        ]));
    }
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let rows = vec![
        vec!["rten".into(), embedded.into(), "embedded".into(), "-".into()],
        vec!["onnxruntime".into(), or_dash(version), state, or_dash(path)],
    ];
    output::line(output::table(&["ENGINE", "VERSION", "STATE", "PATH"], rows))
}

fn install(dir: &Path, from: Option<&Path>, as_json: bool) -> anyhow::Result<()> {
    let Some(wheel) = ONNX_RUNTIME_WHEEL else {
        let message = "there is no pinned ONNX Runtime for this platform; name a library of your own as onnx_runtime in the \
                       host's configuration";
        return Err(Failure::error(Exit::Failure, message));
    };
    let dir = std::path::absolute(dir)?;
    let place = Engines::installed_path(&dir);
    let is_there = sha256(&place).is_ok_and(|found| found == wheel.library_sha256);
    if !is_there {
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        // Below the data directory, so that it can be moved to its place at once.
        let work = tempfile::Builder::new().prefix(".install-").tempdir_in(&dir)?;
        let library = fetch(&wheel, from, work.path())?;
        put(&wheel, &library, work.path(), &place)?;
    }
    if as_json {
        return output::json(&json!({
            "engine": "onnxruntime", "version": ONNX_RUNTIME_VERSION, "path": place, "was_installed": is_there,
        }));
    }
    let was = if is_there { "is installed already" } else { "is installed" };
    output::line(format!("ONNX Runtime {ONNX_RUNTIME_VERSION} {was}: {}", place.display()))
}

/// The file of the library: given, or taken out of a wheel, which pip fetches where none is given.
fn fetch(wheel: &Wheel, from: Option<&Path>, work: &Path) -> anyhow::Result<PathBuf> {
    let file = match from {
        Some(path) if path.extension().is_none_or(|extension| extension != "whl") => {
            return Ok(path.to_path_buf());
        }
        Some(path) => std::path::absolute(path)?,
        None => download(wheel, work)?,
    };
    expect_sha256(&file, wheel.sha256, &file)?;
    let library = work.join("unpacked.so");
    let script = "import shutil, sys, zipfile\n\
                  with zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]) as inside, open(sys.argv[3], 'wb') as out:\n    \
                  shutil.copyfileobj(inside, out)";
    let mut python = python(work);
    python.args(["-c", script]).arg(&file).arg(wheel.library).arg(&library);
    succeed(python, "the wheel cannot be unpacked")?;
    Ok(library)
}

fn download(wheel: &Wheel, work: &Path) -> anyhow::Result<PathBuf> {
    let mut has_pip = python(work);
    has_pip.args(["-m", "pip", "--version"]);
    succeed(
        has_pip,
        "pip is needed, and Python has none (Debian: python3-pip); or give the wheel by --from",
    )?;
    output::note(format!("ONNX Runtime {ONNX_RUNTIME_VERSION}: downloading"));
    let mut pip = python(work);
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"])
        .args(["--only-binary", ":all:", "--implementation", "cp", "--platform", wheel.platform])
        .args(["--python-version", wheel.python, "--abi", wheel.abi, "--dest"])
        .arg(work)
        .arg(format!("onnxruntime=={ONNX_RUNTIME_VERSION}"));
    succeed(pip, "pip cannot download it")?;
    let files = fs::read_dir(work)?.flatten().map(|entry| entry.path());
    let mut wheels = files.filter(|path| path.extension().is_some_and(|extension| extension == "whl"));
    wheels.next().ok_or_else(|| Failure::error(Exit::Failure, "pip has downloaded no wheel"))
}

/// Python, isolated from modules that lie in the working directory or that the environment names.
fn python(work: &Path) -> Program {
    let mut python = Program::new("python3");
    python.arg("-I").current_dir(work);
    python
}

/// Runs a program to its end; where it fails, the error has the last lines of its messages.
fn succeed(mut program: Program, failure: &str) -> anyhow::Result<()> {
    let output = program.stdin(Stdio::null()).output().map_err(|e| {
        let message =
            format!("python3 cannot be run ({e}); Python with pip is needed, or the library by --from");
        Failure::error(Exit::Failure, message)
    })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(4)..].join("\n  ");
    Err(Failure::error(Exit::Failure, format!("{failure}:\n  {}", output::printable(&last))))
}

/// `shown` is what the file is called in errors.
fn expect_sha256(path: &Path, expected: &str, shown: &Path) -> anyhow::Result<()> {
    let found = sha256(path).with_context(|| path.display().to_string())?;
    if found == expected {
        return Ok(());
    }
    let message = format!(
        "{} is not the pinned file of ONNX Runtime {ONNX_RUNTIME_VERSION}: its SHA-256 is {found}, and {expected} is expected",
        shown.display()
    );
    Err(Failure::error(Exit::Refused, message))
}

/// Checks the library, and moves a copy of it to its place at once.
fn put(wheel: &Wheel, library: &Path, work: &Path, place: &Path) -> anyhow::Result<()> {
    let copy = work.join("onnxruntime").join(place.file_name().unwrap_or_default());
    let folder = copy.parent().unwrap_or(work);
    fs::create_dir(folder)?;
    fs::copy(library, &copy).with_context(|| library.display().to_string())?;
    // The copy is checked, so that nobody can change the file in between.
    expect_sha256(&copy, wheel.library_sha256, library)?;
    File::open(&copy)?.sync_all()?;
    let to = place.parent().unwrap_or(work);
    match fs::remove_dir_all(to) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    fs::rename(folder, to).with_context(|| to.display().to_string())
}
