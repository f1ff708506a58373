//! P10: the keep-alive policy on traces, by the product's own code. No time is measured: the figures are the
//! same on every machine.
//!
//! The traces are synthetic, after published statistics: 500 functions over 7 days for memory without a
//! limit, 300 for fixed memory. `VESTA_TRACES` and `VESTA_BUDGET_TRACES` name other ones instead: CSV files,
//! separated by commas, with the columns `function,memory_mb,cold_ms,time_s,calls`.

use crate::Effort;
use crate::report::Line;
use score::{Unlimited, in_limited_memory, in_unlimited_memory, median};
use trace::Function;

#[path = "../../host/core/tests/keepalive/replay.rs"]
mod replay;
#[path = "../../host/core/tests/keepalive/score.rs"]
mod score;
#[path = "../../host/core/tests/keepalive/trace.rs"]
mod trace;

const FIRST_SEED: u64 = 11;

pub fn measure(effort: Effort) -> Vec<Line> {
    let seeds = (effort.pairs as u64).min(5);
    let without_limit: Vec<Unlimited> = traces("VESTA_TRACES", 500, seeds, |t| in_unlimited_memory(&t));
    let limited: Vec<[f64; 3]> = traces("VESTA_BUDGET_TRACES", 300, seeds, |t| in_limited_memory(&t));
    let coldx: Vec<f64> = without_limit.iter().map(|u| u.coldx).collect();
    let worst = coldx.iter().copied().fold(0.0, f64::max);
    let cold: Vec<f64> = without_limit.iter().map(|u| u.cold_over_fixed).collect();
    let memory: Vec<f64> = without_limit.iter().map(|u| u.memory_over_fixed).collect();
    let budgets =
        [(4, 0), (8, 1), (12, 2)].map(|(gb, at)| (gb, limited.iter().map(|l| l[at]).collect::<Vec<_>>()));
    let (gb, closed) = budgets
        .into_iter()
        .min_by(|a, b| median(a.1.iter().copied()).total_cmp(&median(b.1.iter().copied())))
        .expect("there are three");
    vec![
        Line::of(
            "P10 coldx",
            "keep-alive, cold seconds over the clairvoyant's in the same memory",
            &coldx,
            1.33,
            true,
        ),
        Line::of("P10 coldx worst", "the same, of the worst trace", &[worst], 1.6, true),
        Line::of(
            "P10 gap closed",
            format!("from LRU to the clairvoyant in fixed memory, the worst of 4, 8, 12 GB: {gb} GB"),
            &closed,
            0.7,
            false,
        ),
        Line::of(
            "P10 fixed, cold",
            "cold seconds over 10 fixed minutes', at a price of 7e-4",
            &cold,
            1.0,
            true,
        ),
        Line::of("P10 fixed, GB-h", "memory over 10 fixed minutes', at a price of 7e-4", &memory, 1.0, true),
    ]
}

/// One at a time: a trace of a week has some millions of events.
fn traces<T>(variable: &str, functions: usize, seeds: u64, score: impl Fn(Vec<Function>) -> T) -> Vec<T> {
    match std::env::var(variable) {
        Ok(files) => files.split(',').map(|file| score(read(file))).collect(),
        Err(_) => {
            (FIRST_SEED..FIRST_SEED + seeds).map(|s| score(trace::synthetic(functions, 7.0, s))).collect()
        }
    }
}

fn read(file: &str) -> Vec<Function> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{file}: {e}"));
    trace::read_csv(&text).unwrap_or_else(|e| panic!("{file}: {e}"))
}
