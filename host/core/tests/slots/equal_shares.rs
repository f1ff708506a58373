//! Tenants that always have runs waiting get the same CPU time, whatever their runs are like.

use crate::host::{Host, Run};
use crate::{MS, for_each_seed};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use vesta_core::slots::SlotsConfig;

const RUNS: usize = 2_000;

/// What a tenant's runs are like.
struct Kind {
    width: u32,
    wall_ns: u64,
    estimate: f64,
}

impl Kind {
    fn run(&self, rng: &mut SmallRng, tenant: usize) -> Run {
        let wall_ns = (self.wall_ns as f64 * rng.random_range(0.5..1.5)) as u64;
        let mut run = Run::exact(tenant, self.width, wall_ns);
        run.estimate_cpu_ns = (run.cpu_ns as f64 * self.estimate * rng.random_range(0.5..1.5)) as u64;
        run
    }
}

/// Counts: runs ended, and the largest difference found in permille of the bound.
fn simulate(seed: u64) -> [u64; 2] {
    let mut rng = SmallRng::seed_from_u64(seed);
    let slots = rng.random_range(1..7);
    let kinds: Vec<Kind> = (0..rng.random_range(2..7))
        .map(|_| Kind {
            width: if rng.random_bool(0.3) { rng.random_range(1..=slots) } else { 1 },
            wall_ns: (10f64.powf(rng.random_range(-1.0..2.0)) * MS as f64) as u64,
            estimate: 10f64.powf(rng.random_range(-0.7..0.7)),
        })
        .collect();
    let quantum_ns = rng.random_range(MS / 10..200 * MS);
    let config = SlotsConfig { slots, waiting_max: 1_000, waiting_tenant_max: 1_000, quantum_ns };
    // The last tenant comes and goes, and changes nothing between the others.
    let guest = kinds.len();
    let mut host = Host::new(config, kinds.len() + 1);
    let (mut used_ns, mut charge_max_ns, mut worst) = (vec![0u64; guest + 1], 0, 0);
    // One tenant has nothing to run before that step. What was used is compared from then on anew.
    let late_at = rng.random_range(0..RUNS / 2);
    for step in 0..RUNS {
        if step == late_at {
            used_ns.fill(0);
        }
        let present = if step < late_at { guest - 1 } else { guest };
        for (n, kind) in kinds[..present].iter().enumerate() {
            while host.waiting_of(n) < slots as usize + 1 {
                let run = kind.run(&mut rng, n);
                charge_max_ns = charge_max_ns.max(run.charge_max_ns());
                host.enqueue(run).expect("room");
            }
        }
        if rng.random_bool(0.1) && host.waiting_of(guest) == 0 {
            let run = Run::exact(guest, 1, rng.random_range(MS..20 * MS));
            host.enqueue(run).expect("room");
        }
        for id in host.pump() {
            used_ns[host.running[&id].tenant] += host.running[&id].cpu_ns;
        }
        // Estimates of the runs under way may be wrong by one charge each, when tenants begin to be compared
        // and now; and until its first quantum is used up, a tenant may be ahead by it.
        let bound_ns = (2 * u64::from(slots) + 1) * charge_max_ns + quantum_ns;
        let (least, most) = (used_ns[..present].iter().min(), used_ns[..present].iter().max());
        let difference_ns = most.zip(least).map_or(0, |(most, least)| most - least);
        assert!(difference_ns <= bound_ns, "{difference_ns} of {bound_ns} ns: {used_ns:?}");
        worst = worst.max(difference_ns * 1_000 / bound_ns);
        host.finish_next();
    }
    host.come_to_rest();
    [RUNS as u64, worst]
}

#[test]
fn backlogged_tenants_get_the_same_cpu_time() {
    let [runs, worst] = for_each_seed(simulate);
    println!("{runs} runs; the largest differences are {} permille of the bound", worst * RUNS as u64 / runs);
}
