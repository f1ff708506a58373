//! The memory budget, and starts that fail: room is made where it can be, who is refused is told why, and
//! what is damaged on disk is noticed and made anew.

use crate::onnx::{self, Opset, Tensor, node, value};
use prost::Message;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vesta_tests::{Host, PATIENCE, Package, load, wait_for};

const MIB: u64 = 1 << 20;

/// `y`, one number, from `x`, four of them, by weights of so many MiB; `number` makes the bytes its own.
fn heavy(mib: u64, number: u8) -> Vec<u8> {
    let columns = (mib * MIB / 16) as i64;
    let raw_data = vec![number; (mib * MIB) as usize];
    let weights =
        Tensor { dims: vec![4, columns], data_type: 1, name: "w".into(), raw_data, ..Tensor::default() };
    let graph = onnx::Graph {
        node: vec![node("MatMul", &["x", "w"], "h"), node("ReduceSum", &["h"], "y")],
        name: "g".into(),
        initializer: vec![weights],
        input: vec![value("x", &[1, 4])],
        output: vec![value("y", &[1, 1])],
    };
    let opset_import = vec![Opset { domain: String::new(), version: 17 }];
    onnx::Model { ir_version: 8, graph: Some(graph), opset_import }.encode_to_vec()
}

pub const INFER: &str = "/infer?model=m&input=x&shape=1x4&bytes=16";

pub fn with_model(name: &str, mib: u64, number: u8) -> Package {
    Package::rogue(name).model("m", &heavy(mib, number))
}

fn budget(mib: u64) -> String {
    format!("memory = \"{mib}MiB\"\ninference_slots = 1\n")
}

fn function(host: &Host, name: &str) -> Value {
    host.control().get(&format!("/api/v1/functions/{name}")).expect(200).json()
}

fn state(host: &Host, name: &str) -> String {
    function(host, name)["state"].as_str().expect("a state").into()
}

/// What is counted, with what the kernel counts beside it, is within the budget; and so is the process's own
/// memory.
#[track_caller]
fn is_within(host: &Host, mib: u64) {
    let counted = host.metric("vesta_memory_bytes");
    assert!(counted <= (mib * MIB) as f64, "{counted} bytes are counted");
    let private = host.process().private_bytes();
    assert!(private <= mib * MIB, "{private} bytes are the process's own");
    assert_eq!(host.metric("vesta_memory_budget_bytes"), (mib * MIB) as f64);
}

#[test]
fn a_model_larger_than_the_budget_is_refused_at_deploy_and_at_once_where_it_was_deployed_before() {
    let mut host = Host::builder().config(&budget(400)).start();
    with_model("large", 150, 1).deploy(&host.control());
    host.invoke("large", INFER).expect(200);
    host.restart_with(&budget(140));
    let problem = with_model("larger", 150, 2).refused(&host.control());
    let detail = problem["detail"].as_str().expect("a detail");
    assert!(problem["type"].as_str().expect("a type").ends_with("memory-budget"), "{problem}");
    for word in ["memory in its configuration", &(140 * MIB).to_string(), "models 158"] {
        assert!(detail.contains(word), "no {word:?}: {detail}");
    }
    // The other one is there, but cannot be started here: nobody waits for that.
    let begun = Instant::now();
    let refused = host.invoke("large", INFER).expect_problem(503, "host-memory");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(
        refused.detail().contains(&format!("whole memory budget is {} bytes", 140 * MIB)),
        "{}",
        refused.detail()
    );
    assert_eq!(refused.header("retry-after"), Some("1"));
    let record = host.record(&refused.invocation());
    assert_eq!((&record["outcome"], refused.cost()), (&Value::from("host_memory"), 0), "{record}");
    assert!(host.metric("vesta_memory_refusals_total") > 0.0);
    Package::rogue("small").deploy(&host.control());
    host.invoke("small", "/ok").expect(200);
}

#[test]
fn functions_make_room_for_one_another_and_nothing_fails() {
    const FUNCTIONS: u8 = 6;
    const ROUNDS: usize = 3;
    // Three of them fit beside the host itself.
    let host = Host::builder().config(&budget(180)).start();
    for n in 1..=FUNCTIONS {
        with_model(&format!("turn-{n}"), 50, n).deploy(&host.control());
    }
    for _ in 0..ROUNDS {
        for n in 1..=FUNCTIONS {
            let reply = host.invoke(&format!("turn-{n}"), INFER).expect(200);
            assert_eq!(reply.text(), "y TensorType::Fp32 [1, 1]\n");
            is_within(&host, 180);
        }
    }
    let evicted = host.metric("vesta_evictions_total");
    assert!(
        evicted >= 2.0 * ROUNDS as f64,
        "{evicted} had to make room: {}",
        host.control().get("/metrics").text()
    );
    assert!(host.metric("vesta_functions_warm") >= 2.0, "and no more than needed");
    assert_eq!(host.metric("vesta_memory_refusals_total"), 0.0);
}

#[test]
fn a_function_that_is_busy_is_not_let_go_and_who_waits_for_room_in_vain_is_told_how_much_it_needs() {
    let host = Host::builder().config(&budget(130)).start();
    with_model("busy", 80, 1).limit("wall_ms", 60_000).deploy(&host.control());
    with_model("waits", 80, 2).deploy(&host.control());
    host.invoke("busy", INFER).expect(200);
    std::thread::scope(|scope| {
        let sleeps = scope.spawn(|| host.invoke("busy", "/sleep?ms=9000").expect(200));
        wait_for("the function to be busy", PATIENCE, || {
            (function(&host, "busy")["standing"]["invocations"] == 1).then_some(())
        });
        let begun = Instant::now();
        let refused = host.invoke("waits", INFER).expect_problem(503, "host-memory");
        let waited = begun.elapsed();
        assert!(waited > Duration::from_secs(4) && waited < Duration::from_secs(8), "{waited:?}");
        assert!(refused.detail().contains("bytes more are needed"), "{}", refused.detail());
        assert_eq!(state(&host, "busy"), "warm");
        sleeps.join().expect("the sleeper was left alone");
    });
    // It is idle now, so that the other one has room.
    wait_for("room", PATIENCE, || (host.invoke("waits", INFER).status == 200).then_some(()));
    assert_eq!(state(&host, "busy"), "cold");
}

#[test]
fn a_guest_that_grows_past_the_hosts_memory_is_ended_and_pays_for_what_it_computed() {
    let host = Host::builder().config(&budget(130)).start();
    with_model("idle", 60, 1).deploy(&host.control());
    Package::rogue("grows").limit("memory_bytes", 1 << 30).limit("cpu_ms", 20_000).deploy(&host.control());
    host.invoke("idle", INFER).expect(200);
    assert_eq!(state(&host, "idle"), "warm");
    // What is idle makes room first.
    host.invoke("grows", &format!("/keep-memory?bytes={}", 90 * MIB)).expect(200);
    assert_eq!(state(&host, "idle"), "cold");
    for path in ["/memory", "/memory-politely"] {
        let ended = host.invoke("grows", path).expect_problem(503, "host-memory");
        assert!(ended.detail().contains("short of memory"), "{}", ended.detail());
        let record = host.record(&ended.invocation());
        assert_eq!(record["outcome"], "host_memory", "{record}");
        assert!(record["guest_cpu_ns"].as_u64() > Some(0) && ended.cost() > 0, "it ran: {record}");
    }
    // The same after the answer.
    let answered = host.invoke("grows", "/answer-then-memory").expect(200);
    let record = host.record(&answered.invocation());
    assert_eq!((&record["outcome"], record["status"].as_u64()), (&Value::from("host_memory"), Some(200)));
    assert!(answered.cost() > 0, "{record}");
    // Its own limit is another matter, and its own affair.
    Package::rogue("bounded").limit("memory_bytes", 16 * MIB).deploy(&host.control());
    let own = host.invoke("bounded", "/memory").expect_problem(502, "out-of-memory");
    assert_eq!(host.record(&own.invocation())["outcome"], "out_of_memory");
    host.invoke("idle", INFER).expect(200);
    host.invoke("grows", "/ok").expect(200);
    is_within(&host, 130);
}

#[test]
fn what_invocations_held_is_given_back() {
    let host = Host::builder().config(&budget(300)).start();
    Package::rogue("holds").keep_alive_ms(200).deploy(&host.control());
    for _ in 0..20 {
        host.invoke("holds", &format!("/keep-memory?bytes={}", 8 * MIB)).expect(200);
        host.invoke("holds", "/trap").expect(502);
    }
    let metrics = |kind: &str| {
        let text = host.control().get("/metrics").expect(200).text();
        let line = format!("vesta_memory_bytes{{kind=\"{kind}\"}} ");
        let found = text.lines().find_map(|l| l.strip_prefix(&line)).map(|n| n.parse::<f64>());
        found.unwrap_or_else(|| panic!("no {line}: {text}")).expect("a number")
    };
    let nothing = ["instances", "buffers", "code", "models"];
    wait_for("all to be given back", PATIENCE, || nothing.iter().all(|k| metrics(k) == 0.0).then_some(()));
    // A reading that was taken while an instance held memory that it had not touched may say nothing; the
    // kernel is asked again after all have gone, and not left with that.
    wait_for("what the process holds by itself", PATIENCE, || (metrics("uncounted") > 0.0).then_some(()));
}

#[test]
fn a_minimum_goes_last_and_comes_back() {
    let host = Host::builder().config(&budget(170)).start();
    with_model("kept", 60, 1).set("/scaling/minimum", 1.into()).deploy(&host.control());
    with_model("worth-less", 60, 2).deploy(&host.control());
    wait_for("the minimum", PATIENCE, || (state(&host, "kept") == "warm").then_some(()));
    host.invoke("worth-less", INFER).expect(200);
    with_model("third", 60, 3).deploy(&host.control());
    host.invoke("third", INFER).expect(200);
    assert_eq!((state(&host, "kept"), state(&host, "worth-less")), ("warm".into(), "cold".into()));
    assert_eq!(function(&host, "kept")["standing"]["kept_by_minimum"], true);
    // Only this one leaves no room for it.
    with_model("large", 110, 4).deploy(&host.control());
    host.invoke("large", INFER).expect(200);
    assert_eq!(state(&host, "kept"), "cold");
    // It makes the idle one go in its turn.
    wait_for("the minimum", PATIENCE, || (state(&host, "kept") == "warm").then_some(()));
}

fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, end));
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found
}

/// Turns over one bit in the middle of a file.
fn damage(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("permissions");
    let mut bytes = std::fs::read(path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).expect("write");
}

#[test]
fn what_was_prepared_and_is_damaged_on_disk_is_noticed_and_made_anew() {
    let mut host = Host::builder().config(&budget(400)).start();
    let (component, model) = crate::examples::digits();
    let package = Package::new("digits", &component).model("digits", &model).keep_alive_ms(50);
    package.deploy(&host.control());
    let body = crate::examples::digit_request(0);
    let answer = |host: &Host| {
        host.data().send("POST", "/fn/default/digits/", &[], body.as_bytes()).expect(200).text()
    };
    let right = answer(&host);
    let cache = host.data_dir().join("cache");
    let mut made_anew = 0;
    // First in a process that has found them sound before, then in one that has not.
    let sharing = Package::new("sharing", &component).model("digits", &model).keep_alive_ms(600_000);
    for restart in [false, true] {
        for end in [".cwasm", "weights.data", "graph.onnx", "info.json", ".mac", "/mac"] {
            wait_for("the function to be cold", PATIENCE, || {
                (state(&host, "digits") == "cold").then_some(())
            });
            let found = files(&cache, end);
            assert_eq!(found.len(), 1, "{end}: {found:?}");
            damage(&found[0]);
            if restart {
                host.kill_9();
                host.restart();
            }
            assert_eq!(answer(&host), right, "{end}, restart: {restart}");
            let said = host.log().matches("preparing the function anew").count();
            // A MAC that nobody has to look at again may stay damaged until then.
            if restart || !end.contains("mac") {
                assert!(said > made_anew, "{end}, restart {restart}: not said:\n{}", host.log());
            }
            made_anew = said;
        }
    }
    assert!(host.log().contains("altered on disk"));
    // A function that is warm goes on with what it has mapped; nobody else gets that, whether it is the start
    // that notices or a deploy.
    let third = sharing.named("third");
    sharing.deploy(&host.control());
    third.deploy(&host.control());
    let send = |name: &str| {
        let path = format!("/fn/default/{name}/");
        host.data().send("POST", &path, &[], body.as_bytes()).expect(200).text()
    };
    assert_eq!(send("sharing"), right);
    let weights = files(&cache, "weights.data");
    let is_mapped = || host.process().mapped("weights.data").iter().any(|p| !p.ends_with("(deleted)"));
    damage(&weights[0]);
    assert_eq!(send("third"), right);
    assert!(is_mapped(), "by its start: {:?}", host.process().mapped("weights.data"));
    damage(&weights[0]);
    sharing.named("fourth").deploy(&host.control());
    assert!(!is_mapped(), "made anew by the deploy: {:?}", host.process().mapped("weights.data"));
    assert_eq!(send("fourth"), right);
    assert!(is_mapped(), "what its deploy made: {:?}", host.process().mapped("weights.data"));
}

#[test]
fn a_start_that_fails_is_told_to_all_who_wait_and_tried_again_after_a_while() {
    const CLIENTS: usize = 50;
    let host = Host::start();
    Package::rogue("broken").deploy(&host.control());
    let code = files(&host.data_dir().join("cache"), ".cwasm");
    let blobs = files(&host.data_dir().join("blobs"), "");
    assert_eq!((code.len(), blobs.len()), (1, 1), "{code:?} {blobs:?}");
    let sound = std::fs::read(&blobs[0]).expect("read");
    damage(&code[0]);
    damage(&blobs[0]);
    let (address, key) = (host.invoke_address().to_string(), host.tenant_key().to_string());
    let to = address.clone();
    let received = load::runtime().block_on(load::run(
        &address,
        CLIENTS,
        CLIENTS,
        move |_| load::request("GET", &to, "/fn/default/broken/ok", &key, ""),
        |r| {
            assert_eq!(r.status, 503, "{}", r.text());
            assert!(r.text().contains("urn:vesta:problem:start-failed"), "{}", r.text());
            assert!(r.text().contains("damaged on disk"), "{}", r.text());
            assert!(!r.text().contains("/blobs/"), "{}", r.text());
            assert!(r.value("retry-after").is_some());
        },
    ));
    assert_eq!(received, CLIENTS);
    assert!(blobs[0].with_extension("damaged").exists(), "it was set aside");
    // Starts that fail for good are tried ever more seldom.
    let refused = wait_for("a back-off of a second", PATIENCE, || {
        let refused = host.invoke("broken", "/ok").expect_problem(503, "start-failed");
        let seconds: u32 = refused.header("retry-after").expect("a header").parse().expect("a number");
        (seconds >= 2).then_some(refused)
    });
    assert!(refused.detail().contains("the next is tried in"), "{}", refused.detail());
    assert_eq!(refused.cost(), 0);
    let standing = function(&host, "broken")["standing"]["refused"].clone();
    assert!(standing["retry_after_ms"].as_u64() > Some(0), "{standing}");
    let tries = host.log().matches("cold start failed").count();
    assert!(tries < 20, "{tries} tries");
    // Somebody mends it.
    std::fs::write(&blobs[0], sound).expect("write");
    let within = Duration::from_secs(30);
    wait_for("it to heal", within, || (host.invoke("broken", "/ok").status == 200).then_some(()));
    assert_eq!(function(&host, "broken")["standing"]["refused"], Value::Null);
}

#[test]
fn a_function_says_why_it_is_kept_until_when_and_what_its_start_was() {
    let host = Host::start();
    Package::rogue("fixed").keep_alive_ms(30_000).deploy(&host.control());
    let scaling = serde_json::json!({ "minimum": 0 });
    with_model("by-worth", 4, 1).set("/scaling", scaling).deploy(&host.control());
    assert_eq!(function(&host, "fixed")["standing"], Value::Null, "nobody has asked for it");
    host.invoke("fixed", "/ok").expect(200);
    host.invoke("by-worth", INFER).expect(200);
    let fixed = function(&host, "fixed")["standing"].clone();
    assert_eq!(fixed["keep_alive"]["reason"], "fixed", "{fixed}");
    assert_eq!(fixed["keep_alive"]["kept_until_ms"], 30_000);
    let worth = function(&host, "by-worth")["standing"].clone();
    assert_eq!(worth["keep_alive"]["reason"], "worth", "{worth}");
    assert!(worth["keep_alive"]["kept_until_ms"].as_u64() >= Some(10_000), "{worth}");
    assert!(
        worth["keep_alive"]["index"].as_f64() > Some(0.0)
            && worth["keep_alive"]["price"].as_f64() > Some(0.0)
    );
    assert!(worth["resident_bytes"].as_u64() > Some(4 * MIB), "{worth}");
    assert_eq!(worth["cold_start"]["models"][0]["name"], "m", "{worth}");
    assert!(worth["cold_start"]["code"]["mapped_bytes"].as_u64() > Some(0));
}
