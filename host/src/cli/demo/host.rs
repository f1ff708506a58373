//! A host of the demo's own: a child process, on a new data directory and free ports.

use super::super::config::Settings;
use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_MAX: Duration = Duration::from_secs(60);
/// Longer than the host takes to drain.
const STOP_MAX: Duration = Duration::from_secs(40);

/// A running host. Dropping it kills it and removes its folder.
pub struct Host {
    child: Child,
    /// Taken where the host is to go on.
    dir: Option<tempfile::TempDir>,
    ready: Ready,
}

/// What the host writes once it serves.
#[derive(Deserialize)]
struct Ready {
    invoke: String,
    control: String,
    tenant_key: String,
}

impl Host {
    /// Starts `vesta serve` with this same binary, and waits until it serves.
    pub fn start() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("vesta-demo-").tempdir().context("a temporary folder")?;
        let ready_file = dir.path().join("ready.json");
        let log = File::create(dir.path().join("host.log"))?;
        let mut command = Command::new(std::env::current_exe().context("this program's own path")?);
        command.args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
        command.arg("--data").arg(dir.path().join("data")).arg("--ready-file").arg(&ready_file);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("VESTA_"))
        {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A group of its own: Ctrl-C at the terminal does not end a host that is kept.
        let mut child = command.process_group(0).spawn().context("starting `vesta serve`")?;
        end_with_interrupt(pid_of(&child)?, dir.path().to_path_buf())?;
        match wait_until_ready(&mut child, &ready_file) {
            Ok(ready) => Ok(Self { child, dir: Some(dir), ready }),
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                let log = std::fs::read_to_string(dir.path().join("host.log")).unwrap_or_default();
                let log = super::super::output::printable(log.trim());
                Err(if log.is_empty() { e } else { e.context(format!("the host said:\n{log}\n")) })
            }
        }
    }

    /// How a client of the default tenant reaches it.
    pub fn settings(&self) -> Settings {
        Settings {
            url: self.ready.control.clone(),
            invoke_url: Some(self.ready.invoke.clone()),
            key: Some(self.ready.tenant_key.clone()),
            tenant: None,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks the host to drain and end, as an operator would.
    pub fn stop(mut self) -> anyhow::Result<()> {
        kill_process(pid_of(&self.child)?, Signal::TERM).context("stopping the host")?;
        let start = Instant::now();
        while start.elapsed() < STOP_MAX {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("the host ended with {status}"),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        bail!("the host did not end within {} seconds", STOP_MAX.as_secs())
    }

    /// Lets the host go on after this process, and gives its folder.
    pub fn keep(mut self) -> Option<PathBuf> {
        self.dir.take().map(tempfile::TempDir::keep)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.dir.is_some() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn pid_of(child: &Child) -> anyhow::Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("the host's process id")
}

/// Ctrl-C ends the host and removes its folder before it ends this process.
#[expect(clippy::disallowed_methods, reason = "what a destructor would clean up is cleaned up before")]
fn end_with_interrupt(host: Pid, dir: PathBuf) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            let _ = kill_process(host, Signal::KILL);
            let _ = std::fs::remove_dir_all(dir);
            std::process::exit(130);
        }
    });
    Ok(())
}

fn wait_until_ready(child: &mut Child, ready_file: &Path) -> anyhow::Result<Ready> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            bail!("the host ended with {status}");
        }
        // Read in the middle of its writing, the file is not JSON yet.
        let text = std::fs::read_to_string(ready_file).unwrap_or_default();
        if let Ok(ready) = serde_json::from_str(&text) {
            return Ok(ready);
        }
        if start.elapsed() > START_MAX {
            bail!("the host was not ready within {} seconds", START_MAX.as_secs());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
