//! Does what keep-alive and the memory budget want, when they want it. While nothing is warm or due, it sleeps.

use super::activator::Activator;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use vesta_core::memory::{Grant, Kind};
use vesta_engine::Meter;

/// How often the kernel is asked what the process holds, while anything is warm.
const SAMPLE: Duration = Duration::from_secs(1);
/// All plans are made anew when the price of memory has changed by this factor.
const PRICE_STEP: f64 = 1.05;

/// Runs for as long as the host.
pub async fn reap(activator: Arc<Activator>) {
    let functions = activator.functions.clone();
    let mut price = functions.fleet.price();
    let mut next_sample = Instant::now();
    loop {
        for entry in functions.fleet.due(functions.now()).prewarm {
            // Nobody asked for it: the meter is the platform's own and bills nobody.
            tokio::spawn(activator.clone().start(entry, Arc::new(Meter::default())));
        }
        let due = functions.fleet.next_due().map(|at| Instant::now() + at.saturating_sub(functions.now()));
        let sample = (functions.fleet.warm() > 0).then_some(next_sample);
        tokio::select! {
            () = at(due) => {}
            () = functions.woken.notified() => {}
            () = at(sample) => {
                look_at_memory(&activator, &mut price);
                activator.parts.runtime.end_overdue_instances();
                next_sample = Instant::now() + SAMPLE;
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

/// What the process holds beside what is counted is taken from the budget, and makes memory dear.
fn look_at_memory(activator: &Activator, price: &mut f64) {
    let functions = &activator.functions;
    let memory = functions.memory();
    if let Some(private) = private_bytes() {
        let counted = memory.taken_for(Kind::Instances) + memory.taken_for(Kind::Buffers);
        memory.observe_uncounted(private.saturating_sub(counted));
    }
    functions.fleet.relieve(functions.now());
    let new = functions.fleet.price();
    if new > *price * PRICE_STEP || new < *price / PRICE_STEP {
        *price = new;
        functions.fleet.review_all(functions.now());
    }
}

/// Private memory of this process that is in the machine's, in bytes. Mapped files are not in it: the kernel can take them back.
fn private_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
