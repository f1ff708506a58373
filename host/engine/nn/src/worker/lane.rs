//! One lane of a worker: takes a run, computes, answers; then the next.

use super::Usage;
use super::memory::SharedMemory;
use super::wire::{self, Place, Reply, Request, Spent};
use crate::rten::thread_cpu_ns;
use crate::{Graph, Output, RunError, TensorView, heap};
use rustix::net::RecvFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// From this CPU time on the peak of a run's memory is read exactly, in nanoseconds: it costs some twenty
/// microseconds.
const EXACT_FROM_NS: u64 = 2_000_000;
/// Of shorter runs, the memory is read once in so much CPU time, in nanoseconds: it costs some microseconds,
/// and changes little.
const PEAK_EACH_NS: u64 = 10_000_000;

pub(super) struct Lane {
    socket: OwnedFd,
    graph: Arc<dyn Graph>,
    usage: Arc<Usage>,
    threads: usize,
    buffer: Vec<u8>,
    memory: Option<SharedMemory>,
    /// How long the socket is waited for.
    waits: Option<Duration>,
    /// What a run held when that was last read, and when it was, by [`Lane::clock`]; 0 where the next run has
    /// to read it.
    memory_bytes: u64,
    peak_ns: u64,
}

impl Lane {
    pub fn new(socket: OwnedFd, graph: Arc<dyn Graph>, usage: Arc<Usage>, threads: usize) -> Lane {
        let buffer = vec![0; wire::MESSAGE_BYTES_MAX];
        Lane { socket, graph, usage, threads, buffer, memory: None, waits: None, memory_bytes: 0, peak_ns: 0 }
    }

    /// Serves until the host closes the lane.
    pub fn serve(&mut self) {
        let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let Err(_end) = self.send(&Reply::Ready { tid }).and_then(|()| self.serve_all());
    }

    fn serve_all(&mut self) -> io::Result<std::convert::Infallible> {
        loop {
            match self.next()? {
                (Request::Run { inputs }, _) => self.run(&inputs)?,
                (Request::Memory { bytes }, descriptors) => self.map(bytes, descriptors)?,
                (Request::Forget, _) => self.memory = None,
                (Request::NoSpace, _) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    /// The next message. When none has come for a while, what the runs have freed is let go.
    fn next(&mut self) -> io::Result<(Request, Vec<OwnedFd>)> {
        match self.receive() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                heap::let_go();
                self.wait_for(None)?;
                self.receive()
            }
            other => other,
        }
    }

    /// The host's answer in the middle of a run, however long it takes.
    fn answer(&mut self) -> io::Result<(Request, Vec<OwnedFd>)> {
        loop {
            match self.receive() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }

    /// How long [`Lane::receive`] waits; for ever without a time.
    fn wait_for(&mut self, time: Option<Duration>) -> io::Result<()> {
        if self.waits != time {
            set_socket_timeout(&self.socket, Timeout::Recv, time)?;
            self.waits = time;
        }
        Ok(())
    }

    fn send(&self, reply: &Reply) -> io::Result<()> {
        wire::send(self.socket.as_fd(), reply, &[])
    }

    fn receive(&mut self) -> io::Result<(Request, Vec<OwnedFd>)> {
        wire::receive(self.socket.as_fd(), &mut self.buffer, RecvFlags::empty())
    }

    fn map(&mut self, bytes: u64, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        // Let go of first, so that the two are never there together.
        self.memory = None;
        let file = descriptors.first().ok_or(io::ErrorKind::InvalidData)?;
        self.memory = Some(SharedMemory::map(file, bytes)?);
        Ok(())
    }

    fn run(&mut self, inputs: &[Place]) -> io::Result<()> {
        self.wait_for(Some(heap::IDLE))?;
        let begun = self.clock();
        let is_due = begun.saturating_sub(self.peak_ns) >= PEAK_EACH_NS;
        let runs = self.usage.begin();
        // The peak is that of all runs under way.
        if is_due && runs == 1 {
            self.usage.forget_peak();
        }
        let graph = self.graph.clone();
        let computed = self.compute(graph.as_ref(), inputs);
        let outputs = match computed {
            Ok(outputs) => self.write(outputs),
            Err(error) => Ok(Err(error)),
        };
        let runs = runs.max(self.usage.end());
        let outputs = outputs?;
        let mut clock_ns = self.clock();
        let is_long = clock_ns.saturating_sub(begun) >= EXACT_FROM_NS;
        if is_due || is_long {
            // What several hold together is divided among them.
            self.memory_bytes = self.usage.peak_since(is_long) / u64::from(runs.max(1));
            // What a long run held is no measure for those after it.
            self.peak_ns = if is_long { 0 } else { begun };
            clock_ns = self.clock();
        }
        let spent =
            Spent { cpu_ns: clock_ns.saturating_sub(begun), clock_ns, memory_bytes: self.memory_bytes };
        match outputs {
            Ok(outputs) => self.send(&Reply::Done { outputs, spent }),
            Err(error) => self.send(&Reply::Failed { error, spent }),
        }
    }

    fn compute<'g>(&self, graph: &'g dyn Graph, inputs: &[Place]) -> Result<Vec<Output<'g>>, RunError> {
        let no_input =
            |place: &Place| RunError::Engine(format!("input {:?} lies outside of its memory", place.name));
        let mut views = Vec::with_capacity(inputs.len());
        for place in inputs {
            let data: &[u8] = match &self.memory {
                #[allow(unsafe_code)]
                Some(memory) => {
                    // SAFETY: the host leaves the lane's memory alone until this run is answered.
                    unsafe { memory.slice(place.offset, place.bytes) }.ok_or_else(|| no_input(place))?
                }
                None if place.bytes == 0 => &[],
                None => return Err(no_input(place)),
            };
            views.push((place.name.as_str(), TensorView { ty: place.ty, shape: &place.shape, data }));
        }
        graph.compute(&views)
    }

    /// Writes the outputs into the lane's memory, or into larger memory that the host gives for them.
    fn write(&mut self, outputs: Vec<Output<'_>>) -> io::Result<Result<Vec<Place>, RunError>> {
        let too_large = || Ok(Err(RunError::NoSpace { bytes: u64::MAX }));
        let Some((offsets, bytes)) = wire::lay_out(outputs.iter().map(|o| o.bytes)) else {
            return too_large();
        };
        if bytes > self.memory.as_ref().map_or(0, SharedMemory::bytes) {
            self.send(&Reply::Space { bytes })?;
            match self.answer()? {
                (Request::Memory { bytes }, descriptors) => self.map(bytes, descriptors)?,
                (Request::NoSpace, _) => return Ok(Err(RunError::NoSpace { bytes })),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        let mut places = Vec::with_capacity(outputs.len());
        for (output, offset) in outputs.into_iter().zip(offsets) {
            let (name, ty, shape, bytes) =
                (output.name.to_owned(), output.ty, output.shape.clone(), output.bytes);
            let place = match &mut self.memory {
                // SAFETY: as for the inputs, which nothing refers to any more.
                #[allow(unsafe_code)]
                Some(memory) => unsafe { memory.slice_mut(offset, bytes) },
                None => Some(&mut [][..]),
            };
            let Some(place) = place else { return too_large() };
            output.write(place);
            places.push(Place { name, ty, shape, offset, bytes });
        }
        Ok(Ok(places))
    }

    /// CPU time so far, in nanoseconds: of this thread, or of the whole process where several threads work on
    /// a run (then there is one lane only).
    fn clock(&self) -> u64 {
        if self.threads <= 1 {
            return thread_cpu_ns();
        }
        let time = clock_gettime(ClockId::ProcessCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32).as_nanos() as u64
    }
}
