//! A worker's process: started, watched, ended.

use crate::meter::processes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open,
    pidfd_send_signal, prlimit, waitid,
};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Longest last words of a worker, in bytes: its standard error is a file in memory of that size. The message
/// of a failed allocation fits.
const COMPLAINT_BYTES: u64 = 4 << 10;

/// What a worker is started with.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub path: PathBuf,
    /// The hidden command that calls [`vesta_nn::worker::main`].
    pub argument: &'static str,
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

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exit {
    pub signal: Option<i32>,
    pub code: Option<i32>,
    /// What it wrote to its standard error.
    pub complaint: String,
}

impl Process {
    /// Starts a spare. It ends with the calling thread.
    pub fn start(program: &Program) -> io::Result<Process> {
        let (control, theirs) = packets()?;
        let complaint = vesta_nn::worker::memory::sealed("vesta-stderr", COMPLAINT_BYTES)?;
        let mut child = Command::new(&program.path)
            .arg0("vesta")
            .args([program.argument, &std::process::id().to_string()])
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::from(complaint.try_clone()?))
            .spawn()?;
        // A positive number: it is the id of a process.
        let pid = Pid::from_raw(child.id() as i32).ok_or_else(|| io::Error::other("no process id"))?;
        // Nobody else reaps it, so the id is still its own.
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(e.into());
            }
        };
        processes::started(pid);
        Ok(Process { pid, pidfd, control, complaint, whole_cpu_ns: 0, reaped: false })
    }

    pub fn is_alive(&self) -> bool {
        let mut fd = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut fd, Some(&now)), Ok(0))
    }

    /// Has the kernel refuse it more than so many bytes beyond what it has now: its next allocation fails
    /// then, which ends it.
    pub fn limit_memory(&self, more: u64) -> io::Result<()> {
        let now = processes::private_memory(self.pid).map_or(0, |m| m.mapped);
        let most = Some(now.saturating_add(more));
        prlimit(Some(self.pid), Resource::Data, Rlimit { current: most, maximum: most })?;
        Ok(())
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

impl Drop for Process {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            // A process that was killed ends within the kernel's own time.
            let _ = self.wait();
        }
    }
}

/// A pair of connected sockets that keep messages apart.
pub(super) fn packets() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// A descriptor for whose input Tokio waits. Within a Tokio runtime.
pub(super) fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by what it is registered with, and so open for as long.
    #[allow(unsafe_code)]
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
