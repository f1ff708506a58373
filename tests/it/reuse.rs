//! Functions that let an instance serve several requests: what stays from one to the next, and what never
//! does.

use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use vesta_tests::load::{self, Connection};
use vesta_tests::{Host, PATIENCE, Package, Reply, guests, wait_for};

/// As often as a test may ask.
const ALWAYS: u64 = 1_000_000;

fn reusing(name: &str) -> Package {
    Package::rogue(name).reuse(ALWAYS).limit("memory_bytes", 32 << 20)
}

/// Which request of its instance an answer of `/count` was, and the instance's name.
#[track_caller]
fn counted(text: &str) -> (u64, String) {
    let (served, name) = text.trim().split_once(' ').unwrap_or_else(|| panic!("no count: {text:?}"));
    (served.parse().expect("a number"), name.to_string())
}

#[track_caller]
fn count(host: &Host, function: &str) -> u64 {
    counted(&host.invoke(function, "/count").expect(200).text()).0
}

#[test]
fn an_instance_serves_as_many_requests_as_its_manifest_says_and_one_by_default() {
    let host = Host::shared();
    Package::rogue("thrice").reuse(3).deploy(&host.control());
    let counts: Vec<u64> = (0..7).map(|_| count(&host, "thrice")).collect();
    assert_eq!(counts, [1, 2, 3, 1, 2, 3, 1]);
    Package::rogue("fresh").deploy(&host.control());
    Package::rogue("once").reuse(1).deploy(&host.control());
    for function in ["fresh", "once"] {
        let counts: Vec<u64> = (0..4).map(|_| count(&host, function)).collect();
        assert_eq!(counts, [1, 1, 1, 1], "{function}");
    }
}

#[test]
fn a_reuse_out_of_bounds_is_refused_with_its_field() {
    let host = Host::shared();
    for most in [0, 1_000_001] {
        let reply = Package::rogue("bounds").reuse(most).begin(&host.control());
        assert!((400..500).contains(&reply.status), "{reply:?}");
        assert!(reply.detail().contains("scaling.reuse"), "{}", reply.text());
    }
}

#[test]
fn an_instance_serves_one_request_at_a_time() {
    let host = Host::shared();
    reusing("busy").limit("concurrency", 8).deploy(&host.control());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let keep = seen.clone();
    let (to, key) = (host.invoke_address().to_string(), host.tenant_key().to_string());
    let make = move |_| load::request("GET", &to, "/fn/default/busy/count?ms=5", &key, "");
    let answered = load::runtime().block_on(load::run(host.invoke_address(), 8, 400, make, move |r| {
        assert_eq!(r.status, 200, "{}", r.text());
        keep.lock().expect("no panic").push(counted(&r.text()));
    }));
    assert_eq!(answered, 400);
    let mut by_instance: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (served, name) in seen.lock().expect("no panic").drain(..) {
        by_instance.entry(name).or_default().push(served);
    }
    let several = by_instance.len();
    assert!((2..=8).contains(&several), "{several} instances for 8 requests at once");
    for (name, mut served) in by_instance {
        served.sort_unstable();
        let each_once: Vec<u64> = (1..=served.len() as u64).collect();
        assert_eq!(served, each_once, "instance {name} was in two requests at once");
    }
}

#[test]
fn what_does_not_end_well_ends_its_instance() {
    let host = Host::shared();
    reusing("ends-badly").limit("cpu_ms", 300).limit("wall_ms", 3_000).deploy(&host.control());
    for (misdeed, status) in [
        ("/trap", 502),
        ("/loop", 504),
        ("/sleep?ms=60000", 504),
        ("/memory", 502),
        ("/memory-politely", 200),
        ("/exit?code=0", 502),
        ("/exit?code=1", 502),
        ("/leak?resources=2000", 502),
        ("/keep-hold?of=out", 502),
        ("/keep-hold?of=body", 200),
        ("/keep-hold?of=request", 200),
    ] {
        assert_eq!((count(&host, "ends-badly"), count(&host, "ends-badly")), (1, 2), "before {misdeed}");
        let begun = Instant::now();
        host.invoke("ends-badly", misdeed).expect(status);
        assert!(begun.elapsed() < Duration::from_secs(30), "{misdeed} hung");
        assert_eq!(count(&host, "ends-badly"), 1, "the instance lives on after {misdeed}");
        // The next case begins with another instance.
        host.invoke("ends-badly", "/trap").expect(502);
    }
    // Broken off half-way through the body.
    assert_eq!(count(&host, "ends-badly"), 1);
    let half = host.data().try_send("GET", "/fn/default/ends-badly/half", &[], b"");
    assert!(half.as_ref().map_or(true, |r| r.status == 502), "{half:?}");
    assert_eq!(count(&host, "ends-badly"), 1);
}

#[test]
fn a_client_that_goes_away_ends_the_instance_that_worked_for_it() {
    let host = Host::shared();
    reusing("abandoned-reuse").deploy(&host.control());
    assert_eq!((count(&host, "abandoned-reuse"), count(&host, "abandoned-reuse")), (1, 2));
    let mut socket = TcpStream::connect(host.invoke_address()).expect("connect");
    let key = host.tenant_key();
    let head = "GET /fn/default/abandoned-reuse/count?ms=20000 HTTP/1.1\r\nhost: x\r\n";
    write!(socket, "{head}authorization: Bearer {key}\r\n\r\n").expect("send");
    // It has the idle instance once another request finds none.
    wait_for("the instance to be taken", PATIENCE, || (count(&host, "abandoned-reuse") == 1).then_some(()));
    host.invoke("abandoned-reuse", "/trap").expect(502);
    drop(socket);
    let gone = || host.records("abandoned-reuse").iter().any(|r| r["outcome"] == "client_gone").then_some(());
    wait_for("its record", PATIENCE, gone);
    assert_eq!(count(&host, "abandoned-reuse"), 1, "the abandoned instance is used again");
}

#[test]
fn answers_of_every_kind_leave_the_instance_usable() {
    let host = Host::shared();
    reusing("fine").deploy(&host.control());
    let mut expected = 0;
    for (path, status) in [
        ("/ok", 200),
        ("/status?code=404", 404),
        ("/status?code=204", 204),
        ("/error", 502),
        ("/nothing", 502),
        ("/big?bytes=1000000", 200),
        ("/big?bytes=1000000&chunked", 200),
        ("/trickle?chunks=3&ms=30", 200),
        ("/trailers", 200),
        ("/after?units=20", 200),
        ("/log?lines=5", 200),
        ("/stdin", 200),
    ] {
        host.invoke("fine", path).expect(status);
        expected += 2;
        assert_eq!(count(&host, "fine"), expected, "after {path}");
    }
    host.data().send("POST", "/fn/default/fine/echo", &[], &vec![b'x'; 1_000_000]).expect(200);
    host.data().send("HEAD", "/fn/default/fine/big?bytes=300000&chunked", &[], b"").expect(200);
    assert_eq!(count(&host, "fine"), expected + 3);
}

#[test]
fn work_after_the_answer_is_done_before_the_next_request() {
    let host = Host::shared();
    reusing("works-on").deploy(&host.control());
    let address = host.invoke_address().to_string();
    let key = host.tenant_key().to_string();
    let (streamed, next) = load::runtime().block_on(async {
        let mut one = Connection::http1(&address).await.expect("connect");
        let request = |path: &str| load::request("GET", &address, path, &key, "");
        // Streamed from its first piece on, while the guest goes on.
        let streaming =
            one.begin(request("/fn/default/works-on/trickle?chunks=20&ms=30")).await.expect("a head");
        let mut other = Connection::http1(&address).await.expect("connect");
        let next = other.send(request("/fn/default/works-on/count")).await.expect("an answer");
        (load::receive(streaming).await, next)
    });
    assert!(streamed.whole);
    assert_eq!(counted(&next.text()).0, 1, "the busy instance took another request");
}

/// Enough units of burning for `ms` of CPU time.
fn units(host: &Host, function: &str, ms: u64) -> u64 {
    let sample = host.invoke(function, "/burn?units=200").expect(200).billed_cpu_us();
    ms * 1_000 * 200 / sample.max(1)
}

#[test]
fn each_invocation_has_its_own_meter_and_its_own_limits() {
    let host = Host::shared();
    reusing("metered").limit("cpu_ms", 500).limit("wall_ms", 6_000).deploy(&host.control());
    let units = units(&host, "metered", 200);
    let mut billed = Vec::new();
    for round in 1..=5 {
        // Together far over the limits of CPU and wall-clock time; each is within them.
        let burnt = host.invoke("metered", &format!("/burn?units={units}")).expect(200);
        let slept = host.invoke("metered", "/sleep?ms=1500").expect(200);
        assert!(burnt.billed_cpu_us() > 100_000, "{burnt:?}");
        assert!(slept.billed_cpu_us() < 20_000, "work of another invocation is billed: {slept:?}");
        billed.extend([burnt, slept]);
        assert_eq!(count(&host, "metered"), 1 + round * 3, "all on one instance");
    }
    for reply in &billed {
        let record = host.record(&reply.invocation());
        assert_eq!(record["billed_cpu_us"].as_u64(), Some(reply.billed_cpu_us()), "{record}");
    }
    // What one invocation is given is no more than what the manifest says.
    host.invoke("metered", "/loop").expect_problem(504, "cpu-limit");
    assert_eq!(count(&host, "metered"), 1);
    host.invoke("metered", "/sleep?ms=60000").expect_problem(504, "wall-limit");
}

#[test]
fn waiting_for_a_request_costs_nothing_and_memory_is_what_the_instance_holds_meanwhile() {
    let host = Host::shared();
    reusing("holds").deploy(&host.control());
    let peak = |reply: Reply| host.record(&reply.invocation())["peak_memory_bytes"].as_u64().expect("bytes");
    let small = peak(host.invoke("holds", "/ok").expect(200));
    assert!(small < 4 << 20, "{small}");
    let grown = peak(host.invoke("holds", "/keep-memory?bytes=10000000").expect(200));
    // A part of a page may have been free.
    assert!(grown >= small + 10_000_000 - (64 << 10), "{grown}");
    std::thread::sleep(Duration::from_millis(500));
    let reply = host.invoke("holds", "/ok").expect(200);
    let record = host.record(&reply.invocation());
    assert_eq!(record["peak_memory_bytes"], grown, "what an earlier request took is still held: {record}");
    assert!(record["memory_ns"].as_u64() < Some(400_000_000), "idle time is billed: {record}");
    assert!(record["guest_cpu_ns"].as_u64() < Some(50_000_000), "{record}");
    // The limit is the instance's, whichever of its invocations took the memory.
    host.invoke("holds", "/keep-memory?bytes=30000000").expect_problem(502, "out-of-memory");
    let again = peak(host.invoke("holds", "/ok").expect(200));
    assert_eq!(again, small);
}

#[test]
fn log_lines_and_headers_are_those_of_the_invocation() {
    let host = Host::shared();
    let greeting = serde_json::json!({ "GREETING": "hi" });
    reusing("says").set("/variables", greeting).deploy(&host.control());
    let first = host.invoke("says", "/log?lines=2").expect(200).invocation();
    let second = host.invoke("says", "/log?lines=3").expect(200).invocation();
    let expected = BTreeMap::from([(first, 2), (second, 3)]);
    wait_for("the lines of both, each under its own invocation", PATIENCE, || {
        let text = host.control().get("/api/v1/functions/says/logs?limit=100").expect(200).text();
        let mut structured: BTreeMap<String, usize> = BTreeMap::new();
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            if line["message"].as_str().is_some_and(|m| m.starts_with("structured")) {
                *structured.entry(line["invocation"].as_str().expect("an id").to_string()).or_default() += 1;
            }
        }
        (structured == expected).then_some(())
    });
    for _ in 0..2 {
        let reply = host.invoke("says", "/headers").expect(200);
        let id = format!("vesta-invocation-id: {}", reply.invocation());
        assert!(reply.text().contains(&id), "{}", reply.text());
        assert!(host.invoke("says", "/env").expect(200).text().contains("GREETING=hi"));
    }
    assert_eq!(count(&host, "says"), 7, "all on one instance");
}

#[test]
fn a_floods_end_does_not_silence_the_next_invocation() {
    let host = Host::shared();
    reusing("floods").deploy(&host.control());
    host.invoke("floods", "/log?lines=5000").expect(200);
    let quiet = host.invoke("floods", "/log?lines=1").expect(200).invocation();
    wait_for("the lines of the second invocation", PATIENCE, || {
        let text = host.control().get("/api/v1/functions/floods/logs?limit=1000").expect(200).text();
        text.lines().any(|l| l.contains(&quiet) && l.contains("structured 0")).then_some(())
    });
    assert_eq!(count(&host, "floods"), 3, "all on one instance");
}

#[test]
fn leaks_end_an_instance_before_they_fail_a_request() {
    let host = Host::shared();
    reusing("leaks").deploy(&host.control());
    let served: Vec<u64> =
        (0..40).map(|_| counted(&host.invoke("leaks", "/leak?resources=100").expect(200).text()).0).collect();
    let most = served.iter().max().expect("some");
    assert!((3..10).contains(most), "an instance that leaks 100 resources a request served {most} of them");
}

#[test]
fn a_request_that_the_guest_kept_does_not_keep_the_client() {
    let host = Host::shared();
    reusing("keeps-requests").deploy(&host.control());
    let mut socket = TcpStream::connect(host.invoke_address()).expect("connect");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // The second request comes on the same connection, behind a body that the guest never read.
    let body = "x".repeat(100_000);
    let (key, length) = (host.tenant_key(), body.len());
    let head = |path: &str| {
        format!("/fn/default/keeps-requests{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n")
    };
    let first = head("/keep-hold?of=request");
    write!(socket, "POST {first}content-length: {length}\r\n\r\n{body}").expect("send");
    // The host may close the connection on an unread body; what matters is that it does not hang.
    let _ = write!(socket, "GET {}connection: close\r\n\r\n", head("/count"));
    let mut answers = String::new();
    let _ = socket.read_to_string(&mut answers);
    assert!(answers.starts_with("HTTP/1.1 200"), "{answers}");
    assert_eq!(
        count(&host, "keeps-requests"),
        if answers.matches("HTTP/1.1 200").count() == 2 { 2 } else { 1 }
    );
}

#[test]
fn a_loaded_model_is_kept_and_each_run_is_billed_to_its_invocation() {
    let host = Host::shared();
    let digits = guests::model("digits/models/digits.onnx").expect("digits.onnx is in the repository");
    reusing("keeps-model").model("digits", &digits).deploy(&host.control());
    for served in 1..=20 {
        let reply = host
            .invoke("keeps-model", "/kept-model?model=digits&input=image&shape=1x64&type=f32&bytes=256")
            .expect(200);
        let text = reply.text();
        let (first, outputs) = text.split_once('\n').expect("two lines");
        assert_eq!(counted(first).0, served, "{text}");
        assert!(outputs.contains("Fp32"), "{text}");
        let record = host.record(&reply.invocation());
        assert_eq!(record["inferences"], 1, "{record}");
        assert!(record["inference_cpu_ns"].as_u64() > Some(0), "{record}");
    }
    let plain = host.invoke("keeps-model", "/ok").expect(200);
    let record = host.record(&plain.invocation());
    assert_eq!((&record["inferences"], &record["inference_cpu_ns"]), (&0.into(), &0.into()), "{record}");
}

#[test]
fn tensors_that_are_kept_count_against_the_instances_memory() {
    let host = Host::shared();
    reusing("keeps-tensors").deploy(&host.control());
    let keep = || host.invoke("keeps-tensors", "/keep-tensor?bytes=5000000");
    for served in 1..=6 {
        assert_eq!(counted(&keep().expect(200).text()).0, served);
    }
    keep().expect_problem(502, "out-of-memory");
    assert_eq!(counted(&keep().expect(200).text()).0, 1);
}

#[test]
fn a_function_of_the_sdk_answers_the_same_from_a_reused_instance() {
    let host = Host::shared();
    let (component, model) = crate::examples::digits();
    Package::new("digits-reused", &component).model("digits", &model).reuse(ALWAYS).deploy(&host.control());
    Package::new("digits-fresh", &component).model("digits", &model).deploy(&host.control());
    for index in (0..30).cycle().take(60) {
        let body = crate::examples::digit_request(index);
        let answer = |function: &str| {
            let path = format!("/fn/default/{function}/");
            host.data().send("POST", &path, &[], body.as_bytes()).expect(200).text()
        };
        assert_eq!(answer("digits-reused"), answer("digits-fresh"), "image {index}");
    }
    Package::new("hello-reused", &guests::example("hello").component).reuse(ALWAYS).deploy(&host.control());
    let (to, key) = (host.invoke_address().to_string(), host.tenant_key().to_string());
    let make =
        move |n| load::request("GET", &to, &format!("/fn/default/hello-reused/?name=Ada{n}"), &key, "");
    let names = Arc::new(Mutex::new(HashSet::new()));
    let keep = names.clone();
    let answered = load::runtime().block_on(load::run(host.invoke_address(), 8, 2_000, make, move |r| {
        assert_eq!(r.status, 200, "{}", r.text());
        keep.lock().expect("no panic").insert(r.text());
    }));
    assert_eq!((answered, names.lock().expect("no panic").len()), (2_000, 2_000), "each its own greeting");
}

#[test]
fn an_instance_never_serves_another_version_or_function() {
    let host = Host::shared();
    reusing("versions").deploy(&host.control());
    reusing("twin").deploy(&host.control());
    assert_eq!((count(&host, "versions"), count(&host, "versions")), (1, 2));
    assert_eq!(count(&host, "twin"), 1);
    reusing("versions").deploy(&host.control());
    assert_eq!(count(&host, "versions"), 1);
    assert_eq!(count(&host, "versions@1"), 3);
}

#[test]
fn going_cold_ends_the_idle_instances() {
    let host = Host::start();
    let package = reusing("sleeps").limit("memory_bytes", 256 << 20).keep_alive_ms(300);
    package.deploy(&host.control());
    let state = || {
        let json = host.control().get("/api/v1/functions/sleeps").expect(200).json();
        json["state"].as_str().expect("a state").to_string()
    };
    let cold = || wait_for("the function to be cold", PATIENCE, || (state() == "cold").then_some(()));
    let mut memory = Vec::new();
    for _ in 0..4 {
        assert_eq!(count(&host, "sleeps"), 1, "an instance outlived its function");
        host.invoke("sleeps", "/keep-memory?bytes=100000000").expect(200);
        assert!(host.process().maps(".cwasm"));
        cold();
        wait_for("the code to be unmapped", PATIENCE, || (!host.process().maps(".cwasm")).then_some(()));
        memory.push(host.process().private_bytes() >> 20);
    }
    assert!(memory.iter().max() < Some(&(memory[0] + 50)), "MiB held while cold: {memory:?}");
    assert!(memory[0] < 100, "MiB held while cold: {memory:?}");
}

#[test]
fn an_instance_without_a_request_ends_although_its_function_is_busy() {
    let host = Host::start();
    let package = reusing("two").limit("memory_bytes", 256 << 20).keep_alive_ms(3_000);
    package.deploy(&host.control());
    let full = std::thread::scope(|scope| {
        let slow = scope.spawn(|| host.invoke("two", "/count?ms=1500").expect(200));
        std::thread::sleep(Duration::from_millis(300));
        host.invoke("two", "/keep-memory?bytes=100000000").expect(200);
        let full = host.process().private_bytes();
        slow.join().expect("no panic");
        full
    });
    // The instance that was used last is the one that goes on; the other holds 100 MB.
    wait_for("the other to end", PATIENCE, || {
        assert!(count(&host, "two") > 1);
        (host.process().private_bytes() + (80 << 20) < full).then_some(())
    });
}

#[test]
fn idle_instances_give_way_to_those_that_are_needed() {
    let host = Host::builder().config("instances_max = 2\n").start();
    reusing("hoards").deploy(&host.control());
    Package::rogue("needs").deploy(&host.control());
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| host.invoke("hoards", "/count?ms=500").expect(200));
        host.invoke("hoards", "/count?ms=500").expect(200);
        slow.join().expect("no panic");
    });
    // Both places of the host are taken by idle instances.
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| host.invoke("needs", "/count?ms=500"));
        host.invoke("needs", "/count?ms=500").expect(200);
        slow.join().expect("no panic").expect(200);
    });
    assert_eq!(count(&host, "hoards"), 1);
}

#[test]
fn outbound_connections_are_given_back_from_request_to_request() {
    let host = Host::builder().config("outbound_allow_networks = [\"127.0.0.0/8\"]\n").start();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let _ = socket.read(&mut [0; 4096]);
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi");
        }
    });
    let named = serde_json::json!([format!("localhost:{port}")]);
    reusing("fetches").set("/outbound", named).deploy(&host.control());
    for _ in 0..40 {
        let path = format!("/outbound?url=http://localhost:{port}/");
        assert_eq!(host.invoke("fetches", &path).expect(200).text(), "status 200\nhi\n");
    }
    assert_eq!(count(&host, "fetches"), 41, "all on one instance");
}
