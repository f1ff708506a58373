//! What is known of a model's tiers: whether a faster one pays, and since when.

use super::worker::{Tier, Worker};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vesta_core::forms::{Account, Gain};
use vesta_core::keepalive::Price;
use vesta_nn::{Batching, Faster};

/// The least time between giving a tier up and loading it again.
const PAUSE: Duration = Duration::from_secs(30);
/// Loading a tier counts as this much at least, in milliseconds: a worker has to be started for it.
const MADE_MIN_MS: f64 = 5.0;
/// After so many failures, a tier is not loaded again.
const FAILURES_MAX: u32 = 3;
/// How long a worker for runs that fail in the faster tier waits for another one.
const SECOND_IDLE: Duration = Duration::from_secs(10);

/// A tier above the first one, as the trial at deploy has measured it.
#[derive(Debug, Clone)]
pub(crate) struct FasterTier {
    pub tier: Tier,
    /// Where its files lie.
    pub dir: PathBuf,
    pub gain: Faster,
    /// What merging runs gains in it.
    pub batching: Option<Batching>,
}

/// A faster tier, and how it has done so far.
struct Candidate {
    faster: FasterTier,
    /// Opened with the first runs.
    account: Option<Account>,
    failures: u32,
}

/// A model's faster tiers.
#[derive(Default)]
pub(super) struct Tiers {
    /// The one that saves the most first.
    candidates: Vec<Candidate>,
    /// The tier, the runs and the time at the last review.
    was: Option<Tier>,
    runs: u64,
    at: Option<Instant>,
    /// A worker is being started for another tier.
    pub is_changing: bool,
    not_before: Option<Instant>,
}

/// What a model has to say at a review.
pub(super) struct Now<'a> {
    pub at: Instant,
    /// Runs answered so far, and what one takes on the average, in nanoseconds.
    pub runs: u64,
    pub run_ns: u64,
    pub tier: Option<Tier>,
    pub price: Price,
    /// Whether so many bytes are spare.
    pub is_spare: &'a dyn Fn(u64) -> bool,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Wanted {
    Nothing,
    /// This tier is worth loading, for which so many bytes are spare.
    Promote(Tier, u64),
    Demote,
}

impl Tiers {
    pub fn of(faster: impl IntoIterator<Item = FasterTier>) -> Tiers {
        let candidate = |faster| Candidate { faster, account: None, failures: 0 };
        let mut candidates: Vec<_> = faster.into_iter().map(candidate).collect();
        candidates.sort_by(|a, b| b.saved_ms().total_cmp(&a.saved_ms()));
        Tiers { candidates, ..Tiers::default() }
    }

    /// A faster tier of this model.
    pub fn faster(&self, tier: Tier) -> Option<&FasterTier> {
        self.candidates.iter().map(|c| &c.faster).find(|faster| faster.tier == tier)
    }

    /// Brings the accounts up to date.
    pub fn review(&mut self, now: &Now<'_>) -> Wanted {
        if self.is_changing || now.runs == 0 {
            return Wanted::Nothing;
        }
        let passed =
            self.at.replace(now.at).map_or(Duration::ZERO, |at| now.at.saturating_duration_since(at));
        let answered = now.runs - std::mem::replace(&mut self.runs, now.runs);
        let was = std::mem::replace(&mut self.was, now.tier);
        for candidate in &mut self.candidates {
            let gain = candidate.faster.gain;
            let account = candidate.account.get_or_insert_with(|| account(gain, now.run_ns));
            account.advance(answered, passed, now.price);
        }
        let Some(tier) = now.tier else { return Wanted::Nothing };
        if let Some(account) = self.account(tier) {
            return if account.is_spent() { Wanted::Demote } else { Wanted::Nothing };
        }
        if was.is_some_and(|was| self.account(was).is_some()) {
            // Its worker has ended.
            self.given_up(now.at);
        }
        if self.not_before.is_some_and(|at| now.at < at) {
            return Wanted::Nothing;
        }
        let wanted = self.candidates.iter().find(|candidate| candidate.pays(now));
        wanted.map_or(Wanted::Nothing, |candidate| {
            Wanted::Promote(candidate.faster.tier, candidate.faster.gain.bytes)
        })
    }

    /// The account of a faster tier.
    fn account(&self, tier: Tier) -> Option<&Account> {
        self.candidates.iter().find(|c| c.faster.tier == tier)?.account.as_ref()
    }

    /// What the faster tier that serves has earned beyond its price, in milliseconds, and its size.
    pub fn earned(&self) -> Option<(f64, u64)> {
        let account = self.account(self.was?).filter(|_| !self.is_changing)?;
        Some((account.balance_ms(), account.gain().bytes))
    }

    /// A faster tier has to earn its loading once more, and not at once.
    pub fn given_up(&mut self, now: Instant) {
        self.not_before = Some(now + PAUSE);
        self.candidates.iter_mut().filter_map(|c| c.account.as_mut()).for_each(Account::reset);
    }

    /// A tier could not be loaded, its worker has crashed, or a run failed in it that the first one computes.
    pub fn failed(&mut self, tier: Tier, now: Instant) {
        if let Some(candidate) = self.candidates.iter_mut().find(|c| c.faster.tier == tier) {
            candidate.failures += 1;
            self.given_up(now);
        }
    }

    /// It is served in this tier from now on.
    pub fn changed(&mut self, tier: Tier) {
        self.was = Some(tier);
    }
}

impl Candidate {
    fn saved_ms(&self) -> f64 {
        self.faster.gain.saved_cpu_ms
    }

    fn pays(&self, now: &Now<'_>) -> bool {
        self.failures < FAILURES_MAX
            && self.account.as_ref().is_some_and(Account::pays)
            && (now.is_spare)(self.faster.gain.bytes)
    }
}

/// A worker of the first tier beside the faster one, for runs that fail in that; and when it was last used.
#[derive(Default)]
pub(super) struct Second(Option<(Arc<Worker>, Instant)>);

impl Second {
    pub fn replace(&mut self, worker: Arc<Worker>, now: Instant) {
        self.0 = Some((worker, now));
    }

    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// The worker, if no run has needed it for a while.
    pub fn take_if_idle(&mut self, now: Instant) -> Option<Arc<Worker>> {
        let (_, at) = self.0.as_ref()?;
        if now.saturating_duration_since(*at) < SECOND_IDLE {
            return None;
        }
        self.0.take().map(|(worker, _)| worker)
    }

    /// The worker, for one more run.
    pub fn used(&mut self, now: Instant) -> Option<Arc<Worker>> {
        let (worker, at) = self.0.as_mut().filter(|(worker, _)| worker.is_serving())?;
        *at = now;
        Some(worker.clone())
    }
}

/// The account of a faster tier; a run takes `run_ns` without it.
fn account(gain: Faster, run_ns: u64) -> Account {
    Account::new(Gain {
        // As far as the runs since the trial bear it out.
        saved_ms: gain.saved_cpu_ms.min(run_ns as f64 / 1e6),
        made_ms: gain.load_cpu_ms.max(MADE_MIN_MS),
        bytes: gain.bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engines::Engine;
    use vesta_core::keepalive::BASE_PRICE;
    use vesta_nn::Form;

    const BYTES: u64 = 40 << 20;

    const FIRST: Tier = Tier { engine: Engine::Rten, form: Form::Mapped };
    const PACKED: Tier = Tier { engine: Engine::Rten, form: Form::Packed };
    const OTHER: Tier = Tier { engine: Engine::OnnxRuntime, form: Form::Mapped };

    fn faster(tier: Tier, saved_cpu_ms: f64, bytes: u64) -> FasterTier {
        let gain = Faster { saved_cpu_ms, load_cpu_ms: 20.0, bytes };
        FasterTier { tier, dir: PathBuf::new(), gain, batching: None }
    }

    fn packed() -> Tiers {
        Tiers::of([faster(PACKED, 4.0, BYTES)])
    }

    fn now(begun: Instant, second: u64, runs: u64, tier: Tier) -> Now<'static> {
        let at = begun + Duration::from_secs(second);
        Now { at, runs, run_ns: 16_000_000, tier: Some(tier), price: BASE_PRICE, is_spare: &|_| true }
    }

    #[test]
    fn the_faster_tier_is_loaded_for_runs_and_given_up_without_them() {
        let (mut tiers, begun) = (packed(), Instant::now());
        assert_eq!(tiers.review(&now(begun, 0, 3, FIRST)), Wanted::Nothing);
        assert_eq!(tiers.review(&now(begun, 1, 6, FIRST)), Wanted::Promote(PACKED, BYTES));
        tiers.changed(PACKED);
        assert_eq!(tiers.review(&now(begun, 2, 1_000, PACKED)), Wanted::Nothing);
        assert!(tiers.earned().is_some_and(|(balance_ms, bytes)| balance_ms > 0.0 && bytes == BYTES));
        assert_eq!(tiers.review(&now(begun, 7_200, 1_000, PACKED)), Wanted::Demote);
    }

    #[test]
    fn of_two_the_one_that_saves_more_is_loaded_and_the_other_where_that_has_failed_or_memory_is_short() {
        let two = || Tiers::of([faster(PACKED, 4.0, BYTES), faster(OTHER, 8.0, 4 * BYTES)]);
        let begun = Instant::now();
        let busy = |second| now(begun, second, (second + 1) * 1_000, FIRST);
        let mut tiers = two();
        assert_eq!(tiers.review(&busy(0)), Wanted::Promote(OTHER, 4 * BYTES));
        let mut short = two();
        let little = Now { is_spare: &|bytes| bytes <= BYTES, ..busy(0) };
        assert_eq!(short.review(&little), Wanted::Promote(PACKED, BYTES));
        for _ in 0..FAILURES_MAX {
            tiers.failed(OTHER, begun);
        }
        assert_eq!(tiers.review(&busy(1)), Wanted::Nothing, "it waits after a failure");
        assert_eq!(tiers.review(&busy(PAUSE.as_secs())), Wanted::Promote(PACKED, BYTES));
    }

    #[test]
    fn a_tier_that_fails_again_and_again_is_not_loaded_any_more() {
        let (mut tiers, begun) = (packed(), Instant::now());
        let mut made = 0;
        for second in 0..600 {
            let now = now(begun, second, (second + 1) * 100, FIRST);
            match tiers.review(&now) {
                Wanted::Promote(tier, _) => {
                    made += 1;
                    tiers.changed(tier);
                    tiers.failed(tier, now.at);
                }
                wanted => assert_eq!(wanted, Wanted::Nothing),
            }
        }
        assert_eq!(made, FAILURES_MAX);
    }

    #[test]
    fn a_tier_whose_worker_was_killed_waits_before_it_is_loaded_again() {
        let (mut tiers, begun) = (packed(), Instant::now());
        let busy = |second, tier| now(begun, second, (second + 1) * 1_000, tier);
        for round in 0..u64::from(2 * FAILURES_MAX) {
            let second = round * (PAUSE.as_secs() + 2);
            assert_eq!(tiers.review(&busy(second, FIRST)), Wanted::Promote(PACKED, BYTES), "{round}");
            tiers.changed(PACKED);
            assert_eq!(tiers.review(&busy(second + 1, FIRST)), Wanted::Nothing);
        }
    }

    #[test]
    fn a_tier_that_was_given_up_for_want_of_memory_waits_before_it_is_loaded_again() {
        let (mut tiers, begun) = (packed(), Instant::now());
        tiers.given_up(begun);
        let first = (0..).find(|second| {
            tiers.review(&now(begun, *second, (second + 1) * 100, FIRST)) == Wanted::Promote(PACKED, BYTES)
        });
        assert_eq!(first, Some(PAUSE.as_secs()));
    }
}
