//! The books recomputed by an independent script, `recompute.py`: records, charges and sums.

use serde_json::{Value, json};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use vesta_tests::load::{self, Request};
use vesta_tests::{Host, Package, guests, in_root, skip};

const INVOCATIONS: u64 = 5_000;
const AFTER_THE_CHANGE: u64 = 200;
const CLIENTS: usize = 12;

/// Prices with every digit that is allowed, so that nearly every charge is rounded.
const PRICES: &str = "[prices]\ncurrency = \"USD\"\nguest_cpu_second = \"0.000020123\"\n\
    inference_cpu_second = \"0.000031417\"\ncold_start_cpu_second = \"0.000000007\"\n\
    memory_gb_second = \"0.000002500000000123\"\nrequest = \"0.000000200000000001\"\n\
    start = \"0.000010000000000001\"\noutbound_cpu_second = \"0.000021001\"\n\
    handler_cpu_second = \"0.000019003\"\ndeploy_cpu_second = \"0.000018007\"\n\
    gb_in = \"0.010000003\"\ngb_out = \"0.090000007\"\n";
const EUROS: &str = "[prices]\ncurrency = \"EUR\"\nmemory_gb_second = \"0.000003141592653589\"\n";

/// The script's figures; `None` where there is no Python for it.
fn recompute(host: &Host, tenants: &[&str]) -> Option<Value> {
    let mut command = Command::new("python3");
    command.arg(in_root("tests/it/recompute.py"));
    command.args(["--url", &format!("http://{}", host.control_address()), "--key", host.operator_key()]);
    command.args(tenants.iter().flat_map(|tenant| ["--tenant", tenant]));
    let Ok(output) = command.output() else {
        skip("recompute.py: no python3");
        return None;
    };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "recompute.py: {out}{err}");
    Some(serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}")))
}

/// What is asked for: path, tenant, and body.
type Asked = (&'static str, bool, Option<&'static str>);

/// Answers of every kind, of two tenants; `true` is the other one.
const MIX: &[Asked] = &[
    ("/fn/default/greets/?name=Ada", false, None),
    ("/fn/default/greets/?name=Grace", false, None),
    ("/fn/default/digits/", false, Some("digit")),
    ("/fn/default/rogue/ok", false, None),
    ("/fn/default/rogue/big?bytes=70001", false, None),
    ("/fn/default/rogue/big?bytes=5000&chunked", false, None),
    ("/fn/default/rogue/echo", false, Some("a body that comes back")),
    ("/fn/default/rogue/burn?units=3", false, None),
    ("/fn/default/rogue/status?code=418", false, None),
    ("/fn/default/rogue/trap", false, None),
    ("/fn/default/rogue/exit?code=3", false, None),
    ("/fn/default/rogue/nothing", false, None),
    ("/fn/default/rogue/lie", false, None),
    ("/fn/default/rogue/keep-tensor?bytes=1000001", false, None),
    ("/fn/default/rogue/infer?model=m&input=x&shape=40x1&type=f32&bytes=160", false, None),
    ("/fn/default/rogue/sleep?ms=2", false, None),
    ("/fn/other/cold/ok", true, None),
    ("/fn/other/cold/log", true, None),
    ("/fn/other/small/memory", true, None),
    ("/fn/other/small/infinite", true, None),
    ("/fn/other/small/ok", true, None),
];
/// Every so many requests one that runs into its CPU limit, which takes long.
const LOOP_EVERY: usize = 100;

/// How many invocations of both tenants are recorded in the currency of the plan in force.
fn recorded(host: &Host, other: &str) -> u64 {
    let of = |key: &str| {
        let usage = host.control().with_key(key).get("/api/v1/usage").expect(200).json();
        usage["total"]["invocations"].as_u64().expect("invocations")
    };
    of(host.tenant_key()) + of(other)
}

fn invoke(host: &Host, other: &str, invocations: u64) {
    let (own, others) = (host.tenant_key().to_string(), other.to_string());
    let (to, digit) = (host.invoke_address().to_string(), crate::examples::digit_request(0));
    let make = move |n: usize| -> Request {
        if n.is_multiple_of(LOOP_EVERY) {
            return load::request("GET", &to, "/fn/other/small/loop", &others, "");
        }
        let (path, of_other, body) = MIX[n % MIX.len()];
        let body = body.map(|body| if body == "digit" { digit.clone() } else { body.to_string() });
        let method = if body.is_some() { "POST" } else { "GET" };
        load::request(method, &to, path, if of_other { &others } else { &own }, body.unwrap_or_default())
    };
    // A connection that an answer has broken off ends its client; the next round goes on.
    let (begun, runtime) = (Arc::new(AtomicUsize::new(0)), load::runtime());
    while recorded(host, other) < invocations {
        let (begun, make) = (begun.clone(), make.clone());
        let next = move |_: usize| make(begun.fetch_add(1, Ordering::SeqCst));
        runtime.block_on(load::run(host.invoke_address(), CLIENTS, 400, next, |_| {}));
    }
}

#[test]
fn five_thousand_mixed_invocations_are_recomputed_with_fractions_without_a_difference() {
    let mut host = Host::builder().config(PRICES).start();
    let other = host.tenant("other");
    let (digits, model) = crate::examples::digits();
    Package::new("greets", &guests::example("hello").component).deploy(&host.control());
    Package::new("digits", &digits).model("digits", &model).deploy(&host.control());
    Package::rogue("rogue").model("m", &crate::onnx::square()).deploy(&host.control());
    let control = host.control().with_key(&other);
    Package::rogue("cold").keep_alive_ms(1).deploy(&control);
    let small = Package::rogue("small").limit("cpu_ms", 30).limit("memory_bytes", 8 << 20);
    small.limit("response_body_bytes", 200_000).deploy(&control);

    invoke(&host, &other, INVOCATIONS);
    let Some(before) = recompute(&host, &["default", "other"]) else { return };
    println!("{before}");
    let number = |v: &Value, field: &str| v[field].as_u64().unwrap_or_else(|| panic!("{field}: {v}"));
    assert!(number(&before, "records") >= INVOCATIONS, "{before}");
    assert_eq!((number(&before, "differences"), number(&before, "sums_that_differ")), (0, 0), "{before}");
    assert_eq!(number(&before, "without_plan"), 0);
    for outcome in ["ok", "guest_error", "trap", "out_of_memory", "cpu_limit", "response_limit"] {
        assert!(before["outcomes"][outcome].as_u64() > Some(0), "{outcome}: {before}");
    }

    // Another currency: what was charged before keeps its own, in records, rows and totals.
    host.restart_with(EUROS);
    invoke(&host, &other, AFTER_THE_CHANGE);
    let after = recompute(&host, &["default", "other"]).expect("Python was there");
    println!("{after}");
    assert_eq!((number(&after, "differences"), number(&after, "sums_that_differ")), (0, 0), "{after}");
    assert_eq!(after["charges"]["USD"], before["charges"]["USD"]);
    assert!(after["charges"]["EUR"].is_string(), "{after}");
    let usage = host.control().get("/api/v1/usage").expect(200).json();
    assert_eq!(usage["currency"], "EUR");
    let currencies: Vec<_> =
        usage["totals"].as_array().expect("totals").iter().map(|t| &t["currency"]).collect();
    assert_eq!(currencies, [&json!("EUR"), &json!("USD")]);
    assert_eq!(usage["total"]["charge"], usage["totals"][0]["charge"]);
}
