//! One version of a function: its state, who uses it, and what keep-alive makes of it.

use super::State;
use super::backoff::Backoff;
use super::cold_start::ColdStartParts;
use crate::clock::Instant;
use crate::keepalive::{Asked, Explanation, History, KeepAlive, Price};
use crate::memory::{Reservation, Short};
use std::sync::Arc;
use std::time::Duration;

/// What a warm function is to the host: something that holds memory until it is dropped.
pub trait Resident: Clone {
    /// What the host knows of the function, warm or cold.
    type Owner;

    fn reservation(&self) -> &Reservation;

    /// What its cold start consisted of.
    fn cold_start(&self) -> Option<ColdStartParts> {
        None
    }

    /// Those of its models that are not run for a while.
    fn models_set_aside(&self) -> Vec<SetAside> {
        Vec::new()
    }
}

/// A model that is not run for a while, since the processes that ran it ended again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    pub model: String,
    pub reason: String,
    pub retry_after: Duration,
}

/// Why an invocation may not begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    #[error("{0} invocations of this function run or wait already, the most it allows (limits.concurrency)")]
    Concurrency(u32),
    #[error("this version was deleted")]
    Draining,
}

/// Why a function is not started now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the last start failed and the next is tried in {} ms: {reason}", retry_after.as_millis())]
pub struct Refused {
    pub retry_after: Duration,
    pub reason: Failure,
}

/// Why a start failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Memory(#[from] Short),
    #[error("{0}")]
    Load(Arc<str>),
}

/// What an admitted request has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<L> {
    /// Run on what is loaded.
    Run(L),
    /// Wait for the start that is under way.
    Wait,
    /// Start the function, for all who wait.
    Start,
    /// Answer that it cannot be started now.
    Refuse(Refused),
}

/// What keep-alive has to do with a function.
pub(super) enum Review<L> {
    /// Nothing, until something happens to it.
    Nothing,
    /// Nothing before that moment.
    LookAt(Instant),
    /// Drop it, and look again at that moment, if there is one: it may be worth having back then.
    LetGo(L, Option<Instant>),
    /// Start it, though nobody waits.
    Prewarm,
}

/// How a function stands, for people.
#[derive(Debug, Clone)]
pub struct Standing {
    pub state: State,
    /// Invocations that run or wait.
    pub users: u32,
    /// Whether it is kept because of a minimum.
    pub is_kept: bool,
    /// Bytes that it holds, shared ones included; 0 unless warm.
    pub resident_bytes: u64,
    /// What the keep-alive policy makes of it.
    pub keep_alive: Explanation,
    /// What its last cold start consisted of.
    pub cold_start: Option<ColdStartParts>,
    /// The last failure, and for how long no start is tried.
    pub refused: Option<Refused>,
    /// Its models that are not run for a while.
    pub models_set_aside: Vec<SetAside>,
}

enum Phase<L> {
    Cold,
    Warming,
    Warm(L),
}

/// One version of a function. All methods are to be called under one lock; none of them blocks.
pub struct Function<L> {
    phase: Phase<L>,
    /// Invocations that run or wait. While there are any, the function is not let go.
    users: u32,
    deleted: bool,
    /// A minimum keeps it warm.
    kept: bool,
    /// Nothing is on the agenda for it: whoever uses it last has to put it there.
    unwatched: bool,
    idle_since: Instant,
    backoff: Backoff,
    failure: Option<Failure>,
    history: History,
    /// Of the last cold start, while it is cold.
    cold_start: Option<ColdStartParts>,
}

impl<L: Resident> Default for Function<L> {
    fn default() -> Self {
        Function {
            phase: Phase::Cold,
            users: 0,
            deleted: false,
            kept: false,
            unwatched: true,
            idle_since: Instant::ZERO,
            backoff: Backoff::default(),
            failure: None,
            history: History::default(),
            cold_start: None,
        }
    }
}

impl<L: Resident> Function<L> {
    /// A new version of a function whose arrivals are known.
    pub fn with_history(history: History) -> Self {
        Function { history, ..Function::default() }
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    pub fn state(&self) -> State {
        match &self.phase {
            _ if self.deleted => State::Draining,
            Phase::Cold => State::Cold,
            Phase::Warming => State::Warming,
            Phase::Warm(_) => State::Warm,
        }
    }

    pub(super) fn is_warm(&self) -> bool {
        matches!(self.phase, Phase::Warm(_))
    }

    /// Takes one of `max` places for an invocation that runs or waits; [`Function::leave`] gives it back.
    pub fn admit(&mut self, now: Instant, max: u32) -> Result<(), NotAdmitted> {
        if self.deleted {
            return Err(NotAdmitted::Draining);
        }
        if self.users >= max {
            return Err(NotAdmitted::Concurrency(max));
        }
        self.users += 1;
        self.history.arrived(now);
        Ok(())
    }

    /// What an admitted request has to do now. After [`Next::Start`] the caller must see to it that
    /// [`Function::started`] or [`Function::failed`] is called once.
    pub fn request(&mut self, now: Instant) -> Next<L> {
        match &self.phase {
            Phase::Warm(loaded) => Next::Run(loaded.clone()),
            Phase::Warming => Next::Wait,
            Phase::Cold => match (self.backoff.until(now), &self.failure) {
                (Some(until), Some(reason)) => {
                    Next::Refuse(Refused { retry_after: until - now, reason: reason.clone() })
                }
                _ => {
                    self.phase = Phase::Warming;
                    Next::Start
                }
            },
        }
    }

    /// An admitted invocation ended or was given up. True if the function has to be reviewed now: nobody uses
    /// it any more, and nothing is on the agenda for it.
    pub(super) fn leave(&mut self, now: Instant) -> (bool, Option<L>) {
        self.users -= 1;
        self.idle_since = self.idle_since.max(now);
        if self.users > 0 {
            return (false, None);
        }
        if self.deleted {
            return (false, self.take());
        }
        (self.is_warm() && std::mem::take(&mut self.unwatched), None)
    }

    /// A start nobody asked for: false where there is nothing to start, or not now.
    pub(super) fn prewarm(&mut self, now: Instant) -> bool {
        let may = matches!(self.phase, Phase::Cold) && !self.deleted && self.backoff.until(now).is_none();
        if may {
            self.phase = Phase::Warming;
        }
        may
    }

    /// Whether somebody waits for it or uses it, and whether a minimum keeps it.
    pub(super) fn wanted(&self) -> (bool, bool) {
        (self.users > 0, self.kept && !self.deleted)
    }

    /// The start succeeded. Returns what is to be dropped at once: the function was deleted meanwhile, and
    /// nobody waits.
    pub(super) fn started(&mut self, loaded: L, cold: Duration) -> Option<L> {
        self.backoff.succeeded();
        self.failure = None;
        self.history.started(cold, loaded.reservation().bytes());
        self.phase = Phase::Warm(loaded);
        self.unwatched = false;
        if self.deleted && self.users == 0 { self.take() } else { None }
    }

    /// The start failed; who waits gets the reason.
    pub(super) fn failed(&mut self, now: Instant, failure: Failure) {
        match &failure {
            Failure::Load(_) => self.backoff.failed(now),
            Failure::Memory(_) => self.backoff.found_no_memory(now),
        }
        self.failure = Some(failure);
        self.phase = Phase::Cold;
    }

    /// A start that found no spare memory is given up, unless somebody waits for it by now.
    pub(super) fn give_up(&mut self) -> bool {
        let may = self.users == 0;
        if may {
            self.phase = Phase::Cold;
        }
        may
    }

    /// From now on nothing is admitted; what was admitted is let finish.
    pub(super) fn delete(&mut self) -> Option<L> {
        self.deleted = true;
        if self.users == 0 { self.take() } else { None }
    }

    pub(super) fn keep(&mut self, kept: bool) {
        self.kept = kept;
    }

    /// What it holds and what its staying is worth, if it could be let go.
    pub(super) fn idle(
        &self,
        now: Instant,
        policy: &dyn KeepAlive,
        asked: &Asked,
    ) -> Option<(&L, bool, f64)> {
        let Phase::Warm(loaded) = &self.phase else { return None };
        if self.users > 0 {
            return None;
        }
        Some((loaded, self.kept, self.index(now, policy, asked)))
    }

    /// What its being warm is worth now.
    pub(super) fn index(&self, now: Instant, policy: &dyn KeepAlive, asked: &Asked) -> f64 {
        let age = self.history.last_arrival().map_or(Duration::ZERO, |last| now.saturating_sub(last));
        policy.index(&self.history, asked, age)
    }

    /// Lets it go to make room for another, if nobody uses it.
    pub(super) fn evict(&mut self) -> Option<L> {
        if self.users == 0 { self.take() } else { None }
    }

    /// What keep-alive has to do now.
    pub(super) fn review(
        &mut self,
        now: Instant,
        policy: &dyn KeepAlive,
        asked: &Asked,
        price: Price,
    ) -> Review<L> {
        if self.deleted {
            return Review::Nothing;
        }
        let plan = policy.plan(&self.history, asked, price);
        let last = self.history.last_arrival();
        // It is to be back from the first of these moments to the second.
        let back = last
            .zip(plan.prewarm_at())
            .map(|(last, from)| (last.saturating_add(from), last.saturating_add(plan.resident.until)));
        match &self.phase {
            Phase::Warming => Review::Nothing,
            Phase::Warm(_) if self.users > 0 => {
                self.unwatched = true;
                Review::Nothing
            }
            Phase::Warm(_) if self.kept => Review::Nothing,
            Phase::Warm(_) => {
                // A long invocation is as good as a late arrival.
                let lingers = last.map(|last| last.max(self.idle_since).saturating_add(plan.linger));
                match (lingers, back) {
                    (Some(until), _) if now < until => Review::LookAt(until),
                    (_, Some((from, until))) if from <= now && now < until => Review::LookAt(until),
                    _ => match self.take() {
                        Some(loaded) => Review::LetGo(loaded, back.map(|b| b.0).filter(|from| now < *from)),
                        None => Review::Nothing,
                    },
                }
            }
            Phase::Cold => match (self.backoff.until(now), back) {
                (Some(until), _) if self.kept => Review::LookAt(until),
                (Some(_), _) => Review::Nothing,
                (None, _) if self.kept => Review::Prewarm,
                (None, Some((from, until))) if now < until => {
                    if now < from {
                        Review::LookAt(from)
                    } else {
                        Review::Prewarm
                    }
                }
                (None, _) => Review::Nothing,
            },
        }
    }

    /// How it stands.
    pub fn standing(
        &mut self,
        now: Instant,
        policy: &dyn KeepAlive,
        asked: &Asked,
        price: Price,
    ) -> Standing {
        let keep_alive = Explanation::of(policy, &self.history, asked, price, now);
        let refused = match (self.backoff.until(now), &self.failure) {
            (Some(until), Some(reason)) => Some(Refused { retry_after: until - now, reason: reason.clone() }),
            _ => None,
        };
        let (resident_bytes, cold_start, models_set_aside) = match &self.phase {
            Phase::Warm(loaded) => {
                (loaded.reservation().bytes(), loaded.cold_start(), loaded.models_set_aside())
            }
            _ => (0, self.cold_start.clone(), Vec::new()),
        };
        Standing {
            state: self.state(),
            users: self.users,
            is_kept: self.kept,
            resident_bytes,
            keep_alive,
            cold_start,
            refused,
            models_set_aside,
        }
    }

    fn take(&mut self) -> Option<L> {
        match std::mem::replace(&mut self.phase, Phase::Cold) {
            Phase::Warm(loaded) => {
                self.cold_start = loaded.cold_start();
                Some(loaded)
            }
            other => {
                self.phase = other;
                None
            }
        }
    }
}
