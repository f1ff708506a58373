//! The worker: a process that serves one model and can do nothing else.
//!
//! It is forked before anybody knows which model it will serve. It gives up what it does not need at once,
//! and only then takes a model's files, as open descriptors. Its main thread waits on the control socket, its
//! standard input; a thread for each lane computes. It ends with that socket, with its host, or by the kernel
//! at one of its limits.

pub mod fork_server;
mod lane;
pub mod memory;
pub mod wire;

use crate::confine::{Confinement, Profile, confine};
use crate::rten::thread_cpu_ns;
use crate::{Backend, Graph, OnnxRuntime, PreparedFiles, ReadAhead, Rten, heap};
use lane::Lane;
use rustix::net::RecvFlags;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use wire::{Answer, Control};

/// Stack of a lane's threads, in bytes; touched as far as it is used.
pub const STACK_BYTES: usize = 2 << 20;

/// The life of the fork server and of each of its workers; `parent` is the host's process. With `library`,
/// workers serve models by ONNX Runtime, whose library that is. Returns the exit code of its own.
pub fn main(parent: u32, library: Option<&Path>) -> u8 {
    let Some(library) = library else { return main_with(parent, &Rten) };
    heap::keep_in_one();
    // Once, before anything is forked and confined: workers share what the linker and the library write now,
    // and can open no file later.
    match OnnxRuntime::open(library) {
        Ok(engine) => main_with(parent, Box::leak(Box::new(engine))),
        Err(e) => {
            eprintln!("{}: {e}", library.display());
            4
        }
    }
}

/// The same with another engine.
pub fn main_with(parent: u32, engine: &'static dyn Backend) -> u8 {
    heap::keep_in_one();
    // An engine's panic is an error of its run; the text goes there.
    std::panic::set_hook(Box::new(|_| {}));
    fork_server::serve(parent, || work(parent, engine))
}

/// The worker's whole life.
fn work(parent: u32, engine: &'static dyn Backend) -> u8 {
    let Ok(control) = io::stdin().as_fd().try_clone_to_owned() else { return 2 };
    // Linux alone has these files. Where memory runs out, this process goes and not the host.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let usage = Usage::open();
    let confinement = Confinement { profile: Profile::Worker, read: &[], write: &[], parent: Some(parent) };
    if let Err(e) = confine(&confinement) {
        eprintln!("a worker cannot be confined: {e}");
        return 3;
    }
    match serve(&control, usage, engine) {
        // The host has closed the socket.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => 0,
        _ => 2,
    }
}

fn serve(control: &OwnedFd, usage: Usage, engine: &'static dyn Backend) -> io::Result<()> {
    let mut buffer = vec![0; wire::MESSAGE_BYTES_MAX];
    let mut receive = || wire::receive::<Control>(control.as_fd(), &mut buffer, RecvFlags::empty());
    let first = Waiting::start(engine)?;
    let (Control::Load { threads, form }, descriptors) = receive()? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let Ok([graph, weights, info, lane]) = <[OwnedFd; 4]>::try_from(descriptors) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let files = PreparedFiles { graph: graph.into(), weights: weights.into(), info: info.into() };
    let begun = thread_cpu_ns();
    let graph = match engine.load_for(files, threads as usize, form) {
        Ok(graph) => graph,
        Err(e) => {
            let reason = e.to_string().chars().take(1_000).collect();
            return wire::send(control.as_fd(), &Answer::Refused { reason }, &[]);
        }
    };
    let usage = Arc::new(usage.based());
    let lanes = Lanes { engine, graph, usage, threads: threads as usize };
    lanes.add_first(lane, first)?;
    let cpu_ns = thread_cpu_ns().saturating_sub(begun);
    wire::send(control.as_fd(), &Answer::Loaded { cpu_ns }, &[])?;
    for part in [ReadAhead::EveryRun, ReadAhead::Tables] {
        lanes.graph.read_ahead(part);
    }
    loop {
        let (Control::AddLane, descriptors) = receive()? else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        for lane in descriptors {
            // One that cannot be served is closed, which the host notices.
            let _ = lanes.add(lane);
        }
    }
}

struct Lanes {
    engine: &'static dyn Backend,
    graph: Arc<dyn Graph>,
    usage: Arc<Usage>,
    threads: usize,
}

impl Lanes {
    fn lane(&self, socket: OwnedFd) -> Lane {
        Lane::new(socket, self.graph.clone(), self.usage.clone(), self.threads)
    }

    /// Serves a lane on threads of its own, until the host closes it.
    fn add(&self, socket: OwnedFd) -> io::Result<()> {
        let (mut lane, engine, threads) = (self.lane(socket), self.engine, self.threads);
        in_background(move || engine.on_threads(threads, &mut || lane.serve()))
    }

    /// The same on threads that there are already, if they are as many as are wanted.
    fn add_first(&self, socket: OwnedFd, waiting: Waiting) -> io::Result<()> {
        if self.threads != 1 {
            return self.add(socket);
        }
        waiting.0.send(self.lane(socket)).map_err(|_| io::Error::other("the first thread has ended"))
    }
}

/// A thread that has no lane yet: a cold start does not wait for it to begin.
struct Waiting(mpsc::Sender<Lane>);

impl Waiting {
    fn start(engine: &'static dyn Backend) -> io::Result<Waiting> {
        let (hand_over, lane) = mpsc::channel::<Lane>();
        let mut serve = move || {
            if let Ok(mut lane) = lane.recv() {
                lane.serve();
            }
        };
        in_background(move || engine.on_threads(1, &mut serve))?;
        Ok(Waiting(hand_over))
    }
}

/// On a thread that only waits for the engine's own, which compute.
fn in_background(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name("vesta-lane".into()).stack_size(64 << 10).spawn(work).map(drop)
}

/// What this process holds privately, read from a file that was opened before everything was given up.
#[derive(Default)]
pub(crate) struct Usage {
    /// `/proc/self/statm`.
    sizes: Option<File>,
    /// `/proc/self/status`, which knows the peak, and `/proc/self/clear_refs`, which forgets it.
    peak: Option<(File, File)>,
    /// What was held when the model was loaded, in bytes.
    base: u64,
    /// Runs under way, in all lanes: what the process holds is theirs together.
    runs: AtomicU32,
}

impl Usage {
    fn open() -> Usage {
        let open = |name: &str| File::open(format!("/proc/self/{name}")).ok();
        let clear = File::options().write(true).open("/proc/self/clear_refs").ok();
        Usage { sizes: open("statm"), peak: open("status").zip(clear), base: 0, runs: AtomicU32::new(0) }
    }

    fn based(self) -> Usage {
        Usage { base: self.private(), ..self }
    }

    /// A run begins; gives how many are under way with it.
    pub fn begin(&self) -> u32 {
        self.runs.fetch_add(1, Relaxed) + 1
    }

    /// A run ends; gives how many were under way with it.
    pub fn end(&self) -> u32 {
        self.runs.fetch_sub(1, Relaxed)
    }

    /// Forgets the peak so far. From here on [`Usage::peak_since`] sees the peak of what comes.
    pub fn forget_peak(&self) {
        if let Some((_, clear)) = &self.peak {
            let _ = rustix::io::pwrite(clear, b"5", 0);
        }
    }

    /// The most that was held since [`Usage::forget_peak`] beyond the base, in bytes. A few microseconds;
    /// some twenty where it is `exact`, and otherwise what is held now, which the heap keeps for the next run
    /// unless it was large.
    pub fn peak_since(&self, exact: bool) -> u64 {
        let now = self.private();
        let peak = if exact { self.peak().unwrap_or(now).max(now) } else { now };
        peak.saturating_sub(self.base)
    }

    fn private(&self) -> u64 {
        let Some(file) = &self.sizes else { return 0 };
        let mut text = [0; 128];
        let Ok(n) = rustix::io::pread(file, &mut text, 0) else { return 0 };
        let text = str::from_utf8(&text[..n]).unwrap_or_default();
        let mut pages = text.split(' ').skip(1).map(|n| n.parse::<u64>().unwrap_or(0));
        let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
        resident.saturating_sub(shared) * rustix::param::page_size() as u64
    }

    /// The peak of all resident memory less what is shared now: weights are mapped and stay.
    fn peak(&self) -> Option<u64> {
        let (status, _) = self.peak.as_ref()?;
        let mut text = [0; 4096];
        let n = rustix::io::pread(status, &mut text, 0).ok()?;
        let text = str::from_utf8(&text[..n]).ok()?;
        let kib = |field: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
            line.trim().strip_suffix(" kB")?.trim().parse().ok()
        };
        Some(kib("VmHWM")?.saturating_sub(kib("RssFile")? + kib("RssShmem")?) * 1024)
    }
}
