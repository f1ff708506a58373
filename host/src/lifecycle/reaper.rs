//! Does what keep-alive and the memory budget want, when they want it. While nothing is warm or due, it
//! sleeps.

use super::activator::Activator;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use vesta_engine::heap;

/// How often the kernel is asked what the process holds, while anything is warm.
const SAMPLE: Duration = Duration::from_secs(1);
/// How often after that.
const LAST_SAMPLES: u32 = 4;
/// All plans are made anew when the price of memory has changed by this factor.
const PRICE_STEP: f64 = 1.05;

/// Runs for as long as the host.
pub async fn reap(activator: Arc<Activator>) {
    let functions = activator.functions.clone();
    let mut price = functions.fleet.price();
    let mut next_sample = Instant::now();
    let mut samples_left = 0;
    loop {
        for entry in functions.fleet.due(functions.now()).prewarm {
            // Nobody asked for it, and nobody pays.
            tokio::spawn(activator.clone().start(entry, None));
        }
        let due = functions.fleet.next_due().map(|at| Instant::now() + at.saturating_sub(functions.now()));
        if functions.fleet.warm() > 0 {
            samples_left = LAST_SAMPLES;
        }
        let sample = (samples_left > 0).then_some(next_sample);
        let runtime = &activator.parts.runtime;
        tokio::select! {
            () = at(due) => {}
            () = functions.woken.notified() => {
                let lacked = functions.fleet.memory().take_lacked();
                if lacked > 0 {
                    runtime.review_models(lacked);
                }
            }
            () = at(sample) => {
                let just_cold = samples_left == LAST_SAMPLES - 1;
                look_at_memory(&activator, &mut price, just_cold).await;
                runtime.end_overdue_instances();
                runtime.review_models(functions.fleet.memory().take_lacked());
                next_sample = Instant::now() + SAMPLE;
                samples_left -= 1;
            }
        }
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Whoever holds too much of the budget has to go, what was freed of the heap first; and what memory costs
/// may have changed.
async fn look_at_memory(activator: &Activator, price: &mut f64, just_cold: bool) {
    let functions = &activator.functions;
    let memory = functions.fleet.memory();
    functions.look_at_the_kernel();
    if just_cold || memory.used() > memory.budget() {
        // Takes some milliseconds: nothing for a worker.
        let _ = tokio::task::spawn_blocking(heap::let_go).await;
        functions.look_at_the_kernel();
    }
    functions.fleet.relieve(functions.now());
    let new = functions.fleet.price();
    if new > *price * PRICE_STEP || new < *price / PRICE_STEP {
        *price = new;
        functions.fleet.review_all(functions.now());
    }
}
