//! The processes that the host starts: what the kernel knows of each, for the books and for the memory
//! budget.

use rustix::process::Pid;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

static LIVE: Mutex<BTreeMap<i32, Role>> = Mutex::new(BTreeMap::new());
/// CPU time of those that have ended.
static ENDED_NS: AtomicU64 = AtomicU64::new(0);

/// What a process is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Prepares an upload, under limits of its own.
    Prepare,
    ForkServer,
    Worker {
        /// Of the memory that no file backs it shares so many bytes with the fork server for good.
        shared_bytes: u64,
        /// So many bytes are on the host's books with its model.
        counted_bytes: u64,
    },
}

/// CPU clocks start at 0 and never go below it.
pub(super) fn nanoseconds(seconds: i64, nanoseconds: i64) -> u64 {
    seconds as u64 * 1_000_000_000 + nanoseconds as u64
}

fn live() -> MutexGuard<'static, BTreeMap<i32, Role>> {
    // A map of plain numbers: a panic elsewhere leaves it usable.
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process was started.
pub(crate) fn started(pid: Pid, role: Role) {
    live().insert(pid.as_raw_nonzero().get(), role);
}

/// So many bytes of a worker are on the host's books from now on.
pub(crate) fn counts(pid: Pid, bytes: u64) {
    if let Some(Role::Worker { counted_bytes, .. }) = live().get_mut(&pid.as_raw_nonzero().get()) {
        *counted_bytes = bytes;
    }
}

/// CPU time of a process that was never among them, in nanoseconds.
pub(crate) fn used(cpu_ns: u64) {
    ENDED_NS.fetch_add(cpu_ns, Relaxed);
}

/// It has ended, and was not reaped yet: its CPU time, in nanoseconds, stays in the sums.
pub(crate) fn ended(pid: Pid) -> u64 {
    let mut live = live();
    let whole_ns = cpu_ns(pid);
    let role = live.remove(&pid.as_raw_nonzero().get());
    if role.is_some() {
        ENDED_NS.fetch_add(whole_ns, Relaxed);
    }
    if role == Some(Role::ForkServer) {
        // What its workers shared with it is theirs now.
        for role in live.values_mut() {
            if let Role::Worker { shared_bytes, .. } = role {
                *shared_bytes = 0;
            }
        }
    }
    whole_ns
}

/// Which of a process's clocks: the scheduler's, in the kernel's own numbers.
const CPUCLOCK_SCHED: libc::clockid_t = 2;

/// CPU time of a process so far, in nanoseconds; 0 where there is none. What its threads have used since
/// their last tick or switch (some milliseconds at most) may be missing.
pub(crate) fn cpu_ns(pid: Pid) -> u64 {
    // As clock_getcpuclockid makes it, which asks the kernel whether there is such a process.
    let clock: libc::clockid_t = (!pid.as_raw_nonzero().get() << 3) | CPUCLOCK_SCHED;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to the place that it is given, which is of the type that it wants.
    #[allow(unsafe_code)]
    let read = unsafe { libc::clock_gettime(clock, &raw mut time) == 0 };
    if read { nanoseconds(time.tv_sec, time.tv_nsec) } else { 0 }
}

/// CPU time of one thread of a process so far, in nanoseconds, as exact as [`cpu_ns`].
pub(crate) fn thread_cpu_ns(pid: Pid, tid: u32) -> Option<u64> {
    let stat =
        std::fs::read_to_string(format!("/proc/{}/task/{tid}/schedstat", pid.as_raw_nonzero())).ok()?;
    stat.split(' ').next()?.parse().ok()
}

/// Memory of a process that no file backs, and what it has asked for of that, in bytes.
pub(crate) struct PrivateMemory {
    pub resident: u64,
    pub mapped: u64,
}

pub(crate) fn private_memory(pid: Pid) -> Option<PrivateMemory> {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", pid.as_raw_nonzero())).ok()?;
    let pages: Vec<u64> = statm.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let &[_, resident, shared, _, _, data, ..] = pages.as_slice() else { return None };
    let page = rustix::param::page_size() as u64;
    Some(PrivateMemory { resident: resident.saturating_sub(shared) * page, mapped: data * page })
}

/// CPU time of all processes since the host started, in nanoseconds.
pub(super) fn all_cpu_ns() -> u64 {
    let live = live();
    let now: u64 = live.keys().filter_map(|pid| Pid::from_raw(*pid)).map(cpu_ns).sum();
    now + ENDED_NS.load(Relaxed)
}

/// Private memory of all processes that is in the machine's and not on the host's books, in bytes.
pub fn uncounted_bytes() -> u64 {
    let all: Vec<(i32, Role)> = live().iter().map(|(pid, role)| (*pid, *role)).collect();
    let uncounted = |(pid, role): (i32, Role)| {
        let resident = private_memory(Pid::from_raw(pid)?)?.resident;
        Some(match role {
            Role::Prepare => 0,
            Role::ForkServer => resident,
            Role::Worker { shared_bytes, counted_bytes } => {
                resident.saturating_sub(shared_bytes).saturating_sub(counted_bytes)
            }
        })
    };
    all.into_iter().filter_map(uncounted).sum()
}

/// A descriptor for whose input Tokio waits. Within a Tokio runtime.
pub(crate) fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by what it is registered with, and so open for as long.
    #[allow(unsafe_code)]
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// How many workers there are.
pub fn workers() -> usize {
    live().values().filter(|role| matches!(role, Role::Worker { .. })).count()
}
