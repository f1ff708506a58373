//! The process's heap: one for a host, not one for each thread that ever ran.

/// Bounds the number of arenas among which the C library's allocator spreads threads; call it before there are any.
///
/// By default there are eight for each core, and a thread that is new takes a new one. What a cold start or a model's
/// run freed there stays with it, untouched by the next one on another thread: memory that grows with the number
/// of threads, and pages that are touched for the first time over and over. With an arena for each core, and the
/// main one, they are shared and reused.
pub fn share_arenas() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let arenas = i32::try_from(cores + 1).unwrap_or(i32::MAX);
        // SAFETY: mallopt takes two plain integers and changes a setting of the allocator, which it may at any time.
        #[allow(unsafe_code)]
        let done = unsafe { libc::mallopt(libc::M_ARENA_MAX, arenas) };
        if done != 1 {
            tracing::warn!("the allocator's arenas could not be bounded");
        }
    }
}
