//! Runs merged into one: what waits for a slot anyway rides with the run that gets one.
//!
//! ```text
//!   run ─▶ joins the queue of its model ─┬─ gets a slot ─▶ takes those that wait with it ─▶ one run for all ─▶ each its rows
//!                                        └─ is taken by one that got a slot ─▶ waits for its rows
//! ```
//!
//! Only runs of one tenant are merged, with inputs of the same types and the same dimensions beside the first. The merged run
//! belongs to all whose rows are in it: it has a task of its own, which goes on while one of them waits, and each pays for its rows.
//! Where it fails, nobody pays for it and each runs by itself.

use super::model::Model;
use super::run::{Call, InferenceError, Payer, Place, Run};
use super::slots::Slot;
use super::worker::Worker;
use std::mem::take;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::sleep;
use vesta_core::TenantName;
use vesta_core::manifest::Batch;
use vesta_core::memory::{Kind, Reservation, Taken};
use vesta_nn::{Batching, Tensor, TensorType};

/// Larger inputs are not merged, in bytes: they are copied once more, which nobody pays for, and gain little.
const INPUTS_BYTES_MAX: u64 = 256 << 10;
/// Rows that are so many times as long as the one that was tried at deploy are not merged.
const LONGER_MAX: u64 = 2;
/// After so many merged runs that failed, a model's runs are not merged any more.
const FAILURES_MAX: u32 = 3;

/// The tensors of a run, by name.
type Tensors = Vec<(String, Tensor)>;

/// A model's runs that wait for a slot and may be merged.
#[derive(Default)]
pub(super) struct Queue {
    /// What the trial at deploy has found; `None` where runs are not merged.
    measured: Option<Batching>,
    waiting: Mutex<Vec<Arc<Member>>>,
    failures: AtomicU32,
}

/// What runs have to have in common: of each input the name, the type and the dimensions beside the first.
type Likeness = Vec<(String, TensorType, Vec<u32>)>;

/// A run that may be merged.
struct Member {
    tenant: TenantName,
    likeness: Likeness,
    rows: u32,
    /// Size of the inputs.
    bytes: u64,
    outputs_max: u64,
    deadline: Instant,
    rider: Mutex<Option<Rider>>,
}

/// What a merged run takes of a member: once.
struct Rider {
    inputs: Vec<(String, Arc<Tensor>)>,
    payer: Payer,
    held: Option<Arc<Reservation>>,
    taken: oneshot::Sender<oneshot::Receiver<Merged>>,
}

/// The outputs of a member's rows, or nothing where the merged run has failed.
type Merged = Option<Tensors>;

impl Queue {
    pub fn of(measured: Option<Batching>) -> Queue {
        Queue { measured, ..Queue::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Arc<Member>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `member` and those that wait and are like it, up to `rows` rows: `None` where another one has taken it.
    fn take(&self, member: &Arc<Member>, rows: u32) -> Option<Vec<Arc<Member>>> {
        let mut waiting = self.waiting();
        let at = waiting.iter().position(|other| Arc::ptr_eq(other, member))?;
        let mut taken = vec![waiting.remove(at)];
        let mut free = rows.saturating_sub(member.rows);
        waiting.retain(|other| {
            let rides =
                other.rows <= free && other.tenant == member.tenant && other.likeness == member.likeness;
            if rides {
                free -= other.rows;
                taken.push(other.clone());
            }
            !rides
        });
        Some(taken)
    }

    fn leave(&self, member: &Arc<Member>) {
        self.waiting().retain(|other| !Arc::ptr_eq(other, member));
    }

    /// Rows that wait and could be merged with `member`, its own included.
    fn rows_like(&self, member: &Member) -> u32 {
        let waiting = self.waiting();
        let like = waiting.iter().filter(|m| m.tenant == member.tenant && m.likeness == member.likeness);
        like.map(|m| m.rows).sum()
    }
}

/// Leaves the queue with whoever waited.
struct Waiting<'q>(&'q Queue, Arc<Member>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.leave(&self.1);
    }
}

impl Model {
    /// Runs with those that wait for the same model, if there are any. `None` where the run is to be made by itself, be it because
    /// it may not be merged or because the merged run has failed.
    pub(super) async fn run_merged(
        self: &Arc<Self>,
        call: &Call<'_>,
    ) -> Option<Result<Tensors, InferenceError>> {
        let batch = self.settings.batch;
        let (member, mut taken) = self.member(call, batch)?;
        let queue = &self.batches;
        queue.waiting().push(member.clone());
        let waiting = Waiting(queue, member.clone());
        let place = async {
            if batch.wait_ms > 0 && queue.rows_like(&member) < batch.max {
                sleep(Duration::from_millis(batch.wait_ms)).await;
            }
            self.place(call).await
        };
        let place = tokio::select! {
            biased;
            answer = &mut taken => Err(answer.ok()?),
            place = place => Ok(place),
        };
        let answer = match place {
            Err(answer) => answer,
            Ok(Err(e)) => return Some(Err(e)),
            Ok(Ok((worker, slot))) => match queue.take(&member, batch.max).as_deref() {
                Some([_alone]) => {
                    let run = Run::new(self.clone(), Place::default(), call.held.clone());
                    return Some(run.answer(call, Some((worker, slot))).await);
                }
                Some(members) => self.begin_merged(worker, slot, members),
                // Another one took it in this moment, and gives it the place of its rows.
                None => {
                    drop(slot);
                    taken.await.ok()?
                }
            },
        };
        drop(waiting);
        let _away = call.meter.away();
        answer.await.ok().flatten().map(Ok)
    }

    /// This run as one that may be merged.
    fn member(
        &self,
        call: &Call<'_>,
        batch: Batch,
    ) -> Option<(Arc<Member>, oneshot::Receiver<oneshot::Receiver<Merged>>)> {
        let batching = self.batches.measured?;
        if self.batches.failures.load(Relaxed) >= FAILURES_MAX || batch.max < 2 || self.settings.threads > 1 {
            return None;
        }
        let rows = rows(call.inputs).filter(|rows| (1..batch.max).contains(rows))?;
        let elements: u64 = call.inputs.iter().filter_map(|(_, tensor)| tensor.elements()).sum();
        let bytes: u64 = call.inputs.iter().map(|(_, tensor)| tensor.data.len() as u64).sum();
        if elements / u64::from(rows) > batching.row_elements.saturating_mul(LONGER_MAX)
            || bytes > INPUTS_BYTES_MAX
        {
            return None;
        }
        let mut inputs = call.inputs.to_vec();
        inputs.sort_by(|a, b| a.0.cmp(&b.0));
        let likeness = inputs.iter().map(|(name, t)| (name.clone(), t.ty, t.shape[1..].to_vec())).collect();
        let (say_taken, taken) = oneshot::channel();
        let rider = Rider {
            inputs,
            payer: Payer { meter: call.meter.clone(), rows },
            held: call.held.clone(),
            taken: say_taken,
        };
        let member = Member {
            tenant: call.tenant.clone(),
            likeness,
            rows,
            bytes,
            outputs_max: call.outputs_max,
            deadline: call.deadline,
            rider: Mutex::new(Some(rider)),
        };
        Some((Arc::new(member), taken))
    }

    /// Begins one run for all members; gives where the first one's rows will be.
    fn begin_merged(
        self: &Arc<Self>,
        worker: Arc<Worker>,
        slot: Slot,
        members: &[Arc<Member>],
    ) -> oneshot::Receiver<Merged> {
        let bytes = members.iter().map(|member| member.bytes).sum();
        let mut merged = MergedRun {
            tenant: members[0].tenant.clone(),
            inputs: Vec::new(),
            payers: Vec::new(),
            answers: Vec::new(),
            outputs_max: 0,
            deadline: members[0].deadline,
            held: None,
            _memory: self.inference.memory.memory().hold(Kind::Buffers, bytes),
        };
        let mut first = None;
        for member in members {
            let rider = member.rider.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(rider) = rider else { continue };
            let (answer, answered) = oneshot::channel();
            match &first {
                None => first = Some(answered),
                // One that has gone away meanwhile does not ride.
                Some(_) if rider.taken.send(answered).is_err() => continue,
                Some(_) => {}
            }
            merged.add(member, rider.inputs);
            merged.held = merged.held.take().or(rider.held);
            merged.payers.push(rider.payer);
            merged.answers.push(answer);
        }
        tokio::spawn(merged.run(self.clone(), worker, slot));
        first.unwrap_or_else(|| oneshot::channel().1)
    }
}

/// The number of rows: the first dimension of all inputs.
fn rows(inputs: &[(String, Arc<Tensor>)]) -> Option<u32> {
    let rows = *inputs.first()?.1.shape.first()?;
    inputs.iter().all(|(_, tensor)| tensor.shape.first() == Some(&rows)).then_some(rows)
}

/// One run for several.
struct MergedRun {
    tenant: TenantName,
    inputs: Tensors,
    payers: Vec<Payer>,
    answers: Vec<oneshot::Sender<Merged>>,
    outputs_max: u64,
    deadline: Instant,
    held: Option<Arc<Reservation>>,
    /// The merged inputs, on the host's books.
    _memory: Taken,
}

impl MergedRun {
    fn add(&mut self, member: &Member, inputs: Vec<(String, Arc<Tensor>)>) {
        self.outputs_max = self.outputs_max.saturating_add(member.outputs_max);
        self.deadline = self.deadline.max(member.deadline);
        if self.inputs.is_empty() {
            self.inputs = inputs.iter().map(|(name, tensor)| (name.clone(), Tensor::clone(tensor))).collect();
            return;
        }
        for ((_, all), (_, more)) in self.inputs.iter_mut().zip(&inputs) {
            all.shape[0] += more.shape[0];
            all.data.extend_from_slice(&more.data);
        }
    }

    async fn run(mut self, model: Arc<Model>, worker: Arc<Worker>, slot: Slot) {
        let mut answers = take(&mut self.answers);
        let inputs: Vec<_> =
            take(&mut self.inputs).into_iter().map(|(name, t)| (name, Arc::new(t))).collect();
        let call = Call {
            tenant: &self.tenant,
            inputs: &inputs,
            outputs_max: self.outputs_max,
            meter: &self.payers[0].meter,
            deadline: self.deadline,
            held: &self.held,
            others: &self.payers[1..],
            rows: self.payers[0].rows,
        };
        let run = Run::new(model.clone(), Place::default(), self.held.clone());
        let all_gone = async {
            for answer in &mut answers {
                answer.closed().await;
            }
        };
        let result = tokio::select! {
            result = run.answer(&call, Some((worker, slot))) => result,
            // Dropped, the run is waited out, and its worker ended where it goes on.
            () = all_gone => return,
        };
        let rows: Vec<u32> = self.payers.iter().map(|payer| payer.rows).collect();
        let parts = result.ok().and_then(|outputs| split(&outputs, &rows));
        if parts.is_none() {
            model.batches.failures.fetch_add(1, Relaxed);
        }
        if parts.is_some() {
            model.inference.merged.fetch_add(rows.len() as u64, Relaxed);
        }
        let mut parts = parts.into_iter().flatten();
        for answer in answers {
            let _ = answer.send(parts.next());
        }
    }
}

/// The outputs of each member. `None` where an output has other rows than the inputs.
fn split(outputs: &[(String, Tensor)], rows: &[u32]) -> Option<Vec<Tensors>> {
    let all: u32 = rows.iter().sum();
    let mut parts: Vec<Tensors> = rows.iter().map(|_| Vec::with_capacity(outputs.len())).collect();
    for (name, tensor) in outputs {
        if tensor.shape.first() != Some(&all) {
            return None;
        }
        let row_bytes = tensor.data.len() / all as usize;
        let mut data = &tensor.data[..];
        for (part, rows) in parts.iter_mut().zip(rows) {
            let (mine, rest) = data.split_at_checked(row_bytes * *rows as usize)?;
            data = rest;
            let mut shape = tensor.shape.clone();
            shape[0] = *rows;
            part.push((name.clone(), Tensor { ty: tensor.ty, shape, data: mine.to_vec() }));
        }
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_split_by_rows_in_order() {
        let tensor = Tensor { ty: TensorType::U8, shape: vec![4, 2], data: vec![1, 2, 3, 4, 5, 6, 7, 8] };
        let parts = split(&[("y".into(), tensor.clone())], &[1, 3]).expect("split");
        assert_eq!((&parts[0][0].1.shape[..], &parts[0][0].1.data[..]), (&[1, 2][..], &[1, 2][..]));
        assert_eq!(
            (&parts[1][0].1.shape[..], &parts[1][0].1.data[..]),
            (&[3, 2][..], &[3, 4, 5, 6, 7, 8][..])
        );
        assert!(split(&[("y".into(), tensor)], &[1, 2]).is_none());
    }
}
