//! ONNX Runtime as the faster tier of a model that the embedded engine serves at first: it takes over while
//! the function is busy, and gives way.

use crate::engines::{builder, described};
use crate::memory::{INFER, with_model};
use crate::onnx::{self, Attribute, Node, Opset, Tensor, node, value};
use prost::Message;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use vesta_tests::{Host, PATIENCE, Package, wait_for};

const MIB: u64 = 1 << 20;
/// Depthwise convolutions, on which ONNX Runtime is more than twice as fast.
const LAYERS: usize = 8;
const CHANNELS: i64 = 64;
const SIDE: i64 = 40;
/// How often the model is deployed until its trial has found ONNX Runtime faster. A busy machine hides it.
const TRIES: usize = 8;
/// Clients that keep the function busy.
const CLIENTS: usize = 2;
/// How long the requests before and after the change of tiers are counted.
const WINDOW: Duration = Duration::from_secs(2);

/// `y`, one number a channel, from the picture `x`; `variant` makes the bytes its own.
fn depthwise(variant: usize) -> Vec<u8> {
    let name = |n: usize| format!("h{n}");
    let mut graph = onnx::Graph { name: "g".into(), ..onnx::Graph::default() };
    for n in 0..LAYERS {
        let weight = |i: i64| ((i * 7 + (n * 13 + variant) as i64) % 31) as f32 / 100.0 - 0.1;
        let raw_data = (0..CHANNELS * 9).flat_map(|i| weight(i).to_le_bytes()).collect();
        let (dims, name_of_weights) = (vec![CHANNELS, 1, 3, 3], format!("w{n}"));
        graph.initializer.push(Tensor {
            dims,
            data_type: 1,
            name: name_of_weights.clone(),
            raw_data,
            ..Tensor::default()
        });
        let group = Attribute { name: "group".into(), i: CHANNELS, g: None, r#type: 2 };
        let convolution = node("Conv", &[&name(n), &name_of_weights], &name(n + 1));
        graph.node.push(Node { attribute: vec![group], ..convolution });
    }
    graph.node.push(node("GlobalAveragePool", &[&name(LAYERS)], "y"));
    graph.input = vec![value(&name(0), &[1, CHANNELS, SIDE, SIDE])];
    graph.output = vec![value("y", &[1, CHANNELS, 1, 1])];
    let opset_import = vec![Opset { domain: String::new(), version: 17 }];
    onnx::Model { ir_version: 8, graph: Some(graph), opset_import }.encode_to_vec()
}

fn run() -> String {
    format!("/values?model=m&in=h0:f32:1x{CHANNELS}x{SIDE}x{SIDE}:3")
}

/// Deploys the model until ONNX Runtime is its faster tier; gives its bytes.
fn deploy(host: &Host) -> Vec<u8> {
    for variant in 0..TRIES {
        // A minimum keeps the function itself where memory is short.
        let package =
            Package::rogue("depthwise").model("m", &depthwise(variant)).set("/scaling/minimum", 1.into());
        package.deploy(&host.control());
        let model = described(host, "depthwise");
        assert_eq!(model["engine"], "rten", "{model}");
        if model["faster_engine"]["engine"] == "onnxruntime" {
            return depthwise(variant);
        }
    }
    panic!("ONNX Runtime is never found faster");
}

fn is_promoted(host: &Host) -> bool {
    host.metric("vesta_models_on_onnxruntime") == 1.0
}

/// The numbers of an answer.
fn numbers(text: &str) -> Vec<f64> {
    let all: Vec<f64> =
        text.split(|c: char| c.is_whitespace() || ",[]".contains(c)).filter_map(|n| n.parse().ok()).collect();
    assert!(all.len() >= CHANNELS as usize, "{text}");
    all
}

#[track_caller]
fn assert_close(a: &[f64], b: &[f64]) {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().fold(0.0f64, |most, v| most.max(v.abs()));
    let differs = a.iter().zip(b).any(|(a, b)| (a - b).abs() > 1e-3 * largest);
    assert!(!differs, "{a:?} and {b:?}");
}

/// A request of a busy client: when it ended, and how many milliseconds it took.
type Request = (Instant, f64);

/// Keeps the function busy until `change` has returned; gives all requests, and when it did.
fn busy(host: &Host, expected: &[f64], change: impl FnOnce()) -> (Vec<Request>, Instant) {
    let (requests, is_over) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let mut changed = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    let begun = Instant::now();
                    let text = host.invoke("depthwise", &run()).expect(200).text();
                    let ms = begun.elapsed().as_secs_f64() * 1e3;
                    assert_close(expected, &numbers(&text));
                    requests.lock().expect("no panic").push((Instant::now(), ms));
                }
            });
        }
        std::thread::sleep(WINDOW);
        change();
        changed = Instant::now();
        std::thread::sleep(WINDOW);
        is_over.store(true, Relaxed);
    });
    (requests.into_inner().expect("no panic"), changed)
}

fn print(what: &str, requests: &[Request], from: Instant, to: Instant) {
    let mut ms: Vec<f64> =
        requests.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, ms)| *ms).collect();
    ms.sort_by(f64::total_cmp);
    let at =
        |part: f64| ms.get((ms.len().saturating_sub(1) as f64 * part) as usize).copied().unwrap_or(f64::NAN);
    println!("{what}: {} requests, p50 {:.1} ms, p99 {:.1} ms", ms.len(), at(0.5), at(0.99));
}

#[test]
fn a_busy_model_moves_to_the_faster_engine_and_back_when_somebody_needs_the_memory() {
    let Some(builder) = builder("memory = \"300MiB\"\ninference_slots = 2\n") else { return };
    let host = builder.start();
    deploy(&host);
    let first = host.invoke("depthwise", &run()).expect(200).text();
    assert!(!is_promoted(&host), "a cold function is served by the embedded engine");
    let expected = numbers(&first);

    let begun = Instant::now();
    let (requests, changed) = busy(&host, &expected, || {
        wait_for("ONNX Runtime to take over", PATIENCE, || is_promoted(&host).then_some(()));
    });
    print("before ONNX Runtime took over, and meanwhile", &requests, begun, changed);
    print("after", &requests, changed, Instant::now());

    // A start that needs more than what is left, and less than what is left without the faster tier.
    let free = host.metric("vesta_memory_budget_bytes") - host.metric("vesta_memory_bytes");
    with_model("other", free as u64 / MIB + 4, 1).deploy(&host.control());
    let begun = Instant::now();
    let (requests, changed) = busy(&host, &expected, || {
        host.invoke("other", INFER).expect(200);
        wait_for("the faster tier to give way", PATIENCE, || (!is_promoted(&host)).then_some(()));
    });
    print("before the embedded engine was back", &requests, begun, changed);
    print("after", &requests, changed, Instant::now());
}

#[test]
fn a_killed_worker_of_the_faster_tier_is_followed_by_one_of_the_first() {
    let Some(builder) = builder("inference_slots = 1\n") else { return };
    let host = builder.start();
    deploy(&host);
    let expected = numbers(&host.invoke("depthwise", &run()).expect(200).text());
    busy(&host, &expected, || {
        wait_for("ONNX Runtime to take over", PATIENCE, || is_promoted(&host).then_some(()));
        for worker in host.process().busy_workers() {
            let killed =
                std::process::Command::new("kill").args(["-KILL", &worker.id().to_string()]).status();
            assert!(killed.expect("run kill").success());
        }
        wait_for("the first tier", PATIENCE, || (!is_promoted(&host)).then_some(()));
    });
}

#[test]
fn a_run_that_fails_in_the_faster_tier_is_answered_by_the_first() {
    let Some(builder) = builder("inference_slots = 1\n") else { return };
    let host = builder.worker("fails-on-onnxruntime").start();
    deploy(&host);
    let expected = numbers(&host.invoke("depthwise", &run()).expect(200).text());
    // No client sees a failure, and the engine that fails is given up for good in the end.
    let fails = || host.log().matches("failed in the faster tier succeeded").count();
    busy(&host, &expected, || {
        wait_for("a failure", PATIENCE, || (fails() > 0 && !is_promoted(&host)).then_some(()))
    });
}

#[test]
fn a_model_whose_engine_is_named_is_served_by_no_other_beside_one_of_the_same_bytes() {
    let Some(builder) = builder("inference_slots = 1\n") else { return };
    let host = builder.start();
    let bytes = deploy(&host);
    let named = Package::rogue("named").model("m", &bytes).of_model("engine", "rten".into());
    named.deploy(&host.control());
    assert!(described(&host, "named")["faster_engine"].is_null());
    let expected = numbers(&host.invoke("depthwise", &run()).expect(200).text());
    busy(&host, &expected, || {
        wait_for("ONNX Runtime to take over", PATIENCE, || is_promoted(&host).then_some(()));
        let until = Instant::now() + WINDOW;
        while Instant::now() < until {
            host.invoke("named", &run()).expect(200);
        }
        assert!(is_promoted(&host), "one of two models is on ONNX Runtime");
    });
}
