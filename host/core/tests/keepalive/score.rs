//! The figures that the policy is judged by.

use super::replay::{Frontier, gap_closed, unlimited};
use super::trace::Function;
use std::sync::Arc;
use std::time::Duration;
use vesta_core::keepalive::{Asked, BASE_PRICE, IndexPolicy, KeepAlive};

/// The price at which the index is compared with 10 fixed minutes: it holds less memory than they do, by a
/// few percent. At [`BASE_PRICE`] it holds a tenth more than they do, for a quarter of the cold seconds.
pub const LEAN_PRICE: f64 = 7e-4;

/// Memory without a limit.
pub struct Unlimited {
    /// Cold seconds over the clairvoyant's with the same memory, at the base price.
    pub coldx: f64,
    /// Over 10 fixed minutes, at [`LEAN_PRICE`].
    pub cold_over_fixed: f64,
    pub memory_over_fixed: f64,
}

pub fn in_unlimited_memory(trace: &[Function]) -> Unlimited {
    let asked = Asked::default();
    let ten_minutes = Asked { keep_alive: Some(Duration::from_secs(600)), ..asked };
    let fixed = unlimited(trace, &IndexPolicy, &ten_minutes, BASE_PRICE);
    let lean = unlimited(trace, &IndexPolicy, &asked, LEAN_PRICE);
    Unlimited {
        coldx: Frontier::of(trace).coldx(&unlimited(trace, &IndexPolicy, &asked, BASE_PRICE)),
        cold_over_fixed: lean.cold_s / fixed.cold_s,
        memory_over_fixed: lean.gb_h / fixed.gb_h,
    }
}

/// The share of the way from LRU to the clairvoyant in 4, 8 and 12 GB.
pub fn in_limited_memory(trace: &[Function]) -> [f64; 3] {
    let policy: Arc<dyn KeepAlive> = Arc::new(IndexPolicy);
    [4, 8, 12].map(|gb| gap_closed(trace, &policy, gb << 30))
}

pub fn median(of: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = of.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
