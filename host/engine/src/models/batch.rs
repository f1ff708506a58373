//! Runs merged into one: those that wait for a slot anyway ride with the run that gets one.
//!
//! ```text
//!   run ─▶ joins the queue of its model ─┬─ gets a slot ─▶ takes those that wait with it ─▶ one run for all ─▶ each its rows
//!                                        └─ is taken by one that got a slot ─▶ waits for its rows
//! ```
//!
//! Only runs of one tenant are merged, with inputs of the same types and the same dimensions beside the
//! first. The merged run
//! belongs to all whose rows are in it: it has a task of its own, which goes on while one of them waits,
//! and each pays for its
//! rows. Together they have the limits of one run. Where it fails, each runs by itself.

use super::model::Model;
use super::payers::Payer;
use super::queue::{Bounds, Member, Merged, Rider, Tensors};
use super::run::{Call, InferenceError, Place, Queued, Run};
use super::slots::Slot;
use super::worker::Worker;
use std::mem::take;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::sleep_until;
use vesta_core::TenantName;
use vesta_core::memory::{Kind, Reservation, Taken};
use vesta_nn::{Tensor, bytes_of};

/// Larger inputs are not merged, in bytes: they are copied once more, which nobody pays for, and gain little.
const INPUTS_BYTES_MAX: u64 = 256 << 10;
/// Outputs of a merged run, in bytes. For the same reason.
const OUTPUTS_BYTES_MAX: u64 = 8 << 20;
/// Rows that are so many times as long as the one that was tried at deploy are not merged.
const LONGER_MAX: u64 = 2;
/// Of the CPU time that a run may take, the part that a merged one is expected to take at most.
const LIMIT_SHARE: u64 = 4;

impl Model {
    /// Runs with those that wait for the same model, if there are any. `None` where the run is to be made
    /// by itself, be it because
    /// it may not be merged or because the merged run has failed.
    pub(super) async fn run_merged(
        self: &Arc<Self>,
        call: &Call<'_>,
    ) -> Option<Result<Tensors, InferenceError>> {
        let batch = self.settings.batch;
        let (member, mut taken) = self.member(call)?;
        let queue = &self.batches;
        let waiting = queue.join(member.clone());
        let place = async {
            if batch.wait_ms > 0 && queue.rows_like(&member) < batch.max {
                let _queued = Queued::new(call.meter);
                let wait = Instant::now() + Duration::from_millis(batch.wait_ms);
                sleep_until(wait.min(call.deadline).into()).await;
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
            Ok(Ok((worker, slot))) => {
                match queue.take(&member, &self.bounds(&member, &worker), Instant::now()).as_deref() {
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
                }
            }
        };
        drop(waiting);
        let _away = call.meter.away();
        answer.await.ok().flatten().map(Ok)
    }

    /// How much may ride with a member in a worker: as much as one run may take, by what runs took so far.
    fn bounds(&self, member: &Member, worker: &Worker) -> Bounds {
        // It may be of another tier than the one that served when the member joined.
        let may_merge = self.batching(worker.tier()).is_some();
        Bounds {
            rows: if may_merge { self.settings.batch.max } else { member.rows },
            row_ns: self.estimate().cpu_ns / u64::from(member.rows.max(1)),
            cpu_ns: self.settings.inference_ns / LIMIT_SHARE,
        }
    }

    /// This run as one that may be merged.
    fn member(&self, call: &Call<'_>) -> Option<(Arc<Member>, oneshot::Receiver<oneshot::Receiver<Merged>>)> {
        let batching = self.batching(self.tier()?)?;
        let batch = self.settings.batch;
        if batch.max < 2 || self.settings.threads > 1 {
            return None;
        }
        let rows = rows(call.inputs).filter(|rows| (1..batch.max).contains(rows))?;
        let (mut elements, mut bytes) = (0u64, 0u64);
        for (_, tensor) in call.inputs {
            // One that is not what its shape says is told so by the worker.
            tensor.check().ok()?;
            elements = elements.saturating_add(tensor.elements()?);
            bytes = bytes.saturating_add(tensor.data.len() as u64);
        }
        let row_max = batching.row_elements.saturating_mul(LONGER_MAX);
        if elements / u64::from(rows) > row_max || bytes > INPUTS_BYTES_MAX {
            return None;
        }
        let mut inputs = call.inputs.to_vec();
        inputs.sort_by(|a, b| a.0.cmp(&b.0));
        let likeness = inputs.iter().map(|(name, t)| (name.clone(), t.ty, t.shape[1..].to_vec())).collect();
        let (say_taken, taken) = oneshot::channel();
        let rider = Rider { inputs, meter: call.meter.clone(), held: call.held.clone(), taken: say_taken };
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
            deadline: members[0].deadline,
            held: None,
            _memory: self.inference.memory.memory().hold(Kind::Buffers, bytes),
        };
        let mut first = None;
        for member in members {
            // Its bill waits for the merged run from here on.
            let Some((rider, payer)) = member.take() else { continue };
            let (answer, answered) = oneshot::channel();
            match &first {
                None => first = Some(answered),
                // One that has gone away meanwhile does not ride.
                Some(_) if rider.taken.send(answered).is_err() => continue,
                Some(_) => {}
            }
            merged.add(member, &rider.inputs);
            merged.held = merged.held.take().or(rider.held);
            merged.payers.push(payer);
            merged.answers.push((answer, member.outputs_max));
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
    /// Where each one's rows go, and how many bytes of them it takes.
    answers: Vec<(oneshot::Sender<Merged>, u64)>,
    deadline: Instant,
    held: Option<Arc<Reservation>>,
    /// The merged inputs, on the host's books.
    _memory: Taken,
}

impl MergedRun {
    fn add(&mut self, member: &Member, inputs: &[(String, Arc<Tensor>)]) {
        self.deadline = self.deadline.max(member.deadline);
        if self.inputs.is_empty() {
            self.inputs = inputs.iter().map(|(name, tensor)| (name.clone(), Tensor::clone(tensor))).collect();
            return;
        }
        for ((_, all), (_, more)) in self.inputs.iter_mut().zip(inputs) {
            all.shape[0] = all.shape[0].saturating_add(more.shape[0]);
            all.data.extend_from_slice(&more.data);
        }
    }

    async fn run(mut self, model: Arc<Model>, worker: Arc<Worker>, slot: Slot) {
        let rows: Vec<u32> = self.payers.iter().map(|payer| payer.rows).collect();
        let inputs: Vec<_> =
            take(&mut self.inputs).into_iter().map(|(name, t)| (name, Arc::new(t))).collect();
        let call = Call {
            tenant: &self.tenant,
            inputs: &inputs,
            outputs_max: OUTPUTS_BYTES_MAX,
            meter: &self.payers[0].meter,
            deadline: self.deadline,
            held: &self.held,
            others: &self.payers[1..],
            rows: rows[0],
        };
        let run = Run::new(model.clone(), Place::default(), self.held.clone());
        let all_gone = async {
            for (answer, _) in &mut self.answers {
                answer.closed().await;
            }
        };
        let result = tokio::select! {
            result = run.answer(&call, Some((worker, slot))) => result,
            // Dropped, the run is waited out, and its worker ended where it goes on.
            () = all_gone => return,
        };
        let parts = result.ok().and_then(|outputs| split(&outputs, &rows));
        model.batches.ended(parts.is_some());
        if parts.is_some() {
            model.inference.merged.fetch_add(rows.len() as u64, Relaxed);
        }
        // Bills are closed with what comes now.
        self.payers.clear();
        let mut parts = parts.into_iter().flatten();
        for (answer, outputs_max) in self.answers {
            let _ = answer.send(parts.next().filter(|part| bytes(part) <= outputs_max));
        }
    }
}

fn bytes(tensors: &Tensors) -> u64 {
    tensors.iter().map(|(_, tensor)| tensor.data.len() as u64).sum()
}

/// The outputs of each member. `None` where an output has other rows than the inputs.
fn split(outputs: &[(String, Tensor)], rows: &[u32]) -> Option<Vec<Tensors>> {
    let all: u32 = rows.iter().sum();
    let mut parts: Vec<Tensors> = rows.iter().map(|_| Vec::with_capacity(outputs.len())).collect();
    for (name, tensor) in outputs {
        if all == 0 || tensor.shape.first() != Some(&all) {
            return None;
        }
        let mut data = &tensor.data[..];
        for (part, rows) in parts.iter_mut().zip(rows) {
            let mut shape = tensor.shape.clone();
            shape[0] = *rows;
            let (mine, rest) = data.split_at_checked(bytes_of(tensor.ty, &shape)? as usize)?;
            data = rest;
            part.push((name.clone(), Tensor { ty: tensor.ty, shape, data: mine.to_vec() }));
        }
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vesta_nn::TensorType;

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
