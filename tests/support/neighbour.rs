//! A tenant that is served while another does its worst.

use crate::{Host, Package};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the neighbour calls its function.
const PAUSE: Duration = Duration::from_millis(5);

/// Invocations of another tenant's function, one after another until told to stop.
pub struct Neighbour {
    stop: Arc<AtomicBool>,
    calls: JoinHandle<Vec<(u16, Duration)>>,
}

/// What became of them.
pub struct Served {
    /// The status of each; 0 where no whole response came.
    pub statuses: Vec<u16>,
    took: Vec<Duration>,
}

impl Neighbour {
    /// Makes the tenant and its function, and begins to call it.
    pub fn start(host: &Host) -> Neighbour {
        let key = host.tenant("neighbour");
        Package::rogue("calm").deploy(&host.control().with_key(&key));
        let data = host.data().with_key(&key);
        data.get("/fn/neighbour/calm/ok").expect(200);
        let stop: Arc<AtomicBool> = Arc::default();
        let stopped = stop.clone();
        let calls = std::thread::spawn(move || {
            let mut calls = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let reply = data.try_send("GET", "/fn/neighbour/calm/ok", &[], b"");
                calls.push((reply.map_or(0, |r| r.status), begun.elapsed()));
                std::thread::sleep(PAUSE);
            }
            calls
        });
        Neighbour { stop, calls }
    }

    pub fn stop(self) -> Served {
        self.stop.store(true, Ordering::Relaxed);
        let (statuses, mut took): (Vec<_>, Vec<_>) = self.calls.join().expect("no panic").into_iter().unzip();
        took.sort();
        Served { statuses, took }
    }
}

impl Served {
    /// The 99th percentile of the time that a call took.
    pub fn p99(&self) -> Duration {
        self.took[self.took.len() * 99 / 100]
    }
}
