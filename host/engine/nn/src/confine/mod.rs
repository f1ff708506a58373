//! A process gives up what it does not need, before it reads a byte that nobody vouches for.
//!
//! There are two layers. Landlock limits which files, ports and processes the process can reach. A seccomp
//! filter limits which system calls it can make, and refuses all others with `EPERM`. Neither can be undone.
//! A process that is confined keeps the descriptors that it was given.

mod filter;
mod landlock;

#[cfg(test)]
pub(crate) use self::landlock::{missing as landlock_missing, restrict};
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use std::io;
use std::path::{Path, PathBuf};

/// What a process keeps.
#[derive(Debug, Clone, Copy)]
pub struct Confinement<'a> {
    pub profile: Profile,
    /// Files that it may read. They must exist.
    pub read: &'a [&'a Path],
    /// Folders in which it may create, read and write files; not in folders below them. They must exist.
    pub write: &'a [&'a Path],
    /// The process that started this one. When the *thread* that started it ends, this process is killed, so
    /// name it only if that thread lives as long as its process.
    pub parent: Option<u32>,
}

/// Which system calls a process keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Runs models: memory without executable pages, threads, clocks, and the descriptors that it was given.
    /// It can open no file, so it needs neither `read` nor `write`. Its sockets should be of a kind that is
    /// connected for good (a stream or a sequence of packets): the filter cannot see an address inside of
    /// `sendmsg`.
    Worker,
    /// Compiles components and prepares models: as [`Worker`](Profile::Worker), and executable memory and
    /// opening files.
    Prepare,
}

/// A defence that the running kernel does not offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// All of Landlock: the process may open whatever its user may.
    Landlock,
    /// Landlock does not see truncation.
    Truncate,
    /// Landlock does not see TCP.
    Tcp,
    /// Landlock does not see commands to devices.
    DeviceCommands,
    /// Landlock does not see signals and abstract Unix sockets.
    Scopes,
    /// System call filters. [`confine`] fails without them.
    Seccomp,
}

impl Missing {
    /// The defence.
    pub fn defence(self) -> &'static str {
        match self {
            Missing::Landlock => "Landlock: which files a process may open",
            Missing::Truncate => "Landlock: which files a process may truncate",
            Missing::Tcp => "Landlock: TCP connections",
            Missing::DeviceCommands => "Landlock: commands to devices (ioctl)",
            Missing::Scopes => "Landlock: signals and abstract Unix sockets",
            Missing::Seccomp => "seccomp: which system calls a process may make",
        }
    }

    /// The kernel that offers it.
    pub fn since(self) -> &'static str {
        match self {
            Missing::Landlock => "Linux 5.13, with \"landlock\" in its parameter lsm=",
            Missing::Truncate => "Linux 6.2",
            Missing::Tcp => "Linux 6.7",
            Missing::DeviceCommands => "Linux 6.10",
            Missing::Scopes => "Linux 6.12",
            Missing::Seccomp => "Linux 3.17, with CONFIG_SECCOMP_FILTER",
        }
    }
}

/// Why a process could not be confined. It may be confined in part; it should end.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    #[error("the process has {0} threads; it can be confined only while it has one")]
    Threads(usize),
    #[error("the process that started this one has ended")]
    ParentGone,
    #[error("{path}: {source}", path = path.display())]
    Path { path: PathBuf, source: io::Error },
    #[error("{step}: {source}")]
    Step { step: &'static str, source: io::Error },
    #[error("Landlock: {0}")]
    Landlock(#[from] ::landlock::RulesetError),
    #[error("seccomp: {0}")]
    Seccomp(#[from] seccompiler::Error),
}

/// Confines the calling process for the rest of its life. Returns what the kernel does not offer; the rest is
/// in force.
///
/// Call it while the process has one thread: Landlock holds for the calling thread and those that it starts.
///
/// The process can no longer be traced or dumped, and most of its files in `/proc` belong to root. Its parent
/// can still read
/// `stat`, `statm`, `status` and `schedstat` there, unless `/proc` is mounted with `hidepid`.
///
/// # Errors
/// See [`ConfineError`].
pub fn confine(confinement: &Confinement<'_>) -> Result<Vec<Missing>, ConfineError> {
    let threads = std::fs::read_dir("/proc/self/task").map_err(step("count the threads"))?.count();
    if threads != 1 {
        return Err(ConfineError::Threads(threads));
    }
    confine_with(confinement, landlock::restrict)
}

/// What the running kernel does not offer of what [`confine`] uses.
pub fn probe() -> Vec<Missing> {
    let mut missing = landlock::probe();
    if !filter::is_available() {
        missing.push(Missing::Seccomp);
    }
    missing
}

/// Keeps the descriptors that are open now, but the standard ones, from all programs that this process
/// starts. A process has inherited descriptors of which it knows nothing, and hands them on otherwise. Linux
/// 5.11.
///
/// # Errors
/// What the kernel says, above all that it does not know this.
pub fn hand_on_no_descriptors() -> io::Result<()> {
    let (first, last) = (3, libc::c_uint::MAX);
    // SAFETY: this sets a flag of descriptors, and closes none.
    #[allow(unsafe_code)]
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The step of Landlock, which tests replace.
type Restrict = fn(&Confinement<'_>) -> Result<Vec<Missing>, ConfineError>;

pub(crate) fn confine_with(c: &Confinement<'_>, restrict: Restrict) -> Result<Vec<Missing>, ConfineError> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none).map_err(step("forbid core dumps"))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(step("forbid tracing"))?;
    if let Some(parent) = c.parent {
        end_with(parent)?;
    }
    rustix::thread::set_no_new_privs(true).map_err(step("forbid new privileges"))?;
    let missing = restrict(c)?;
    filter::install(c.profile)?;
    Ok(missing)
}

/// Has the kernel kill this process when its parent ends.
pub(crate) fn end_with(parent: u32) -> Result<(), ConfineError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(step("end with the parent"))?;
    // A parent that ended before the line above sends no signal; the process has another parent then.
    let now = rustix::process::getppid().map(|pid| pid.as_raw_pid().cast_unsigned());
    if now == Some(parent) { Ok(()) } else { Err(ConfineError::ParentGone) }
}

fn step<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> ConfineError {
    move |source| ConfineError::Step { step, source: source.into() }
}
