//! The books of a host: whose its CPU time is, by the kernel and by the host's own clocks.

use crate::Host;
use crate::process::CpuMark;
use std::process::{Child, Command, Stdio};

/// The fields of a record, and of a usage report, that are billed CPU time.
pub const BILLED: [&str; 6] = [
    "guest_cpu_ns",
    "inference_cpu_ns",
    "cold_start_cpu_ns",
    "outbound_cpu_ns",
    "handler_cpu_ns",
    "deploy_cpu_ns",
];

/// CPU seconds of the host at one moment.
pub struct Books {
    kernel: CpuMark,
    billed: f64,
    platform: f64,
    process: f64,
}

/// CPU seconds between two moments.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    /// Of the process and of its workers, as seen from outside.
    pub kernel: f64,
    pub billed: f64,
    /// The platform's own, beside what is billed.
    pub platform: f64,
    /// The same, as the host itself reads it from the kernel.
    pub process: f64,
}

impl Books {
    pub fn of(host: &Host) -> Books {
        let metrics = host.metrics();
        Books {
            billed: metrics.sum("vesta_billed_cpu_seconds_total"),
            platform: metrics.sum("vesta_platform_cpu_seconds_total"),
            process: metrics.sum("vesta_process_cpu_seconds_total"),
            kernel: host.process().cpu(),
        }
    }

    pub fn since(&self, earlier: &Books) -> Spent {
        Spent {
            kernel: self.kernel.since(&earlier.kernel).as_secs_f64(),
            billed: self.billed - earlier.billed,
            platform: self.platform - earlier.platform,
            process: self.process - earlier.process,
        }
    }
}

impl Spent {
    /// The share of the kernel's count that is nobody's; negative where more was counted than was used.
    pub fn unattributed(&self) -> f64 {
        (self.kernel - self.billed - self.platform) / self.kernel
    }
}

/// One burn of a rogue: what was billed, and what the kernel counted for the threads on which guests run, in
/// seconds. What the platform does beside them (ticks, the journal) is nobody's burning.
#[derive(Debug, Clone, Copy)]
pub struct Burn {
    pub billed: f64,
    pub workers: f64,
    pub process: f64,
}

impl Burn {
    /// Has a deployed rogue burn `units` of CPU.
    pub fn of(host: &Host, function: &str, units: u64) -> Burn {
        let before = host.process().cpu();
        let reply = host.invoke(function, &format!("/burn?units={units}")).expect(200);
        let after = host.process().cpu();
        Burn {
            billed: reply.billed_cpu_us() as f64 / 1e6,
            workers: after.of_threads(&before, "vesta-worker").as_secs_f64(),
            process: after.since(&before).as_secs_f64(),
        }
    }

    /// How many units a deployed rogue burns in about that many CPU seconds.
    pub fn units(host: &Host, function: &str, seconds: f64) -> u64 {
        let sample = host.invoke(function, "/burn?units=500").expect(200).billed_cpu_us();
        (seconds * 1e6 / sample as f64 * 500.0) as u64
    }

    /// By how much of the kernel's count the bill differs from it.
    pub fn off(&self) -> f64 {
        (self.billed - self.workers) / self.workers
    }
}

/// Spinning processes beside the host; gone when dropped.
pub struct Neighbours(Vec<Child>);

impl Neighbours {
    pub fn spin(count: usize) -> Self {
        let spin = || Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn();
        Self((0..count).map(|_| spin().expect("run sh")).collect())
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
