//! The child process in which untrusted components and models are first read.
//!
//! A compiler and a parser are the largest surfaces that an upload reaches. They run in a process of their
//! own, with limits on CPU time, memory and wall time; the host only ever sees a small JSON answer and files
//! that the child wrote.

use crate::compile;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vesta_core::manifest::Encoding;
use vesta_nn::{ModelInfo, ModelLimits};

/// Bounds of a child.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChildLimits {
    pub cpu_seconds: u64,
    pub memory_bytes: u64,
    pub wall_seconds: u64,
}

impl Default for ChildLimits {
    /// A component of 7 MB took 5.7 CPU-seconds to compile (FACTS); models are parsed within a few.
    fn default() -> Self {
        Self { cpu_seconds: 120, memory_bytes: 8 << 30, wall_seconds: 300 }
    }
}

/// What a child is asked to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    Compile { source: PathBuf, out: PathBuf, snapshot: bool },
    Model { source: PathBuf, encoding: Encoding, out: PathBuf, limits: ModelLimits },
}

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    limits: ChildLimits,
    job: Job,
}

/// What a child answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Compiled,
    Prepared(Box<ModelInfo>),
    Refused { code: String, detail: String },
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("preparation used more than {0} seconds of CPU time")]
    CpuLimit(u64),
    #[error("preparation used more than {0} bytes of memory")]
    MemoryLimit(u64),
    #[error("preparation took longer than {0} seconds")]
    WallLimit(u64),
    #[error("preparation crashed: {0}")]
    Crashed(String),
    #[error("the child process cannot be run: {0}")]
    Io(#[from] std::io::Error),
}

impl ChildError {
    /// A stable name for the API.
    pub fn code(&self) -> &'static str {
        match self {
            ChildError::CpuLimit(_) => "prepare-cpu-limit",
            ChildError::MemoryLimit(_) => "prepare-memory-limit",
            ChildError::WallLimit(_) => "prepare-wall-limit",
            ChildError::Crashed(_) => "prepare-crashed",
            ChildError::Io(_) => "prepare-failed",
        }
    }
    /// Whether the host is to blame rather than what was uploaded.
    pub fn is_platform(&self) -> bool {
        matches!(self, ChildError::Io(_))
    }
}

/// The child's whole life: reads one order from its standard input, limits itself, works, answers.
///
/// Returns the exit code of the process.
pub fn main() -> u8 {
    let mut text = String::new();
    if std::io::stdin().read_to_string(&mut text).is_err() {
        return 2;
    }
    let Ok(order) = serde_json::from_str::<Order>(&text) else { return 2 };
    if limit_self(&order.limits).is_err() {
        return 3;
    }
    let answer = work(order.job);
    let Ok(json) = serde_json::to_vec(&answer) else { return 2 };
    if std::io::stdout().write_all(&json).is_err() { 2 } else { 0 }
}

fn limit_self(limits: &ChildLimits) -> rustix::io::Result<()> {
    let both = |n: u64| Rlimit { current: Some(n), maximum: Some(n) };
    setrlimit(Resource::Cpu, both(limits.cpu_seconds))?;
    setrlimit(Resource::As, both(limits.memory_bytes))?;
    setrlimit(Resource::Core, both(0))?;
    // Where memory runs out, this process goes and not the host. Linux alone has that file.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    Ok(())
}

fn work(job: Job) -> Answer {
    match job {
        Job::Compile { source, out, snapshot } => match compile::compile(&source, &out, snapshot) {
            Ok(()) => Answer::Compiled,
            Err(e) => Answer::Refused { code: e.code().into(), detail: e.to_string() },
        },
        Job::Model { source, encoding, out, limits } => {
            match vesta_nn::prepare(&source, encoding, &out, &limits) {
                Ok(info) => Answer::Prepared(Box::new(info)),
                Err(e) => Answer::Refused { code: e.code().into(), detail: e.to_string() },
            }
        }
    }
}

/// Longest answer, and the most that is kept of what a child says on its standard error, in bytes.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
const STDERR_BYTES_MAX: u64 = 64 << 10;

/// Runs one job in a child: `program` is the host's own executable, `argument` what makes it call [`main`].
pub(crate) async fn run(
    program: &Path,
    argument: &str,
    limits: ChildLimits,
    job: Job,
) -> Result<Answer, ChildError> {
    let order = serde_json::to_vec(&Order { limits, job }).map_err(std::io::Error::other)?;
    let mut child = tokio::process::Command::new(program)
        .arg(argument)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let missing = || std::io::Error::other("a pipe of the child is missing");
    let mut stdin = child.stdin.take().ok_or_else(missing)?;
    let stdout = child.stdout.take().ok_or_else(missing)?;
    let stderr = child.stderr.take().ok_or_else(missing)?;
    let talk = async {
        // A child that ended before it read everything is told by its status.
        let _ = stdin.write_all(&order).await;
        drop(stdin);
        let (mut answer, mut complaint) = (Vec::new(), Vec::new());
        let (mut stdout, mut stderr) = (stdout.take(ANSWER_BYTES_MAX), stderr.take(STDERR_BYTES_MAX));
        let (a, b) = tokio::join!(stdout.read_to_end(&mut answer), stderr.read_to_end(&mut complaint));
        a.and(b)?;
        let status = child.wait().await?;
        Ok::<_, std::io::Error>((status, answer, complaint))
    };
    let talked = tokio::time::timeout(Duration::from_secs(limits.wall_seconds), talk).await;
    let (status, answer, complaint) = talked.map_err(|_| ChildError::WallLimit(limits.wall_seconds))??;
    if status.success() {
        return serde_json::from_slice(&answer)
            .map_err(|e| ChildError::Crashed(format!("unreadable answer: {e}")));
    }
    let complaint = String::from_utf8_lossy(&complaint).into_owned();
    Err(match status.signal() {
        // The kernel sends SIGXCPU (24) at the soft limit and SIGKILL (9) at the hard one.
        Some(24 | 9) => ChildError::CpuLimit(limits.cpu_seconds),
        _ if complaint.contains("memory allocation of") => ChildError::MemoryLimit(limits.memory_bytes),
        _ => {
            tracing::warn!(%status, %complaint, "a preparing child crashed");
            ChildError::Crashed(status.to_string())
        }
    })
}
