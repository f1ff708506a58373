//! Cold, warm, cold again: what is idle is really gone, and comes back on the next request.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vesta_tests::{Host, PATIENCE, Package, guests, load, wait_for};

const CYCLES: usize = 10;
/// How far the private memory of the cold host may move between cycles.
const FLAT_BYTES: u64 = 2 << 20;

/// Each lane of a worker keeps its engine's buffers from its first run on, a few MB. With one slot there is
/// one lane.
const ONE_INFERENCE_SLOT: &str = "inference_slots = 1\n";

/// Mapped files of the host's caches: compiled code and prepared models.
fn mapped(host: &Host) -> (Vec<String>, Vec<String>) {
    let cache = host.data_dir().join("cache").display().to_string();
    let all = host.process().mapped(&cache);
    all.into_iter().partition(|path| path.ends_with(".cwasm"))
}

fn state(host: &Host, function: &str) -> String {
    let json = host.control().get(&format!("/api/v1/functions/{function}")).expect(200).json();
    json["state"].as_str().expect("a state").to_string()
}

/// Takes a function cold to warm to cold ten times.
fn ten_cycles(host: &Host, function: &str, invoke: impl Fn() -> vesta_tests::Reply) {
    let gone = || {
        let (code, models) = mapped(host);
        (code.is_empty() && models.is_empty()).then_some(())
    };
    let mut memory = Vec::new();
    for cycle in 1..=CYCLES {
        wait_for("the function to be cold", PATIENCE, gone);
        wait_for("its state to be cold", PATIENCE, || (state(host, function) == "cold").then_some(()));
        memory.push(host.process().private_bytes());
        let reply = invoke().expect(200);
        let phase =
            |name: &str| reply.timing(name).unwrap_or_else(|| panic!("no {name}: {:?}", reply.headers));
        let line = ["cold", "cold-code", "cold-model", "guest", "infer", "total"]
            .map(|p| format!("{p} {:.2}", phase(p)));
        println!("{function}, cycle {cycle}: {} ms", line.join(", "));
        assert!(phase("cold") > 0.0 && phase("cold-code") > 0.0 && phase("cold-model") > 0.0, "{reply:?}");
        let (code, models) = mapped(host);
        assert!(
            !code.is_empty() && models.iter().any(|m| m.ends_with("weights.data")),
            "{code:?} {models:?}"
        );
        let record = host.record(&reply.invocation());
        assert_eq!(record["cold"], true, "{record}");
        assert!(record["cold_start_cpu_ns"].as_u64() > Some(0), "{record}");
    }
    wait_for("the function to be cold", PATIENCE, gone);
    memory.push(host.process().private_bytes());
    // memory[n] was taken after n cycles.
    let later = &memory[2..];
    let (least, most) = (later.iter().min().expect("some"), later.iter().max().expect("some"));
    println!(
        "{function}: private memory when cold, KiB: {:?}",
        memory.iter().map(|b| b >> 10).collect::<Vec<_>>()
    );
    assert!(most - least <= FLAT_BYTES, "private memory moves by {} KiB", (most - least) >> 10);
}

#[test]
fn a_function_and_its_model_leave_the_process_when_idle_and_come_back() {
    let host = Host::builder().config(ONE_INFERENCE_SLOT).start();
    let (component, model) = crate::examples::digits();
    let package = Package::new("digits", &component).model("digits", &model).keep_alive_ms(300);
    package.deploy(&host.control());
    let body = crate::examples::digit_request(0);
    ten_cycles(&host, "digits", || host.data().send("POST", "/fn/default/digits/", &[], body.as_bytes()));
}

#[test]
fn ninety_megabytes_of_weights_come_and_go_without_a_trace() {
    let Some(package) = crate::examples::text_embed("text-embed") else { return };
    let host = Host::builder().config(ONE_INFERENCE_SLOT).start();
    package.keep_alive_ms(300).deploy(&host.control());
    let body = crate::examples::text_request("the hearth that is always ready");
    ten_cycles(&host, "text-embed", || {
        host.data().send("POST", "/fn/default/text-embed/", &[], body.as_bytes())
    });
}

#[test]
fn a_warm_request_touches_no_fresh_memory() {
    let Some(package) = crate::examples::text_embed("text-embed") else { return };
    let host = Host::builder().config(ONE_INFERENCE_SLOT).start();
    package.deploy(&host.control());
    let body = crate::examples::text_request(&"the hearth that is always ready ".repeat(12));
    let invoke = || host.data().send("POST", "/fn/default/text-embed/", &[], body.as_bytes()).expect(200);
    for _ in 0..10 {
        invoke();
    }
    let before = host.process().page_faults();
    for _ in 0..20 {
        invoke();
    }
    let faults = (host.process().page_faults() - before) / 20;
    println!("{faults} page faults a request");
    // A heap that is given back after each run takes more than a hundred.
    assert!(faults <= 20, "{faults} page faults a request");
}

#[test]
fn a_warm_function_is_not_started_again() {
    let host = Host::shared();
    Package::rogue("stays").deploy(&host.control());
    let first = host.invoke("stays", "/ok").expect(200);
    let second = host.invoke("stays", "/ok").expect(200);
    assert_eq!(host.record(&first.invocation())["cold"], true);
    assert_eq!(host.record(&second.invocation())["cold"], false);
    assert_eq!(host.record(&second.invocation())["cold_start_cpu_ns"], 0);
}

#[test]
fn a_thousand_requests_make_one_cold_start() {
    let host = Host::start();
    Package::rogue("rush").limit("concurrency", 1_000).deploy(&host.control());
    assert_eq!(state(&host, "rush"), "cold");
    let (address, key) = (host.invoke_address().to_string(), host.tenant_key().to_string());
    let ids = Arc::new(Mutex::new(HashSet::new()));
    let keep = ids.clone();
    let to = address.clone();
    let received = load::runtime().block_on(load::run(
        &address,
        1_000,
        1_000,
        move |_| load::request("GET", &to, "/fn/default/rush/ok", &key, ""),
        move |r| {
            assert_eq!(r.status, 200, "{}", r.text());
            keep.lock().expect("no panic").insert(r.invocation().to_string());
        },
    ));
    assert_eq!(received, 1_000);
    let ids = ids.lock().expect("no panic");
    assert_eq!(ids.len(), 1_000);
    let started = ids.iter().filter(|id| host.record(id)["cold"] == true).count();
    assert_eq!(started, 1, "one request triggers the cold start and is billed for it");
}

#[test]
fn a_minimum_of_one_keeps_a_function_warm() {
    let host = Host::start();
    let minimum = serde_json::json!(1);
    Package::rogue("kept-warm").set("/scaling/minimum", minimum).keep_alive_ms(50).deploy(&host.control());
    Package::rogue("let-go").keep_alive_ms(50).deploy(&host.control());
    host.invoke("kept-warm", "/ok").expect(200);
    host.invoke("let-go", "/ok").expect(200);
    wait_for("the other to be cold", PATIENCE, || (state(&host, "let-go") == "cold").then_some(()));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(state(&host, "kept-warm"), "warm");
}

#[test]
fn one_model_is_mapped_once_for_all_who_use_it() {
    let host = Host::start();
    let digits = guests::model("digits/models/digits.onnx").expect("digits.onnx is in the repository");
    for name in ["first-user", "second-user"] {
        Package::rogue(name).model("digits", &digits).deploy(&host.control());
        host.invoke(name, "/infer?model=digits&input=x&shape=1&bytes=4").expect(200);
    }
    assert_eq!(host.process().busy_workers().len(), 1, "one worker for both");
    assert!(host.process().mapped_here("weights.data").is_empty(), "no model is in the host's own process");
}
