//! A simulated host: it drives the slots as the engine does, and keeps books of its own to compare them with.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use vesta_core::TenantName;
use vesta_core::slots::{Job, JobId, Slots, SlotsConfig, SlotsError, Turn};

/// A run and what it will really use. Times in nanoseconds.
#[derive(Debug, Clone)]
pub struct Run {
    pub tenant: usize,
    pub width: u32,
    pub wall_ns: u64,
    pub cpu_ns: u64,
    pub estimate_wall_ns: u64,
    pub estimate_cpu_ns: u64,
    pub deadline_ns: u64,
    pub held_bytes: u64,
}

impl Run {
    /// A run that uses its threads fully, and ends as estimated.
    pub fn exact(tenant: usize, width: u32, wall_ns: u64) -> Run {
        let cpu_ns = wall_ns * u64::from(width);
        Run {
            tenant,
            width,
            wall_ns,
            cpu_ns,
            estimate_wall_ns: wall_ns,
            estimate_cpu_ns: cpu_ns,
            deadline_ns: u64::MAX,
            held_bytes: 1,
        }
    }

    pub fn charge_max_ns(&self) -> u64 {
        self.cpu_ns.max(self.estimate_cpu_ns)
    }

    fn is_late(&self, now_ns: u64) -> bool {
        now_ns.saturating_add(self.estimate_wall_ns) > self.deadline_ns
    }
}

/// Slots are kept free for a wide run.
struct Kept {
    free: u32,
    /// When the last run under way ends.
    until_ns: u64,
    overtaken_ns: HashMap<usize, u64>,
}

pub struct Host {
    pub now_ns: u64,
    pub slots: Slots,
    config: SlotsConfig,
    names: Vec<TenantName>,
    pub waiting: BTreeMap<JobId, Run>,
    pub running: BTreeMap<JobId, Run>,
    /// When each run under way ends.
    pub ends: BTreeSet<(u64, JobId)>,
    pub seen: BTreeSet<JobId>,
    pub started: u64,
    pub dropped: u64,
    pub cancelled: u64,
    /// How often slots were kept for a wide run, and how often others overtook it.
    pub kept: u64,
    pub overtook: u64,
    kept_now: Option<Kept>,
    charge_max_ns: u64,
}

impl Host {
    pub fn new(config: SlotsConfig, tenants: usize) -> Host {
        Host {
            now_ns: 0,
            slots: Slots::new(config.clone()),
            config,
            names: (0..tenants).map(|n| format!("tenant-{n}").parse().expect("a label")).collect(),
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            ends: BTreeSet::new(),
            seen: BTreeSet::new(),
            started: 0,
            dropped: 0,
            cancelled: 0,
            kept: 0,
            overtook: 0,
            kept_now: None,
            charge_max_ns: 0,
        }
    }

    pub fn waiting_of(&self, tenant: usize) -> usize {
        self.waiting.values().filter(|run| run.tenant == tenant).count()
    }

    /// Queues a run; what the answer has to be is reckoned beforehand.
    pub fn enqueue(&mut self, run: Run) -> Result<JobId, SlotsError> {
        let job = Job {
            width: run.width,
            estimate_cpu_ns: run.estimate_cpu_ns,
            estimate_wall_ns: run.estimate_wall_ns,
            deadline_ns: run.deadline_ns,
            held_bytes: run.held_bytes,
        };
        let (max, tenant_max) = (self.config.waiting_max, self.config.waiting_tenant_max);
        let refusal = if run.is_late(self.now_ns) {
            let left_ns = run.deadline_ns.saturating_sub(self.now_ns);
            Some(SlotsError::TooLate { needed_ns: run.estimate_wall_ns, left_ns })
        } else if self.waiting.len() >= max {
            Some(SlotsError::QueueFull { max })
        } else if self.waiting_of(run.tenant) >= tenant_max {
            Some(SlotsError::TenantQueueFull { max: tenant_max })
        } else {
            None
        };
        let result = self.slots.enqueue(&self.names[run.tenant], job, self.now_ns);
        assert_eq!(result.as_ref().err(), refusal.as_ref());
        if let Ok(id) = result {
            assert!(self.seen.last() < Some(&id), "ids are given once, in order");
            self.seen.insert(id);
            self.charge_max_ns = self.charge_max_ns.max(run.charge_max_ns());
            self.waiting.insert(id, run);
        }
        result
    }

    /// Lets start and drop whatever is due, and returns what has started.
    pub fn pump(&mut self) -> Vec<JobId> {
        let mut started = Vec::new();
        while let Some(turn) = self.slots.next(self.now_ns) {
            match turn {
                Turn::Start(id) => {
                    self.start(id);
                    started.push(id);
                }
                Turn::Drop(id) => {
                    let run = self.waiting.remove(&id).expect("it waited");
                    assert!(run.is_late(self.now_ns), "dropped too early");
                    self.dropped += 1;
                    self.left(run.width);
                }
            }
        }
        self.check();
        started
    }

    fn start(&mut self, id: JobId) {
        let run = self.waiting.remove(&id).expect("it waited, and starts once");
        assert!(!run.is_late(self.now_ns), "started too late");
        let earlier = self.waiting.iter().any(|(other, w)| w.tenant == run.tenant && *other < id);
        assert!(!earlier, "first come, first served within a tenant");
        let end_ns = self.now_ns + run.wall_ns;
        let bound = self.config.quantum_ns + self.charge_max_ns * (2 * u64::from(self.config.slots) + 2);
        if let Some(kept) = &mut self.kept_now {
            if run.width > kept.free {
                self.kept_now = None;
            } else {
                self.overtook += 1;
                kept.until_ns = kept.until_ns.max(end_ns);
                let sum = kept.overtaken_ns.entry(run.tenant).or_default();
                *sum += run.charge_max_ns();
                assert!(*sum <= bound, "tenant {} overtakes a wide run for ever", run.tenant);
            }
        }
        self.ends.insert((end_ns, id));
        self.running.insert(id, run);
        self.started += 1;
    }

    /// A waiting run went away; it may have been the one that slots were kept for.
    fn left(&mut self, width: u32) {
        self.kept_now.take_if(|kept| width > kept.free);
    }

    /// Lets the time pass to the end of the next run; returns that run.
    pub fn finish_next(&mut self) -> Option<Run> {
        let (end_ns, id) = self.ends.pop_first()?;
        self.now_ns = self.now_ns.max(end_ns);
        let run = self.running.remove(&id).expect("it runs");
        assert!(self.slots.finished(id, run.cpu_ns));
        Some(run)
    }

    pub fn cancel(&mut self, id: JobId) {
        let run = self.waiting.remove(&id);
        assert_eq!(self.slots.cancel(id), run.is_some(), "only what waits can be cancelled");
        if let Some(run) = run {
            self.cancelled += 1;
            self.left(run.width);
        }
    }

    /// The invariants that hold whenever nothing is left to start or to drop.
    fn check(&mut self) {
        let used: u32 = self.running.values().map(|run| run.width).sum();
        assert!(used <= self.config.slots, "{used} slots are in use");
        let free = self.config.slots - used;
        let held: u64 = self.waiting.values().map(|run| run.held_bytes).sum();
        assert_eq!((self.slots.free(), self.slots.running()), (free, self.running.len()));
        assert_eq!((self.slots.waiting(), self.slots.held_bytes()), (self.waiting.len(), held));
        for (n, name) in self.names.iter().enumerate() {
            let own = self.waiting.values().filter(|run| run.tenant == n).map(|run| run.held_bytes);
            assert_eq!(self.slots.held_bytes_of(name), own.sum::<u64>());
        }
        if self.waiting.is_empty() {
            let tenants: BTreeSet<usize> = self.running.values().map(|run| run.tenant).collect();
            assert_eq!(self.slots.tenants(), tenants.len(), "nobody waits, and a tenant is remembered");
        }
        assert!(self.waiting.values().all(|run| !run.is_late(self.now_ns)), "a late run still waits");
        let next = self.waiting.values().map(|run| run.deadline_ns - run.estimate_wall_ns).min();
        assert_eq!(self.slots.next_drop_ns(), next.map(|latest_ns| latest_ns.saturating_add(1)));
        self.check_that_no_slot_idles(free);
    }

    fn check_that_no_slot_idles(&mut self, free: u32) {
        if !self.waiting.values().any(|run| run.width <= free) {
            self.kept_now = None;
            return;
        }
        let is_wide = self.waiting.values().any(|run| run.width > free);
        assert!(is_wide, "{free} slots are free, and a run that fits waits");
        let last_end_ns = self.ends.last().map_or(0, |(end_ns, _)| *end_ns);
        let kept = self.kept_now.get_or_insert_with(|| {
            self.kept += 1;
            Kept { free, until_ns: last_end_ns, overtaken_ns: HashMap::new() }
        });
        assert!(self.now_ns <= kept.until_ns && !self.running.is_empty(), "slots idle for ever");
    }

    /// Ends everything, and checks that nothing is left and nothing was lost.
    pub fn come_to_rest(&mut self) {
        self.pump();
        while self.finish_next().is_some() {
            self.pump();
        }
        assert!(self.waiting.is_empty(), "{} runs never started", self.waiting.len());
        assert_eq!(self.started + self.dropped + self.cancelled, self.seen.len() as u64);
        assert_eq!(
            (self.slots.held_bytes(), self.slots.tenants()),
            (0, 0),
            "something is still on the books"
        );
    }
}
