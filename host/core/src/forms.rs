//! When a faster form of a loaded model pays for itself.
//!
//! A faster form takes CPU time once, to be made, and memory for as long as it is there; it saves CPU time
//! in each run. A model has
//! an [`Account`]: each run is credited with the saving, and the memory is debited at its price as time
//! passes, whether the form is
//! there or not. The form is made once the balance covers the making: by then the runs without it have cost
//! as much more as the
//! making would have, so that it never costs more than twice what the best decision in hindsight costs (the
//! ski-rental rule). It is
//! given up when the balance is used up: for so long it did not earn its memory.

use crate::keepalive::{MB, Price};
use std::time::Duration;

/// Most of the balance, as a multiple of the making: a form that has earned well is kept for some time
/// without runs, not for ever.
const BALANCE_MAX: f64 = 2.0;

/// A faster form of a model, as it was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gain {
    /// CPU time saved by each run, in milliseconds.
    pub saved_ms: f64,
    /// CPU time of making it, in milliseconds.
    pub made_ms: f64,
    /// Memory that it takes beside what the model holds already, in bytes.
    pub bytes: u64,
}

/// What a faster form has earned, or would have.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    gain: Gain,
    balance_ms: f64,
}

impl Account {
    pub fn new(gain: Gain) -> Account {
        Account { gain, balance_ms: 0.0 }
    }

    pub fn gain(&self) -> &Gain {
        &self.gain
    }

    /// What it has earned beyond the price of its memory, in milliseconds.
    pub fn balance_ms(&self) -> f64 {
        self.balance_ms
    }

    /// `runs` were answered in the time that has passed, at this price of memory (milliseconds per MB and
    /// second).
    pub fn advance(&mut self, runs: u64, passed: Duration, price: Price) {
        let earned = runs as f64 * self.gain.saved_ms;
        let rent = price * (self.gain.bytes as f64 / MB) * passed.as_secs_f64();
        let most = BALANCE_MAX * self.gain.made_ms;
        self.balance_ms = (self.balance_ms + earned - rent).clamp(0.0, most);
    }

    /// Whether the form is to be made, if it is not there.
    pub fn pays(&self) -> bool {
        self.gain.saved_ms > 0.0 && self.balance_ms >= self.gain.made_ms
    }

    /// Whether the form is to be given up, if it is there.
    pub fn is_spent(&self) -> bool {
        self.balance_ms <= 0.0
    }

    /// The form was given up for want of memory: it has to earn its making once more.
    pub fn reset(&mut self) {
        self.balance_ms = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keepalive::BASE_PRICE;

    const SECOND: Duration = Duration::from_secs(1);

    /// MiniLM with packed weights, about.
    fn account() -> Account {
        Account::new(Gain { saved_ms: 4.0, made_ms: 22.0, bytes: 43 << 20 })
    }

    #[test]
    fn a_form_is_made_once_the_runs_without_it_have_cost_as_much_as_its_making() {
        let mut account = account();
        account.advance(5, SECOND, BASE_PRICE);
        assert!(!account.pays());
        account.advance(1, SECOND, BASE_PRICE);
        assert!(account.pays());
    }

    #[test]
    fn rare_runs_do_not_pay_for_the_memory() {
        let mut account = account();
        // 4 ms each ten minutes, and 0.0129 ms of rent each second.
        for _ in 0..1_000 {
            account.advance(1, SECOND, BASE_PRICE);
            account.advance(0, 600 * SECOND, BASE_PRICE);
        }
        assert!(!account.pays() && account.is_spent());
    }

    #[test]
    fn a_form_is_given_up_when_it_has_not_earned_its_memory_for_some_time_and_sooner_when_memory_is_dear() {
        for (price, least, most) in [(BASE_PRICE, 3000, 3600), (4.0 * BASE_PRICE, 800, 900)] {
            let mut account = account();
            account.advance(1_000_000, SECOND, price);
            let mut seconds = 0;
            while !account.is_spent() {
                account.advance(0, SECOND, price);
                seconds += 1;
            }
            assert!((least..=most).contains(&seconds), "{seconds} s at {price}");
        }
    }

    #[test]
    fn a_form_that_saves_nothing_is_never_made() {
        for saved_ms in [0.0, -1.0, f64::NAN] {
            let mut account = Account::new(Gain { saved_ms, made_ms: 0.0, bytes: 1 });
            account.advance(1_000, SECOND, BASE_PRICE);
            assert!(!account.pays(), "{saved_ms}");
        }
    }
}
