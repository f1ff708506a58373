//! The form in which a model is served: packed weights are loaded when its runs pay for them, and given up when they do not.
//!
//! ```text
//!            the account covers the making, and memory is spare
//!   mapped ────────────────────────────────────────────────────▶ packed
//!          ◀────────────────────────────────────────────────────
//!            the account is spent, memory was refused to somebody, or the worker died
//! ```
//!
//! Another worker loads the new form while the old one serves. It takes over between two runs: those under way end in the old
//! worker, which then ends. Making the form is the platform's time, and billed to nobody.

use super::model::Model;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vesta_core::forms::{Account, Gain};
use vesta_core::keepalive::{BASE_PRICE, price};
use vesta_core::memory::{Kind, Taken};
use vesta_nn::{Form, PackedForm};

/// The least time between giving a form up and making it again.
const PAUSE: Duration = Duration::from_secs(30);
/// Making a form counts as this much at least, in milliseconds: a worker has to be started for it.
const MADE_MIN_MS: f64 = 5.0;
/// After so many failures, the packed form is not tried again.
const FAILURES_MAX: u32 = 3;

/// What is known of a model's forms.
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
    is_changing: bool,
    not_before: Option<Instant>,
    failures: u32,
}

impl Forms {
    pub fn of(measured: Option<PackedForm>) -> Forms {
        Forms { measured, ..Forms::default() }
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

impl Model {
    /// Serves the model in another form where that pays by now. Called once a second or so, within a Tokio runtime; `is_short`
    /// says that memory was refused to somebody since the last time.
    pub(crate) fn review_form(self: &Arc<Self>, is_short: bool) {
        let mut forms = self.forms();
        let (now, runs, form) = (Instant::now(), self.answered(), self.form());
        if forms.is_changing || runs == 0 {
            return;
        }
        let passed = forms.at.replace(now).map_or(Duration::ZERO, |at| now - at);
        let answered = runs - std::mem::replace(&mut forms.runs, runs);
        let was = std::mem::replace(&mut forms.was, form);
        let may_be_made = forms.not_before.is_none_or(|at| now >= at);
        let Some(packed) = forms.measured else { return };
        let account = forms.account.get_or_insert_with(|| account(packed, self.estimate().cpu_ns));
        let memory = self.inference.memory.memory();
        account.advance(answered, passed, price(memory.used(), memory.budget()));
        match (was, form) {
            // Its worker died.
            (Some(Form::Packed), Some(Form::Mapped) | None) => {
                account.reset();
                forms.not_before = Some(now + PAUSE);
            }
            (_, Some(Form::Mapped)) if account.pays() && may_be_made && !is_short => {
                if let Some(held) = self.spare_memory(account.gain().bytes) {
                    self.change(&mut forms, Some(held));
                }
            }
            (_, Some(Form::Packed)) if account.is_spent() || is_short => {
                account.reset();
                forms.not_before = Some(now + PAUSE);
                self.change(&mut forms, None);
            }
            _ => {}
        }
    }

    fn forms(&self) -> MutexGuard<'_, Forms> {
        self.forms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory of the host that nobody else has a use for at the moment; nothing is made to go for it.
    fn spare_memory(&self, bytes: u64) -> Option<Taken> {
        let memory = self.inference.memory.memory();
        if price(memory.used().saturating_add(bytes), memory.budget()) > BASE_PRICE {
            return None;
        }
        let mut held = memory.none(Kind::Models);
        held.grow(bytes).ok()?;
        Some(held)
    }

    /// Begins to serve it packed, with memory for that, or mapped.
    fn change(self: &Arc<Self>, forms: &mut Forms, packed: Option<Taken>) {
        forms.is_changing = true;
        let model = self.clone();
        tokio::spawn(async move {
            let turn = model.starting.clone().lock_owned().await;
            let form = if packed.is_some() { Form::Packed } else { Form::Mapped };
            let started = model.clone().start_another(turn, packed).await;
            let mut forms = model.forms();
            forms.is_changing = false;
            match started {
                Ok(_) => {
                    forms.was = Some(form);
                    tracing::debug!(model = %model.dir().display(), ?form, "the model is served in another form");
                }
                Err(error) => {
                    tracing::warn!(model = %model.dir().display(), ?form, %error, "the model's form stays as it is");
                    forms.failures += 1;
                    forms.not_before = Some(Instant::now() + PAUSE);
                    if forms.failures >= FAILURES_MAX {
                        forms.measured = None;
                    }
                }
            }
        });
    }
}
