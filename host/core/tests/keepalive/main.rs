//! Scores the keep-alive policy on traces, with the code that the host runs. `tests/bench/keepalive.rs` does
//! the same on larger ones.

mod replay;
mod score;
mod trace;

use replay::{Frontier, Rule};
use score::{in_limited_memory, in_unlimited_memory, median};
use std::sync::Arc;
use std::time::Duration;
use trace::{Function, read_csv, synthetic};
use vesta_core::keepalive::{Asked, BASE_PRICE, IndexPolicy, KeepAlive};

#[test]
fn cold_seconds_are_near_the_clairvoyants_with_the_same_memory_and_below_ten_fixed_minutes() {
    let scores: Vec<_> = (1..=5).map(|seed| in_unlimited_memory(&synthetic(500, 4.0, seed))).collect();
    for s in &scores {
        println!(
            "coldx {:.3}, over fixed: cold {:.3} memory {:.3}",
            s.coldx, s.cold_over_fixed, s.memory_over_fixed
        );
        assert!(s.coldx <= 1.6, "coldx is {}", s.coldx);
    }
    let coldx = median(scores.iter().map(|s| s.coldx));
    assert!(coldx <= 1.33, "coldx is {coldx}");
    let cold = median(scores.iter().map(|s| s.cold_over_fixed));
    let memory = median(scores.iter().map(|s| s.memory_over_fixed));
    assert!(cold < 1.0 && memory < 1.0, "over 10 fixed minutes: cold {cold}, memory {memory}");
}

#[test]
fn in_fixed_memory_most_of_the_way_from_lru_to_the_clairvoyant_is_gone() {
    let closed: Vec<_> = (1..=3).map(|seed| in_limited_memory(&synthetic(300, 3.0, seed))).collect();
    println!("{closed:.3?}");
    for (at, gb) in [4, 8, 12].iter().enumerate() {
        let share = median(closed.iter().map(|c| c[at]));
        assert!(share >= 0.7, "{share} in {gb} GB");
    }
}

fn function(memory_mb: f64, cold_ms: f64, times: &[f64]) -> Function {
    Function { memory_mb, cold_ms, times: times.to_vec() }
}

/// The arithmetic of the scoring, on traces small enough to do by hand.
#[test]
fn the_scoring_counts_as_it_says() {
    // Gaps of 100 and 1,000 s: 600 fixed seconds bridge the first and hold 600 s for nothing.
    let trace = [function(1024.0, 500.0, &[0.0, 100.0, 1_100.0])];
    let ten_minutes = Asked { keep_alive: Some(Duration::from_secs(600)), ..Asked::default() };
    let cost = replay::unlimited(&trace, &IndexPolicy, &ten_minutes, BASE_PRICE);
    assert!((cost.cold_s - 1.0).abs() < 1e-9 && (cost.gb_h - 700.0 / 3600.0).abs() < 1e-9, "{cost:?}");
    assert_eq!(cost.loads, 2);
    // The clairvoyant bridges the first with 100 s, and reaches both with 1,100.
    let frontier = Frontier::of(&trace);
    assert!((frontier.cold_s(0.0) - 1.5).abs() < 1e-9);
    assert!((frontier.cold_s(100.0 / 3600.0) - 1.0).abs() < 1e-9);
    assert!((frontier.cold_s(9.0) - 0.5).abs() < 1e-9);
}

#[test]
fn a_fixed_memory_is_never_exceeded_and_the_clairvoyant_knows_better_than_lru() {
    // There is room for one of the two. The first comes again at once, the second never.
    let trace = [function(600.0, 100.0, &[0.0, 100.0, 120.0]), function(600.0, 100.0, &[50.0])];
    let arrivals = replay::arrivals(&trace);
    let cold_s = |rule: &Rule| replay::limited(&trace, &arrivals, rule, 1 << 30).cold_s;
    let policy: Arc<dyn KeepAlive> = Arc::new(IndexPolicy);
    for rule in [Rule::Lru, Rule::Clairvoyant, Rule::Product(&policy)] {
        assert!((cold_s(&rule) - 0.3).abs() < 1e-9);
    }
    let room_for_both = replay::limited(&trace, &arrivals, &Rule::Product(&policy), 2 << 30);
    assert!((room_for_both.cold_s - 0.2).abs() < 1e-9);
    // Of three, LRU lets go the one that comes next; the clairvoyant the one that doesn't.
    let trace = [
        function(400.0, 100.0, &[0.0, 60.0, 120.0]),
        function(400.0, 100.0, &[20.0]),
        function(400.0, 100.0, &[40.0, 80.0]),
    ];
    let arrivals = replay::arrivals(&trace);
    let cold_s = |rule: &Rule| replay::limited(&trace, &arrivals, rule, 1 << 30).cold_s;
    assert!((cold_s(&Rule::Lru) - 0.4).abs() < 1e-9 && (cold_s(&Rule::Clairvoyant) - 0.3).abs() < 1e-9);
}

#[test]
fn synthetic_traces_have_the_statistics_that_they_are_made_after() {
    let trace = synthetic(500, 4.0, 1);
    let share = |least_gap: f64| {
        let rare = trace.iter().filter(|f| f.times.len() as f64 <= 4.0 * 86_400.0 / least_gap);
        rare.count() as f64 / trace.len() as f64
    };
    assert!((0.40..0.65).contains(&share(3_600.0)), "{} at most once an hour", share(3_600.0));
    assert!((0.75..0.95).contains(&share(60.0)), "{} at most once a minute", share(60.0));
    assert!(trace.iter().all(|f| f.times.windows(2).all(|w| w[1] - w[0] >= 9.999)));
    assert_eq!(trace[7].times, synthetic(500, 4.0, 1)[7].times);
}

#[test]
fn a_trace_in_a_file_is_read_and_a_wrong_line_is_named() {
    let head = "function,memory_mb,cold_ms,time_s,calls\n";
    let trace =
        read_csv(&format!("{head}7,20,30.5,1.25,1\n3,10,20,2,9.5\n7,20,30.5,12,1\n")).expect("a trace");
    assert_eq!(trace.len(), 2);
    assert!(trace.iter().any(|f| f.memory_mb == 20.0 && f.cold_ms == 30.5 && f.times == [1.25, 12.0]));
    let wrong = |lines: &str| read_csv(&format!("{head}{lines}")).expect_err("refused");
    assert!(wrong("1,2,3,4\n").contains("line 2") && wrong("1,2,x,4,5\n").contains("cold_ms"));
    assert!(wrong("1,2,3,4,5\n1,2,3,3,5\n").contains("line 3"));
}
