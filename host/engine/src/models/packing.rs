//! What is known of a model's forms: whether the packed one pays, and since when.

use std::time::{Duration, Instant};
use vesta_core::forms::{Account, Gain};
use vesta_core::keepalive::Price;
use vesta_nn::{Form, PackedForm};

/// The least time between giving a form up and making it again.
const PAUSE: Duration = Duration::from_secs(30);
/// Making a form counts as this much at least, in milliseconds: a worker has to be started for it.
const MADE_MIN_MS: f64 = 5.0;
/// After so many failures, the packed form is not made again.
const FAILURES_MAX: u32 = 3;

#[derive(Default)]
pub(super) struct Forms {
    /// What the trial at deploy has measured; `None` where the packed form is of no use.
    measured: Option<PackedForm>,
    /// Opened with the first runs.
    account: Option<Account>,
    /// The form, the runs and the time at the last review.
    was: Option<Form>,
    runs: u64,
    at: Option<Instant>,
    /// A worker is being started for another form.
    pub is_changing: bool,
    not_before: Option<Instant>,
    failures: u32,
}

/// What a model has to say at a review.
pub(super) struct Now {
    pub at: Instant,
    /// Runs answered so far, and what one takes on the average, in nanoseconds.
    pub runs: u64,
    pub run_ns: u64,
    pub form: Option<Form>,
    pub price: Price,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Wanted {
    Nothing,
    /// The packed form is worth making, if so many bytes are spare.
    Pack(u64),
    Unpack,
}

impl Forms {
    pub fn of(measured: Option<PackedForm>) -> Forms {
        Forms { measured, ..Forms::default() }
    }

    /// Brings the account up to date.
    pub fn review(&mut self, now: &Now) -> Wanted {
        if self.is_changing || now.runs == 0 {
            return Wanted::Nothing;
        }
        let passed =
            self.at.replace(now.at).map_or(Duration::ZERO, |at| now.at.saturating_duration_since(at));
        let answered = now.runs - std::mem::replace(&mut self.runs, now.runs);
        let was = std::mem::replace(&mut self.was, now.form);
        let Some(packed) = self.measured else { return Wanted::Nothing };
        let may_be_made = self.failures < FAILURES_MAX && self.not_before.is_none_or(|at| now.at >= at);
        let account = self.account.get_or_insert_with(|| account(packed, now.run_ns));
        account.advance(answered, passed, now.price);
        match (was, now.form) {
            // Its worker died: perhaps of this form.
            (Some(Form::Packed), Some(Form::Mapped) | None) => {
                self.failed(now.at);
                Wanted::Nothing
            }
            (_, Some(Form::Mapped)) if account.pays() && may_be_made => Wanted::Pack(packed.bytes),
            (_, Some(Form::Packed)) if account.is_spent() => Wanted::Unpack,
            _ => Wanted::Nothing,
        }
    }

    /// What the packed form has earned beyond its price, in milliseconds, and its size; where it is there.
    pub fn packed(&self) -> Option<(f64, u64)> {
        let is_there = self.was == Some(Form::Packed) && !self.is_changing;
        let account = self.account.as_ref().filter(|_| is_there)?;
        Some((account.balance_ms(), account.gain().bytes))
    }

    /// The packed form has to earn its making once more, and not at once.
    pub fn given_up(&mut self, now: Instant) {
        self.not_before = Some(now + PAUSE);
        if let Some(account) = &mut self.account {
            account.reset();
        }
    }

    /// The packed form could not be made, or its worker died.
    pub fn failed(&mut self, now: Instant) {
        self.failures += 1;
        self.given_up(now);
    }

    /// It is served in this form from now on.
    pub fn changed(&mut self, form: Form) {
        self.was = Some(form);
    }
}

/// The account of a packed form; a run takes `run_ns` without it.
fn account(packed: PackedForm, run_ns: u64) -> Account {
    Account::new(Gain {
        // As far as the runs since the trial bear it out.
        saved_ms: packed.saved_cpu_ms.min(run_ns as f64 / 1e6),
        made_ms: packed.load_cpu_ms.max(MADE_MIN_MS),
        bytes: packed.bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use vesta_core::keepalive::BASE_PRICE;

    const BYTES: u64 = 40 << 20;

    fn forms() -> Forms {
        Forms::of(Some(PackedForm { saved_cpu_ms: 4.0, load_cpu_ms: 20.0, bytes: BYTES }))
    }

    fn now(begun: Instant, second: u64, runs: u64, form: Form) -> Now {
        let at = begun + Duration::from_secs(second);
        Now { at, runs, run_ns: 16_000_000, form: Some(form), price: BASE_PRICE }
    }

    #[test]
    fn the_packed_form_is_made_for_runs_and_given_up_without_them() {
        let (mut forms, begun) = (forms(), Instant::now());
        assert_eq!(forms.review(&now(begun, 0, 3, Form::Mapped)), Wanted::Nothing);
        assert_eq!(forms.review(&now(begun, 1, 6, Form::Mapped)), Wanted::Pack(BYTES));
        forms.changed(Form::Packed);
        assert_eq!(forms.review(&now(begun, 2, 1_000, Form::Packed)), Wanted::Nothing);
        assert!(forms.packed().is_some_and(|(balance_ms, bytes)| balance_ms > 0.0 && bytes == BYTES));
        assert_eq!(forms.review(&now(begun, 7_200, 1_000, Form::Packed)), Wanted::Unpack);
    }

    #[test]
    fn a_packed_form_whose_worker_dies_again_and_again_is_not_made_any_more() {
        let (mut forms, begun) = (forms(), Instant::now());
        let mut made = 0;
        for second in 0..600 {
            match forms.review(&now(begun, second, (second + 1) * 100, Form::Mapped)) {
                Wanted::Pack(_) => {
                    made += 1;
                    forms.changed(Form::Packed);
                }
                wanted => assert_eq!(wanted, Wanted::Nothing),
            }
        }
        assert_eq!(made, FAILURES_MAX);
    }

    #[test]
    fn a_form_that_was_given_up_for_want_of_memory_waits_before_it_is_made_again() {
        let (mut forms, begun) = (forms(), Instant::now());
        forms.given_up(begun);
        let first = (0..).find(|second| {
            forms.review(&now(begun, *second, (second + 1) * 100, Form::Mapped)) == Wanted::Pack(BYTES)
        });
        assert_eq!(first, Some(PAUSE.as_secs()));
    }
}
