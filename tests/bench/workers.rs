//! P12: what it costs that models run in processes of their own.

use crate::Effort;
use crate::reference;
use crate::report::Line;
use crate::stats::{interleaved, median};
use std::path::{Path, PathBuf};
use std::time::Instant;
use vesta_core::manifest::Encoding;
use vesta_nn::{Backend, Form, Graph, ModelLimits, PreparedFiles, Rten, Tensor};
use vesta_tests::process::Process;
use vesta_tests::{Host, PATIENCE, Package, guests, wait_for};

/// One run of `digits` by the fixture that calls `wasi:nn` directly.
const RUN: &str = "infer?model=m&input=image&shape=1x64&bytes=256";

/// `digits`, and copies of it with other digests.
fn digits(number: u8) -> Vec<u8> {
    let mut model = guests::model("digits/models/digits.onnx").expect("digits.onnx is in the repository");
    // Field 6 of a model: a text about it.
    model.extend_from_slice(&[0x32, 1, b'a' + number]);
    model
}

fn prepared(dir: &Path, number: u8) -> PathBuf {
    let (source, out) = (dir.join(format!("{number}.onnx")), dir.join(format!("prepared-{number}")));
    std::fs::write(&source, digits(number)).expect("written");
    std::fs::create_dir(&out).expect("created");
    vesta_nn::prepare(&source, Encoding::Onnx, &[], &out, &ModelLimits::default()).expect("prepared");
    out
}

fn load(dir: &Path) -> std::sync::Arc<dyn Graph> {
    Rten.load(PreparedFiles::open(dir).expect("prepared files"), Form::Mapped).expect("the model loads")
}

fn zeros(graph: &dyn Graph) -> Vec<(String, Tensor)> {
    let input = &graph.signature().inputs[0];
    let shape = vec![1, 64];
    vec![(input.name.clone(), Tensor { ty: input.ty, shape, data: vec![0; 256] })]
}

/// The references: CPU nanoseconds of so many runs in a loop; wall nanoseconds of loading; bytes that each of
/// several models takes.
pub fn reference(role: &str, arguments: &[String]) -> u64 {
    let dirs: Vec<PathBuf> = arguments[1..].iter().map(PathBuf::from).collect();
    match role {
        "reference-runs" => {
            let graph = load(&dirs[0]);
            let runs: u64 = arguments[0].parse().expect("a number");
            (0..runs).map(|_| graph.run(zeros(graph.as_ref())).expect("a run").cpu_ns).sum()
        }
        "reference-load" => {
            let begun = Instant::now();
            std::hint::black_box(load(&dirs[0]));
            begun.elapsed().as_nanos() as u64
        }
        _ => {
            let this = Process::new(std::process::id());
            let mut kept = Vec::new();
            let mut before = 0;
            for (n, dir) in dirs.iter().enumerate() {
                // The first ones also grow what all share.
                if n == dirs.len() / 2 {
                    before = this.private_dirty();
                }
                let graph = load(dir);
                graph.run(zeros(graph.as_ref())).expect("a run");
                kept.push(graph);
            }
            this.private_dirty().saturating_sub(before) / (dirs.len() - dirs.len() / 2) as u64
        }
    }
}

pub fn measure(effort: Effort) -> Vec<Line> {
    let dir = tempfile::tempdir().expect("a directory");
    let text = |path: &Path| path.to_str().expect("a plain path").to_string();
    let first = prepared(dir.path(), 0);
    vec![hop(effort, &text(&first)), start(effort, &text(&first)), memory(effort, dir.path())]
}

fn hop(effort: Effort, prepared: &str) -> Line {
    let runs = if effort.quick { 200 } else { 2_000 };
    let host = Host::builder().config("inference_slots = 1\n").start();
    Package::rogue("hop").model("m", &digits(0)).limit("cpu_ms", 60_000).deploy(&host.control());
    let served = |path: String| {
        let before = host.process().cpu();
        let said = host.invoke("hop", &path).expect(200).text();
        assert!(!said.contains("error"), "{said}");
        host.process().cpu().since(&before).as_secs_f64() * 1e6 / f64::from(runs)
    };
    let mut whole = || served(format!("/{RUN}&times={runs}"));
    // All that the guest and its calls to the host take, without the run.
    let mut dry = || served(format!("/{RUN}&times={runs}&dry"));
    let mut looped =
        || reference::ask("reference-runs", &[&runs.to_string(), prepared]) / 1e3 / f64::from(runs);
    let all = interleaved(effort.pairs.div_ceil(2), &mut [&mut whole, &mut dry, &mut looped]);
    let [whole, dry, looped] = [0, 1, 2].map(|n| all[n].as_flattened());
    let added: Vec<f64> = whole.iter().zip(dry).zip(looped).map(|((a, b), c)| a - b - c).collect();
    println!(
        "digits: {:.1} us of CPU a run, of which the guest {:.1}; in a loop {:.1} us (medians)",
        median(whole),
        median(dry),
        median(looped)
    );
    Line::of("P12-hop", "CPU that a run takes beside the engine's own", &added, 40.0, true)
        .unit("us")
        .anchor("Triton's Python backend 1.7 ms a request")
}

fn start(effort: Effort, prepared: &str) -> Line {
    let host = Host::start();
    Package::rogue("start").model("m", &digits(0)).keep_alive_ms(50).deploy(&host.control());
    let mut added = Vec::new();
    let mut parts = [Vec::new(), Vec::new()];
    for _ in 0..effort.pairs * 2 {
        wait_for("the function to be cold", PATIENCE, || {
            let json = host.control().get("/api/v1/functions/start").expect(200).json();
            (json["state"] == "cold" && host.process().busy_workers().is_empty()).then_some(())
        });
        // The stock is filled again.
        wait_for("spares", PATIENCE, || (host.process().workers().len() >= 2).then_some(()));
        std::thread::sleep(std::time::Duration::from_millis(20));
        let reply = host.invoke("start", &format!("/{RUN}")).expect(200);
        let ours = reply.timing("cold-model").expect("a cold start");
        let theirs = reference::ask("reference-load", &["", prepared]) / 1e6;
        added.push(ours - theirs);
        parts[0].push(ours);
        parts[1].push(theirs);
    }
    println!(
        "loading digits: {:.2} ms through a spare, {:.2} ms in a process of its own (medians)",
        median(&parts[0]),
        median(&parts[1])
    );
    Line::of("P12-start", "what a cold start through a spare adds to loading the model", &added, 1.0, true)
        .unit("ms")
}

fn memory(effort: Effort, dir: &Path) -> Line {
    let models: u8 = if effort.quick { 4 } else { 16 };
    let host = Host::start();
    for n in 1..=models {
        let name = format!("warm-{n}");
        Package::rogue(&name).model("m", &digits(n)).keep_alive_ms(3_600_000).deploy(&host.control());
        host.invoke(&name, &format!("/{RUN}")).expect(200);
    }
    let workers = host.process().busy_workers();
    assert_eq!(workers.len(), usize::from(models), "each model has a worker");
    let each: Vec<f64> = workers.iter().map(|w| w.private_dirty() as f64 / 1e6).collect();
    let dirs: Vec<String> =
        (1..=models).map(|n| prepared(dir, n).to_str().expect("a plain path").to_string()).collect();
    let arguments: Vec<&str> = [""].into_iter().chain(dirs.iter().map(String::as_str)).collect();
    let engine = reference::ask("reference-models", &arguments) / 1e6;
    println!(
        "a warm digits: {:.2} MB private to its worker; {engine:.2} MB in one process with others",
        median(&each)
    );
    let beside: Vec<f64> = each.iter().map(|mb| mb - engine).collect();
    Line::of(
        "P12-memory",
        "private memory of a further warm model beside what the engine holds",
        &beside,
        1.0,
        true,
    )
    .unit("MB")
    .anchor("a bare child of this program 1.3 MB")
}
