//! The process that workers are forked from.
//!
//! It executes the program once, so that no worker has to: a fork takes a fraction of the time, and all share
//! the pages that the dynamic linker wrote. It has one thread, never sees a model, and takes nothing but the
//! host's requests, from its standard input.
//!
//! ```text
//!   host           fork server         one in between         worker
//!     │ Fork ──────────▶│ fork ───────────────▶│ fork ──────────────▶│ waits
//!     │                 │ ◀──────── its id ────│ ends                │
//!     │ ◀───── Forked ──│ (has reaped it: now the worker is the host's child)
//!     │                 │ goes on ───────────────────────────────────▶│ confines itself
//! ```
//!
//! The host reaps orphans among its descendants (`PR_SET_CHILD_SUBREAPER`), so that a worker is its child as
//! if it had started it: it reads its clock, sees its end, and takes it along when it ends itself. The end of
//! the fork server is nothing to the workers.

use super::wire;
use crate::confine;
use rustix::net::RecvFlags;
use serde::{Deserialize, Serialize};
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Host to fork server.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Descriptors: what the worker has as its standard input, which is its control socket, and as its
    /// standard error.
    Fork,
}

/// Fork server to host.
#[derive(Debug, Serialize, Deserialize)]
pub enum Forked {
    Worker {
        pid: u32,
        /// CPU time of the process in between, in nanoseconds.
        cpu_ns: u64,
        /// Memory in bytes that looks like the worker's own, and that it shares with the fork server for
        /// good.
        shared_bytes: u64,
    },
    /// There was no process to be had.
    Failed { reason: String },
}

/// Serves the host, whose process is `parent`, until it closes the socket. In each worker it calls `worker`.
/// Returns the exit code of its process.
pub fn serve(parent: u32, worker: impl FnOnce() -> u8) -> u8 {
    let _ = rustix::thread::set_name(c"vesta-forks");
    if let Err(e) = confine::end_with(parent) {
        eprintln!("{e}");
        return 3;
    }
    match forks() {
        Ok(()) => {
            // What `ps` and `top` show.
            let _ = rustix::thread::set_name(c"vesta-inference");
            worker()
        }
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => 0,
        Err(_) => 2,
    }
}

/// Forks as often as the host asks for it. Returns in the worker only, or with an error in the fork server.
fn forks() -> io::Result<()> {
    let (requests, shared_bytes) = (io::stdin(), relocated_bytes());
    let mut buffer = vec![0; wire::MESSAGE_BYTES_MAX];
    loop {
        let (Order::Fork, descriptors) = wire::receive(requests.as_fd(), &mut buffer, RecvFlags::empty())?;
        let Ok([control, complaint]) = <[OwnedFd; 2]>::try_from(descriptors) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let answer = match fork_for_the_parent() {
            Ok(None) => return take(&control, &complaint),
            Ok(Some((pid, cpu_ns))) => Forked::Worker { pid, cpu_ns, shared_bytes },
            Err(e) => Forked::Failed { reason: e.to_string() },
        };
        wire::send(requests.as_fd(), &answer, &[])?;
    }
}

/// The worker's standard input and error are its own; with the former it loses the fork server's socket.
fn take(control: &OwnedFd, complaint: &OwnedFd) -> io::Result<()> {
    for (from, to) in [(control, 0), (complaint, 2)] {
        // SAFETY: both are numbers of descriptors. Those that are replaced are open for the whole life of a
        // process, and are here still.
        #[allow(unsafe_code)]
        if unsafe { libc::dup2(from.as_raw_fd(), to) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Forks a process whose parent is this one's parent; gives its id, and the CPU time in nanoseconds of the
/// process that was in between. `None` in the new process.
fn fork_for_the_parent() -> io::Result<Option<(u32, u64)>> {
    let (mut id, mut say_id) = io::pipe()?;
    let (go, hold) = io::pipe()?;
    match fork()? {
        0 => match fork() {
            Ok(0) => {
                drop((id, say_id, hold));
                wait_for_the_end_of(go);
                Ok(None)
            }
            Ok(pid) => exit(say_id.write_all(&pid.to_ne_bytes())),
            Err(e) => exit(Err(e)),
        },
        between => {
            drop((say_id, go));
            let ended = reap(between)?;
            drop(hold);
            let mut pid = [0; 4];
            match id.read_exact(&mut pid) {
                Ok(()) => Ok(Some((u32::from_ne_bytes(pid), ended.cpu_ns))),
                Err(_) => Err(io::Error::from_raw_os_error(ended.code)),
            }
        }
    }
}

fn wait_for_the_end_of(mut pipe: PipeReader) {
    // Nobody writes to it: it ends with its other side.
    let _ = pipe.read(&mut [0]);
}

/// Ends this process with the number of an error, or 0.
fn exit(result: io::Result<()>) -> ! {
    let code = result.map_or_else(|e| e.raw_os_error().unwrap_or(1), |()| 0);
    // SAFETY: has no requirement. Nothing is left to be flushed in a process that was forked for a moment.
    #[allow(unsafe_code)]
    unsafe {
        libc::_exit(code)
    }
}

/// The id of the new process; 0 in it.
fn fork() -> io::Result<u32> {
    // SAFETY: this process has one thread, so that the new one is a whole copy of it.
    #[allow(unsafe_code)]
    let pid = unsafe { libc::fork() };
    u32::try_from(pid).map_err(|_| io::Error::last_os_error())
}

struct Ended {
    code: i32,
    cpu_ns: u64,
}

/// Waits for the end of a child.
fn reap(pid: u32) -> io::Result<Ended> {
    let mut status = 0;
    // SAFETY: a `rusage` is plain numbers.
    #[allow(unsafe_code)]
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: the call writes to the two places that it is given.
        #[allow(unsafe_code)]
        if unsafe { libc::wait4(pid.cast_signed(), &raw mut status, 0, &raw mut usage) } != -1 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let ns = |time: libc::timeval| (time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64) * 1_000;
    let code = if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { libc::EINTR };
    Ok(Ended { code, cpu_ns: ns(usage.ru_utime) + ns(usage.ru_stime) })
}

/// Memory in bytes of this program and its libraries to which the dynamic linker writes at the start, and
/// nobody after it: it is read-only from then on (`PT_GNU_RELRO`).
fn relocated_bytes() -> u64 {
    extern "C" fn add(info: *mut libc::dl_phdr_info, _: libc::size_t, sum: *mut libc::c_void) -> i32 {
        // SAFETY: the linker gives a description of one object, whose headers stay as long as it is loaded;
        // `sum` is the address below.
        #[allow(unsafe_code)]
        unsafe {
            let info = &*info;
            let headers = std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum));
            let relocated = headers.iter().filter(|header| header.p_type == libc::PT_GNU_RELRO);
            *sum.cast::<u64>() += relocated.map(|header| header.p_memsz).sum::<u64>();
        }
        0
    }
    let mut sum = 0u64;
    // SAFETY: `add` has the type that is wanted, and is called before this returns.
    #[allow(unsafe_code)]
    unsafe {
        libc::dl_iterate_phdr(Some(add), (&raw mut sum).cast());
    }
    let page = rustix::param::page_size() as u64;
    sum / page * page
}
