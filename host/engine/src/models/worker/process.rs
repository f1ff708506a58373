//! A worker's process: started, watched, ended.

use crate::meter::processes::{self, Role};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open,
    pidfd_send_signal, prlimit, waitid,
};
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;
use vesta_nn::worker::fork_server::{Forked, Order};
use vesta_nn::worker::wire;

/// Longest last words of a worker, in bytes: its standard error is a file in memory of that size. The message
/// of a failed allocation fits.
const COMPLAINT_BYTES: u64 = 4 << 10;

/// How long the fork server may take for an answer, and for the first one where it reads a library before.
const FORK_MAX: Duration = Duration::from_secs(1);
const OPEN_MAX: Duration = Duration::from_secs(10);

/// What workers are forked from.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub path: PathBuf,
    /// The hidden command that calls [`vesta_nn::worker::main`].
    pub argument: &'static str,
    /// The library of ONNX Runtime, for workers that serve models by it.
    pub library: Option<PathBuf>,
}

/// A process that was started and not reaped yet. Dropping it ends it.
pub(crate) struct Process {
    pub pid: Pid,
    /// Readable once it has ended.
    pub pidfd: OwnedFd,
    pub control: OwnedFd,
    complaint: OwnedFd,
    /// CPU time, in nanoseconds; 0 before its end.
    pub whole_cpu_ns: u64,
    reaped: bool,
}

/// The process that workers are forked from. Its end is nothing to them.
pub(crate) struct ForkServer {
    process: Process,
    /// How long its next answer may take.
    answer_max: Duration,
}

impl ForkServer {
    /// Starts it. It ends with the calling thread; what it forks ends with the host.
    pub fn start(program: &Program) -> io::Result<ForkServer> {
        // Of the whole process, and for good: the parent of its orphans' orphans.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let answer_max = if program.library.is_some() { OPEN_MAX } else { FORK_MAX };
        Ok(ForkServer { process: Process::execute(program)?, answer_max })
    }

    /// Forks a spare. What one that ends meanwhile had begun to fork ends by itself, and is reaped with the
    /// host.
    pub fn fork(&mut self) -> Result<Process, ForkError> {
        match self.ask() {
            Ok(forked) => forked.map_err(ForkError::Refused),
            Err(e) if is_gone(&e) => {
                // It has closed its socket, and so has ended, or should.
                self.process.kill();
                let exit = self.process.wait().map_err(ForkError::Gone)?;
                let text = format!("the process that workers are forked from has ended: {exit}");
                Err(ForkError::Gone(io::Error::other(text)))
            }
            Err(e) => Err(ForkError::Gone(e)),
        }
    }

    /// The inner error is the fork server's answer.
    fn ask(&mut self) -> io::Result<io::Result<Process>> {
        let socket = self.process.control.as_fd();
        let (control, theirs) = packets()?;
        let complaint = complaint()?;
        wire::send(socket, &Order::Fork, &[theirs.as_fd(), complaint.as_fd()])?;
        drop(theirs);
        if !has_input(socket, self.answer_max)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.answer_max = FORK_MAX;
        let mut buffer = vec![0; wire::MESSAGE_BYTES_MAX];
        match wire::receive::<Forked>(socket, &mut buffer, RecvFlags::empty())?.0 {
            Forked::Worker { pid, cpu_ns, shared_bytes } => {
                processes::used(cpu_ns);
                let role = Role::Worker { shared_bytes, counted_bytes: 0 };
                Ok(Process::watched(pid, control, complaint, role))
            }
            Forked::Failed { reason } => Ok(Err(io::Error::other(reason))),
        }
    }
}

/// Why there is no spare.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForkError {
    /// The fork server goes on.
    #[error(transparent)]
    Refused(io::Error),
    /// Another one is needed.
    #[error(transparent)]
    Gone(io::Error),
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exit {
    pub signal: Option<i32>,
    pub code: Option<i32>,
    /// What it wrote to its standard error.
    pub complaint: String,
}

impl Process {
    /// Executes a program that ends with the calling thread.
    pub fn execute(program: &Program) -> io::Result<Process> {
        let (control, theirs) = packets()?;
        let complaint = complaint()?;
        let child = Command::new(&program.path)
            .arg0("vesta")
            .args([program.argument, &std::process::id().to_string()])
            .args(
                program
                    .library
                    .iter()
                    .flat_map(|library| [OsStr::new("--onnx-runtime"), library.as_os_str()]),
            )
            .env_clear()
            .envs([vesta_nn::ENVIRONMENT, vesta_nn::ONNX_RUNTIME_ENVIRONMENT])
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::from(complaint.try_clone()?))
            .spawn()?;
        Process::watched(child.id(), control, complaint, Role::ForkServer)
    }

    /// A child that nobody else reaps, so that the id is its own.
    fn watched(pid: u32, control: OwnedFd, complaint: OwnedFd, role: Role) -> io::Result<Process> {
        let pid = Pid::from_raw(pid.cast_signed()).ok_or_else(|| io::Error::other("no process id"))?;
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(e) => {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
                return Err(e.into());
            }
        };
        processes::started(pid, role);
        Ok(Process { pid, pidfd, control, complaint, whole_cpu_ns: 0, reaped: false })
    }

    pub fn is_alive(&self) -> bool {
        matches!(has_input(self.pidfd.as_fd(), Duration::ZERO), Ok(false))
    }

    /// Has the kernel refuse it more than so many bytes beyond what it has now, and more than `most` in all:
    /// its next allocation fails then, which ends it. Gives the limit, in bytes.
    pub fn limit_memory(&self, more: u64, most: u64) -> io::Result<u64> {
        let now = processes::private_memory(self.pid).map_or(0, |m| m.mapped);
        let limit = now.saturating_add(more).min(most);
        prlimit(Some(self.pid), Resource::Data, Rlimit { current: Some(limit), maximum: Some(limit) })?;
        Ok(limit)
    }

    /// Has the kernel refuse it more than so many descriptors.
    pub fn limit_descriptors(&self, most: u64) -> io::Result<()> {
        prlimit(Some(self.pid), Resource::Nofile, Rlimit { current: Some(most), maximum: Some(most) })?;
        Ok(())
    }

    /// Ends it at once, whatever it does; also one that is stopped.
    pub fn kill(&self) {
        // It may have ended meanwhile.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Waits for its end. Its CPU time stays in the books.
    pub fn wait(&mut self) -> io::Result<Exit> {
        // Looked at, and not reaped: its clock has to be read first.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(self.pidfd.as_fd()), look))?;
        self.whole_cpu_ns = processes::ended(self.pid);
        let status = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED)?;
        self.reaped = true;
        let mut text = vec![0; COMPLAINT_BYTES as usize];
        let read = rustix::io::pread(&self.complaint, &mut text, 0).unwrap_or(0);
        text.truncate(read);
        let text = String::from_utf8_lossy(&text);
        Ok(Exit {
            signal: status.as_ref().and_then(WaitIdStatus::terminating_signal),
            code: status.as_ref().and_then(WaitIdStatus::exit_status),
            complaint: text.trim_matches('\0').trim().to_owned(),
        })
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.signal, self.code) {
            (Some(signal), _) => write!(f, "signal {signal}")?,
            (None, code) => write!(f, "exit code {}", code.unwrap_or(-1))?,
        }
        if self.complaint.is_empty() { Ok(()) } else { write!(f, ", {}", self.complaint) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            // A process that was killed ends within the kernel's own time.
            let _ = self.wait();
        }
    }
}

/// The file in memory for last words.
fn complaint() -> io::Result<OwnedFd> {
    vesta_nn::worker::memory::sealed("vesta-stderr", COMPLAINT_BYTES)
}

/// A pair of connected sockets that keep messages apart.
pub(super) fn packets() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Waits for input, or for the other side's end.
pub(super) fn has_input(fd: BorrowedFd<'_>, most: Duration) -> io::Result<bool> {
    let mut fd = [PollFd::new(&fd, PollFlags::IN)];
    let most = Timespec { tv_sec: most.as_secs().cast_signed(), tv_nsec: most.subsec_nanos().into() };
    Ok(rustix::io::retry_on_intr(|| poll(&mut fd, Some(&most)))? > 0)
}

/// Whether an error means that a socket's other side is gone.
pub(super) fn is_gone(e: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(e.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}
