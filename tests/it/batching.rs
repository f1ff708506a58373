//! Runs that wait at the same time are merged: each gets the rows of its own, and pays for them.

use crate::onnx::{self, Attribute, Opset, Tensor, node, value};
use prost::Message;
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;
use vesta_tests::{Api, Host, PATIENCE, Package, wait_for};

const LAYERS: usize = 16;
const SIDE: usize = 1024;

/// `y`, whole numbers, from `x`, rows of floats: each the same number again, by one unit matrix after
/// another.
fn same_again() -> Vec<u8> {
    let name = |n: usize| if n == 0 { "x".to_string() } else { format!("h{n}") };
    let mut graph = onnx::Graph { name: "g".into(), ..onnx::Graph::default() };
    for n in 0..LAYERS {
        let unit = |i: usize| if i / SIDE == i % SIDE { 1f32 } else { 0.0 };
        let raw_data = (0..SIDE * SIDE).flat_map(|i| unit(i).to_le_bytes()).collect();
        let dims = vec![SIDE as i64, SIDE as i64];
        let weights = format!("w{n}");
        graph.node.push(node("MatMul", &[&name(n), &weights], &name(n + 1)));
        graph.initializer.push(Tensor { dims, data_type: 1, name: weights, raw_data, ..Tensor::default() });
    }
    let mut cast = node("Cast", &[&name(LAYERS)], "y");
    cast.attribute.push(Attribute { name: "to".into(), i: 2, r#type: 2, ..Attribute::default() });
    graph.node.push(cast);
    graph.input = vec![value("x", &[0, SIDE as i64])];
    graph.output = vec![onnx::port("y", 2, &[0, SIDE as i64])];
    let opset_import = vec![Opset { domain: String::new(), version: 17 }];
    onnx::Model { ir_version: 8, graph: Some(graph), opset_import }.encode_to_vec()
}

fn path(letter: char) -> String {
    format!("/run?model=m&in=x:f32:1x{SIDE}:{}", letter as u32)
}

/// The answer of one who has sent this letter.
fn is_answer(text: &str, letter: char) -> bool {
    text.matches(letter).count() >= SIDE
        && ('A'..='Z').all(|other| other == letter || text.matches(other).count() < SIDE / 2)
}

/// A function whose runs are merged from now on.
fn deployed(host: &Host, api: &Api, package: &Package) {
    package.deploy(api);
    host.invoke("same", &path('A')).expect(200);
    // Its description is read with the next look at the loaded models.
    std::thread::sleep(Duration::from_millis(2_500));
}

fn package() -> Package {
    Package::rogue("same").model("m", &same_again()).keep_alive_ms(600_000)
}

#[test]
fn runs_that_wait_are_merged_and_each_gets_its_own_rows_and_pays_for_them() {
    // All records fit into a page.
    const EACH: usize = 12;
    let host = Host::builder().config("inference_slots = 1\n").start();
    deployed(&host, &host.control(), &package());
    let [worker] = host.process().busy_workers()[..] else { panic!("one worker") };
    let before = worker.cpu();
    std::thread::scope(|scope| {
        for letter in 'A'..='H' {
            let host = &host;
            scope.spawn(move || {
                for _ in 0..EACH {
                    let text = host.invoke("same", &path(letter)).expect(200).text();
                    assert!(is_answer(&text, letter), "{letter}: {text}");
                }
            });
        }
    });
    let kernel = worker.cpu().since(&before).as_secs_f64();
    let merged = host.metric("vesta_inference_merged_total");
    let all = 8.0 * EACH as f64;
    println!("{merged} of {all} runs were merged");
    assert!(merged >= all / 2.0, "{merged} of {all}");
    let records = host.records("same");
    assert_eq!(records.len() as f64, all + 1.0);
    let billed: Vec<f64> =
        records.iter().map(|record| record["inference_cpu_ns"].as_f64().expect("a number") / 1e9).collect();
    assert!(billed.iter().all(|seconds| *seconds > 0.0), "somebody paid nothing: {billed:?}");
    // The newest come first; the oldest is of before.
    let sum: f64 = billed[..billed.len() - 1].iter().sum();
    println!("billed {sum:.3} s of {kernel:.3} s");
    assert!((0.85..=1.02).contains(&(sum / kernel)), "billed {sum} s of {kernel} s");
}

#[test]
fn clients_that_go_away_take_nobody_along() {
    let host = Host::builder().config("inference_slots = 1\n").start();
    deployed(&host, &host.control(), &package());
    let [worker] = host.process().busy_workers()[..] else { panic!("one worker") };
    let (before, billed) = (worker.cpu(), || host.metrics().sum_of("faas_cpu_usage_seconds_total", "same"));
    let billed_before = billed();
    std::thread::scope(|scope| {
        for letter in 'A'..='H' {
            let host = &host;
            scope.spawn(move || {
                for n in 0..20 {
                    if letter > 'D' {
                        let mut socket = TcpStream::connect(host.invoke_address()).expect("connect");
                        let key = host.tenant_key();
                        let target = format!("/fn/default/same{}", path(letter));
                        let head = format!(
                            "GET {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n"
                        );
                        socket.write_all(head.as_bytes()).expect("sent");
                        std::thread::sleep(Duration::from_millis(n));
                    } else {
                        let text = host.invoke("same", &path(letter)).expect(200).text();
                        assert!(is_answer(&text, letter), "{letter}: {text}");
                    }
                }
            });
        }
    });
    wait_for("all runs to have ended", PATIENCE, || {
        (host.metric("vesta_inference_waiting") == 0.0).then_some(())
    });
    assert!(host.metric("vesta_inference_merged_total") > 0.0);
    // Whoever went away has paid for what was computed for it.
    let kernel = worker.cpu().since(&before).as_secs_f64();
    wait_for("all bills to be closed", PATIENCE, || (billed() - billed_before >= 0.9 * kernel).then_some(()));
    let text = host.invoke("same", &path('Z')).expect(200).text();
    assert!(is_answer(&text, 'Z'), "{text}");
}

#[test]
fn runs_of_different_tenants_are_never_merged() {
    let host = Host::builder().config("inference_slots = 1\n").start();
    let tenants: Vec<(String, Api)> = ('A'..='D')
        .map(|letter| {
            let tenant = format!("tenant-{}", letter.to_lowercase());
            let key = host.tenant(&tenant);
            package().deploy(&host.control().with_key(&key));
            (tenant, host.data().with_key(&key))
        })
        .collect();
    let ask = |(tenant, api): &(String, Api), letter: char| {
        let text = api.get(&format!("/fn/{tenant}/same{}", path(letter))).expect(200).text();
        assert!(is_answer(&text, letter), "{letter}: {text}");
    };
    // A client of each: they wait for one another, and none rides with another.
    std::thread::scope(|scope| {
        for (tenant, letter) in tenants.iter().zip('A'..='D') {
            scope.spawn(move || (0..20).for_each(|_| ask(tenant, letter)));
        }
    });
    assert_eq!(host.metric("vesta_inference_merged_total"), 0.0);
    // As many clients of one.
    std::thread::scope(|scope| {
        for letter in 'A'..='D' {
            let tenant = &tenants[0];
            scope.spawn(move || (0..20).for_each(|_| ask(tenant, letter)));
        }
    });
    assert!(host.metric("vesta_inference_merged_total") > 0.0);
}

/// Three requests whose data is not what their shapes say, and which would be one that is.
#[test]
fn tensors_that_are_not_what_their_shapes_say_are_told_so_and_shift_nobodys_rows() {
    let host = Host::builder().config("inference_slots = 1\n").start();
    deployed(&host, &host.control(), &package());
    let lying = |bytes: usize| format!("/infer?model=m&input=x&shape=1x{SIDE}&bytes={bytes}");
    std::thread::scope(|scope| {
        let (host, lying) = (&host, &lying);
        for (bytes, letter) in
            [(4 * SIDE - 4, 'A'), (4 * SIDE + 4, 'B'), (4 * SIDE - 4, 'C'), (4 * SIDE + 4, 'D')]
        {
            scope.spawn(move || {
                for _ in 0..15 {
                    let text = host.invoke("same", &lying(bytes)).expect(200).text();
                    assert!(text.contains("error") && text.contains("takes 4096 bytes"), "{text}");
                    let text = host.invoke("same", &path(letter)).expect(200).text();
                    assert!(is_answer(&text, letter), "{letter}: {text}");
                }
            });
        }
    });
    // Sizes that no number holds.
    let huge = "/infer?model=m&input=x&shape=1x4294967295x4294967295&bytes=8";
    assert!(host.invoke("same", huge).expect(200).text().contains("error"));
    let text = host.invoke("same", &path('Z')).expect(200).text();
    assert!(is_answer(&text, 'Z'), "{text}");
}

#[test]
fn a_manifest_may_say_that_nothing_is_merged() {
    let host = Host::builder().config("inference_slots = 1\n").start();
    let never = package().of_model("batch", serde_json::json!({ "max": 1 }));
    deployed(&host, &host.control(), &never);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..10).for_each(|_| drop(host.invoke("same", &path('A')).expect(200))));
        }
    });
    assert_eq!(host.metric("vesta_inference_merged_total"), 0.0);
}
