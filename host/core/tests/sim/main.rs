//! Seeded simulation of lifecycle, keep-alive and memory budget: random functions, arrivals, failures and
//! deletes on the core's own code, with every invariant checked after each event.
//!
//! `VESTA_SIM_SEED=7 cargo test -p vesta-core --test sim -- --nocapture` runs one seed and prints what
//! happens; `VESTA_SIM_SEEDS=100000` runs more of them.

mod tally;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use tally::Tally;
use world::World;

const SEEDS: u64 = 1_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

#[test]
fn nothing_is_lost_started_twice_or_over_budget() {
    if let Some(seed) = number("VESTA_SIM_SEED") {
        println!("{:#?}", World::new(seed, true).run());
        return;
    }
    let seeds = number("VESTA_SIM_SEEDS").unwrap_or(SEEDS);
    let (next, failed, sum) = (AtomicU64::new(0), Mutex::new(Vec::new()), Mutex::new(Tally::default()));
    let begun = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    match catch_unwind(AssertUnwindSafe(|| World::new(seed, false).run())) {
                        Ok(tally) => sum.lock().unwrap_or_else(PoisonError::into_inner).add(&tally),
                        Err(_) => failed.lock().unwrap_or_else(PoisonError::into_inner).push(seed),
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{seeds} seeds in {:.1} s: {sum:#?}", begun.elapsed().as_secs_f64());
    let mut failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.sort_unstable();
    if let Some(seed) = failed.first() {
        panic!(
            "{} of {seeds} seeds failed: {failed:?}\nrun the first again, with all that happens in it:\n    \
             VESTA_SIM_SEED={seed} cargo test -p vesta-core --test sim -- --nocapture",
            failed.len()
        );
    }
    // A simulation in which one of these never happens would prove nothing about it.
    sum.check_that_everything_happened();
}
