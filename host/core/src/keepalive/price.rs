//! What memory costs at the moment.

/// Price of memory: milliseconds of cold start that a MB (2^20 bytes) must save in a second to be worth
/// keeping.
pub type Price = f64;

/// The price while memory is plentiful: a function of 100 MB that starts in 100 ms is worth keeping for 56
/// minutes. Found best on traces after the published statistics of Azure Functions
/// (`host/core/tests/keepalive`).
pub const BASE_PRICE: Price = 3e-4;

/// Up to this share of the budget, memory has its base price.
const CALM: f64 = 0.9;
/// The price doubles this often from there to a full budget.
const DOUBLINGS: f64 = 2.0;

/// The price with `used` of `budget` bytes taken: [`BASE_PRICE`] up to nine tenths of the budget, from there
/// it doubles with each further twentieth, to 4 times the base when all is taken (and on, if more than that
/// is). A gentle rise from half of the budget on lets functions go that there was room for; none at all
/// leaves no spare memory to prewarm into. A budget of 0 is no budget.
pub fn price(used: u64, budget: u64) -> Price {
    if budget == 0 {
        return BASE_PRICE;
    }
    let pressure = used as f64 / budget as f64;
    let doublings = (pressure - CALM).max(0.0) / (1.0 - CALM) * DOUBLINGS;
    BASE_PRICE * doublings.min(64.0).exp2()
}
