//! Given a process that has confined itself, when it tries what it may not, then it is refused; and what it
//! needs still works.
//!
//! A process cannot undo its confinement, so this test binary starts itself once more for each test: see
//! `confined.rs`.

mod attempts;
mod confined;

use super::build::{linear, prepare_model};
use crate::confine::{ConfineError, Confinement, Missing, Profile, confine, probe};
use confined::{ABSTRACT, BLOB, DIR, GIFT, OTHERS, PING, PONG, ROLE};
use prost::Message;
use rustix::fs::MemfdFlags;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Starts this test binary in one of the roles of `confined.rs`. Its standard input is one end of the socket.
fn start(role: &str, dir: &Path) -> (Child, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "tests::confine::confined::in_a_role", "--nocapture"])
        .env(ROLE, role)
        .env(DIR, dir)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this program, once more");
    (child, ours)
}

/// What a process in a role reported: the name and the outcome of each attempt.
fn report(role: &str, dir: &Path) -> Vec<(String, String)> {
    let (child, mut socket) = start(role, dir);
    send_with_memory(&socket);
    let output = child.wait_with_output().expect("its end");
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}\n{complaint}", output.status);
    if role.starts_with("worker") {
        let mut answer = [0; PONG.len()];
        socket.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, PONG);
    }
    let lines = text.lines().filter_map(|line| line.strip_prefix("@ ")?.split_once(" = "));
    lines.map(|(name, outcome)| (name.to_string(), outcome.to_string())).collect()
}

/// Sends a message and with it a file in memory, as the host passes memory to a worker.
fn send_with_memory(socket: &UnixStream) {
    let memory = rustix::fs::memfd_create("gift", MemfdFlags::CLOEXEC).expect("memory");
    File::from(memory.try_clone().expect("a handle")).write_all(GIFT).expect("written");
    let descriptors = [memory.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    rustix::net::sendmsg(socket, &[IoSlice::new(PING)], &mut control, SendFlags::empty()).expect("sent");
}

/// Asserts that each attempt had the outcome, and that this one is among them.
fn assert_all(attempts: &[(String, String)], expected: &str, one: &str) {
    for (name, outcome) in attempts {
        assert_eq!(outcome, expected, "{name}");
    }
    assert!(attempts.iter().any(|(name, _)| name == one), "{one} was not tried: {attempts:?}");
}

fn prepared_model() -> tempfile::TempDir {
    let prepared = prepare_model(&linear());
    prepared.result.expect("prepared");
    prepared.dir
}

#[test]
fn a_confined_worker_reaches_nothing_outside_and_still_runs_models() {
    let dir = prepared_model();
    let attempts = report("worker", dir.path());
    assert_all(&attempts, "EPERM", "ptrace the parent");
    assert_all(&attempts, "EPERM", "open /etc/passwd");
    assert_all(&attempts, "EPERM", "map executable memory");
    assert!(attempts.len() > 50, "{attempts:?}");
}

#[test]
fn without_landlock_the_filter_alone_refuses_a_worker_all_of_it() {
    let dir = prepared_model();
    let mut attempts = report("worker without landlock", dir.path());
    let missing = attempts.remove(0);
    assert_eq!(missing, ("missing".into(), format!("{:?}", [Missing::Landlock])));
    assert_all(&attempts, "EPERM", "ptrace the parent");
    assert_all(&attempts, "EPERM", "open /etc/passwd");
    assert!(attempts.len() > 50, "{attempts:?}");
}

/// A host's data directory, with an upload to be prepared, the folder of that job, and what the child has no
/// business with.
fn data_directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for folder in ["blobs", "cache/code", "cache/jobs/0", "cache/jobs/1"] {
        std::fs::create_dir_all(dir.path().join(folder)).expect("a folder");
    }
    for file in OTHERS {
        std::fs::write(dir.path().join(file), "another's").expect("written");
    }
    std::fs::write(dir.path().join(BLOB), linear().encode_to_vec()).expect("written");
    dir
}

#[test]
fn a_preparing_child_reads_its_blob_writes_into_its_folder_and_reaches_nothing_beside() {
    if probe().contains(&Missing::Landlock) {
        return;
    }
    let dir = data_directory();
    let attempts = report("prepare", dir.path());
    let (files, calls): (Vec<_>, Vec<_>) = attempts.into_iter().partition(|(name, _)| name.contains("open "));
    for file in OTHERS {
        let path = dir.path().join(file);
        assert_all(&files, "EACCES", &format!("open {}", path.display()));
        assert_all(&files, "EACCES", &format!("create or open {}", path.display()));
        assert_eq!(std::fs::read(&path).expect("the file"), b"another's", "{file}");
    }
    for call in [
        "make a TCP socket",
        "make a Unix socket",
        "execute a program",
        "fork",
        "ptrace the parent",
        "signal the parent",
        "read the parent's memory",
    ] {
        assert_all(&calls, "EPERM", call);
    }
    assert!(calls.len() > 40, "{calls:?}");
    assert_eq!(std::fs::read(dir.path().join(BLOB)).expect("the blob"), linear().encode_to_vec());
    let folders = ["blobs", "cache/code", "cache/jobs/1", "."]
        .map(|folder| std::fs::read_dir(dir.path().join(folder)).expect("a folder").count());
    assert_eq!(folders, [2, 1, 1, 4], "something was written outside of the job's folder");
}

#[test]
fn landlock_alone_refuses_files_ports_and_signals() {
    let missing = probe();
    if missing.contains(&Missing::Landlock) {
        return;
    }
    let dir = data_directory();
    let address = SocketAddr::from_abstract_name(ABSTRACT.replace("{}", &std::process::id().to_string()));
    let _listener = UnixListener::bind_addr(&address.expect("an address")).expect("a listener");
    for (name, outcome) in report("landlock", dir.path()) {
        let (expected, needs) = match name.as_str() {
            "bind a TCP port" | "connect to a TCP port" => ("EACCES", Missing::Tcp),
            "signal the parent" | "connect to an abstract socket" => ("EPERM", Missing::Scopes),
            _ => ("EACCES", Missing::Landlock),
        };
        assert!(outcome == expected || missing.contains(&needs), "{name}: {outcome}");
    }
}

#[test]
fn a_confined_process_ends_with_the_thread_that_started_it_and_its_use_stays_readable() {
    let dir = tempfile::tempdir().expect("a directory");
    let starting = std::thread::scope(|threads| {
        let thread = threads.spawn(|| {
            let (mut child, socket) = start("sleeper", dir.path());
            let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
            assert!(lines.any(|line| line.is_ok_and(|l| l == "@ asleep = yes")), "it is not asleep");
            let id = child.id();
            for file in ["stat", "statm", "status", "schedstat", &format!("task/{id}/schedstat")] {
                let read = std::fs::read_to_string(format!("/proc/{id}/{file}"));
                assert!(read.is_ok_and(|text| !text.is_empty()), "{file}");
            }
            if !rustix::process::getuid().is_root() {
                for file in ["environ", "maps", "mem", "fd"] {
                    let opened = File::open(format!("/proc/{id}/{file}"));
                    assert!(opened.is_err_and(|e| e.raw_os_error() == Some(libc::EACCES)), "{file}");
                }
            }
            (child, socket)
        });
        thread.join()
    });
    let (mut child, _socket) = starting.expect("the thread that starts");
    assert_eq!(child.wait().expect("its end").signal(), Some(libc::SIGKILL));
}

#[test]
fn a_process_whose_parent_has_ended_is_told_so() {
    let dir = tempfile::tempdir().expect("a directory");
    assert_eq!(report("orphan", dir.path()), [("error".into(), ConfineError::ParentGone.to_string())]);
}

#[test]
fn a_process_with_several_threads_is_not_confined() {
    // The harness has a thread of its own.
    let all = Confinement { profile: Profile::Worker, read: &[], write: &[], parent: None };
    assert!(matches!(confine(&all), Err(ConfineError::Threads(2..))));
    assert!(File::open("/proc/self/maps").is_ok());
}

#[test]
fn what_a_kernel_lacks_is_named_with_the_version_that_brings_it() {
    use landlock::ABI;
    let of = crate::confine::landlock_missing;
    assert_eq!(of(ABI::Unsupported), [Missing::Landlock]);
    assert_eq!(of(ABI::V1), [Missing::Truncate, Missing::Tcp, Missing::DeviceCommands, Missing::Scopes]);
    assert_eq!(of(ABI::V5), [Missing::Scopes]);
    assert_eq!(of(ABI::V6), []);
    assert_eq!(of(ABI::V10), []);
    let landlock = of(ABI::Unsupported).into_iter().chain(of(ABI::V1));
    for missing in landlock.chain([Missing::Seccomp]) {
        let layer = if missing == Missing::Seccomp { "seccomp: " } else { "Landlock: " };
        assert!(missing.defence().starts_with(layer), "{missing:?}");
        assert!(missing.since().starts_with("Linux "), "{missing:?}");
    }
    assert!(!probe().contains(&Missing::Seccomp));
}
