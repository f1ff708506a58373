//! The wire between the host and a worker: what both sides say, and how a message travels.
//!
//! ```text
//!  host                              control socket                               worker
//!    Load { .. }       + graph, weights, description, lane   ──────────────▶  maps, loads
//!                                                            ◀──────────────  Loaded | Refused
//!    AddLane           + lane                                ──────────────▶  one thread more
//!
//!  host                              lane (one run at a time)                     worker
//!                                                            ◀──────────────  Ready { tid }
//!    Memory { bytes }  + memory                              ──────────────▶  maps it in the place of what it had
//!    Run { inputs }                                          ──────────────▶  computes
//!                                                            ◀──────────────  Space { bytes }: the outputs are larger
//!    Memory + memory | NoSpace                               ──────────────▶
//!                                                            ◀──────────────  Done { .. } | Failed { .. }
//! ```
//!
//! The fork server has a socket of the same kind, for [`Order`](super::fork_server::Order) and
//! [`Forked`](super::fork_server::Forked). All are sequenced packets: a message is a packet, a value of one
//! of the enums below in `postcard`'s encoding, of at most [`MESSAGE_BYTES_MAX`], with descriptors beside it.
//! Tensors never travel in messages: they lie in the lane's memory, a sealed memory file that each side maps
//! once, at the places that the message names.
//!
//! A lane belongs to one run from its `Run` to the `Done` or `Failed` that answers it, and any number of
//! messages may come before the answer: a later kind of run (several requests in one, answers in parts) is a
//! variant more in these enums. Worker and host are the same program, so there is no version on the wire.
//!
//! The host believes nothing that comes from a worker. A message is a copy in the host's own memory before it
//! is decoded, and each place, length and shape in it is checked against the lane's memory and the limits.

use crate::{Form, RunError, TensorType};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Longest message, in bytes. 256 tensors with names of 100 characters and 16 dimensions each stay under it.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Most descriptors with one message.
pub const DESCRIPTORS_MAX: usize = 4;
/// Every tensor in a lane's memory begins at a multiple of this, in bytes.
pub const ALIGNMENT: u64 = 64;

/// Host to worker, on the control socket.
#[derive(Debug, Serialize, Deserialize)]
pub enum Control {
    /// Descriptors: graph, weights, description, first lane. `threads` compute each run.
    Load { threads: u32, form: Form },
    /// Descriptor: a lane.
    AddLane,
}

/// Worker to host, on the control socket.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The model is loaded. CPU time in nanoseconds.
    Loaded { cpu_ns: u64 },
    /// The engine does not take it.
    Refused { reason: String },
}

/// Host to worker, on a lane.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Descriptor: memory of so many bytes, in the place of what the lane had.
    Memory { bytes: u64 },
    /// The lane's memory is wanted back. Has no answer.
    Forget,
    /// A run over these inputs.
    Run { inputs: Vec<Place> },
    /// There is no memory for the outputs.
    NoSpace,
}

/// Worker to host, on a lane.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Once, before the first run: the thread that serves the lane.
    Ready {
        tid: u32,
    },
    /// The outputs need memory of so many bytes; answered with `Memory` or `NoSpace`.
    Space {
        bytes: u64,
    },
    /// The outputs are there.
    Done {
        outputs: Vec<Place>,
        spent: Spent,
    },
    Failed {
        error: RunError,
        spent: Spent,
    },
}

/// What a run took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// CPU time of all threads that worked on it, in nanoseconds, decoding and copying included.
    pub cpu_ns: u64,
    /// The same clock at the end of the run: that of the lane's thread, or of the process where several
    /// threads compute.
    pub clock_ns: u64,
    /// The most that the worker held privately during the run beyond what it held when the model was loaded,
    /// in bytes.
    pub memory_bytes: u64,
}

/// A tensor in a lane's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub name: String,
    pub ty: TensorType,
    pub shape: Vec<u32>,
    /// In bytes from the memory's beginning.
    pub offset: u64,
    pub bytes: u64,
}

/// Where each of several tensors begins that lie one after another, and where the last ends. `None` where
/// that is more than 64 bits.
pub fn lay_out(sizes: impl Iterator<Item = u64>) -> Option<(Vec<u64>, u64)> {
    let (mut offsets, mut end) = (Vec::new(), 0u64);
    for bytes in sizes {
        let offset = end.checked_next_multiple_of(ALIGNMENT)?;
        offsets.push(offset);
        end = offset.checked_add(bytes)?;
    }
    Some((offsets, end))
}

/// Sends a message with descriptors. Blocks, or fails with `WouldBlock`, as the socket is set.
pub fn send(
    socket: BorrowedFd<'_>,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = postcard::to_allocvec(message).map_err(io::Error::other)?;
    if bytes.len() > MESSAGE_BYTES_MAX || descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a message of {} bytes; at most {MESSAGE_BYTES_MAX} are sent", bytes.len()),
        ));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        beside.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let flags = SendFlags::NOSIGNAL;
    rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(&bytes)], &mut beside, flags))?;
    Ok(())
}

/// Takes one message; `buffer` has [`MESSAGE_BYTES_MAX`]. The other side's end is `UnexpectedEof`; what is no
/// message is `InvalidData`.
pub fn receive<M: DeserializeOwned>(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> io::Result<(M, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut beside, flags) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut descriptors = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is longer than any"));
    }
    let message = postcard::from_bytes(&buffer[..received.bytes])
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    Ok((message, descriptors))
}
