//! Everything at once: bursts, cancellations, deadlines, wide runs, wrong estimates, full queues.

use crate::host::{Host, Run};
use crate::{MS, for_each_seed};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use vesta_core::slots::{SlotsConfig, SlotsError};

const STEPS: usize = 3_000;

/// Milliseconds from 0.01 to 100, the short ones as often as the long ones, in nanoseconds.
fn length_ns(rng: &mut SmallRng) -> u64 {
    (10f64.powf(rng.random_range(-2.0..2.0)) * MS as f64) as u64
}

fn run(rng: &mut SmallRng, host: &Host, tenants: usize, slots: u32) -> Run {
    let width = if rng.random_bool(0.2) { rng.random_range(1..=slots) } else { 1 };
    let wall_ns = length_ns(rng);
    let (estimate, scaling) = (rng.random_range(0.0..3.0), rng.random_range(0.5..1.0));
    let mut run = Run::exact(rng.random_range(0..tenants), width, wall_ns);
    run.cpu_ns = (run.cpu_ns as f64 * scaling) as u64;
    run.estimate_wall_ns = (wall_ns as f64 * estimate) as u64;
    run.estimate_cpu_ns = (run.cpu_ns as f64 * estimate) as u64;
    run.held_bytes = rng.random_range(0..1_000_000);
    if rng.random_bool(0.3) {
        run.deadline_ns = host.now_ns + rng.random_range(0..500 * MS);
    }
    run
}

/// Counts: started, dropped, cancelled, each refusal, kept, overtook.
fn simulate(seed: u64) -> [u64; 8] {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (tenants, slots) = (rng.random_range(1..12), rng.random_range(1..7));
    let config = SlotsConfig {
        slots,
        waiting_max: rng.random_range(1..60),
        waiting_tenant_max: rng.random_range(1..30),
        quantum_ns: length_ns(&mut rng) * 4,
    };
    let mut host = Host::new(config, tenants);
    let mut refused = [0; 3];
    for _ in 0..STEPS {
        match rng.random_range(0..100) {
            0..45 => {
                let burst = if rng.random_bool(0.1) { rng.random_range(1..20) } else { 1 };
                for _ in 0..burst {
                    let run = run(&mut rng, &host, tenants, slots);
                    match host.enqueue(run) {
                        Ok(_) => {}
                        Err(SlotsError::QueueFull { .. }) => refused[0] += 1,
                        Err(SlotsError::TenantQueueFull { .. }) => refused[1] += 1,
                        Err(SlotsError::TooLate { .. }) => refused[2] += 1,
                    }
                }
            }
            45..90 => drop(host.finish_next()),
            90..96 => {
                let n = rng.random_range(0..host.seen.len() + 1);
                let any = if rng.random_bool(0.8) {
                    host.waiting.keys().nth(n % (host.waiting.len() + 1)).copied()
                } else {
                    host.seen.iter().nth(n).copied()
                };
                if let Some(id) = any {
                    host.cancel(id);
                }
            }
            _ => {
                // Time passes, but no run ends meanwhile.
                let end_ns = host.ends.first().map_or(host.now_ns + MS, |(end_ns, _)| *end_ns);
                let drop_ns = host.slots.next_drop_ns().unwrap_or(end_ns);
                host.now_ns = host.now_ns.max(end_ns.min(drop_ns));
            }
        }
        host.pump();
    }
    host.come_to_rest();
    let [full, tenant_full, late] = refused;
    [host.started, host.dropped, host.cancelled, full, tenant_full, late, host.kept, host.overtook]
}

#[test]
fn nothing_is_lost_or_started_twice_and_no_slot_idles() {
    let counts = for_each_seed(simulate);
    println!("started, dropped, cancelled, full, tenant full, too late, kept, overtook: {counts:?}");
    if crate::number("VESTA_SIM_SEED").is_none() {
        assert!(counts.iter().all(|count| *count > 0), "something never happened: {counts:?}");
    }
}
