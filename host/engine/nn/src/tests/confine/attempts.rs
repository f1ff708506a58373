//! What a confined process tries, and what came of it.

use libc::{c_int, c_long};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// The name of an attempt, and "done" or the name of the error.
pub type Outcome = (String, String);

pub fn outcome_of<T>(result: io::Result<T>) -> String {
    match result.map_err(|e| e.raw_os_error()) {
        Ok(_) => "done".into(),
        Err(Some(libc::EPERM)) => "EPERM".into(),
        Err(Some(libc::EACCES)) => "EACCES".into(),
        Err(other) => format!("{:?}", other.map(io::Error::from_raw_os_error)),
    }
}

/// Makes a system call with up to six arguments.
pub fn call(number: c_long, arguments: &[usize]) -> io::Result<c_long> {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let [a, b, c, d, e, f] = all;
    // SAFETY: the callers pass numbers, and addresses of values that live longer than the call. Those calls
    // that would change what Rust relies on are refused, or the test fails.
    #[allow(unsafe_code)]
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn tried(name: &str, number: c_long, arguments: &[usize]) -> Outcome {
    (name.into(), outcome_of(call(number, arguments)))
}

pub fn opens(paths: &[PathBuf]) -> Vec<Outcome> {
    paths.iter().map(|p| (format!("open {}", p.display()), outcome_of(File::open(p)))).collect()
}

pub fn creates(paths: &[PathBuf]) -> Vec<Outcome> {
    let open = |p: &PathBuf| OpenOptions::new().write(true).create(true).truncate(true).open(p);
    paths.iter().map(|p| (format!("create or open {}", p.display()), outcome_of(open(p)))).collect()
}

pub fn signal_to(process: u32) -> String {
    outcome_of(call(libc::SYS_kill, &[process as usize, 0]))
}

/// Memory that is executable, or becomes so.
pub fn executable_memory() -> Vec<Outcome> {
    const PAGE: usize = 4096;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
    let map = |name, protection: c_int| {
        tried(name, libc::SYS_mmap, &[0, PAGE, protection as usize, flags, usize::MAX, 0])
    };
    let page =
        call(libc::SYS_mmap, &[0, PAGE, libc::PROT_READ as usize, flags, usize::MAX, 0]).expect("a page");
    let (read, exec) = (libc::PROT_READ, libc::PROT_EXEC);
    let protect = &[page as usize, PAGE, (read | exec) as usize];
    vec![
        map("map executable memory", read | exec),
        map("map writable and executable memory", libc::PROT_WRITE | exec),
        tried("make memory executable", libc::SYS_mprotect, protect),
        tried(
            "share memory that is not counted",
            libc::SYS_mmap,
            &[
                0,
                PAGE,
                libc::PROT_READ as usize,
                (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as usize,
                usize::MAX,
                0,
            ],
        ),
        tried("make a file in memory", libc::SYS_memfd_create, &[c"x".as_ptr() as usize, 0]),
    ]
}

/// System calls that neither profile has, aimed at the parent where they need an aim.
pub fn system_calls(dir: &Path) -> Vec<Outcome> {
    let mut all = processes();
    all.extend(sockets());
    all.extend(kernel());
    all.extend(paths(dir));
    all
}

/// Other processes, and what this one may be.
fn processes() -> Vec<Outcome> {
    let parent = std::os::unix::process::parent_id() as usize;
    let program = c"/bin/true".as_ptr() as usize;
    let arguments = [program, 0];
    let argv = arguments.as_ptr() as usize;
    let mut byte = 0u8;
    let local = [(&raw mut byte) as usize, 1];
    let remote = [arguments.as_ptr() as usize, 1];
    let (local, remote) = (local.as_ptr() as usize, remote.as_ptr() as usize);
    let info = [0u64; 16];
    let other_network =
        (libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD | libc::CLONE_NEWNET) as usize;
    let limit = [u64::MAX; 2];
    let limit = limit.as_ptr() as usize;
    vec![
        tried("execute a program", libc::SYS_execve, &[program, argv, 0]),
        tried("execute a program at a descriptor", libc::SYS_execveat, &[usize::MAX, program, argv, 0, 0]),
        ("fork".into(), fork()),
        tried("start a thread in another network", libc::SYS_clone, &[other_network]),
        tried("ptrace the parent", libc::SYS_ptrace, &[libc::PTRACE_ATTACH as usize, parent]),
        tried("read the parent's memory", libc::SYS_process_vm_readv, &[parent, local, 1, remote, 1, 0]),
        tried("write the parent's memory", libc::SYS_process_vm_writev, &[parent, local, 1, remote, 1, 0]),
        ("signal the parent".into(), signal_to(parent as u32)),
        tried("signal a thread of the parent", libc::SYS_tgkill, &[parent, parent, 0]),
        tried("signal a thread", libc::SYS_tkill, &[parent, 0]),
        tried("queue a signal", libc::SYS_rt_sigqueueinfo, &[parent, 0, info.as_ptr() as usize]),
        tried("hold the parent by a descriptor", libc::SYS_pidfd_open, &[parent, 0]),
        tried("take a descriptor of a process", libc::SYS_pidfd_getfd, &[0, 0, 0]),
        tried("signal through a descriptor", libc::SYS_pidfd_send_signal, &[0, 0, 0, 0]),
        tried("have signals sent to the parent", libc::SYS_fcntl, &[0, libc::F_SETOWN as usize, parent]),
        tried("raise a limit", libc::SYS_setrlimit, &[libc::RLIMIT_NOFILE as usize, limit]),
        tried("raise a limit of a process", libc::SYS_prlimit64, &[0, libc::RLIMIT_CORE as usize, limit, 0]),
        tried("change the parent's priority", libc::SYS_setpriority, &[0, parent, 19]),
        tried("choose a processor", libc::SYS_sched_setaffinity, &[0, 8, limit]),
        tried("become another user", libc::SYS_setuid, &[1]),
        tried("become dumpable", libc::SYS_prctl, &[libc::PR_SET_DUMPABLE as usize, 1]),
        tried("outlive the parent", libc::SYS_prctl, &[libc::PR_SET_PDEATHSIG as usize, 0]),
    ]
}

/// A fork through `clone`, which every architecture has.
fn fork() -> String {
    let result = call(libc::SYS_clone, &[libc::SIGCHLD as usize]);
    if matches!(result, Ok(0)) {
        // This is the child, which must not go on.
        let _ = call(libc::SYS_exit_group, &[0]);
    }
    outcome_of(result)
}

fn sockets() -> Vec<Outcome> {
    let mut address = [0u8; 110];
    address[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
    address[3] = b'x';
    let address = address.as_ptr() as usize;
    let socket = |name, family: c_int, kind: c_int| {
        tried(name, libc::SYS_socket, &[family as usize, kind as usize, 0])
    };
    let mut pair = [0i32; 2];
    let pair = pair.as_mut_ptr() as usize;
    vec![
        socket("make a TCP socket", libc::AF_INET, libc::SOCK_STREAM),
        socket("make a UDP socket", libc::AF_INET6, libc::SOCK_DGRAM),
        socket("make a Unix socket", libc::AF_UNIX, libc::SOCK_STREAM),
        socket("make a netlink socket", libc::AF_NETLINK, libc::SOCK_RAW),
        tried("make a pair of sockets", libc::SYS_socketpair, &[1, 1, 0, pair]),
        // Standard input is a socket.
        tried("connect", libc::SYS_connect, &[0, address, 110]),
        tried("bind", libc::SYS_bind, &[0, address, 4]),
        tried("listen", libc::SYS_listen, &[0, 1]),
        tried("accept", libc::SYS_accept4, &[0, 0, 0, 0]),
        tried("send to an address", libc::SYS_sendto, &[0, address, 1, 0, address, 110]),
    ]
}

/// Parts of the kernel that nothing here needs, each a surface of its own.
fn kernel() -> Vec<Outcome> {
    let zeros = [0u64; 32];
    let zeros = zeros.as_ptr() as usize;
    let here = c".".as_ptr() as usize;
    vec![
        tried("leave the namespaces", libc::SYS_unshare, &[libc::CLONE_NEWUSER as usize]),
        tried("enter a namespace", libc::SYS_setns, &[0, 0]),
        tried("mount", libc::SYS_mount, &[here, here, 0, 0, 0]),
        tried("change the root", libc::SYS_chroot, &[here]),
        tried("load a BPF program", libc::SYS_bpf, &[0, zeros, 8]),
        tried("measure", libc::SYS_perf_event_open, &[zeros, 0, usize::MAX, usize::MAX, 0]),
        tried("make an io_uring", libc::SYS_io_uring_setup, &[1, zeros]),
        tried("use keys", libc::SYS_keyctl, &[0, 0, 0]),
        tried("handle page faults", libc::SYS_userfaultfd, &[0]),
        tried("type into the terminal", libc::SYS_ioctl, &[0, libc::TIOCSTI as usize, here]),
        tried("share memory", libc::SYS_shmget, &[0, 4096, 0o600]),
        tried("take a page from the machine", libc::SYS_madvise, &[0, 4096, libc::MADV_HWPOISON as usize]),
        tried("change the personality", libc::SYS_personality, &[0x0040_0000]),
        tried("install a filter", libc::SYS_seccomp, &[1, 0, 0]),
        tried("make a pipe", libc::SYS_pipe2, &[zeros, 0]),
    ]
}

/// Paths, other than by opening them.
fn paths(dir: &Path) -> Vec<Outcome> {
    let at = libc::AT_FDCWD as usize;
    let c = |path: PathBuf| CString::new(path.into_os_string().into_encoded_bytes()).expect("a path");
    let (new, old) = (c(dir.join("out/new")), c(dir.join("secret")));
    let (new, old) = (new.as_ptr() as usize, old.as_ptr() as usize);
    let mut stat = [0u64; 64];
    let stat = stat.as_mut_ptr() as usize;
    vec![
        tried("look at a file", libc::SYS_newfstatat, &[at, old, stat, 0]),
        tried("look at a file with statx", libc::SYS_statx, &[at, old, 0, 0xfff, stat]),
        tried("make a folder", libc::SYS_mkdirat, &[at, new, 0o700]),
        tried("make a device", libc::SYS_mknodat, &[at, new, libc::S_IFIFO as usize, 0]),
        tried("make a symbolic link", libc::SYS_symlinkat, &[old, at, new]),
        tried("make a link", libc::SYS_linkat, &[at, old, at, new, 0]),
        tried("rename", libc::SYS_renameat2, &[at, old, at, new, 0]),
        tried("delete", libc::SYS_unlinkat, &[at, old, 0]),
        tried("truncate", libc::SYS_truncate, &[old, 0]),
        tried("change the mode", libc::SYS_fchmodat, &[at, old, 0o777]),
        tried(
            "read a symbolic link",
            libc::SYS_readlinkat,
            &[at, c"/proc/self/exe".as_ptr() as usize, stat, 64],
        ),
        tried("change the folder", libc::SYS_chdir, &[c"/".as_ptr() as usize]),
    ]
}
