//! Tiers: requests to a busy `text-embed` while it moves from the embedded engine to ONNX Runtime, and back when
//! another function needs the memory. Their p99 in the seconds around each move, over that of the time before.

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
/// What the two functions leave for the one that needs memory: less than its start takes, in bytes.
const LEFT: u64 = 4 << 20;
/// A text of sixteen tokens.
const BODY: &str = r#"{"texts":["the cat sat on the mat and the dog lay on the warm red floor"]}"#;

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
        served::package().set("/scaling/minimum", 1.into()).deploy(&host.control());
        let file_type = guests::example("file-type").component;
        Package::new("file-type", &file_type).model("magika", &magika).deploy(&host.control());
        Package::rogue("hold").limit("memory_bytes", 1 << 30).deploy(&host.control());
        let [up, down] = moves(&host);
        println!("p99 around the moves, over that before them: {up:.2} there, {down:.2} back");
        ups.push(up);
        downs.push(down);
    }
    let there = "p99 of text-embed around its move to ONNX Runtime / before it";
    let back = "p99 of text-embed around its move back for want of memory / before it";
    vec![Line::of("Tiers-up", there, &ups, 1.5, true), Line::of("Tiers-down", back, &downs, 1.5, true)]
}

/// The ratios of a move there, and of one back.
fn moves(host: &Host) -> [f64; 2] {
    let (requests, is_over) = (Mutex::new(Vec::<Request>::new()), AtomicBool::new(false));
    let on_onnx_runtime = |wanted: f64| {
        let is_there = || (host.metric("vesta_models_on_onnxruntime") == wanted).then(Instant::now);
        wait_for("a move", PATIENCE, is_there)
    };
    let mut ratios = [f64::NAN; 2];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Relaxed) {
                let begun = Instant::now();
                host.data().post("/fn/default/text-embed/", BODY.as_bytes()).expect(200);
                let ms = begun.elapsed().as_secs_f64() * 1e3;
                requests.lock().expect("no panic").push((Instant::now(), ms));
            }
        });
        let ratio = |from: Instant, moved: Instant| {
            std::thread::sleep(AROUND);
            let requests = requests.lock().expect("no panic");
            let p99 = |from: Instant, to: Instant| {
                let within = requests.iter().filter(|(at, _)| (from..to).contains(at));
                let mut ms: Vec<f64> = within.map(|(_, ms)| *ms).collect();
                ms.sort_by(f64::total_cmp);
                ms[(ms.len() - 1) * 99 / 100]
            };
            p99(moved - AROUND, moved + AROUND) / p99(from, moved - AROUND)
        };
        wait_for("the function to be warm", PATIENCE, || (requests.lock().ok()?.len() > 20).then_some(()));
        let begun = Instant::now();
        ratios[0] = ratio(begun, on_onnx_runtime(1.0));
        let begun = Instant::now();
        std::thread::sleep(BEFORE);
        let free = host.metric("vesta_memory_budget_bytes") - host.metric("vesta_memory_bytes");
        let hold = format!("/fn/default/hold/hold?bytes={}&ms=10000", (free as u64).saturating_sub(LEFT));
        let holds = scope.spawn(move || host.data().get(&hold));
        std::thread::sleep(Duration::from_millis(500));
        // It is refused until the faster tier has given way.
        let needs = || host.data().post("/fn/default/file-type/", b"text").status;
        let moved = scope.spawn(|| on_onnx_runtime(0.0));
        wait_for("the memory", PATIENCE, || (needs() == 200).then_some(()));
        ratios[1] = ratio(begun, moved.join().expect("no panic"));
        is_over.store(true, Relaxed);
        drop(holds);
    });
    ratios
}
