//! A tenant with short runs waits for a run under way and for its own queue, whatever other tenants have
//! queued.

use crate::host::{Host, Run};
use crate::{MS, for_each_seed};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use vesta_core::slots::{JobId, SlotsConfig};

const RUNS: usize = 3_000;
/// The longest run of a heavy tenant.
const LONGEST_NS: u64 = 100 * MS;
/// The quantum in charges of the longest and widest run.
const QUANTUM_CHARGES: u64 = 2;

fn heavy_run(rng: &mut SmallRng, tenant: usize, width: u32) -> Run {
    let mut run = Run::exact(tenant, width, rng.random_range(MS..LONGEST_NS));
    run.estimate_cpu_ns = (run.cpu_ns as f64 * rng.random_range(0.5..1.0)) as u64;
    run
}

/// Counts: runs ended, short runs, short runs that had to wait.
fn simulate(seed: u64) -> [u64; 3] {
    let mut rng = SmallRng::seed_from_u64(seed);
    let slots = rng.random_range(1..7);
    let widths: Vec<u32> = (0..rng.random_range(1..7))
        .map(|_| if rng.random_bool(0.3) { rng.random_range(1..=slots) } else { 1 })
        .collect();
    let quantum_ns = QUANTUM_CHARGES * LONGEST_NS * u64::from(slots);
    let config = SlotsConfig { slots, waiting_max: 1_000, waiting_tenant_max: 1_000, quantum_ns };
    let short = widths.len();
    let mut host = Host::new(config, widths.len() + 1);
    let mut heavy_ns = 0;
    // The short runs that wait or run, and when each has to start at the latest.
    let mut due: BTreeMap<JobId, u64> = BTreeMap::new();
    let (mut short_runs, mut waits, mut come_ns) = (0, 0, 0);
    for _ in 0..RUNS {
        for (n, width) in widths.iter().enumerate() {
            while host.waiting_of(n) < slots as usize + 20 {
                host.enqueue(heavy_run(&mut rng, n, *width)).expect("room");
            }
        }
        // The heavy tenants have used up what new tenants begin with.
        let is_warm = heavy_ns > 2 * quantum_ns * widths.len() as u64;
        let is_idle = !host.running.values().any(|run| run.tenant == short) && host.waiting_of(short) == 0;
        if is_warm && is_idle && host.now_ns >= come_ns {
            let mut own_ns = 0;
            for n in 0..rng.random_range(1..4) {
                let run = Run::exact(short, 1, rng.random_range(MS / 10..5 * MS));
                let (first_end, last_end) = (host.ends.first(), host.ends.last());
                // One slot is enough for the first; the others may have to wait for the last run under way.
                let under_way = if host.slots.free() > 0 {
                    None
                } else if n == 0 {
                    first_end
                } else {
                    last_end
                };
                let under_way_ns = under_way.map_or(host.now_ns, |(end_ns, _)| *end_ns);
                let latest_ns = if n == 0 { under_way_ns } else { under_way_ns + own_ns };
                own_ns += run.wall_ns;
                short_runs += 1;
                waits += u64::from(under_way_ns > host.now_ns);
                due.insert(host.enqueue(run).expect("room"), latest_ns);
            }
            // It uses less than half of its share.
            let share = u64::from(slots.min(widths.len() as u32 + 1));
            let pause = 2 * own_ns * (widths.len() as u64 + 1) / share;
            come_ns = host.now_ns + rng.random_range(pause..4 * pause);
        }
        for id in host.pump() {
            if let Some(latest_ns) = due.remove(&id) {
                assert!(
                    host.now_ns <= latest_ns,
                    "a short run waited {} ns too long",
                    host.now_ns - latest_ns
                );
            }
        }
        // The short tenant may come between two ends of runs, too.
        let end_ns = host.ends.first().map_or(0, |(end_ns, _)| *end_ns);
        if is_warm && is_idle && come_ns > host.now_ns && come_ns < end_ns {
            host.now_ns = come_ns;
        } else if let Some(run) = host.finish_next() {
            heavy_ns += if run.tenant == short { 0 } else { run.cpu_ns };
        }
    }
    host.come_to_rest();
    [RUNS as u64, short_runs, waits]
}

#[test]
fn a_short_run_waits_for_a_run_under_way_at_most() {
    let [runs, short_runs, waits] = for_each_seed(simulate);
    println!("{short_runs} short runs among {runs} events, {waits} of them had to wait");
    assert!(waits > 0 || crate::number("VESTA_SIM_SEED").is_some());
}
