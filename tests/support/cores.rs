//! Which core a thread may use: client and server on different ones, so that neither takes the other's time.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// Runs `work` with this thread bound to the core of one side. The threads and processes that `work` starts
/// inherit the core; this thread has its cores back afterwards. Where there is one core, both sides share it.
pub fn on<T>(side: Side, work: impl FnOnce() -> T) -> T {
    let before = sched_getaffinity(None).expect("the cores of this thread");
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| before.is_set(*core));
    let core = match side {
        Side::Client => cores.next(),
        Side::Server => cores.next_back(),
    };
    let mut bound = CpuSet::new();
    bound.set(core.expect("at least one core"));
    let _back = Back(before);
    sched_setaffinity(None, &bound).expect("bind this thread to a core");
    work()
}

/// How many cores this thread may use.
pub fn count() -> usize {
    sched_getaffinity(None).expect("the cores of this thread").count() as usize
}

/// Gives the thread its cores back, also when the work panicked.
struct Back(CpuSet);

impl Drop for Back {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None, &self.0);
    }
}
