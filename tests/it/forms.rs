//! Packed weights: loaded beside the mapped ones once a model's runs pay for them, and given up where
//! memory is short.

use crate::memory::{INFER, with_model};
use crate::onnx::{self, Opset, Tensor, node, value};
use prost::Message;
use std::time::{Duration, Instant};
use vesta_tests::{Host, PATIENCE, Package, wait_for};

/// Square matrices.
const LAYERS: usize = 24;
/// Their side: 256 kB each, which the processor's caches hold, so that packing pays on a busy machine, too;
/// and 4 MiB each, for which it pays only where others leave the memory's bandwidth.
const SMALL: usize = 256;
const LARGE: usize = 1024;
const ROWS: usize = 8;
const MIB: u64 = 1 << 20;

/// How often a model is deployed until its trial has found that packing pays: beside others that need the
/// memory's bandwidth, it
/// may find nothing.
const TRIES: usize = 12;

/// `y` from `x`, both of eight rows, by one matrix after another; `variant` makes the bytes its own.
fn layers(side: usize, variant: usize) -> Vec<u8> {
    let name = |n: usize| format!("h{n}");
    let mut graph = onnx::Graph { name: "g".into(), ..onnx::Graph::default() };
    for n in 0..LAYERS {
        // Small numbers, none of them 0, which differ from layer to layer.
        let weight = |i: usize| ((i * 7 + n * 13 + variant) % 31) as f32 / 31e3 - 4e-4;
        let raw_data = (0..side * side).flat_map(|i| weight(i).to_le_bytes()).collect();
        let dims = vec![side as i64, side as i64];
        graph.initializer.push(Tensor {
            dims,
            data_type: 1,
            name: format!("w{n}"),
            raw_data,
            ..Tensor::default()
        });
        graph.node.push(node("MatMul", &[&name(n), &format!("w{n}")], &name(n + 1)));
    }
    graph.input = vec![value(&name(0), &[ROWS as i64, side as i64])];
    graph.output = vec![value(&name(LAYERS), &[ROWS as i64, side as i64])];
    let opset_import = vec![Opset { domain: String::new(), version: 17 }];
    onnx::Model { ir_version: 8, graph: Some(graph), opset_import }.encode_to_vec()
}

fn path(side: usize) -> String {
    format!("/infer?model=m&input=h0&shape={ROWS}x{side}&bytes={}", ROWS * side * 4)
}

/// Deploys it until packing pays, by what the deployment says; whether it does.
fn deploy(host: &Host, side: usize, package: impl Fn(Package) -> Package) -> bool {
    for variant in 0..TRIES {
        let number =
            package(Package::rogue("layers").model("m", &layers(side, variant))).deploy(&host.control());
        let version =
            host.control().get(&format!("/api/v1/functions/layers/versions/{number}")).expect(200).json();
        if version["models"][0]["packed"].is_object() {
            return true;
        }
    }
    false
}

fn packed(host: &Host) -> bool {
    host.metric("vesta_models_packed") == 1.0
}

/// Invokes a function until something is so, and some times more; gives the milliseconds of each request
/// before and after.
fn until(host: &Host, side: usize, done: impl Fn() -> bool) -> (Vec<f64>, Vec<f64>) {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    let mut since = None;
    while since.is_none_or(|at: Instant| at.elapsed() < Duration::from_secs(2)) {
        assert!(begun.elapsed() < PATIENCE, "it has not happened");
        let at = Instant::now();
        host.invoke("layers", &path(side)).expect(200);
        let ms = at.elapsed().as_secs_f64() * 1e3;
        if since.is_some() {
            after.push(ms)
        } else {
            before.push(ms)
        }
        if since.is_none() && done() {
            since = Some(Instant::now());
        }
    }
    (before, after)
}

fn percentile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part) as usize]
}

#[test]
fn a_busy_model_is_packed_between_two_runs_and_unpacked_when_somebody_needs_the_memory() {
    let host = Host::builder().config("memory = \"400MiB\"\ninference_slots = 1\n").start();
    if !deploy(&host, LARGE, |package| package.set("/scaling/minimum", 1.into())) {
        println!("packing 100 MB does not pay beside what else this machine does");
        return;
    }
    let (mut before, mut after) = until(&host, LARGE, || packed(&host));
    for (when, values) in [("before", &mut before), ("after", &mut after)] {
        let (p50, p99) = (percentile(values, 0.5), percentile(values, 0.99));
        println!("{when}: {} requests, p50 {p50:.1} ms, p99 {p99:.1} ms", values.len());
    }
    // Both forms are counted: the mapped weights, and the packed ones.
    let weights = (LAYERS * LARGE * LARGE * 4) as f64;
    let models = host.metrics().sum_of("vesta_memory_bytes", "models");
    assert!(models >= 2.0 * weights, "{models} bytes are counted for models, the weights have {weights}");

    // A start that needs more than what is left, and less than what is left without the packed weights.
    let free = host.metric("vesta_memory_budget_bytes") - host.metric("vesta_memory_bytes");
    with_model("other", free as u64 / MIB + 40, 1).deploy(&host.control());
    let reply = host.invoke("other", INFER).expect(200);
    println!("another function's start beside: {:?} ms", reply.timing("cold"));
    wait_for("the packed weights to be given up", PATIENCE, || (!packed(&host)).then_some(()));
    host.invoke("layers", &path(LARGE)).expect(200);
    let models = host.metrics().sum_of("vesta_memory_bytes", "models");
    assert!(models < 2.0 * weights + 200e6, "{models} bytes are counted for models");
}

#[test]
fn a_model_that_is_hardly_called_stays_mapped() {
    let host = Host::builder().config("inference_slots = 1\n").start();
    assert!(deploy(&host, SMALL, |package| package), "packing never pays");
    host.invoke("layers", &path(SMALL)).expect(200);
    std::thread::sleep(Duration::from_secs(3));
    assert!(!packed(&host));
    host.invoke("layers", &path(SMALL)).expect(200);
}

#[test]
fn a_packed_worker_that_is_killed_is_followed_by_a_mapped_one() {
    let host = Host::builder().config("inference_slots = 1\n").start();
    assert!(deploy(&host, SMALL, |package| package), "packing never pays");
    until(&host, SMALL, || packed(&host));
    for worker in host.process().busy_workers() {
        let killed = std::process::Command::new("kill").args(["-KILL", &worker.id().to_string()]).status();
        assert!(killed.expect("run kill").success());
    }
    host.invoke("layers", &path(SMALL)).expect(200);
    assert!(!packed(&host));
}
