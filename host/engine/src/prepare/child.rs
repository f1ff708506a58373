//! The child process in which untrusted components and models are first read.
//!
//! A compiler and a parser are the largest surfaces that an upload reaches. They run in a process of their
//! own, with limits on CPU time, memory and wall time. Before it reads a byte of the upload, the child gives
//! up all that it does not need: it may read the upload and write into a folder of its own, and nothing else.
//! The host only ever sees a small JSON answer and the files in that folder.

use crate::meter::cpu;
use crate::meter::processes::{self, Role, watched};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, pidfd_open, setrlimit};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::SyncSender;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use vesta_core::manifest::Encoding;
use vesta_core::sample::Sample;
use vesta_core::usage::CpuTime;
use vesta_nn::confine::{ConfineError, Confinement, Profile, confine};
use vesta_nn::{GRAPH_FILE, INFO_FILE, ModelInfo, ModelLimits, WEIGHTS_FILE};

/// Bounds of a child.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChildLimits {
    pub cpu_seconds: u64,
    pub memory_bytes: u64,
    pub wall_seconds: u64,
}

impl Default for ChildLimits {
    /// A component of 7 MB took 5.7 CPU-seconds to compile; models are parsed within a few.
    fn default() -> Self {
        Self { cpu_seconds: 120, memory_bytes: 8 << 30, wall_seconds: 300 }
    }
}

/// Name of the native code in the folder of a job.
pub(crate) const CODE_FILE: &str = "code.cwasm";

/// What a child is asked to do. It may read `source`, a file, or the files of `dir`, and write into `out`, a
/// folder.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Writes [`CODE_FILE`].
    Compile { source: PathBuf, out: PathBuf, snapshot: bool },
    /// Writes the files of a model that is prepared for an engine.
    Model {
        engine: For,
        source: PathBuf,
        encoding: Encoding,
        samples: Vec<Sample>,
        out: PathBuf,
        limits: ModelLimits,
    },
    /// Runs what was prepared in `dir` with other samples.
    Try { engine: For, dir: PathBuf, samples: Vec<Sample>, limits: ModelLimits },
}

/// The engine that a model is prepared for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum For {
    /// With `keep_trial`, a folder, the trial run is kept in a file there.
    Rten { keep_trial: Option<PathBuf> },
    /// The outputs are compared with those of a trial run that was kept.
    OnnxRuntime { library: PathBuf, version: String, reference: Option<PathBuf> },
}

impl Job {
    /// Files that the child may read.
    fn reads(&self) -> Vec<PathBuf> {
        let mut reads = match self {
            Job::Compile { source, .. } | Job::Model { source, .. } => vec![source.clone()],
            Job::Try { dir, .. } => [GRAPH_FILE, WEIGHTS_FILE, INFO_FILE].map(|file| dir.join(file)).into(),
        };
        if let Some(For::OnnxRuntime { reference: Some(reference), .. }) = self.engine() {
            reads.push(reference.clone());
        }
        reads
    }

    /// Folders in which the child may write.
    fn writes(&self) -> Vec<&Path> {
        let mut writes: Vec<&Path> = match self {
            Job::Compile { out, .. } | Job::Model { out, .. } => vec![out],
            Job::Try { .. } => Vec::new(),
        };
        if let Some(For::Rten { keep_trial: Some(folder) }) = self.engine() {
            writes.push(folder);
        }
        writes
    }

    fn engine(&self) -> Option<&For> {
        match self {
            Job::Compile { .. } => None,
            Job::Model { engine, .. } | Job::Try { engine, .. } => Some(engine),
        }
    }

    /// A library that the child opens before it is confined.
    pub fn library(&self) -> Option<&Path> {
        match self.engine()? {
            For::OnnxRuntime { library, .. } => Some(library),
            For::Rten { .. } => None,
        }
    }
}

impl For {
    /// Whether the trial run itself is asked for, beside its result.
    pub fn wants_trial(&self) -> bool {
        let (For::Rten { keep_trial: file } | For::OnnxRuntime { reference: file, .. }) = self;
        file.is_some()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    /// The host's process.
    parent: u32,
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

/// Exit code of a child that could not limit or confine itself.
const NOT_CONFINED: u8 = 3;

/// The child's whole life: reads one order from its standard input, makes ready for the job with `open`,
/// limits and confines itself, works, answers.
///
/// Returns the exit code of the process.
pub(crate) fn main<T>(open: fn(&Job) -> T, work: fn(Job, T) -> Answer) -> u8 {
    let mut text = String::new();
    if std::io::stdin().read_to_string(&mut text).is_err() {
        return 2;
    }
    let Ok(order) = serde_json::from_str::<Order>(&text) else { return 2 };
    let opened = open(&order.job);
    // Before anything of the upload is read, and while there is one thread.
    if let Err(e) = give_up(&order) {
        eprintln!("{e}");
        return NOT_CONFINED;
    }
    let answer = work(order.job, opened);
    let Ok(json) = serde_json::to_vec(&answer) else { return 2 };
    if std::io::stdout().write_all(&json).is_err() { 2 } else { 0 }
}

/// Gives up what the job does not need.
fn give_up(order: &Order) -> Result<(), ConfineError> {
    let step = "limit CPU time and memory";
    limit_self(&order.limits).map_err(|e| ConfineError::Step { step, source: e.into() })?;
    let reads = order.job.reads();
    let reads: Vec<&Path> = reads.iter().map(PathBuf::as_path).collect();
    confine(&Confinement {
        profile: Profile::Prepare,
        read: &reads,
        write: &order.job.writes(),
        parent: Some(order.parent),
    })?;
    Ok(())
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

/// Longest answer, and the most that is kept of what a child says on its standard error, in bytes.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
const STDERR_BYTES_MAX: u64 = 64 << 10;

/// Runs one job in a child: `program` is the host's own executable, `argument` what makes it call [`main`].
/// When this returns, the child has ended; what CPU time it used is in `spent`. Within a Tokio runtime.
pub(crate) async fn run(
    program: &Path,
    argument: &str,
    limits: ChildLimits,
    job: Job,
    spent: &CpuTime,
) -> Result<Answer, ChildError> {
    let parent = std::process::id();
    let has_library = job.library().is_some();
    let order = serde_json::to_vec(&Order { parent, limits, job }).map_err(std::io::Error::other)?;
    let mut command = Command::new(program);
    command.arg(argument).env_clear().kill_on_drop(true);
    if has_library {
        command.envs([vesta_nn::ONNX_RUNTIME_ENVIRONMENT]);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (mut child, _thread) = spawn(command).await?;
    let mut books = Books::open(&child, spent)?;
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
        books.ended().await;
        let status = child.wait().await?;
        Ok::<_, std::io::Error>((status, answer, complaint))
    };
    let talked = tokio::time::timeout(Duration::from_secs(limits.wall_seconds), talk).await;
    // It writes no more, so its folder can be removed. After its end this does nothing.
    if child.start_kill().is_ok() {
        books.ended().await;
    }
    let _ = child.wait().await;
    let (status, answer, complaint) = talked.map_err(|_| ChildError::WallLimit(limits.wall_seconds))??;
    if status.success() {
        return serde_json::from_slice(&answer)
            .map_err(|e| ChildError::Crashed(format!("unreadable answer: {e}")));
    }
    let complaint = String::from_utf8_lossy(&complaint).into_owned();
    if status.code() == Some(NOT_CONFINED.into()) {
        return Err(std::io::Error::other(format!("it cannot be confined: {}", complaint.trim())).into());
    }
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

/// The CPU time of a child, which is read when it has ended, and before it is reaped.
struct Books<'a> {
    pid: Pid,
    /// Readable once it has ended.
    end: AsyncFd<OwnedFd>,
    spent: &'a CpuTime,
    is_closed: bool,
}

impl Books<'_> {
    fn open<'a>(child: &Child, spent: &'a CpuTime) -> std::io::Result<Books<'a>> {
        let id = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let pid = id.ok_or_else(|| std::io::Error::other("the child has no id"))?;
        let end = watched(pidfd_open(pid, PidfdFlags::empty())?)?;
        processes::started(pid, Role::Prepare);
        Ok(Books { pid, end, spent, is_closed: false })
    }

    async fn ended(&mut self) {
        // An error would mean that the runtime ends: then the clock is read as it stands.
        let _ = self.end.readable().await;
        self.close();
    }

    fn close(&mut self) {
        if !self.is_closed {
            self.is_closed = true;
            self.spent.add(processes::ended(self.pid));
        }
    }
}

impl Drop for Books<'_> {
    fn drop(&mut self) {
        self.close();
    }
}

/// Starts a child on a thread of its own, which lives until what is returned beside the child is dropped.
///
/// The kernel kills the child when the *thread* that started it ends, so that no child outlives the host.
/// Tokio's threads may end before the job does.
async fn spawn(mut command: Command) -> std::io::Result<(Child, SyncSender<()>)> {
    let (started, child) = tokio::sync::oneshot::channel();
    let (held, holds) = std::sync::mpsc::sync_channel(0);
    let runtime = Handle::current();
    std::thread::Builder::new().name("vesta-prepare".into()).spawn(move || {
        cpu::register_thread("prepare");
        let _runtime = runtime.enter();
        if started.send(command.spawn()).is_ok() {
            // Nothing is sent: this returns when the other end is dropped.
            let _ = holds.recv();
        }
        cpu::unregister_thread();
    })?;
    let child = child.await.map_err(|_| std::io::Error::other("the thread that starts it has ended"))??;
    Ok((child, held))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_may_read_its_upload_and_write_into_its_folder_and_nothing_else() {
        let (source, out) = (PathBuf::from("/data/blobs/ab/cd"), PathBuf::from("/data/cache/jobs/0"));
        let compile = Job::Compile { source: source.clone(), out: out.clone(), snapshot: true };
        let (encoding, limits) = (Encoding::Onnx, ModelLimits::default());
        let model = |engine| {
            let (source, out, limits) = (source.clone(), out.clone(), limits.clone());
            Job::Model { engine, source, encoding, samples: Vec::new(), out, limits }
        };
        for job in [compile, model(For::Rten { keep_trial: None })] {
            assert_eq!(job.reads(), std::slice::from_ref(&source));
            assert_eq!(job.writes(), [out.as_path()]);
        }
        let trial = PathBuf::from("/data/cache/jobs/1");
        let keeps = model(For::Rten { keep_trial: Some(trial.clone()) });
        assert_eq!(
            (keeps.reads(), keeps.writes()),
            (vec![source.clone()], vec![out.as_path(), trial.as_path()])
        );
        let (library, version) = ("/data/engines/library".into(), "1".into());
        let reference = trial.join(vesta_nn::TRIAL_FILE);
        let compares = model(For::OnnxRuntime { library, version, reference: Some(reference.clone()) });
        assert_eq!(
            (compares.reads(), compares.writes()),
            (vec![source.clone(), reference], vec![out.as_path()])
        );
    }
}
