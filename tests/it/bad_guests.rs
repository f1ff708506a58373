//! Guests that trap, spin, swell or say nothing: each gets a clear answer, is billed, and hurts nobody.

use std::time::{Duration, Instant};
use vesta_tests::cores::{self, Side};
use vesta_tests::{Host, Package, wat};

/// Small limits, so that misbehaviour ends soon; time enough by the wall clock on a busy machine.
fn rogue(name: &str) -> Package {
    Package::rogue(name).limit("cpu_ms", 300).limit("wall_ms", 60_000).limit("memory_bytes", 32 << 20)
}

/// Invokes a misdeed and checks its answer, its record and its bill; and that the next request is served.
#[track_caller]
fn misdeed(host: &Host, function: &str, path: &str, status: u16, code: &str, outcome: &str) {
    let reply = host.invoke(function, path).expect_problem(status, code);
    assert!(!reply.detail().is_empty(), "{path}: {}", reply.text());
    let record = host.record(&reply.invocation());
    assert_eq!(record["outcome"], outcome, "{path}: {record}");
    assert_eq!(record["status"], status, "{path}: {record}");
    assert!(record["guest_cpu_ns"].as_u64() > Some(0), "{path}: what ran is billed: {record}");
    assert!(reply.billed_cpu_us() > 0 && reply.cost() > 0, "{path}: {:?}", reply.headers);
    host.invoke(function, "/ok").expect(200);
}

#[test]
fn a_panic_is_a_trap() {
    let host = Host::shared();
    rogue("panics").deploy(&host.control());
    misdeed(&host, "panics", "/trap", 502, "guest-trap", "trap");
    let text = host.invoke("panics", "/trap").text();
    for inner in ["/rustc/", ".rs:", "wasmtime", "0x"] {
        assert!(!text.contains(inner), "the answer shows {inner:?} of the inside: {text}");
    }
}

#[test]
fn an_endless_loop_ends_at_its_cpu_limit() {
    let host = Host::shared();
    rogue("loops").deploy(&host.control());
    misdeed(&host, "loops", "/loop", 504, "cpu-limit", "cpu_limit");
    let billed = host.invoke("loops", "/loop").billed_cpu_us();
    assert!((300_000..500_000).contains(&billed), "a limit of 300 ms, and {billed} us are billed");
}

#[test]
fn endless_recursion_is_a_trap() {
    let host = Host::shared();
    rogue("recurses").deploy(&host.control());
    misdeed(&host, "recurses", "/recurse?depth=0", 502, "guest-trap", "trap");
    host.invoke("recurses", "/recurse?depth=100").expect(200);
}

#[test]
fn a_memory_bomb_ends_at_its_memory_limit() {
    let host = Host::shared();
    rogue("swells").deploy(&host.control());
    let before = host.process().private_bytes();
    misdeed(&host, "swells", "/memory", 502, "out-of-memory", "out_of_memory");
    let got: u64 = host.invoke("swells", "/memory-politely").expect(200).text().parse().expect("MiB");
    assert!((16..32).contains(&got), "of 32 MiB the guest got {got}");
    let grown = host.process().private_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "the host keeps {grown} bytes of a bomb");
}

#[test]
fn table_and_instance_bombs_are_stopped() {
    let host = Host::shared();
    Package::wat("table-bomb", &wat::handler(wat::TABLE_BOMB)).deploy(&host.control());
    let reply = host.invoke("table-bomb", "/").expect_problem(502, "out-of-memory");
    assert_eq!(host.record(&reply.invocation())["outcome"], "out_of_memory");

    for (name, text) in [
        ("huge-memory", wat::handler(wat::HUGE_MEMORY)),
        ("huge-table", wat::handler(wat::HUGE_TABLE)),
        ("many-instances", wat::many_instances(5_000)),
    ] {
        let done = Package::wat(name, &text).try_deploy(&host.control());
        if done["state"] == "failed" {
            let detail = done["error"]["detail"].as_str().unwrap_or_default();
            assert!(!detail.is_empty(), "{name}: {done}");
        } else {
            let reply = host.invoke(name, "/");
            assert!(matches!(reply.status, 502 | 503), "{name}: {reply:?}");
            assert!(!reply.detail().is_empty(), "{name}: {reply:?}");
        }
    }
    rogue("after-bombs").deploy(&host.control());
    host.invoke("after-bombs", "/ok").expect(200);
}

#[test]
fn saying_nothing_saying_error_and_exiting_are_bad_gateways() {
    let host = Host::shared();
    rogue("speechless").deploy(&host.control());
    misdeed(&host, "speechless", "/nothing", 502, "no-response", "guest_error");
    misdeed(&host, "speechless", "/error", 502, "guest-error", "guest_error");
    for path in ["/exit?code=0", "/exit?code=1"] {
        let reply = host.invoke("speechless", path).expect(502);
        assert!(reply.cost() > 0, "{path}");
    }
    host.invoke("speechless", "/ok").expect(200);
}

#[test]
fn waiting_ends_at_the_wall_limit_and_costs_nearly_nothing() {
    let host = Host::shared();
    rogue("sleeps").limit("wall_ms", 1_000).deploy(&host.control());
    let start = Instant::now();
    misdeed(&host, "sleeps", "/sleep?ms=60000", 504, "wall-limit", "wall_limit");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let reply = host.invoke("sleeps", "/sleep?ms=60000").expect(504);
    assert!(reply.billed_cpu_us() < 5_000, "{} us for waiting", reply.billed_cpu_us());
}

#[test]
fn an_endless_response_is_cut_at_its_limit_and_never_looks_whole() {
    let host = Host::shared();
    rogue("endless").limit("response_body_bytes", 1 << 20).deploy(&host.control());
    let api = host.data();
    let runtime = vesta_tests::load::runtime();
    let received = runtime.block_on(async {
        let mut connection =
            vesta_tests::load::Connection::http1(host.invoke_address()).await.expect("connect");
        let key = api.key().expect("a key");
        let path = "/fn/default/endless/infinite";
        let request = vesta_tests::load::request("GET", host.invoke_address(), path, key, "");
        connection.send(request).await.expect("the head")
    });
    assert!(!received.whole, "a cut body must not end as if it were whole");
    assert!(received.body.len() <= 1 << 20, "{} bytes of at most 1 MiB", received.body.len());
    let record = host.record(received.invocation());
    assert_eq!(record["outcome"], "response_limit", "{record}");
    assert!(record["guest_cpu_ns"].as_u64() > Some(0), "{record}");
    host.invoke("endless", "/ok").expect(200);
    // What is known beforehand to be too long is refused before a byte is sent.
    let reply = host.data().try_send("GET", "/fn/default/endless/big?bytes=2000000", &[], b"");
    assert!(reply.as_ref().map_or(true, |r| r.status == 502), "{reply:?}");
}

#[test]
fn a_trap_half_way_through_the_body_breaks_it_off() {
    let host = Host::shared();
    rogue("half").deploy(&host.control());
    for (path, outcome) in [("/half", "trap"), ("/lie", "guest_error")] {
        let reply = host.data().try_send("GET", &format!("/fn/default/half{path}"), &[], b"");
        assert!(reply.as_ref().map_or(true, |r| r.status == 502), "{path}: {reply:?}");
        let record = &host.records("half")[0];
        assert_eq!(record["outcome"], outcome, "{path}: {record}");
    }
}

#[test]
fn hanging_on_input_that_never_comes_ends_at_the_wall_limit() {
    use std::io::{Read, Write};
    let host = Host::shared();
    rogue("waits").limit("wall_ms", 1_000).deploy(&host.control());
    let mut socket = std::net::TcpStream::connect(host.invoke_address()).expect("connect");
    let head = format!(
        "POST /fn/default/waits/hang-input HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-length: 100\r\n\r\nhalf",
        host.tenant_key()
    );
    socket.write_all(head.as_bytes()).expect("send");
    socket.set_read_timeout(Some(vesta_tests::PATIENCE)).expect("a timeout");
    let mut answer = [0; 4096];
    let n = socket.read(&mut answer).expect("an answer");
    let text = String::from_utf8_lossy(&answer[..n]);
    assert!(text.starts_with("HTTP/1.1 504"), "{text}");
    let record = &host.records("waits")[0];
    assert_eq!(record["outcome"], "wall_limit", "{record}");
    assert_eq!(record["bytes_in"], 4, "{record}");
}

#[test]
fn work_after_the_answer_is_billed() {
    let host = Host::shared();
    Package::rogue("diligent").deploy(&host.control());
    let plain = host.invoke("diligent", "/burn?units=100").expect(200).billed_cpu_us();
    let reply = host.invoke("diligent", "/after?units=100").expect(200);
    assert_eq!(reply.text(), "answered first\n");
    let record = host.record(&reply.invocation());
    let after = record["billed_cpu_us"].as_u64().expect("billed_cpu_us");
    assert!(after * 2 > plain, "{after} us billed for work after the answer, {plain} for the same before");
}

#[test]
fn one_misbehaving_function_does_not_slow_the_others() {
    let host = Host::shared();
    rogue("bully").limit("cpu_ms", 3_000).deploy(&host.control());
    Package::rogue("bystander").deploy(&host.control());
    host.invoke("bystander", "/ok").expect(200);
    std::thread::scope(|scope| {
        let bullies: Vec<_> = (0..4).map(|_| scope.spawn(|| host.invoke("bully", "/loop").status)).collect();
        std::thread::sleep(Duration::from_millis(200));
        let start = Instant::now();
        for _ in 0..5 {
            host.invoke("bystander", "/ok").expect(200);
        }
        let took = start.elapsed();
        assert!(took < Duration::from_secs(3), "5 small requests took {took:?} beside 4 endless loops");
        for bully in bullies {
            assert_eq!(bully.join().expect("no panic"), 504);
        }
    });
}

/// A host on one core has one worker thread: whoever asks waits for the guest on it to yield.
#[test]
fn a_guest_that_never_ends_lets_others_run_on_the_only_worker() {
    let host = cores::on(Side::Server, Host::start);
    rogue("endless").limit("cpu_ms", 3_000).deploy(&host.control());
    host.invoke("endless", "/ok").expect(200);
    std::thread::scope(|scope| {
        let endless = scope.spawn(|| host.invoke("endless", "/loop").status);
        std::thread::sleep(Duration::from_millis(300));
        let mut waits: Vec<Duration> = (0..30)
            .map(|_| {
                let begun = Instant::now();
                host.control().get("/healthz").expect(200);
                begun.elapsed()
            })
            .collect();
        waits.sort();
        // Two milliseconds where the machine does nothing else; 60 and more where the worker looks for input
        // only now and then.
        assert!(waits[10] < Duration::from_millis(30), "{waits:?}");
        assert!(!endless.is_finished(), "it ended before its time");
        assert_eq!(endless.join().expect("no panic"), 504);
    });
}

#[test]
fn wrong_use_of_a_model_is_an_error_of_the_guest_that_names_it() {
    let host = Host::shared();
    let digits =
        vesta_tests::guests::model("digits/models/digits.onnx").expect("digits.onnx is in the repository");
    Package::rogue("models").model("digits", &digits).deploy(&host.control());
    let name = "image";

    let infer = |query: &str| {
        let reply = host.invoke("models", &format!("/infer?{query}")).expect(200);
        assert!(reply.cost() > 0);
        reply.text()
    };
    let sound = infer(&format!("model=digits&input={name}&shape=1x64&type=f32&bytes=256"));
    assert!(!sound.starts_with("error"), "{sound}");
    let has = |text: String, words: &[&str]| {
        assert!(text.starts_with("error"), "{text}");
        for word in words {
            assert!(text.contains(word), "no {word:?} in {text}");
        }
    };
    has(infer("model=nobody&input=x&shape=1&type=f32&bytes=4"), &["NotFound", "nobody"]);
    has(infer("model=digits&input=wrong&shape=1x64&type=f32&bytes=256"), &["InvalidArgument", "wrong"]);
    has(
        infer(&format!("model=digits&input={name}&shape=1x63&type=f32&bytes=252")),
        &["InvalidArgument", "63"],
    );
    has(infer(&format!("model=digits&input={name}&shape=1x64&type=f32&bytes=255")), &["InvalidArgument"]);
    has(infer(&format!("model=digits&input={name}&shape=1x64&type=i64&bytes=512")), &["InvalidArgument"]);
    let huge = format!("model=digits&input={name}&shape=4000000000x4000000000x64&type=f32&bytes=256");
    has(infer(&huge), &["InvalidArgument"]);
    let own = host.invoke("models", "/own-model?bytes=1000").expect(200).text();
    has(own, &[]);
    host.invoke("models", "/ok").expect(200);
}

#[test]
fn a_function_reaches_only_its_own_models() {
    let host = Host::shared();
    let digits =
        vesta_tests::guests::model("digits/models/digits.onnx").expect("digits.onnx is in the repository");
    Package::rogue("with-model").model("secret", &digits).deploy(&host.control());
    Package::rogue("without-model").deploy(&host.control());
    let text = host.invoke("without-model", "/infer?model=secret&input=x&shape=1&bytes=4").expect(200).text();
    assert!(text.contains("NotFound"), "{text}");
}
