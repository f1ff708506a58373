//! The seccomp filter: which system calls a process may make.

use super::{ConfineError, Profile};
use libc::{c_int, c_long};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Is, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
};
use std::collections::BTreeMap;

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

/// Calls that both profiles may make, whatever the arguments.
const ANY: &[c_long] = &[
    // Memory. Mapping has conditions, below.
    libc::SYS_brk,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads of this process, and its own signals.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    // Clocks and random numbers.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    // Descriptors that it has.
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_write,
    libc::SYS_writev,
    // Refused by the filter of `without_clone3`, with another error.
    libc::SYS_clone3,
];

/// Forms of some of these that only older architectures have.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[libc::SYS_dup2, libc::SYS_poll, libc::SYS_time];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[];

/// Calls that [`Profile::Prepare`] may make besides, whatever the arguments: new machine code, the images of
/// a guest's memory, and files, which Landlock limits.
const PREPARE: &[c_long] = &[
    libc::SYS_fsync,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_openat,
];

/// Commands of `fcntl` that [`Profile::Prepare`] has besides.
const PREPARE_FCNTL: [c_int; 1] = [libc::F_ADD_SEALS];

/// Commands of `fcntl`.
const FCNTL: [c_int; 6] =
    [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_GET_SEALS, libc::F_DUPFD_CLOEXEC];

/// The auxiliary vector of this process, as `prctl` names it (Linux 6.4): what the processor offers.
const PR_GET_AUXV: c_int = 0x4155_5856;

/// The time to wait for a socket, with seconds of 64 bits.
const SO_RCVTIMEO_NEW: c_int = 66;

/// Commands of `prctl`.
const PRCTL: [c_int; 3] = [libc::PR_SET_NAME, libc::PR_SET_VMA, PR_GET_AUXV];

/// What a thread has in common with its process.
const THREAD: c_int = libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND;

/// What no new thread may be: in other namespaces, or traced.
const NOT_A_PLAIN_THREAD: c_int = libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS
    | libc::CLONE_PTRACE;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Filters the system calls of all threads of this process.
pub(super) fn install(profile: Profile) -> Result<(), ConfineError> {
    // Of two filters that refuse a call, the later one says with which error. So the one for `clone3` comes
    // first, and the other allows it.
    for filter in [without_clone3()?, allow_list(profile)?] {
        apply_filter_all_threads(&filter)?;
    }
    Ok(())
}

/// Whether the kernel has filters for all threads of a process.
pub(super) fn is_available() -> bool {
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
    // SAFETY: a filter at address 0 cannot be read, so nothing is installed. seccomp(2) names this as the way
    // to ask.
    #[allow(unsafe_code)]
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, std::ptr::null::<libc::sock_fprog>()) };
    result == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

/// Lets `clone3` seem unknown: its flags lie in memory, where a filter cannot see them. The C library then
/// uses `clone`.
fn without_clone3() -> Result<BpfProgram, seccompiler::Error> {
    compile(BTreeMap::from([(libc::SYS_clone3, vec![])]), SeccompAction::Allow, refuse(libc::ENOSYS))
}

fn allow_list(profile: Profile) -> Result<BpfProgram, seccompiler::Error> {
    let calls = |list: &[c_long]| list.iter().map(|call| (*call, vec![])).collect::<Rules>();
    let mut rules = calls(ANY);
    rules.extend(calls(OLDER));
    rules.extend(conditions()?);
    if profile == Profile::Prepare {
        rules.extend(calls(PREPARE));
        rules.entry(libc::SYS_fcntl).or_default().extend(one_of(1, &PREPARE_FCNTL)?);
    }
    compile(rules, refuse(libc::EPERM), SeccompAction::Allow)
}

/// Calls that are allowed with some arguments only.
fn conditions() -> Result<Rules, seccompiler::Error> {
    let no_exec = || dword(2, Is::MaskedEq(libc::PROT_EXEC.cast_unsigned().into()), 0);
    let thread = Is::MaskedEq((THREAD | NOT_A_PLAIN_THREAD).cast_unsigned().into());
    let this_process = std::process::id().cast_signed();
    Ok(Rules::from([
        (libc::SYS_mmap, mappings()?),
        (libc::SYS_mprotect, vec![no_exec()?]),
        // From there on advice is an order to take pages from the machine.
        (libc::SYS_madvise, vec![dword(2, Is::Lt, libc::MADV_HWPOISON)?]),
        (libc::SYS_clone, vec![dword(0, thread, THREAD)?]),
        // How a process aborts.
        (libc::SYS_tgkill, vec![dword(0, Is::Eq, this_process)?]),
        (libc::SYS_fcntl, one_of(1, &FCNTL)?),
        (libc::SYS_prctl, one_of(0, &PRCTL)?),
        // How long a socket is waited for, and nothing else of it.
        (libc::SYS_setsockopt, vec![receive_timeout(libc::SO_RCVTIMEO)?, receive_timeout(SO_RCVTIMEO_NEW)?]),
        // To whom the socket is connected, and to no address.
        (libc::SYS_sendto, vec![rule(4, Width::Qword, Is::Eq, 0)?]),
    ]))
}

/// One of these values is the argument.
fn one_of(argument: u8, values: &[c_int]) -> Result<Vec<SeccompRule>, seccompiler::Error> {
    values.iter().map(|value| dword(argument, Is::Eq, *value)).collect()
}

/// Memory without executable pages that counts as the process's own (`RLIMIT_DATA`), and files.
fn mappings() -> Result<Vec<SeccompRule>, seccompiler::Error> {
    let masked = |argument, mask: c_int, value: c_int| {
        let is = Is::MaskedEq(mask.cast_unsigned().into());
        SeccompCondition::new(argument, Width::Dword, is, value.cast_unsigned().into())
    };
    let uncounted = libc::MAP_TYPE | libc::MAP_GROWSDOWN;
    let rule = |mask, value| -> Result<SeccompRule, seccompiler::Error> {
        Ok(SeccompRule::new(vec![masked(2, libc::PROT_EXEC, 0)?, masked(3, mask, value)?])?)
    };
    Ok(vec![rule(uncounted, libc::MAP_PRIVATE)?, rule(uncounted | libc::MAP_ANONYMOUS, libc::MAP_SHARED)?])
}

/// An option of a socket: how long it is waited for.
fn receive_timeout(option: c_int) -> Result<SeccompRule, seccompiler::Error> {
    let is = |argument, value: c_int| {
        SeccompCondition::new(argument, Width::Dword, Is::Eq, value.cast_unsigned().into())
    };
    Ok(SeccompRule::new(vec![is(1, libc::SOL_SOCKET)?, is(2, option)?])?)
}

fn dword(argument: u8, is: Is, value: c_int) -> Result<SeccompRule, seccompiler::Error> {
    rule(argument, Width::Dword, is, value.cast_unsigned().into())
}

fn rule(argument: u8, width: Width, is: Is, value: u64) -> Result<SeccompRule, seccompiler::Error> {
    Ok(SeccompRule::new(vec![SeccompCondition::new(argument, width, is, value)?])?)
}

fn refuse(errno: c_int) -> SeccompAction {
    SeccompAction::Errno(errno.cast_unsigned())
}

fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, seccompiler::Error> {
    Ok(SeccompFilter::new(rules, otherwise, matched, ARCH)?.try_into()?)
}
