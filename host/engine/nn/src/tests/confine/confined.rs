//! The process that confines itself. It reports each attempt as a line "@ name = outcome"; what has to work
//! it asserts itself.

use super::attempts::{self, Outcome};
use crate::confine::{ConfineError, Confinement, Missing, Profile, confine_with, restrict};
use crate::prepare;
use crate::tests::build::{as_f32s, f32s, load};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vesta_core::manifest::Encoding;

/// The role, in the environment. Without it the test does nothing.
pub const ROLE: &str = "VESTA_TEST_CONFINED";
/// The folder of the test.
pub const DIR: &str = "VESTA_TEST_DIR";
/// What the parent sends, what lies in the memory that it passes along, and what it is answered.
pub const PING: &[u8] = b"ping";
pub const GIFT: &[u8] = b"shared memory";
pub const PONG: &[u8; 4] = b"pong";
/// The name of the parent's abstract socket, with its process id.
pub const ABSTRACT: &str = "vesta-confine-{}";

/// An upload in a host's data directory.
pub const BLOB: &str = "blobs/mine";
/// Files in that directory that the child which prepares the upload has no business with.
pub const OTHERS: [&str; 5] =
    ["secret", "vesta.db", "blobs/other", "cache/code/other.cwasm", "cache/jobs/1/code.cwasm"];

#[test]
fn in_a_role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let dir = PathBuf::from(std::env::var_os(DIR).expect("a folder"));
    match role.as_str() {
        "worker" => worker(&dir, restrict),
        "worker without landlock" => worker(&dir, |_| Ok(vec![Missing::Landlock])),
        "prepare" => prepares(&dir),
        "landlock" => landlock(&dir),
        "sleeper" => sleeper(),
        "orphan" => orphan(),
        other => panic!("no role {other}"),
    }
}

fn tell(name: &str, outcome: impl std::fmt::Display) {
    // The harness does not end its own lines.
    println!("\n@ {name} = {outcome}");
}

fn tell_all(outcomes: Vec<Outcome>) {
    for (name, outcome) in outcomes {
        tell(&name, outcome);
    }
}

const WORKER: Confinement<'_> = Confinement { profile: Profile::Worker, read: &[], write: &[], parent: None };

fn parent() -> u32 {
    std::os::unix::process::parent_id()
}

fn worker(dir: &Path, step: fn(&Confinement<'_>) -> Result<Vec<Missing>, ConfineError>) {
    let graph = load(dir).expect("a model");
    let missing =
        confine_with(&Confinement { parent: Some(parent()), ..WORKER }, step).expect("a confined process");
    if !missing.is_empty() {
        tell("missing", format!("{missing:?}"));
    }
    tell_all(attempts::system_calls(dir));
    tell_all(attempts::executable_memory());
    tell_all(attempts::opens(&["/etc/passwd".into(), "/proc/self/environ".into()]));
    tell_all(attempts::creates(&[dir.join("new")]));
    memory_threads_and_clocks();
    socket_and_shared_memory();
    let output = graph.run(vec![("x".into(), f32s(&[1, 3], &[1.0, 2.0, 3.0]))]).expect("a run");
    assert_eq!(as_f32s(&output.outputs[0].1)[0], 12.0);
}

fn random(bytes: &mut [u8]) {
    let got = attempts::call(libc::SYS_getrandom, &[bytes.as_mut_ptr() as usize, bytes.len(), 0])
        .expect("random bytes");
    assert_eq!(got as usize, bytes.len());
}

fn memory_threads_and_clocks() {
    let block = std::hint::black_box(vec![1u8; 64 << 20]);
    assert_eq!(block[block.len() - 1], 1);
    drop(block);
    let begun = Instant::now();
    let named = std::thread::Builder::new().name("a thread".into());
    let thread = named.spawn(|| {
        std::thread::sleep(Duration::from_millis(1));
        std::thread::yield_now();
        rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).tv_nsec
    });
    assert!(thread.expect("a thread").join().expect("its end") > 0);
    assert!(begun.elapsed() >= Duration::from_millis(1));
    assert!(std::time::SystemTime::now() > std::time::UNIX_EPOCH);
    let (mut one, mut other) = ([0u8; 16], [0u8; 16]);
    random(&mut one);
    random(&mut other);
    assert_ne!(one, other);
}

fn socket_and_shared_memory() {
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().expect("the socket"));
    let mut message = [0; PING.len()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut message)];
    rustix::net::recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).expect("a message");
    assert_eq!(message, PING);
    let descriptors = control.drain().filter_map(|m| match m {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let memory: Vec<OwnedFd> = descriptors.collect();
    let size = rustix::fs::fstat(&memory[0]).expect("its size").st_size;
    assert_eq!(size, GIFT.len() as i64);
    // SAFETY: the parent has written the memory, and does not use it again.
    #[allow(unsafe_code)]
    let mapped = unsafe { memmap2::MmapOptions::new().len(GIFT.len()).map(&memory[0]) }.expect("mapped");
    assert_eq!(&mapped[..], GIFT);
    (&socket).write_all(PONG).expect("answered");
}

fn prepares(dir: &Path) {
    let (blob, out) = (dir.join(BLOB), dir.join("cache/jobs/0"));
    let confinement = Confinement { profile: Profile::Prepare, read: &[&blob], write: &[&out], parent: None };
    let missing = confine_with(&confinement, restrict).expect("a confined process");
    assert!(!missing.contains(&Missing::Landlock));
    let info = prepare(&blob, Encoding::Onnx, &[], &out, &crate::ModelLimits::default()).expect("prepared");
    assert!(info.dry_run.is_some());
    std::fs::write(out.join("mine"), "mine").expect("written");
    std::fs::write(out.join("mine"), "me").expect("written again");
    assert_eq!(std::fs::read(out.join("mine")).expect("read"), b"me");
    attempts::executable_memory()
        .into_iter()
        .for_each(|(name, outcome)| assert_eq!(outcome, "done", "{name}"));
    memory_threads_and_clocks();
    tell_all(attempts::system_calls(dir));
    let others = OTHERS.map(|file| dir.join(file));
    tell_all(attempts::opens(&others));
    tell_all(attempts::opens(&[dir.into(), out.clone(), dir.join("blobs"), out.join("../../../secret")]));
    tell_all(attempts::opens(&["/etc/passwd", "/proc/self/environ", "/proc/self/maps"].map(PathBuf::from)));
    tell_all(attempts::creates(&others));
    let new = ["new", "blobs/new", "cache/code/new", "cache/jobs/new", "cache/jobs/1/new"];
    tell_all(attempts::creates(&new.map(|file| dir.join(file))));
    tell_all(attempts::creates(&[blob, "/dev/null".into()]));
}

fn landlock(dir: &Path) {
    restrict(&WORKER).expect("restricted");
    tell_all(attempts::opens(&["/etc/passwd".into(), "/proc/self/environ".into(), dir.join("secret")]));
    tell_all(attempts::creates(&[dir.join("new")]));
    tell("bind a TCP port", attempts::outcome_of(TcpListener::bind("127.0.0.1:0")));
    tell("connect to a TCP port", attempts::outcome_of(TcpStream::connect("127.0.0.1:9")));
    tell("signal the parent", attempts::signal_to(parent()));
    let address = SocketAddr::from_abstract_name(ABSTRACT.replace("{}", &parent().to_string()));
    let connected = UnixStream::connect_addr(&address.expect("an address"));
    tell("connect to an abstract socket", attempts::outcome_of(connected));
}

fn sleeper() {
    confine_with(&Confinement { parent: Some(parent()), ..WORKER }, restrict).expect("a confined process");
    tell("asleep", "yes");
    std::thread::sleep(Duration::from_secs(60));
}

fn orphan() {
    let other = std::process::id();
    let error =
        confine_with(&Confinement { parent: Some(other), ..WORKER }, restrict).expect_err("no parent");
    tell("error", error);
    assert!(File::open("/proc/self/maps").is_ok() || rustix::process::getuid().is_root());
}
