//! A worker that loads everything and lies in its answers. The first number of a run's first input says which
//! lie it tells.

use rustix::net::RecvFlags;
use std::os::fd::{AsFd, OwnedFd};
use vesta_nn::worker::memory::SharedMemory;
use vesta_nn::worker::wire::{self, Answer, Control, Place, Reply, Request, Spent};
use vesta_nn::{RunError, TensorType};

/// How many lies there are.
const LIES: u8 = 15;

pub fn main() -> u8 {
    let control = std::io::stdin().as_fd().try_clone_to_owned().expect("the control socket");
    let mut buffer = vec![0; wire::MESSAGE_BYTES_MAX];
    let mut receive = || wire::receive::<Control>(control.as_fd(), &mut buffer, RecvFlags::empty());
    let Ok((Control::Load { .. }, mut descriptors)) = receive() else { return 2 };
    let lane = descriptors.pop().expect("a lane");
    std::thread::spawn(move || serve(&lane));
    wire::send(control.as_fd(), &Answer::Loaded { cpu_ns: u64::MAX }, &[]).expect("sent");
    while let Ok((Control::AddLane, mut descriptors)) = receive() {
        let lane = descriptors.pop().expect("a lane");
        std::thread::spawn(move || serve(&lane));
    }
    0
}

fn serve(lane: &OwnedFd) {
    let mut buffer = vec![0; wire::MESSAGE_BYTES_MAX];
    let mut memory = None;
    say(lane, &Reply::Ready { tid: 1 });
    while let Ok((request, descriptors)) =
        wire::receive::<Request>(lane.as_fd(), &mut buffer, RecvFlags::empty())
    {
        match request {
            Request::Memory { bytes } => memory = SharedMemory::map(&descriptors[0], bytes).ok(),
            Request::Run { inputs } => {
                let (memory, first) = (memory.as_ref().expect("memory"), &inputs[0]);
                let number = memory.read(first.offset, 4).expect("an input");
                let number = f32::from_le_bytes(number.try_into().expect("four bytes"));
                if lie(lane, number as u8, memory.bytes()).is_none() {
                    return;
                }
            }
            Request::Forget => memory = None,
            Request::NoSpace => say(lane, &failed()),
        }
    }
}

fn say(lane: &OwnedFd, reply: &Reply) {
    // The host ends whoever lies, perhaps before all is said.
    let _ = wire::send(lane.as_fd(), reply, &[]);
}

fn raw(lane: &OwnedFd, bytes: &[u8]) {
    let _ = rustix::io::write(lane, bytes);
}

fn failed() -> Reply {
    Reply::Failed { error: RunError::Engine("no".into()), spent: Spent::default() }
}

fn done(outputs: Vec<Place>) -> Reply {
    Reply::Done { outputs, spent: Spent::default() }
}

fn place(shape: &[u32], offset: u64, bytes: u64) -> Place {
    Place { name: "y".into(), ty: TensorType::F32, shape: shape.to_vec(), offset, bytes }
}

/// Tells a lie; `None` where the lane is to be closed.
fn lie(lane: &OwnedFd, number: u8, memory: u64) -> Option<()> {
    let spent = Spent { cpu_ns: u64::MAX, clock_ns: u64::MAX, memory_bytes: u64::MAX };
    match number % LIES {
        0 => raw(lane, b"this is no message"),
        1 => raw(lane, &[0xff; 60_000]),
        2 => say(lane, &done(vec![place(&[4], memory, 16)])),
        3 => say(lane, &done(vec![place(&[4], u64::MAX - 8, 16)])),
        4 => say(lane, &done(vec![place(&[1 << 31, 1 << 31, 4], 0, 16)])),
        5 => say(lane, &done(vec![place(&[4], 0, 17)])),
        6 => say(lane, &done(vec![place(&[0], 0, 0); 1_000])),
        // So many bytes take more than the instance may hold, or than there are.
        7 => say(lane, &Reply::Space { bytes: u64::MAX }),
        8 => (0..100_000).for_each(|_| say(lane, &Reply::Ready { tid: 7 })),
        9 => (0..100).for_each(|_| say(lane, &Reply::Space { bytes: 1 << 20 })),
        // True, but for what it says that it took.
        10 => say(lane, &Reply::Done { outputs: vec![place(&[1], 0, 4)], spent }),
        11 => say(lane, &Reply::Failed { error: RunError::Engine("long ".repeat(10_000)), spent }),
        12 => {
            // Descriptors that nobody asked for.
            let some = lane.as_fd();
            let _ = wire::send(lane.as_fd(), &done(vec![place(&[1], 0, 4)]), &[some, some, some, some]);
        }
        // The same place again and again: each is right, and together they are more than there is.
        13 => say(lane, &done(vec![place(&[(memory / 4) as u32], 0, memory); 200])),
        _ => return None,
    }
    Some(())
}
