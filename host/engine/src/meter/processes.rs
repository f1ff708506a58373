//! The worker processes: what the kernel knows of each, for the books and for the memory budget.

use rustix::process::Pid;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

static LIVE: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());
/// CPU time of those that have ended.
static ENDED_NS: AtomicU64 = AtomicU64::new(0);

/// CPU clocks start at 0 and never go below it.
pub(super) fn nanoseconds(seconds: i64, nanoseconds: i64) -> u64 {
    seconds as u64 * 1_000_000_000 + nanoseconds as u64
}

fn live() -> MutexGuard<'static, BTreeSet<i32>> {
    // A set of plain numbers: a panic elsewhere leaves it usable.
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A worker process was started.
pub(crate) fn started(pid: Pid) {
    live().insert(pid.as_raw_nonzero().get());
}

/// It has ended, and was not reaped yet: its CPU time, in nanoseconds, stays in the sums.
pub(crate) fn ended(pid: Pid) -> u64 {
    let mut live = live();
    let whole_ns = cpu_ns(pid);
    if live.remove(&pid.as_raw_nonzero().get()) {
        ENDED_NS.fetch_add(whole_ns, Relaxed);
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

/// CPU time of all worker processes since the host started, in nanoseconds.
pub(super) fn all_cpu_ns() -> u64 {
    let live = live();
    let now: u64 = live.iter().filter_map(|pid| Pid::from_raw(*pid)).map(cpu_ns).sum();
    now + ENDED_NS.load(Relaxed)
}

/// Private memory of all worker processes that is in the machine's, in bytes.
pub fn all_private_bytes() -> u64 {
    let pids: Vec<i32> = live().iter().copied().collect();
    pids.into_iter().filter_map(Pid::from_raw).filter_map(private_memory).map(|m| m.resident).sum()
}

/// How many there are.
pub fn count() -> usize {
    live().len()
}
