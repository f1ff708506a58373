//! A soak: functions go cold and warm for half an hour, always in the same mix, while the host's private
//! memory and its descriptors are sampled every second. After the warm-up both have to stay where they are.
//!
//! `just soak [minutes]` writes `target/bench/soak.json` and two plots; it fails unless the memory of the
//! last third is within 2 MiB of the first third's, the descriptors are flat, and every request was answered.

use crate::reference::MiniLm;
use crate::stats::mean;
use crate::{plot, report, served};
use serde_json::json;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use vesta_tests::{Host, Package, guests, in_root};

const MINUTES: f64 = 30.0;
/// The share of the time that counts as warm-up, and its least, in minutes.
const WARM_UP: f64 = 0.1;
const WARM_UP_MIN: f64 = 1.5;
const MEMORY_BYTES_MAX: f64 = (2 << 20) as f64;
/// How far the mean number of descriptors may move: clients come and go, and a second of the one third falls
/// on more of them than of the other. What leaks with every request or start shows as hundreds.
const DESCRIPTORS_MAX: f64 = 4.0;
/// Less than any pause of the load: every burst finds its function cold.
const KEEP_ALIVE_MS: u64 = 100;

/// One function's load: a burst of requests, and a pause in which it goes cold.
struct Load {
    function: &'static str,
    body: Vec<u8>,
    burst: usize,
    pause: Duration,
}

#[derive(Clone, Copy)]
struct Sample {
    minutes: f64,
    memory: f64,
    descriptors: f64,
    warm: f64,
}

pub fn run(minutes: Option<&str>) -> ExitCode {
    let Ok(minutes) = minutes.map_or(Ok(MINUTES), str::parse::<f64>) else {
        eprintln!("soak [minutes]");
        return ExitCode::FAILURE;
    };
    let host = Host::builder().config("inference_slots = 1\n").start();
    let loads = deploy(&host);
    println!("{minutes} minutes of {:?}", loads.iter().map(|l| l.function).collect::<Vec<_>>());

    let (over, requests, colds) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let (samples, broken) = std::thread::scope(|scope| {
        let clients: Vec<_> =
            loads.iter().map(|load| scope.spawn(|| client(&host, load, &over, &requests, &colds))).collect();
        let samples = sample(&host, minutes, || clients.iter().any(|c| c.is_finished()));
        over.store(true, Ordering::SeqCst);
        let broken = clients.into_iter().filter_map(|c| c.join().err()).count();
        (samples, broken)
    });
    if broken > 0 {
        println!("{broken} clients got an answer that is none");
    }
    judge(&samples, requests.into_inner(), colds.into_inner(), broken == 0)
}

fn deploy(host: &Host) -> Vec<Load> {
    let api = host.control();
    let mut loads = Vec::new();
    let mut add = |package: Package, body: Vec<u8>, burst, pause| {
        let function: &'static str = package.name().to_string().leak();
        package.keep_alive_ms(KEEP_ALIVE_MS).deploy(&api);
        loads.push(Load { function, body, burst, pause: Duration::from_millis(pause) });
    };
    let hello = Package::new("hello", &guests::example("hello").component);
    let reusing = hello.named("hello-reuse").reuse(10).if_known(&api);
    add(hello, br#"{"name":"Ada"}"#.to_vec(), 20, 400);
    match reusing {
        Some(package) => add(package, br#"{"name":"Ada"}"#.to_vec(), 20, 500),
        None => println!("SKIPPED hello-reuse: this host knows no reuse of instances"),
    }
    let model = guests::model("digits/models/digits.onnx").expect("digits.onnx is in the repository");
    let images = std::fs::read(in_root("examples/digits/test-images.json")).expect("test-images.json");
    let images: serde_json::Value = serde_json::from_slice(&images).expect("JSON");
    let image = json!({ "pixels": images["images"][0] }).to_string().into_bytes();
    add(Package::new("digits", &guests::example("digits").component).model("digits", &model), image, 20, 600);
    if let Some(minilm) = MiniLm::find() {
        add(served::package(), minilm.body(), 2, 700);
    }
    loads
}

/// Calls one function again and again; panics at an answer that is none, and ends with the soak.
fn client(host: &Host, load: &Load, over: &AtomicBool, requests: &AtomicU64, colds: &AtomicU64) {
    let data = host.data();
    while !over.load(Ordering::SeqCst) {
        for _ in 0..load.burst {
            let reply = data.post(&format!("/fn/default/{}/", load.function), &load.body).expect(200);
            requests.fetch_add(1, Ordering::Relaxed);
            let cold = reply.timing("cold").is_some_and(|ms| ms > 0.0);
            colds.fetch_add(u64::from(cold), Ordering::Relaxed);
        }
        std::thread::sleep(load.pause);
    }
}

/// A sample each second, for as long as no client has broken off.
fn sample(host: &Host, minutes: f64, broken: impl Fn() -> bool) -> Vec<Sample> {
    let begun = Instant::now();
    let mut samples = Vec::new();
    for second in 1.. {
        let due = begun + Duration::from_secs(second);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let sample = Sample {
            minutes: begun.elapsed().as_secs_f64() / 60.0,
            memory: host.process().private_bytes() as f64,
            descriptors: host.process().descriptors() as f64,
            warm: host.metric("vesta_functions_warm"),
        };
        samples.push(sample);
        if second % 60 == 0 {
            let Sample { minutes, memory, descriptors, .. } = sample;
            println!("{minutes:>5.1} min: {:.2} MiB private, {descriptors} descriptors", mib(memory));
        }
        if sample.minutes >= minutes || broken() {
            break;
        }
    }
    samples
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

fn judge(samples: &[Sample], requests: u64, colds: u64, answered: bool) -> ExitCode {
    let minutes = samples.last().map_or(0.0, |s| s.minutes);
    let cold = samples.partition_point(|s| s.minutes < (minutes * WARM_UP).max(WARM_UP_MIN));
    let warm = &samples[cold..];
    let third = warm.len() / 3;
    let (first, last) = (&warm[..third], &warm[warm.len() - third..]);
    let of = |part: &[Sample], field: fn(&Sample) -> f64| mean(&part.iter().map(field).collect::<Vec<_>>());
    let memory = (of(first, |s| s.memory), of(last, |s| s.memory));
    let descriptors = (of(first, |s| s.descriptors), of(last, |s| s.descriptors));
    let held_memory = (memory.1 - memory.0).abs() <= MEMORY_BYTES_MAX;
    let held_descriptors = (descriptors.1 - descriptors.0).abs() <= DESCRIPTORS_MAX;
    let held = answered && held_memory && held_descriptors && third > 0;
    println!(
        "{requests} requests, {colds} of them cold starts; {:.1} functions warm on average",
        of(warm, |s| s.warm)
    );
    println!(
        "private memory: first third {:.2} MiB, last third {:.2} MiB, {:+.2} MiB (target: within 2): {held_memory}",
        mib(memory.0),
        mib(memory.1),
        mib(memory.1 - memory.0)
    );
    println!(
        "descriptors: first third {:.1}, last third {:.1}: {held_descriptors}",
        descriptors.0, descriptors.1
    );

    let report = json!({
        "machine": report::machine(), "minutes": minutes,
        "requests": requests, "cold_starts": colds,
        "memory_bytes": { "first_third": memory.0, "last_third": memory.1 },
        "descriptors": { "first_third": descriptors.0, "last_third": descriptors.1 },
        "held": held,
        "samples": samples.iter().map(|s| json!([s.minutes, s.memory, s.descriptors, s.warm])).collect::<Vec<_>>(),
    });
    std::fs::write(report::path("soak.json"), report.to_string()).expect("write soak.json");
    let curve = |field: fn(&Sample) -> f64| samples.iter().map(|s| (s.minutes, field(s))).collect();
    let plot = |name, title, unit, points| plot::curve(&report::path(name), title, ("minutes", unit), points);
    plot("soak.svg", "Soak: private memory", "MiB", curve(|s| mib(s.memory)));
    plot("soak-descriptors.svg", "Soak: descriptors", "open", curve(|s| s.descriptors));
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
