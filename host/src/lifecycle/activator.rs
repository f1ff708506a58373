//! From a version to a warm function: one cold start for any number of waiting requests.

use super::entry::{Admitted, ColdStart, Entry, Mark, Owner, StartError, mark};
use super::functions::Functions;
use super::prepare::EnginePreparer;
use crate::registry::{Registry, Version};
use dashmap::DashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use vesta_core::clock;
use vesta_core::keepalive::{Asked, History};
use vesta_core::lifecycle::{Next, NotAdmitted, Standing, State, States};
use vesta_core::{FunctionName, TenantName};
use vesta_engine::{Loaded, Meter, Runtime};

/// Versions before a new one in which its function's arrivals are looked for.
const FORMER_MAX: u32 = 16;

/// What the lifecycle is made of.
pub struct Lifecycle {
    pub functions: Arc<Functions>,
    pub registry: Arc<Registry>,
    pub runtime: Arc<Runtime>,
    pub preparer: Arc<EnginePreparer>,
    /// Longest wait of a request for a cold start, in seconds.
    pub start_seconds_max: u64,
}

/// A warm function, and how it became so. It stays warm while the place lives that it was made for.
pub struct Activation {
    pub loaded: Arc<Loaded>,
    /// Whether the caller waited for a cold start, its own or another's.
    pub waited: bool,
    /// The cold start that this call triggered.
    pub cold: Option<ColdStart>,
}

type Key = (TenantName, FunctionName, u32);

/// The versions that were asked for on this host.
pub struct Activator {
    pub(super) parts: Lifecycle,
    pub(super) functions: Arc<Functions>,
    table: DashMap<Key, Arc<Entry>>,
    /// Whose turn it is to have room made.
    pub(super) room: Semaphore,
}

impl Activator {
    pub fn new(parts: Lifecycle) -> Arc<Activator> {
        let functions = parts.functions.clone();
        Arc::new(Activator { parts, functions, table: DashMap::new(), room: Semaphore::new(1) })
    }

    /// Takes one of the function's places, if there is one.
    pub fn admit(&self, version: &Arc<Version>) -> Result<Admitted, NotAdmitted> {
        let entry = self.entry(version).ok_or(NotAdmitted::Draining)?;
        entry.admit(self.functions.now(), version.manifest.limits.concurrency)?;
        Ok(Admitted { entry, functions: self.functions.clone() })
    }

    /// Where a version stands. None if it was deleted meanwhile.
    pub(super) fn entry(&self, version: &Arc<Version>) -> Option<Arc<Entry>> {
        let (tenant, function, number) = (&version.tenant, &version.function, version.number);
        let key = |number| (tenant.clone(), function.clone(), number);
        if let Some(entry) = self.table.get(&key(number)) {
            return Some(entry.clone());
        }
        let former = (1..number)
            .rev()
            .take(FORMER_MAX as usize)
            .find_map(|n| Some(self.table.get(&key(n))?.history()));
        self.place(version, former.unwrap_or_default(), Mark::default())
    }

    /// What was learned of a version in an earlier run of the host. It is looked at then: it may be worth
    /// having.
    pub(super) fn restore(
        &self,
        tenant: &str,
        function: &str,
        number: u32,
        history: History,
        look_at: clock::Instant,
    ) {
        let Ok(version) = self.parts.registry.resolve(tenant, function, Some(&number.to_string())) else {
            return;
        };
        let saved = mark(&history);
        if let Some(entry) = self.place(&version, history, saved) {
            self.functions.fleet.look_at(&entry, look_at);
        }
    }

    /// The versions that were asked for.
    pub(super) fn entries(&self) -> Vec<Arc<Entry>> {
        self.table.iter().map(|entry| entry.clone()).collect()
    }

    /// Gives a version its place, unless it has one.
    fn place(&self, version: &Arc<Version>, history: History, saved: Mark) -> Option<Arc<Entry>> {
        let key = (version.tenant.clone(), version.function.clone(), version.number);
        let keep_alive = version.manifest.scaling.keep_alive_ms.map(Duration::from_millis);
        let asked = Asked { keep_alive, ..Asked::default() };
        let (ended, saved) = (watch::Sender::new(None), Mutex::new(saved));
        let owner = Owner { version: version.clone(), ended, saved };
        let entry = self.functions.fleet.slot(owner, asked, history);
        let entry = self.table.entry(key.clone()).or_insert(entry).clone();
        // Of a version that was deleted before it stood in the table nobody tells us again.
        if self.is_gone(&key) {
            self.forget(&key);
            return None;
        }
        Some(entry)
    }

    /// A version was deleted: nothing of it begins any more, and what runs is let finish.
    pub(super) fn forget(&self, key: &Key) {
        if let Some((_, entry)) = self.table.remove(key) {
            self.functions.fleet.delete(&entry);
        }
    }

    /// Forgets all versions that are not in the registry any more.
    pub(super) fn forget_deleted(&self) {
        let gone: Vec<Key> =
            self.table.iter().map(|e| e.key().clone()).filter(|key| self.is_gone(key)).collect();
        gone.iter().for_each(|key| self.forget(key));
    }

    fn is_gone(&self, (tenant, function, number): &Key) -> bool {
        self.parts.registry.resolve(tenant.as_str(), function.as_str(), Some(&number.to_string())).is_err()
    }

    /// The warm function, after a cold start if need be. The start that this call triggered is
    /// reported, and billed to `meter`; a call that finds one under way waits for it.
    ///
    /// A start goes on when its caller goes away: others may wait for it.
    pub async fn activate(
        self: &Arc<Self>,
        admitted: &Admitted,
        meter: &Arc<Meter>,
    ) -> Result<Activation, StartError> {
        let entry = &admitted.entry;
        let mut next = entry.request(self.functions.now());
        if let Next::Run(warm) = next {
            return Ok(Activation { loaded: warm.0, waited: false, cold: None });
        }
        let seconds = self.parts.start_seconds_max;
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let mut ended = entry.owner.ended.subscribe();
        if matches!(next, Next::Wait) {
            // The start may have ended before this call listened.
            next = entry.request(self.functions.now());
        }
        let (mut triggered, mut cold) = (false, None);
        loop {
            match next {
                Next::Run(warm) => return Ok(Activation { loaded: warm.0, waited: true, cold }),
                Next::Refuse(refused) => return Err(refused.into()),
                Next::Start => {
                    triggered = true;
                    tokio::spawn(self.clone().start(entry.clone(), Some(meter.clone())));
                }
                Next::Wait => {}
            }
            match timeout_at(deadline, ended.changed()).await {
                Err(_) => return Err(StartError::TimedOut(seconds)),
                Ok(Err(_)) => return Err(StartError::Failed("the start was abandoned".into())),
                Ok(Ok(())) => {}
            }
            match &*ended.borrow_and_update() {
                Some(Ok(start)) => cold = triggered.then_some(*start),
                Some(Err(e)) => return Err(e.clone()),
                None => {}
            }
            next = entry.request(self.functions.now());
        }
    }

    /// How many functions stand in each state.
    pub fn states(&self) -> Vec<State> {
        self.table.iter().map(|entry| entry.state()).collect()
    }
}

impl States for Activator {
    fn state(&self, tenant: &TenantName, function: &FunctionName, version: u32) -> State {
        let key = (tenant.clone(), function.clone(), version);
        self.table.get(&key).map_or(State::Cold, |entry| entry.state())
    }

    fn standing(&self, tenant: &TenantName, function: &FunctionName, version: u32) -> Option<Standing> {
        let entry = self.table.get(&(tenant.clone(), function.clone(), version))?.clone();
        Some(self.functions.fleet.standing(&entry, self.functions.now()))
    }
}
