//! Takes down what nobody needs any more, on a thread of its own: idle instances that make room for others,
//! of whichever tenant. To unmap a large one takes a tenth of a second, and whoever needs the room neither
//! waits for that nor pays for it.

use crate::meter::cpu;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use vesta_core::vital::Vital;

/// Something that holds memory on the host's books.
pub(crate) trait Ends: Send + 'static {
    /// Gives its memory, and its place, to others: it is about to be ended. Says how many bytes it holds
    /// until then.
    fn let_go(&mut self) -> u64;
}

/// How much may be given to others while it is still there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EnderLimits {
    pub count: usize,
    pub bytes: u64,
}

/// The thread, and what it has to end. It ends with the last reference.
pub(crate) struct Ender<T> {
    shared: Arc<Shared<T>>,
    limits: EnderLimits,
}

struct Shared<T> {
    left: Mutex<Left<T>>,
    changed: Condvar,
}

/// What is to be ended, with its bytes; and how much there is of it, that under way included.
struct Left<T> {
    waiting: VecDeque<(T, u64)>,
    count: usize,
    bytes: u64,
    is_closed: bool,
}

impl<T> Shared<T> {
    fn left(&self) -> MutexGuard<'_, Left<T>> {
        // Nothing is ended under the lock.
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Ends> Ender<T> {
    /// `vital` is held by its thread.
    pub fn start(limits: EnderLimits, vital: Vital) -> std::io::Result<Arc<Ender<T>>> {
        let left = Left { waiting: VecDeque::new(), count: 0, bytes: 0, is_closed: false };
        let shared = Arc::new(Shared { left: Mutex::new(left), changed: Condvar::new() });
        let ours = shared.clone();
        std::thread::Builder::new().name("vesta-ender".into()).spawn(move || {
            let _vital = vital;
            cpu::register_thread("ender");
            end_all(&ours);
            cpu::unregister_thread();
        })?;
        Ok(Arc::new(Ender { shared, limits }))
    }

    /// Ends it soon; its memory is free at once. Where too much is about to end already, it ends here and
    /// now.
    pub fn end(&self, mut one: T) {
        let mut left = self.shared.left();
        if left.count < self.limits.count && left.bytes < self.limits.bytes {
            let bytes = one.let_go();
            left.count += 1;
            left.bytes += bytes;
            left.waiting.push_back((one, bytes));
            self.shared.changed.notify_one();
            return;
        }
        drop(left);
        drop(one);
    }
}

fn end_all<T>(shared: &Shared<T>) {
    let mut left = shared.left();
    loop {
        if let Some((one, bytes)) = left.waiting.pop_front() {
            drop(left);
            drop(one);
            left = shared.left();
            left.count -= 1;
            left.bytes -= bytes;
        } else if left.is_closed {
            return;
        } else {
            left = shared.changed.wait(left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> Drop for Ender<T> {
    fn drop(&mut self) {
        self.shared.left().is_closed = true;
        self.shared.changed.notify_one();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread::ThreadId;
    use std::time::Duration;

    /// Of things that hold nothing.
    pub(crate) const NONE: EnderLimits = EnderLimits { count: 0, bytes: 0 };

    impl Ends for i32 {
        fn let_go(&mut self) -> u64 {
            1
        }
    }

    /// Something whose end takes as long as somebody holds the other end of its channel.
    struct Slow {
        bytes: u64,
        has_let_go: Sender<u64>,
        may_end: Receiver<()>,
        ended: Sender<ThreadId>,
    }

    impl Ends for Slow {
        fn let_go(&mut self) -> u64 {
            let _ = self.has_let_go.send(self.bytes);
            self.bytes
        }
    }

    impl Drop for Slow {
        fn drop(&mut self) {
            let _ = self.may_end.recv_timeout(Duration::from_secs(10));
            let _ = self.ended.send(std::thread::current().id());
        }
    }

    #[test]
    fn memory_is_free_at_once_and_the_rest_ends_elsewhere_as_long_as_it_is_not_too_much() {
        let ender =
            Ender::start(EnderLimits { count: 10, bytes: 100 }, Vital::unwatched()).expect("a thread");
        let ((has_let_go, let_go), (ended, ends)) = (channel(), channel());
        let slow = |bytes| {
            let (may, may_end) = channel();
            (Slow { bytes, has_let_go: has_let_go.clone(), may_end, ended: ended.clone() }, may)
        };
        let ((first, first_may), (second, second_may), (third, third_may)) = (slow(60), slow(60), slow(1));
        ender.end(first);
        ender.end(second);
        assert_eq!(let_go.try_iter().collect::<Vec<_>>(), [60, 60]);
        assert!(ends.try_recv().is_err(), "nothing has ended yet");
        // It is more than 100 bytes by now.
        third_may.send(()).expect("it waits");
        ender.end(third);
        assert_eq!(ends.recv().expect("it has ended"), std::thread::current().id());
        assert!(let_go.try_recv().is_err());
        drop((first_may, second_may));
        for _ in 0..2 {
            assert_ne!(ends.recv().expect("it ends"), std::thread::current().id());
        }
    }
}
