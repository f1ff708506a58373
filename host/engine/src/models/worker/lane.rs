//! The host's side of a lane: one run at a time, over a socket and memory that both sides map.

use super::process::{has_input, packets};
use crate::meter::Meter;
use crate::meter::processes::watched;
use rustix::net::RecvFlags;
use std::io;
use std::mem::{replace, take};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use vesta_core::memory::{Grant, Kind, Taken};
use vesta_nn::worker::memory::SharedMemory;
use vesta_nn::worker::wire::{self, Place, Reply, Request, Spent};
use vesta_nn::{RunError, Tensor, bytes_of};

/// The least memory of a lane, in bytes, and the most that it keeps between two runs.
const MEMORY_BYTES_MIN: u64 = 64 << 10;
const MEMORY_BYTES_KEPT: u64 = 1 << 20;
/// How long a thread waits for an answer that is expected soon: a part of the time for which a guest has it.
pub(crate) const SOON_MAX: Duration = Duration::from_micros(200);
/// Most outputs of a run, as at deploy.
const OUTPUTS_MAX: usize = 256;

/// Why a lane gave no answer.
#[derive(Debug)]
pub(crate) enum LaneError {
    /// The worker has closed it: it has ended, or will.
    Gone,
    /// It answers what no worker of ours answers.
    Nonsense(String),
    /// The inputs cannot be sent.
    Inputs(String),
    /// The host has no memory for the tensors.
    HostMemory,
}

/// The outputs of a run, by name.
pub(crate) type Outputs = Result<Vec<(String, Tensor)>, RunError>;

/// How a run was answered.
pub(crate) struct Answered {
    pub result: Outputs,
    pub spent: Spent,
}

/// A lane that no run uses, or the one that does. Dropping it closes it.
pub(crate) struct Lane {
    socket: Socket,
    memory: Option<SharedMemory>,
    /// The memory on the host's books.
    held: Option<Taken>,
    /// The thread that serves it, as the worker says.
    pub tid: Option<u32>,
    /// That thread's clock after the last run, as the worker says; in nanoseconds.
    pub clock_ns: u64,
    /// Whether the run has asked for more memory.
    has_asked: bool,
    buffer: Vec<u8>,
}

/// Not known to Tokio while a thread waits for it: else each message would wake another thread, too.
enum Socket {
    Plain(OwnedFd),
    Async(AsyncFd<OwnedFd>),
    /// Its registration has failed.
    Lost,
}

impl Socket {
    fn fd(&self) -> Result<BorrowedFd<'_>, LaneError> {
        match self {
            Socket::Plain(fd) => Ok(fd.as_fd()),
            Socket::Async(fd) => Ok(fd.get_ref().as_fd()),
            Socket::Lost => Err(LaneError::Gone),
        }
    }

    fn plain(&mut self) -> Result<BorrowedFd<'_>, LaneError> {
        *self = match replace(self, Socket::Lost) {
            Socket::Async(fd) => Socket::Plain(fd.into_inner()),
            other => other,
        };
        self.fd()
    }

    fn registered(&mut self) -> Result<&AsyncFd<OwnedFd>, LaneError> {
        *self = match replace(self, Socket::Lost) {
            Socket::Plain(fd) => Socket::Async(watched(fd).map_err(|_| LaneError::Gone)?),
            other => other,
        };
        match self {
            Socket::Async(fd) => Ok(fd),
            Socket::Plain(_) | Socket::Lost => Err(LaneError::Gone),
        }
    }
}

impl Lane {
    /// A lane, and the worker's side of it.
    pub fn pair() -> io::Result<(Lane, OwnedFd)> {
        let (ours, theirs) = packets()?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        Ok((
            Lane {
                socket: Socket::Plain(ours),
                memory: None,
                held: None,
                tid: None,
                clock_ns: 0,
                has_asked: false,
                buffer: vec![0; wire::MESSAGE_BYTES_MAX],
            },
            theirs,
        ))
    }

    fn send(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), LaneError> {
        // A lane has a message or two under way at most, for which there is room.
        wire::send(self.socket.fd()?, request, descriptors).map_err(|e| match e.kind() {
            io::ErrorKind::InvalidInput => LaneError::Inputs(e.to_string()),
            _ => LaneError::Gone,
        })
    }

    /// The next message. Where it is expected `soon`, this thread waits for it: that is cheaper than to be
    /// woken by Tokio.
    async fn receive(&mut self, soon: bool) -> Result<Reply, LaneError> {
        let buffer = &mut self.buffer;
        if soon {
            let socket = self.socket.plain()?;
            // Where the kernel cannot tell, Tokio waits.
            if has_input(socket, SOON_MAX).unwrap_or(false) {
                match wire::receive::<Reply>(socket, buffer, RecvFlags::DONTWAIT) {
                    Ok((reply, _)) => return Ok(reply),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) => return Err(unread(e)),
                }
            }
        }
        let socket = self.socket.registered()?;
        loop {
            let mut ready = socket.readable().await.map_err(|_| LaneError::Gone)?;
            let received =
                ready.try_io(|fd| wire::receive::<Reply>(fd.get_ref().as_fd(), buffer, RecvFlags::DONTWAIT));
            match received {
                Ok(Ok((reply, _))) => return Ok(reply),
                Ok(Err(e)) => return Err(unread(e)),
                Err(_would_block) => {}
            }
        }
    }

    /// Sees to it that the lane has so much memory. It is on the host's books before it is there.
    fn reserve(&mut self, bytes: u64, memory: &Arc<dyn Grant>, meter: &Meter) -> Result<(), LaneError> {
        if self.memory.as_ref().is_some_and(|m| m.bytes() >= bytes) {
            return Ok(());
        }
        let size = bytes.max(MEMORY_BYTES_MIN).checked_next_power_of_two().ok_or(LaneError::HostMemory)?;
        let mut held = memory.memory().none(Kind::Buffers);
        // Making room for it is the host's work.
        meter.spare(|| memory.grow(&mut held, size)).map_err(|_| LaneError::HostMemory)?;
        let (shared, file) = SharedMemory::create(size).map_err(|_| LaneError::HostMemory)?;
        self.memory = Some(shared);
        self.held = Some(held);
        self.send(&Request::Memory { bytes: size }, &[file.as_fd()])
    }

    /// Writes the inputs into the lane's memory and has the worker begin.
    pub fn begin(
        &mut self,
        inputs: &[(String, Arc<Tensor>)],
        memory: &Arc<dyn Grant>,
        meter: &Meter,
    ) -> Result<(), LaneError> {
        let sizes = inputs.iter().map(|(_, tensor)| tensor.data.len() as u64);
        let (offsets, bytes) = wire::lay_out(sizes).ok_or(LaneError::HostMemory)?;
        self.reserve(bytes, memory, meter)?;
        let mut places = Vec::with_capacity(inputs.len());
        for ((name, tensor), offset) in inputs.iter().zip(offsets) {
            let is_written = self.memory.as_mut().is_some_and(|m| m.write(offset, &tensor.data));
            if !is_written {
                return Err(LaneError::HostMemory);
            }
            places.push(Place {
                name: name.clone(),
                ty: tensor.ty,
                shape: tensor.shape.clone(),
                offset,
                bytes: tensor.data.len() as u64,
            });
        }
        self.has_asked = false;
        self.send(&Request::Run { inputs: places }, &[])
    }

    /// Waits for the answer to the run that has begun; its outputs may take `outputs_max` bytes. It is
    /// expected `soon` where runs of the model are shorter than [`SOON_MAX`]. May be called again where it
    /// was dropped before.
    pub async fn answer(
        &mut self,
        outputs_max: u64,
        memory: &Arc<dyn Grant>,
        meter: &Meter,
        mut soon: bool,
    ) -> Result<Answered, LaneError> {
        loop {
            match self.receive(take(&mut soon)).await? {
                Reply::Ready { tid } if self.tid.is_none() => self.tid = Some(tid),
                Reply::Ready { .. } => return Err(LaneError::Nonsense("it is ready twice".into())),
                Reply::Space { .. } if self.has_asked => {
                    return Err(LaneError::Nonsense("it asks for memory twice".into()));
                }
                Reply::Space { bytes } => {
                    self.has_asked = true;
                    if bytes > outputs_max || self.reserve(bytes, memory, meter).is_err() {
                        self.send(&Request::NoSpace, &[])?;
                    }
                }
                Reply::Done { outputs, spent } => {
                    self.clock_ns = spent.clock_ns;
                    let result = self.outputs(outputs, outputs_max)?;
                    return Ok(Answered { result, spent });
                }
                Reply::Failed { error, spent } => {
                    self.clock_ns = spent.clock_ns;
                    return Ok(Answered { result: Err(error), spent });
                }
            }
        }
    }

    /// Copies the outputs out, whose places are checked here and believed nowhere else. They may take `most`
    /// bytes.
    fn outputs(&self, places: Vec<Place>, most: u64) -> Result<Outputs, LaneError> {
        if places.len() > OUTPUTS_MAX {
            return Err(LaneError::Nonsense(format!("{} outputs", places.len())));
        }
        let there = self.memory.as_ref().map_or(0, SharedMemory::bytes);
        let sum = places.iter().try_fold(0u64, |sum, place| sum.checked_add(place.bytes));
        let Some(bytes) = sum.filter(|bytes| *bytes <= there) else {
            return Err(LaneError::Nonsense(format!("outputs of more than the {there} bytes that it has")));
        };
        if bytes > most {
            return Ok(Err(RunError::NoSpace { bytes }));
        }
        let mut outputs = Vec::with_capacity(places.len());
        for place in places {
            let wrong = || LaneError::Nonsense(format!("output {:?} lies about its size", place.name));
            if bytes_of(place.ty, &place.shape) != Some(place.bytes) {
                return Err(wrong());
            }
            let data = match &self.memory {
                Some(memory) => memory.read(place.offset, place.bytes).ok_or_else(wrong)?,
                None if place.bytes == 0 => Vec::new(),
                None => return Err(wrong()),
            };
            outputs.push((place.name, Tensor { ty: place.ty, shape: place.shape, data }));
        }
        Ok(Ok(outputs))
    }

    /// The run was answered: what is large is let go.
    pub fn end(&mut self) {
        if self.memory.as_ref().is_some_and(|m| m.bytes() > MEMORY_BYTES_KEPT) {
            self.memory = None;
            self.held = None;
            // Where it cannot be said, the next memory takes the place of this.
            let _ = self.send(&Request::Forget, &[]);
        }
    }
}

/// Why a message could not be read.
fn unread(e: io::Error) -> LaneError {
    if e.kind() == io::ErrorKind::InvalidData { LaneError::Nonsense(e.to_string()) } else { LaneError::Gone }
}
