//! The core's inference slots with this host's clock, and those who wait for one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use vesta_core::TenantName;
use vesta_core::slots::{Job, JobId, Slots, SlotsConfig, SlotsError, Turn};

/// Why a run got no slot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoSlot {
    #[error(transparent)]
    Refused(#[from] SlotsError),
    #[error("the invocation's deadline would have passed before the run could end")]
    TooLate,
}

impl NoSlot {
    /// Whether the run could not have ended in time.
    pub fn is_late(&self) -> bool {
        matches!(self, NoSlot::TooLate | NoSlot::Refused(SlotsError::TooLate { .. }))
    }
}

pub(crate) struct InferenceSlots {
    queue: Mutex<Queue>,
    began: Instant,
}

struct Queue {
    slots: Slots,
    /// Those who wait; true is sent where the run may begin.
    waiting: HashMap<JobId, oneshot::Sender<bool>>,
}

/// What is known of a run before it begins.
pub(crate) struct Wish {
    /// Slots.
    pub width: u32,
    pub estimate_cpu_ns: u64,
    pub least_wall_ns: u64,
    pub deadline: Instant,
    /// Bytes of its inputs.
    pub held_bytes: u64,
}

impl InferenceSlots {
    pub fn new(config: SlotsConfig) -> Arc<InferenceSlots> {
        let queue = Queue { slots: Slots::new(config), waiting: HashMap::new() };
        Arc::new(InferenceSlots { queue: Mutex::new(queue), began: Instant::now() })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // The core's state changes as a whole in each call; a panic elsewhere cannot leave half of a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Waits for a slot. A caller that goes away leaves the queue at once.
    pub async fn acquire(self: &Arc<Self>, tenant: &TenantName, wish: Wish) -> Result<Slot, NoSlot> {
        let (id, turn) = {
            let mut queue = self.queue();
            let now_ns = self.now_ns();
            let left = wish.deadline.saturating_duration_since(Instant::now());
            let job = Job {
                width: wish.width,
                estimate_cpu_ns: wish.estimate_cpu_ns,
                estimate_wall_ns: wish.least_wall_ns,
                deadline_ns: now_ns.saturating_add(left.as_nanos() as u64),
                held_bytes: wish.held_bytes,
            };
            let id = queue.slots.enqueue(tenant, job, now_ns)?;
            let (tell, turn) = oneshot::channel();
            queue.waiting.insert(id, tell);
            queue.turn(now_ns);
            (id, turn)
        };
        let mut place = Place { slots: self, id: Some(id) };
        let latest =
            wish.deadline.checked_sub(Duration::from_nanos(wish.least_wall_ns)).unwrap_or(wish.deadline);
        // A run that waited for too long leaves the queue by the drop of its place.
        let turn = tokio::time::timeout_at(latest.into(), turn).await.map_err(|_| NoSlot::TooLate)?;
        if !turn.unwrap_or(false) {
            place.id = None;
            return Err(NoSlot::TooLate);
        }
        place.id = None;
        Ok(Slot { slots: self.clone(), id: Some(id) })
    }

    fn ended(&self, id: JobId, cpu_ns: u64) {
        let mut queue = self.queue();
        queue.slots.finished(id, cpu_ns);
        queue.turn(self.now_ns());
    }

    /// Runs that wait.
    pub fn waiting(&self) -> usize {
        self.queue().slots.waiting()
    }
}

impl Queue {
    /// Tells those whose turn it is.
    fn turn(&mut self, now_ns: u64) {
        while let Some(turn) = self.slots.next(now_ns) {
            let (Turn::Start(id) | Turn::Drop(id)) = turn;
            let told = self.waiting.remove(&id).map(|tell| tell.send(matches!(turn, Turn::Start(_))));
            // Where the caller has just gone away, its place found no entry, or will find none.
            if matches!(turn, Turn::Start(_)) && !matches!(told, Some(Ok(()))) {
                self.slots.finished(id, 0);
            }
        }
    }
}

/// A place in the queue.
struct Place<'a> {
    slots: &'a Arc<InferenceSlots>,
    id: Option<JobId>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let mut queue = self.slots.queue();
        queue.waiting.remove(&id);
        // It has left the queue, or its turn had come and nobody took it.
        if !queue.slots.cancel(id) {
            queue.slots.finished(id, 0);
        }
        queue.turn(self.slots.now_ns());
    }
}

/// A slot that a run holds.
pub(crate) struct Slot {
    slots: Arc<InferenceSlots>,
    id: Option<JobId>,
}

impl Slot {
    /// The run has ended, and took so much CPU time.
    pub fn ended(mut self, cpu_ns: u64) {
        if let Some(id) = self.id.take() {
            self.slots.ended(id, cpu_ns);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.slots.ended(id, 0);
        }
    }
}
