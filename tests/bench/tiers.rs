//! Tiers: requests to a busy `file-type` while it moves from the embedded engine to ONNX Runtime, and back
//! when another function needs the memory. Their p99 in the seconds around each move, over that of the time
//! before.

use crate::Effort;
use crate::report::Line;
use crate::served;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use vesta_tests::{Host, PATIENCE, Package, guests, onnx_runtime, wait_for};

/// Half of the time around a move.
const AROUND: Duration = Duration::from_millis(1_500);
/// How long requests are counted before the memory is taken away.
const BEFORE: Duration = Duration::from_secs(5);
/// What the start of another function lacks then, in bytes: less than the faster tier holds.
const LACK: f64 = 6e6;

/// When a request ended, and how many milliseconds it took.
type Request = (Instant, f64);

pub fn measure(effort: Effort) -> Vec<Line> {
    let Some(library) = onnx_runtime() else {
        let why = "no ONNX Runtime: vesta engines install onnxruntime --data target/engines-of-tests";
        return vec![Line::skipped("Tiers", why)];
    };
    let models = ["text-embed/models/minilm.onnx", "file-type/models/magika.onnx"];
    let [Some(_), Some(magika)] = models.map(guests::model) else { return Vec::new() };
    let (mut ups, mut downs) = (Vec::new(), Vec::new());
    for _ in 0..if effort.quick { 1 } else { 5 } {
        let library = library.display().to_string();
        let config = format!("memory = \"600MiB\"\ninference_slots = 1\nonnx_runtime = {library:?}\n");
        let host = Host::builder().config(&config).start();
        served::package().keep_alive_ms(200).deploy(&host.control());
        let file_type = Package::new("file-type", &guests::example("file-type").component);
        let file_type = file_type.model("magika", &magika).set("/scaling/minimum", 1.into());
        file_type.clone().deploy(&host.control());
        // The same on the embedded engine alone: what requests take before the move.
        file_type.named("on-rten").of_model("engine", "rten".into()).deploy(&host.control());
        Package::rogue("hold").limit("memory_bytes", 1 << 30).deploy(&host.control());
        let [up, down] = moves(&host);
        println!("p99 around the moves, over that before them: {up:.2} there, {down:.2} back");
        ups.push(up);
        downs.push(down);
    }
    let there = "p99 of file-type around its move to ONNX Runtime / before it";
    let back = "p99 of file-type around its move back for want of memory / before it";
    vec![Line::of("Tiers-up", there, &ups, 1.5, true), Line::of("Tiers-down", back, &downs, 1.5, true)]
}

/// The ratios of a move there, and of one back.
fn moves(host: &Host) -> [f64; 2] {
    let needed = needed(host);
    let (requests, is_over) = (Mutex::new(Vec::<Request>::new()), AtomicBool::new(false));
    let request = |function: &str| {
        let begun = Instant::now();
        host.data().post(&format!("/fn/default/{function}/"), include_bytes!("tiers.rs")).expect(200);
        let request = (Instant::now(), begun.elapsed().as_secs_f64() * 1e3);
        requests.lock().expect("no panic").push(request);
    };
    let p99 = |from: Instant, to: Instant| {
        let requests = requests.lock().expect("no panic");
        let within = requests.iter().filter(|(at, _)| (from..to).contains(at));
        let mut ms: Vec<f64> = within.map(|(_, ms)| *ms).collect();
        ms.sort_by(f64::total_cmp);
        ms[(ms.len() - 1) * 99 / 100]
    };
    let moved = |on_onnx_runtime: f64| {
        let is_there = || (host.metric("vesta_models_on_onnxruntime") == on_onnx_runtime).then(Instant::now);
        let at = wait_for("a move", PATIENCE, is_there);
        std::thread::sleep(AROUND);
        at
    };
    let around = |at: Instant| p99(at - AROUND, at + AROUND);

    request("on-rten");
    let begun = Instant::now();
    while begun.elapsed() < BEFORE {
        request("on-rten");
    }
    let on_rten = p99(begun, Instant::now());
    let mut ratios = [f64::NAN; 2];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Relaxed) {
                request("file-type");
            }
        });
        ratios[0] = around(moved(1.0)) / on_rten;
        let begun = Instant::now();
        std::thread::sleep(BEFORE);
        let on_onnx_runtime = p99(begun, Instant::now());
        let free = host.metric("vesta_memory_budget_bytes") - host.metric("vesta_memory_bytes");
        let hold = format!("/fn/default/hold/hold?bytes={}&ms=10000", (free - needed + LACK) as u64);
        scope.spawn(move || host.data().get(&hold));
        std::thread::sleep(Duration::from_millis(500));
        // It is refused until the faster tier has given way.
        let back = scope.spawn(|| moved(0.0));
        wait_for("the memory", PATIENCE, || (text_embed(host) == 200).then_some(()));
        ratios[1] = around(back.join().expect("no panic")) / on_onnx_runtime;
        is_over.store(true, Relaxed);
    });
    ratios
}

fn text_embed(host: &Host) -> u16 {
    host.data().post("/fn/default/text-embed/", br#"{"texts":["the cat"]}"#).status
}

/// What `text-embed` holds while it is warm, in bytes. It is cold before and after.
fn needed(host: &Host) -> f64 {
    let used = || host.metric("vesta_memory_bytes");
    let before = used();
    assert_eq!(text_embed(host), 200);
    let needed = used() - before;
    wait_for("text-embed to be cold", PATIENCE, || {
        let json = host.control().get("/api/v1/functions/text-embed").expect(200).json();
        (json["state"] == "cold").then_some(())
    });
    needed
}
