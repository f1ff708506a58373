//! Those who pay for a run of a model: each for its rows.

use crate::meter::{Away, Meter};
use std::mem::take;
use std::sync::Arc;

/// One whose bill pays for so many rows of a run, and is not closed before this is dropped.
pub(crate) struct Payer {
    pub meter: Arc<Meter>,
    pub rows: u32,
    /// For how long it holds its memory is told by the run's CPU time.
    _away: Away,
}

impl Payer {
    pub fn new(meter: &Arc<Meter>, rows: u32) -> Payer {
        meter.begin_beside();
        Payer { meter: meter.clone(), rows, _away: meter.away() }
    }
}

impl Drop for Payer {
    fn drop(&mut self) {
        self.meter.end_beside();
    }
}

/// All who pay for one run.
pub(super) struct Payers(Vec<Payer>);

impl Payers {
    /// The one whose call it is, for so many rows, and the others whose runs were merged with it.
    pub fn of(meter: &Arc<Meter>, rows: u32, others: &[Payer]) -> Payers {
        let others = others.iter().map(|payer| Payer::new(&payer.meter, payer.rows));
        Payers(std::iter::once(Payer::new(meter, rows)).chain(others).collect())
    }

    pub fn first(&self) -> &Arc<Meter> {
        &self.0[0].meter
    }

    pub fn are_several(&self) -> bool {
        self.0.len() > 1
    }

    /// Each pays for its rows. The parts are whole and make up the sum: what is left over is the first one's.
    pub fn pay(&self, cpu_ns: u64, wall_ns: u64, memory_bytes: u64, threads: u32) {
        let rows: u64 = self.0.iter().map(|payer| u64::from(payer.rows)).sum();
        let part = |all: u64, of: &Payer| match rows {
            0 => all,
            rows => (u128::from(all) * u128::from(of.rows) / u128::from(rows)) as u64,
        };
        let whole: u64 = self.0.iter().map(|payer| part(cpu_ns, payer)).sum();
        let mut left_over = cpu_ns.saturating_sub(whole);
        for payer in &self.0 {
            payer.meter.inference_ran(part(cpu_ns, payer) + take(&mut left_over), wall_ns, threads);
            payer.meter.model_memory_is(part(memory_bytes, payer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_run_make_up_its_sum_and_bills_wait_for_it() {
        let meters: Vec<Arc<Meter>> = (0..3).map(|_| Arc::default()).collect();
        let others = [Payer::new(&meters[1], 2), Payer::new(&meters[2], 4)];
        let payers = Payers::of(&meters[0], 1, &others);
        payers.pay(1_000_003, 5, 70, 1);
        let cpu: Vec<u64> = meters.iter().map(|meter| meter.inference_cpu_ns()).collect();
        assert_eq!(cpu, [142_858, 285_715, 571_430]);
        assert_eq!(meters[2].model_memory_peak(), 40);
        drop(payers);
        assert!(meters[0].is_settled() && !meters[1].is_settled());
        drop(others);
        assert!(meters[1].is_settled());
    }
}
