//! Too much of anything has its own status.

use crate::onnx;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use vesta_tests::books::Books;
use vesta_tests::{Host, PATIENCE, Package, wait_for};

/// Sends bytes as they are and gives what came back until the host closed or fell silent.
fn raw(host: &Host, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(host.invoke_address()).expect("connect");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    // The host may answer and close before it has read everything.
    let _ = socket.write_all(bytes);
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_request_body_over_the_limit_is_413() {
    let host = Host::shared();
    Package::rogue("small-bodies").limit("request_body_bytes", 10_000).deploy(&host.control());
    let post = |bytes: usize| {
        let body = vec![b'x'; bytes];
        host.data().send("POST", "/fn/default/small-bodies/hang-input", &[], &body)
    };
    assert_eq!(post(10_000).expect(200).text(), "10000 bytes, end\n");
    let reply = post(10_001).expect(413);
    assert!(reply.detail().contains("10000"), "the message names the limit: {}", reply.text());

    // The same without a Content-Length, so that only counting can tell.
    let chunk = format!("{:x}\r\n{}\r\n", 6_000, "x".repeat(6_000));
    let head = format!(
        "POST /fn/default/small-bodies/hang-input HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         authorization: Bearer {}\r\ntransfer-encoding: chunked\r\n\r\n",
        host.tenant_key()
    );
    let answer = raw(&host, format!("{head}{chunk}{chunk}0\r\n\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let answer = raw(&host, format!("{head}{chunk}0\r\n\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("6000 bytes, end"), "{answer}");
}

#[test]
fn headers_over_the_limit_are_431_and_nonsense_is_400() {
    let host = Host::shared();
    Package::rogue("headers").deploy(&host.control());
    let head = format!(
        "GET /fn/default/headers/ok HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\n",
        host.tenant_key()
    );
    let big = raw(&host, format!("{head}x-big: {}\r\n\r\n", "y".repeat(1 << 20)).as_bytes());
    assert!(big.starts_with("HTTP/1.1 431"), "{}", &big[..big.len().min(300)]);
    let many = "x-many: y\r\n".repeat(2_000);
    let many = raw(&host, format!("{head}{many}\r\n").as_bytes());
    assert!(many.starts_with("HTTP/1.1 431"), "{}", &many[..many.len().min(300)]);
    let nonsense = raw(&host, b"certainly not HTTP\r\n\r\n");
    assert!(nonsense.starts_with("HTTP/1.1 400"), "{nonsense}");
    host.invoke("headers", "/ok").expect(200);
}

#[test]
fn a_client_that_sends_its_headers_too_slowly_is_let_go() {
    let host = Host::shared();
    let mut socket = TcpStream::connect(host.invoke_address()).expect("connect");
    socket.write_all(b"GET / HTTP/1.1\r\nhost:").expect("send");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut answer = Vec::new();
    let ended = socket.read_to_end(&mut answer);
    assert!(ended.is_ok(), "the connection stays open for ever: {ended:?}");
}

#[test]
fn more_at_once_than_the_functions_concurrency_is_429() {
    let host = Host::shared();
    Package::rogue("narrow").limit("concurrency", 2).deploy(&host.control());
    host.invoke("narrow", "/ok").expect(200);
    let replies: Vec<_> = std::thread::scope(|scope| {
        let invoke = || host.invoke("narrow", "/sleep?ms=3000");
        let four: Vec<_> = (0..4).map(|_| scope.spawn(invoke)).collect();
        four.into_iter().map(|one| one.join().expect("no panic")).collect()
    });
    let (served, refused): (Vec<_>, Vec<_>) = replies.into_iter().partition(|r| r.status == 200);
    assert_eq!((served.len(), refused.len()), (2, 2), "{refused:?}");
    for reply in refused {
        let reply = reply.expect_problem(429, "concurrency");
        let after: u64 = reply.header("retry-after").expect("Retry-After").parse().expect("seconds");
        assert!((1..=60).contains(&after), "{after}");
    }
    host.invoke("narrow", "/ok").expect(200);
}

#[test]
fn a_methods_and_paths_variety_reaches_the_guest() {
    let host = Host::shared();
    Package::rogue("methods").deploy(&host.control());
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        host.data().send(method, "/fn/default/methods/ok?x=%20y", &[], b"").expect(200);
    }
    let head = host.data().send("HEAD", "/fn/default/methods/ok", &[], b"").expect(200);
    assert!(head.body.is_empty());
    assert_eq!(host.invoke("methods", "/status?code=418").expect(418).text(), "status\n");
}

/// Invokes a rogue's model with so many rows of so many zeros; the path ends with the query.
fn rows(path: &str, rows: u64, columns: u64) -> String {
    format!("{path}?model=m&input=x&shape={rows}x{columns}&type=f32&bytes={}", rows * columns * 4)
}

/// Rows for which [`onnx::slow`] takes several seconds anywhere.
const MANY_ROWS: u64 = 30_000;

/// The record of an invocation whose model may still run when its client has the answer.
fn recorded(host: &Host, invocation: &str) -> Value {
    wait_for("the record of an invocation whose model was ended", PATIENCE, || {
        let reply = host.control().get(&format!("/api/v1/invocations/{invocation}"));
        (reply.status == 200).then(|| reply.json())
    })
}

#[track_caller]
fn number(record: &Value, field: &str) -> u64 {
    record[field].as_u64().unwrap_or_else(|| panic!("no {field}: {record}"))
}

/// Whether a line of an invocation is in its function's log.
#[track_caller]
fn is_logged(host: &Host, function: &str, invocation: &str, words: &str) {
    wait_for(&format!("{words:?} in the log of {function}"), PATIENCE, || {
        let text =
            host.control().get(&format!("/api/v1/functions/{function}/logs?limit=100")).expect(200).text();
        text.lines().any(|l| l.contains(invocation) && l.contains(words)).then_some(())
    });
}

#[track_caller]
fn books_balance(host: &Host, before: &Books) {
    let spent = Books::of(host).since(before);
    assert!(
        spent.unattributed().abs() <= 0.05,
        "{:.2} % is nobody's: {spent:?}",
        spent.unattributed() * 100.0
    );
}

#[test]
fn the_wall_limit_holds_for_the_client_while_a_model_runs() {
    let host = Host::start();
    let package = Package::rogue("slow-model").model("m", &onnx::slow());
    package.limit("wall_ms", 1_000).deploy(&host.control());
    host.invoke("slow-model", &rows("/infer", 1, 256)).expect(200);
    let before = Books::of(&host);
    let (mut fastest, mut held_ns) = (Duration::MAX, u64::MAX);
    for n in 1..=3 {
        let begun = Instant::now();
        let reply =
            host.invoke("slow-model", &rows("/infer", MANY_ROWS, 256)).expect_problem(504, "wall-limit");
        fastest = fastest.min(begun.elapsed());
        let record = recorded(&host, &reply.invocation());
        assert_eq!((&record["outcome"], &record["status"]), (&"wall_limit".into(), &504.into()), "{record}");
        assert_eq!(number(&record, "inferences"), 1, "{record}");
        let cpu_ms = number(&record, "inference_cpu_ns") / 1_000_000;
        assert!((50..1_500).contains(&cpu_ms), "{cpu_ms} ms of CPU are billed for a second: {record}");
        held_ns = held_ns.min(number(&record, "memory_ns"));
        assert!(number(&record, "model_memory_peak_bytes") > MANY_ROWS * 256 * 4, "{record}");
        assert_eq!(host.records("slow-model").len(), 2 * n, "each has one record");
        host.invoke("slow-model", &rows("/infer", 1, 256)).expect(200);
    }
    // The machine may be busy: the fastest of three.
    assert!((1_000..1_300).contains(&fastest.as_millis()), "a limit of 1 s, and an answer after {fastest:?}");
    assert!(held_ns < 1_300_000_000, "memory is charged for {held_ns} ns");
    books_balance(&host, &before);
}

#[test]
fn a_run_whose_client_goes_away_is_ended_and_billed() {
    let host = Host::start();
    Package::rogue("left-model").model("m", &onnx::slow()).deploy(&host.control());
    host.invoke("left-model", &rows("/infer", 1, 256)).expect(200);
    let before = Books::of(&host);
    let mut socket = TcpStream::connect(host.invoke_address()).expect("connect");
    let (path, key) = (rows("/infer", MANY_ROWS, 256), host.tenant_key());
    let text = format!(
        "GET /fn/default/left-model{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n"
    );
    socket.write_all(text.as_bytes()).expect("send");
    std::thread::sleep(Duration::from_millis(700));
    drop(socket);
    let left = Instant::now();
    let record = wait_for("the record of a client that went away", PATIENCE, || {
        host.records("left-model").into_iter().find(|r| r["outcome"] == "client_gone")
    });
    assert!(left.elapsed() < Duration::from_secs(2), "the run went on for {:?}", left.elapsed());
    let cpu_ms = number(&record, "inference_cpu_ns") / 1_000_000;
    assert!((50..1_500).contains(&cpu_ms), "{record}");
    host.invoke("left-model", &rows("/infer", 1, 256)).expect(200);
    books_balance(&host, &before);
}

#[test]
fn a_run_past_its_cpu_time_is_ended_and_billed_what_it_used() {
    let host = Host::start();
    let package = Package::rogue("long-run").model("m", &onnx::slow());
    package.limit("inference_ms", 500).deploy(&host.control());
    host.invoke("long-run", &rows("/infer", 1, 256)).expect(200);
    let before = Books::of(&host);
    let reply = host.invoke("long-run", &rows("/infer-or-trap", MANY_ROWS, 256));
    let reply = reply.expect_problem(504, "inference-limit");
    assert!(reply.detail().contains("limits.inference"), "{}", reply.text());
    let record = host.record(&reply.invocation());
    assert_eq!((&record["outcome"], &record["status"]), (&"inference_limit".into(), &504.into()), "{record}");
    let cpu_ms = number(&record, "inference_cpu_ns") / 1_000_000;
    assert!((450..800).contains(&cpu_ms), "a limit of 500 ms, and {cpu_ms} ms are billed: {record}");
    is_logged(&host, "long-run", &reply.invocation(), "inference-limit");
    // A guest that handles the error answers as it likes.
    let text = host.invoke("long-run", &rows("/infer", MANY_ROWS, 256)).expect(200).text();
    assert!(text.contains("inference-limit") && text.contains("500 ms"), "{text}");
    host.invoke("long-run", &rows("/infer", 1, 256)).expect(200);
    books_balance(&host, &before);
}

#[test]
fn a_run_past_its_memory_is_ended_and_the_host_serves_on() {
    let host = Host::start();
    const LIMIT: u64 = 256 << 20;
    let package = Package::rogue("wide-run").model("m", &onnx::square());
    package.limit("model_memory_bytes", LIMIT).deploy(&host.control());
    let sound = onnx::changed(|_| {});
    Package::rogue("narrow-run").model("m", &sound).deploy(&host.control());
    // 2,000 rows take 16 MB.
    let small = host.invoke("wide-run", &rows("/infer", 2_000, 1)).expect(200);
    let peak = number(&host.record(&small.invocation()), "model_memory_peak_bytes");
    assert!((16_000_000..64_000_000).contains(&peak), "{peak}");
    // 102 GB and 400 MB.
    for many in [160_000, 10_000] {
        let reply =
            host.invoke("wide-run", &rows("/infer-or-trap", many, 1)).expect_problem(502, "model-memory");
        assert!(reply.detail().contains("limits.model_memory"), "{}", reply.text());
        let record = host.record(&reply.invocation());
        assert_eq!(
            (&record["outcome"], &record["status"]),
            (&"model_memory".into(), &502.into()),
            "{record}"
        );
        // Nobody knows what a run held whose worker has ended.
        assert_eq!(number(&record, "model_memory_peak_bytes"), 0, "{record}");
        is_logged(&host, "wide-run", &reply.invocation(), "model-memory");
        host.invoke("narrow-run", "/infer?model=m&input=x&shape=1x4&type=f32&bytes=16").expect(200);
        host.invoke("wide-run", &rows("/infer", 2_000, 1)).expect(200);
    }
}
