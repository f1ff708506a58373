//! How the allocator holds on to memory.
//!
//! A run of a model takes and frees the same few megabytes each time. As it stands, glibc gives the end of its heap back at once, and the
//! next run faults it in anew: 3 % of MiniLM's CPU time (115 to 160 faults a run), and more with larger tensors, each of which is mapped and
//! unmapped by itself. Here the heap keeps what was freed while there is work, and lets go of it when there is none.
//!
//! And it spreads threads among eight arenas for each core, so that what a cold start freed on one thread is of no use to the next on another:
//! memory that grows with the number of threads that ever ran. Here they share an arena for each core.

use std::time::Duration;

/// How long nothing has to be computed before freed memory is let go.
pub(crate) const IDLE: Duration = Duration::from_secs(1);

/// Freed memory at the end of a heap is given back from this size on, in bytes.
#[cfg(target_env = "gnu")]
const TRIM_BYTES: i32 = 64 << 20;
/// Larger blocks are mapped by themselves, in bytes: the most that glibc takes.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES: i32 = 32 << 20;

/// From now on freed memory is kept for what comes next, on whichever thread.
pub(crate) fn keep() {
    #[cfg(target_env = "gnu")]
    let arenas = std::thread::available_parallelism().map_or(2, |cores| cores.get() + 1);
    #[cfg(target_env = "gnu")]
    // SAFETY: sets three numbers of the allocator, under its own lock.
    #[allow(unsafe_code)]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, i32::try_from(arenas).unwrap_or(i32::MAX));
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_BYTES);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
    }
}

/// Gives freed memory back, wherever in the heap it lies. Takes some milliseconds.
pub fn let_go() {
    #[cfg(target_env = "gnu")]
    // SAFETY: has no requirement; the allocator takes its own locks.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}
