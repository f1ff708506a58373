//! Seeded simulations of the inference slots: random tenants, runs, estimates, deadlines and cancellations,
//! with every invariant checked after each step.
//!
//! `VESTA_SIM_SEED=7 cargo test -p vesta-core --test slots` runs one seed; `VESTA_SIM_SEEDS=10000` runs more
//! of them.

mod chaos;
mod equal_shares;
mod host;
mod short_runs;

use std::panic::catch_unwind;

const SEEDS: u64 = 300;
const MS: u64 = 1_000_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// Runs a simulation for each seed and adds up what each counted. The seed of a failure is printed.
fn for_each_seed<const N: usize>(simulate: fn(u64) -> [u64; N]) -> [u64; N] {
    let seeds = match number("VESTA_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("VESTA_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let mut sums = [0; N];
    for seed in seeds {
        match catch_unwind(|| simulate(seed)) {
            Ok(counts) => sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count),
            Err(_) => panic!("failed with VESTA_SIM_SEED={seed}"),
        }
    }
    sums
}
