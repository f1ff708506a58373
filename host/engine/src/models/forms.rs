//! The form in which a model is served: packed weights are loaded when its runs pay for them, and given up
//! when they do not.
//!
//! ```text
//!            the account covers the making, and memory is spare
//!   mapped ────────────────────────────────────────────────────▶ packed
//!          ◀────────────────────────────────────────────────────
//!            the account is spent, somebody lacks the memory, or the worker died
//! ```
//!
//! Another worker loads the new form while the old one serves. It takes over between two runs: those under
//! way end in the old
//! worker, which then ends. Making the form is the platform's time, and billed to nobody.

use super::model::Model;
use super::packing::{Forms, Now, Wanted};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;
use vesta_core::keepalive::{BASE_PRICE, price};
use vesta_core::memory::{Kind, Memory, Taken};
use vesta_nn::Form;

/// Serves models in another form where that pays by now. Called once a second or so, within a Tokio
/// runtime; somebody lacked
/// `needed` bytes since the last time.
pub(crate) fn review(models: &[Arc<Model>], memory: &Memory, needed: u64) {
    if needed > 0 {
        give_way(models, memory.free(), needed);
    }
    for model in models {
        model.review_form(needed > 0);
    }
}

/// Packed forms are given up until so many bytes are free, those that earned the least first; none where
/// all of them would
/// not do.
fn give_way(models: &[Arc<Model>], free: u64, needed: u64) {
    let packed = |model: &Arc<Model>| Some((model.forms().packed()?, model.clone()));
    let mut packed: Vec<_> = models.iter().filter_map(packed).collect();
    let all: u64 = packed.iter().map(|((_, bytes), _)| bytes).sum();
    if free.saturating_add(all) < needed {
        return;
    }
    packed.sort_by(|((a, _), _), ((b, _), _)| a.total_cmp(b));
    let mut free = free;
    for ((_, bytes), model) in packed {
        if free >= needed {
            return;
        }
        free = free.saturating_add(bytes);
        model.unpack(&mut model.forms());
    }
}

impl Model {
    fn review_form(self: &Arc<Self>, is_short: bool) {
        let memory = self.inference.memory.memory();
        let now = Now {
            at: Instant::now(),
            runs: self.answered(),
            run_ns: self.estimate().cpu_ns,
            form: self.form(),
            price: price(memory.used(), memory.budget()),
        };
        let mut forms = self.forms();
        match forms.review(&now) {
            Wanted::Pack(bytes) if !is_short => {
                if let Some(held) = self.spare_memory(bytes) {
                    self.change(&mut forms, Some(held));
                }
            }
            Wanted::Unpack => self.unpack(&mut forms),
            Wanted::Pack(_) | Wanted::Nothing => {}
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

    fn unpack(self: &Arc<Self>, forms: &mut Forms) {
        forms.given_up(Instant::now());
        self.change(forms, None);
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
                    forms.changed(form);
                    tracing::debug!(model = %model.dir().display(), ?form, "the model is served in another form");
                }
                Err(error) => {
                    tracing::warn!(model = %model.dir().display(), ?form, %error, "the model's form stays as it is");
                    if form == Form::Packed {
                        forms.failed(Instant::now());
                    }
                }
            }
        });
    }
}
