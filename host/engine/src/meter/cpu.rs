//! Clocks of CPU time, and which of the process's threads the platform knows as its own.
//!
//! A bill is trustworthy when the kernel agrees with it: the CPU time of the process is what was billed,
//! plus what the platform's own threads used beside that, plus a remainder that nobody accounts for.
//! Threads register themselves; their clocks are read only when a report is asked for.

use super::processes;
use rustix::time::{ClockId, clock_gettime};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vesta_core::usage::CpuTime;

fn clock_ns(id: ClockId) -> u64 {
    let t = clock_gettime(id);
    processes::nanoseconds(t.tv_sec, t.tv_nsec)
}

/// CPU time of the calling thread, in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    clock_ns(ClockId::ThreadCPUTime)
}

/// CPU time of the process with all its threads, those that ended included, in nanoseconds.
pub fn process_cpu_ns() -> u64 {
    clock_ns(ClockId::ProcessCPUTime)
}

thread_local! {
    /// CPU time of this thread that [`metered`] has measured, in nanoseconds.
    static METERED_NS: Cell<u64> = const { Cell::new(0) };
}

/// Does some work and gives the CPU time of this thread that it took, in nanoseconds. What was metered within
/// it is left out: that was counted already, as something else.
pub(crate) fn metered<R>(work: impl FnOnce() -> R) -> (R, u64) {
    let mark = Mark::now();
    let result = work();
    let own_ns = mark.own_ns();
    (result, own_ns)
}

/// Adds the CPU time of a future's polls to `spent`.
pub async fn spending<F: Future>(spent: &CpuTime, work: F) -> F::Output {
    let mut work = pin!(work);
    poll_fn(|cx| {
        let (polled, ns) = metered(|| work.as_mut().poll(cx));
        spent.add(ns);
        polled
    })
    .await
}

/// A moment of this thread's clock, from which on its CPU time is metered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    cpu_ns: u64,
    metered_ns: u64,
}

impl Mark {
    pub fn now() -> Mark {
        Mark { cpu_ns: thread_cpu_ns(), metered_ns: METERED_NS.get() }
    }

    /// CPU time since the mark without what was metered since, in nanoseconds; from now on it counts as
    /// metered. Call it on the thread of the mark.
    pub fn own_ns(self) -> u64 {
        let whole_ns = thread_cpu_ns().saturating_sub(self.cpu_ns);
        let within_ns = METERED_NS.get().saturating_sub(self.metered_ns);
        METERED_NS.set(self.metered_ns + whole_ns);
        whole_ns.saturating_sub(within_ns)
    }

    /// The thread's clock at the mark, in nanoseconds.
    pub fn cpu_ns(self) -> u64 {
        self.cpu_ns
    }
}

/// CPU time that was measured for a bill, whichever thread it ran on.
static BILLED_NS: AtomicU64 = AtomicU64::new(0);

/// Adds to the CPU time that was measured for a bill.
pub fn add_billed(ns: u64) {
    BILLED_NS.fetch_add(ns, Ordering::Relaxed);
}

#[derive(Default)]
struct Threads {
    /// Kind by thread id.
    live: BTreeMap<u32, &'static str>,
    /// CPU time of registered threads that ended.
    ended_ns: BTreeMap<&'static str, u64>,
}

static THREADS: Mutex<Threads> = Mutex::new(Threads { live: BTreeMap::new(), ended_ns: BTreeMap::new() });

fn threads() -> MutexGuard<'static, Threads> {
    // The table is two maps of plain numbers: a panic elsewhere leaves it usable.
    THREADS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tid() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get() as u32
}

/// Registers the calling thread as one of the platform's, of this kind.
pub fn register_thread(kind: &'static str) {
    threads().live.insert(tid(), kind);
}

/// The calling thread is about to end: keeps its CPU time in the sums.
pub fn unregister_thread() {
    let spent = thread_cpu_ns();
    let mut threads = threads();
    if let Some(kind) = threads.live.remove(&tid()) {
        *threads.ended_ns.entry(kind).or_default() += spent;
    }
}

/// Where the process's CPU time went, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuReport {
    /// By the kernel: the host's process, its workers, and the children that prepare uploads.
    pub process_ns: u64,
    /// Measured for bills since the process started.
    pub billed_ns: u64,
    /// By the clocks of the platform's threads, by kind; billed work on them included.
    pub threads_ns: BTreeMap<String, u64>,
}

impl CpuReport {
    /// What the platform's threads used beside billed work.
    pub fn platform_ns(&self) -> u64 {
        self.threads_ns.values().sum::<u64>().saturating_sub(self.billed_ns)
    }
    /// What no known thread accounts for; below 0 where a clock lags behind the process's.
    pub fn unattributed_ns(&self) -> i64 {
        self.process_ns as i64 - self.threads_ns.values().sum::<u64>() as i64
    }
}

/// Threads that libraries start and that can't register: they are known by the beginning of their name.
const LIBRARY_THREADS: [(&str, &str); 2] = [("sqlx-sqlite", "ledger"), (vesta_nn::heap::THREAD, "heap")];

/// Reads all clocks. Costs a file read per thread.
pub fn report() -> CpuReport {
    let (live, ended) = {
        let threads = threads();
        (threads.live.clone(), threads.ended_ns.clone())
    };
    let mut threads_ns: BTreeMap<String, u64> = BTreeMap::new();
    for (kind, ns) in ended {
        *threads_ns.entry(kind.to_string()).or_default() += ns;
    }
    for entry in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|s| s.parse::<u32>().ok()) else { continue };
        let kind = live.get(&id).copied().or_else(|| {
            let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
            LIBRARY_THREADS.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, kind)| *kind)
        });
        let Some(kind) = kind else { continue };
        let spent = std::fs::read_to_string(entry.path().join("schedstat")).unwrap_or_default();
        let ns = spent.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        *threads_ns.entry(kind.to_string()).or_default() += ns;
    }
    // Of the processes what is not billed is the platform's: taking messages, starting, reading weights
    // ahead.
    let processes_ns = processes::all_cpu_ns();
    threads_ns.insert("processes".into(), processes_ns);
    CpuReport {
        process_ns: process_cpu_ns() + processes_ns,
        billed_ns: BILLED_NS.load(Ordering::Relaxed),
        threads_ns,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burn(ns: u64) {
        let start = thread_cpu_ns();
        while thread_cpu_ns() - start < ns {}
    }

    #[test]
    fn what_is_metered_within_something_is_not_metered_twice() {
        let ((inner_ns, innermost_ns), outer_ns) = metered(|| {
            burn(2_000_000);
            let (innermost_ns, inner_ns) = metered(|| {
                burn(3_000_000);
                metered(|| burn(20_000_000)).1
            });
            (inner_ns, innermost_ns)
        });
        assert!((2_000_000..15_000_000).contains(&outer_ns), "{outer_ns}");
        assert!((3_000_000..15_000_000).contains(&inner_ns), "{inner_ns}");
        assert!(innermost_ns >= 20_000_000, "{innermost_ns}");
    }

    #[test]
    fn a_registered_thread_shows_its_cpu_time_also_after_its_end() {
        let burn = || {
            register_thread("test-burner");
            let start = thread_cpu_ns();
            while thread_cpu_ns() - start < 20_000_000 {}
            unregister_thread();
        };
        std::thread::spawn(burn).join().expect("the burner ends");
        assert!(report().threads_ns["test-burner"] >= 20_000_000);
    }
}
