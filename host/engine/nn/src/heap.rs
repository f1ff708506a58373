//! How the allocator holds on to memory.
//!
//! A run of a model takes and frees the same few megabytes each time. As it stands, glibc gives the end of
//! its heap back at once, and the next run faults it in anew: 3 % of MiniLM's CPU time (115 to 160 faults a
//! run), and more with larger tensors, each of which is mapped and unmapped by itself. Here the heap keeps
//! what was freed while there is work, and lets go of it when there is none.
//!
//! And it spreads threads among eight arenas for each core, so that what a cold start freed on one thread is
//! of no use to the next on another: memory that grows with the number of threads that ever ran. Here they
//! share an arena for each core, and one more.

use std::time::Duration;

/// How long nothing has to be computed before freed memory is let go.
pub const IDLE: Duration = Duration::from_secs(1);

/// The name of the threads that let go of memory, which end at once.
pub const THREAD: &str = "vesta-heap";

/// From now on freed memory is kept for what comes next, on whichever thread. To be called before there are
/// threads: an arena that there is already stays.
pub fn keep() {
    #[cfg(target_env = "gnu")]
    glibc::keep(glibc::arenas(), glibc::TRIM_BYTES);
}

/// The same for a process that serves one model: all threads share one arena, the end of the data segment,
/// and all that the largest run needs is kept. Any other arena is made of pieces of 64 MiB, and a piece that
/// is free as a whole is unmapped at once, whatever is to be kept: a model of images of 640 x 640 faulted in
/// 18 MB at each run, a sixth of its CPU time.
pub fn keep_in_one() {
    #[cfg(target_env = "gnu")]
    glibc::keep(1, i32::MAX);
}

/// Gives freed memory back, wherever in the heap it lies. Takes some milliseconds.
pub fn let_go() {
    #[cfg(target_env = "gnu")]
    glibc::let_go();
}

/// Bytes that are allocated at the moment; `None` where the allocator does not tell.
pub fn in_use() -> Option<u64> {
    #[cfg(target_env = "gnu")]
    return Some(glibc::in_use());
    #[cfg(not(target_env = "gnu"))]
    None
}

/// Ends the process as Rust does where memory is refused, for code that is told of it by other means.
pub fn end_out_of_memory() -> ! {
    eprintln!("memory allocation of unknown size failed");
    std::process::abort()
}

#[cfg(target_env = "gnu")]
mod glibc {
    use super::THREAD;
    use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
    use std::sync::{Mutex, PoisonError, mpsc};
    use std::thread;

    /// Freed memory at the end of an arena is given back from this size on, in bytes, while there is work.
    pub const TRIM_BYTES: i32 = 64 << 20;
    /// Larger blocks are mapped by themselves, in bytes: the most that glibc takes.
    const MAPPED_BYTES: i32 = 32 << 20;
    /// What is freed of this size or more, in bytes, makes glibc look at the end of its arena: twice
    /// `FASTBIN_CONSOLIDATION_THRESHOLD`.
    const LARGE_BYTES: usize = 128 << 10;

    pub fn arenas() -> usize {
        thread::available_parallelism().map_or(2, |cores| cores.get() + 1)
    }

    fn set(option: i32, value: i32) {
        // SAFETY: sets a number of the allocator, under its own lock.
        #[allow(unsafe_code)]
        unsafe {
            libc::mallopt(option, value);
        }
    }

    pub fn in_use() -> u64 {
        // SAFETY: reads numbers of the allocator, under its own locks.
        #[allow(unsafe_code)]
        let numbers = unsafe { libc::mallinfo2() };
        numbers.uordblks.saturating_add(numbers.hblkhd) as u64
    }

    /// The size from which the end of an arena is given back, as it was set.
    static TRIM: AtomicI32 = AtomicI32::new(TRIM_BYTES);

    pub fn keep(arenas: usize, trim_bytes: i32) {
        TRIM.store(trim_bytes, Relaxed);
        set(libc::M_ARENA_MAX, i32::try_from(arenas).unwrap_or(i32::MAX));
        set(libc::M_TRIM_THRESHOLD, trim_bytes);
        set(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
    }

    pub fn let_go() {
        let_go_of_ends();
        // SAFETY: has no requirement; the allocator takes its own locks.
        #[allow(unsafe_code)]
        unsafe {
            libc::malloc_trim(0);
        }
    }

    /// Of the arenas' free ends `malloc_trim` gives back only the first's. The others' are given back when
    /// one of their threads frees something large: here by threads that all live at once. glibc gives threads
    /// that begin first the arenas that no thread has, and then all of them in turn; of twice as many threads
    /// as arenas, so, each arena gets one.
    fn let_go_of_ends() {
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let together = Mutex::new(());
        let free_something_large = |begun: mpsc::Sender<()>| {
            let large = std::hint::black_box(Vec::<u8>::with_capacity(LARGE_BYTES));
            let _ = begun.send(());
            drop(begun);
            drop(together.lock());
            drop(large);
        };
        set(libc::M_TRIM_THRESHOLD, 0);
        thread::scope(|scope| {
            let none_ends = together.lock();
            let (begun, beginnings) = mpsc::channel();
            for _ in 0..2 * arenas() {
                let begun = begun.clone();
                // Where there is no thread, an arena may keep what it has until the next time.
                let _ = thread::Builder::new()
                    .name(THREAD.into())
                    .stack_size(64 << 10)
                    .spawn_scoped(scope, || free_something_large(begun));
            }
            drop(begun);
            beginnings.iter().for_each(drop);
            drop(none_ends);
        });
        set(libc::M_TRIM_THRESHOLD, TRIM.load(Relaxed));
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use std::process::Command;
    use std::sync::Barrier;
    use std::thread;

    const NAME: &str = "heap::tests::what_was_freed_is_kept_until_it_is_let_go";
    const CHILD: &str = "VESTA_TEST_HEAP_CHILD";
    const MIB: usize = 1 << 20;
    const EACH: usize = 24 * MIB;

    fn private_bytes() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").expect("status");
        let kib = status.lines().find_map(|l| l.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.parse::<usize>().ok()).expect("RssAnon") << 10
    }

    /// In a process of its own: it sets the allocator, and counts what the process holds.
    #[test]
    fn what_was_freed_is_kept_until_it_is_let_go() {
        if std::env::var_os(CHILD).is_none() {
            let mut child = Command::new(std::env::current_exe().expect("this program"));
            let status = child.args([NAME, "--exact", "--nocapture"]).env(CHILD, "1").status();
            assert!(status.expect("runs").success());
            return;
        }
        super::keep();
        let before = private_bytes();
        let threads = thread::available_parallelism().map_or(2, usize::from) + 1;
        let all = Barrier::new(threads);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let blocks: Vec<_> = (0..EACH / MIB).map(|_| vec![1u8; MIB]).collect();
                    all.wait();
                    drop(blocks);
                });
            }
        });
        let kept = private_bytes() - before;
        super::let_go();
        let left = private_bytes().saturating_sub(before);
        println!(
            "of {} MiB freed {} were kept, and {} after letting go",
            threads * EACH / MIB,
            kept / MIB,
            left / MIB
        );
        assert!(kept > threads * EACH / 2, "{kept}");
        // Each arena keeps a little at its end (`M_TOP_PAD`, 128 KiB).
        assert!(left < EACH / 4 + threads * (MIB / 4), "{left}");
    }
}
