//! Bodies, trailers, and where the bill stands.

use http_body_util::BodyExt;
use vesta_tests::load::{self, Connection, Received, Request};
use vesta_tests::{Host, PATIENCE, Package, wait_for};

const BILL: [&str; 3] = ["vesta-cost", "vesta-billed-cpu-us", "server-timing"];

fn fetch(host: &Host, http2: bool, path: &str, change: impl FnOnce(&mut Request)) -> Received {
    let mut request = load::request("GET", host.invoke_address(), path, host.tenant_key(), "");
    change(&mut request);
    load::runtime().block_on(async {
        let address = host.invoke_address();
        let connection =
            if http2 { Connection::http2(address).await } else { Connection::http1(address).await };
        connection.expect("connect").send(request).await.expect("a response")
    })
}

fn te(request: &mut Request) {
    request.headers_mut().insert("te", "trailers".parse().expect("a value"));
}

#[track_caller]
fn record_agrees(host: &Host, received: &Received) {
    let record = host.record(received.invocation());
    assert_eq!(record["charge"].as_str(), received.value("vesta-cost"), "{record}");
    let billed = received.value("vesta-billed-cpu-us").and_then(|v| v.parse::<u64>().ok());
    assert_eq!(record["billed_cpu_us"].as_u64(), billed, "{record}");
    assert_eq!(record["bytes_out"].as_u64(), Some(received.body.len() as u64), "{record}");
}

#[test]
fn a_short_body_is_held_until_the_guest_is_done_and_carries_its_bill_in_headers() {
    let host = Host::shared();
    Package::rogue("short").deploy(&host.control());
    for path in ["/ok", "/big?bytes=65536", "/big?bytes=60000&chunked"] {
        let received = fetch(&host, false, &format!("/fn/default/short{path}"), |_| ());
        assert!(received.whole && received.trailers.is_empty(), "{path}: {received:?}");
        for name in BILL {
            assert!(received.headers.contains_key(name), "{path}: no {name}: {:?}", received.headers);
        }
        record_agrees(&host, &received);
    }
    let reply = host.invoke("short", "/burn?units=50").expect(200);
    let (guest, total) = (reply.timing("guest").expect("guest"), reply.timing("total").expect("total"));
    assert!(guest > 0.0 && guest <= total, "{reply:?}");
    assert!(reply.timing("queue").is_some() && reply.timing("infer").is_some(), "{reply:?}");
}

#[test]
fn a_long_body_carries_its_bill_in_trailers_for_those_who_take_them() {
    let host = Host::shared();
    Package::rogue("long").deploy(&host.control());
    let path = "/fn/default/long/big?bytes=300000&chunked";

    let http1 = fetch(&host, false, path, te);
    assert!(http1.whole && http1.body.len() == 300_000);
    let http2 = fetch(&host, true, path, |_| ());
    assert!(http2.whole && http2.body.len() == 300_000);
    for received in [&http1, &http2] {
        assert!(received.headers.contains_key("vesta-invocation-id"), "{:?}", received.headers);
        for name in BILL {
            assert!(received.trailers.contains_key(name), "no {name}: {:?}", received.trailers);
            assert!(!received.headers.contains_key(name), "{name} twice: {:?}", received.headers);
        }
        record_agrees(&host, received);
    }

    let plain = fetch(&host, false, path, |_| ());
    assert!(plain.whole && plain.trailers.is_empty(), "not asked for: {:?}", plain.trailers);
    assert_eq!(host.record(plain.invocation())["bytes_out"], 300_000);
}

#[test]
fn a_guests_own_trailers_arrive() {
    let host = Host::shared();
    Package::rogue("own-trailers").deploy(&host.control());
    for bytes in [0, 100, 100_000] {
        let path = format!("/fn/default/own-trailers/trailers?bytes={bytes}");
        for (http2, received) in
            [(true, fetch(&host, true, &path, |_| ())), (false, fetch(&host, false, &path, te))]
        {
            let sum = received.trailers.get("x-sum").and_then(|v| v.to_str().ok());
            assert_eq!(sum, Some(&*bytes.to_string()), "{http2} {received:?}");
            assert!(received.whole && received.body.len() == bytes, "{http2} {received:?}");
            let bill = if bytes == 100_000 { &received.trailers } else { &received.headers };
            assert!(bill.contains_key("vesta-cost"), "{http2} {received:?}");
        }
        // A client that takes none gets the answer without them.
        let plain = fetch(&host, false, &path, |_| ());
        assert!(plain.whole && plain.trailers.is_empty() && plain.body.len() == bytes, "{plain:?}");
    }
}

#[test]
fn an_answer_that_was_whole_is_an_answer_whatever_its_guest_does_then() {
    let host = Host::shared();
    Package::rogue("parting").deploy(&host.control());
    for (path, outcome) in [("/answer-then-exit", "guest_error"), ("/answer-then-trap", "trap")] {
        let reply = host.invoke("parting", path).expect(200);
        assert_eq!(reply.text(), "answered first\n", "{path}");
        let record = host.record(&reply.invocation());
        assert!(["trap", outcome].contains(&record["outcome"].as_str().expect("an outcome")), "{record}");
        assert_eq!(record["bytes_out"], 15, "{record}");
    }
    // Also where it goes on for a while, and over a limit.
    Package::rogue("works-on").limit("cpu_ms", 100).limit("wall_ms", 700).deploy(&host.control());
    for http2 in [false, true] {
        for (path, outcome) in [
            ("/after?units=100000", "cpu_limit"),
            ("/answer-then-sleep?ms=5000", "wall_limit"),
            ("/answer-then-sleep-and-trap?ms=50", "trap"),
        ] {
            let received = fetch(&host, http2, &format!("/fn/default/works-on{path}"), |_| ());
            assert!(received.whole && received.status == 200, "{path}: {received:?}");
            assert_eq!(&received.body[..], b"answered first\n", "{path}");
            assert_eq!(host.record(received.invocation())["outcome"], outcome, "{path}");
        }
    }
    // Half of one is none.
    let half = fetch(&host, false, "/fn/default/parting/half", |_| ());
    assert!(!half.whole, "{half:?}");
}

#[test]
fn the_head_of_a_stream_comes_at_once() {
    let host = Host::shared();
    Package::rogue("heads").limit("wall_ms", 5_000).deploy(&host.control());
    for http2 in [false, true] {
        for path in ["/infinite", "/events?ms=3000", "/trickle?chunks=3&ms=2000", "/ok", "/big?bytes=300000"]
        {
            let begun = std::time::Instant::now();
            let received = fetch(&host, http2, &format!("/fn/default/heads{path}"), |request| {
                *request.method_mut() = "HEAD".parse().expect("a method");
            });
            assert!(begun.elapsed() < std::time::Duration::from_secs(1), "{path}: {:?}", begun.elapsed());
            assert_eq!((received.status, received.body.len()), (200, 0), "{path}: {received:?}");
            assert_eq!(host.record(received.invocation())["outcome"], "ok", "{path}");
        }
        // Nor has a refusal a body.
        let refused = fetch(&host, http2, "/fn/default/nobody/", |request| {
            *request.method_mut() = "HEAD".parse().expect("a method");
        });
        assert_eq!((refused.status, refused.body.len()), (404, 0), "{refused:?}");
    }
    // An event stream begins before its first event.
    let address = host.invoke_address();
    let request = load::request("GET", address, "/fn/default/heads/events?ms=1500", host.tenant_key(), "");
    load::runtime().block_on(async {
        let mut connection = Connection::http1(address).await.expect("connect");
        let begun = std::time::Instant::now();
        connection.begin(request).await.expect("a head");
        assert!(begun.elapsed() < std::time::Duration::from_secs(1), "{:?}", begun.elapsed());
    });
}

#[test]
fn only_final_statuses_are_answers_and_some_have_no_body() {
    let host = Host::shared();
    Package::rogue("statuses").deploy(&host.control());
    for code in [200, 299, 404, 599] {
        assert_eq!(host.invoke("statuses", &format!("/status?code={code}")).status, code);
    }
    for code in [100, 103, 199, 600, 999] {
        host.invoke("statuses", &format!("/status?code={code}")).expect_problem(502, "guest-error");
    }
    for code in [204, 205, 304] {
        for http2 in [false, true] {
            let received = fetch(&host, http2, &format!("/fn/default/statuses/status?code={code}"), |_| ());
            assert_eq!((received.status, received.body.len()), (code, 0), "{received:?}");
            assert!(received.whole, "{received:?}");
        }
    }
}

#[test]
fn a_request_has_one_host() {
    use std::io::{Read, Write};
    let host = Host::shared();
    Package::rogue("hosted").set("/public", serde_json::json!(true)).deploy(&host.control());
    let ask = |hosts: &str, version: &str| {
        let mut stream = std::net::TcpStream::connect(host.invoke_address()).expect("connect");
        let request = format!("GET /fn/default/hosted/ok HTTP/{version}\r\n{hosts}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    assert!(ask("host: a\r\n", "1.1").starts_with("HTTP/1.1 200"));
    assert!(ask("", "1.0").starts_with("HTTP/1.0 200"));
    assert!(ask("host: a\r\nhost: b\r\n", "1.0").contains(" 400 "));
    for hosts in ["", "host: a\r\nhost: a\r\n", "host: a\r\nhost: b\r\n"] {
        let answer = ask(hosts, "1.1");
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("no-host"), "{answer}");
    }
    // A tenant's host name is its own, whatever the path says.
    let answer = ask("host: shop.default.localhost\r\n", "1.1");
    assert!(answer.starts_with("HTTP/1.1 401") || answer.starts_with("HTTP/1.1 404"), "{answer}");
    // Under the name that all share a page has no origin.
    let answer = ask("host: localhost\r\n", "1.1").to_ascii_lowercase();
    assert!(answer.contains("x-content-type-options: nosniff"), "{answer}");
    assert!(answer.contains("content-security-policy: sandbox"), "{answer}");
    assert!(!ask("host: hosted.default.localhost\r\n", "1.1").contains("sandbox"));
}

#[test]
fn bodies_stream_both_ways() {
    let host = Host::shared();
    Package::rogue("streams").deploy(&host.control());
    let body: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    let reply = host.data().send("POST", "/fn/default/streams/echo", &[], &body).expect(200);
    assert!(reply.body == body, "3 MB come back as they were");
    let record = host.record(&reply.invocation());
    assert_eq!((&record["bytes_in"], &record["bytes_out"]), (&3_000_000.into(), &3_000_000.into()));

    // The first piece arrives while the guest still works on the others.
    let address = host.invoke_address();
    let path = "/fn/default/streams/trickle?chunks=5&ms=400";
    let request = load::request("GET", address, path, host.tenant_key(), "");
    load::runtime().block_on(async {
        let mut connection = Connection::http1(address).await.expect("connect");
        let start = std::time::Instant::now();
        let response = connection.begin(request).await.expect("a head");
        let mut body = response.into_body();
        let first = body.frame().await.expect("a frame").expect("no error");
        let first_after = start.elapsed();
        assert!(first.into_data().is_ok_and(|d| d.starts_with(b"chunk 0")));
        while body.frame().await.is_some() {}
        assert!(
            first_after * 2 < start.elapsed(),
            "first piece after {first_after:?} of {:?}",
            start.elapsed()
        );
    });
}

#[test]
fn many_requests_share_one_http2_connection() {
    let host = Host::shared();
    Package::rogue("multiplexed").deploy(&host.control());
    let address = host.invoke_address().to_string();
    load::runtime().block_on(async {
        let Connection::Http2(sender) = Connection::http2(&address).await.expect("connect") else {
            panic!("asked for HTTP/2");
        };
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..20 {
            let mut connection = Connection::Http2(sender.clone());
            let path = format!("/fn/default/multiplexed/status?code={}", 200 + n);
            let request = load::request("GET", &address, &path, host.tenant_key(), "");
            tasks.spawn(async move { (200 + n, connection.send(request).await.expect("a response").status) });
        }
        while let Some(done) = tasks.join_next().await {
            let (asked, got) = done.expect("no panic");
            assert_eq!(asked, got);
        }
    });
}

#[test]
fn a_client_that_goes_away_is_recorded_once() {
    let host = Host::shared();
    Package::rogue("abandoned").deploy(&host.control());
    let address = host.invoke_address();
    let path = "/fn/default/abandoned/trickle?chunks=100000&ms=10";
    let request = load::request("GET", address, path, host.tenant_key(), "");
    let id = load::runtime().block_on(async {
        let mut connection = Connection::http1(address).await.expect("connect");
        let response = connection.begin(request).await.expect("a head");
        let id = response.headers()["vesta-invocation-id"].to_str().expect("text").to_string();
        let first = response.into_body().frame().await.expect("a frame").expect("no error");
        assert!(first.is_data());
        id
    });
    let record = wait_for("the record of a client that went away", PATIENCE, || {
        let reply = host.control().get(&format!("/api/v1/invocations/{id}"));
        (reply.status == 200).then(|| reply.json())
    });
    assert_eq!(record["outcome"], "client_gone", "{record}");
    assert!(record["guest_cpu_ns"].as_u64() > Some(0), "{record}");
    assert_eq!(host.records("abandoned").len(), 1);

    // Gone before there was an answer.
    let mut socket = std::net::TcpStream::connect(address).expect("connect");
    let key = host.tenant_key();
    let text = format!(
        "GET /fn/default/abandoned/sleep?ms=300 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n"
    );
    std::io::Write::write_all(&mut socket, text.as_bytes()).expect("send");
    std::thread::sleep(std::time::Duration::from_millis(100));
    drop(socket);
    wait_for("the second record", PATIENCE, || (host.records("abandoned").len() == 2).then_some(()));
}

#[test]
fn a_client_that_stops_reading_loses_its_guest_at_the_deadline() {
    let host = Host::shared();
    let package = Package::rogue("unread").limit("wall_ms", 1_000).limit("concurrency", 1);
    package.limit("response_body_bytes", 1 << 30).deploy(&host.control());
    let mut socket = std::net::TcpStream::connect(host.invoke_address()).expect("connect");
    let key = host.tenant_key();
    let text = format!(
        "GET /fn/default/unread/big?bytes=1000000000&chunked HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n"
    );
    std::io::Write::write_all(&mut socket, text.as_bytes()).expect("send");
    let record = wait_for("the record of a response that nobody reads", PATIENCE, || {
        host.records("unread").into_iter().next()
    });
    assert_eq!(record["outcome"], "wall_limit", "{record}");
    assert!(record["bytes_out"].as_u64() < Some(1_000_000_000), "{record}");
    // Its place is free again, although the connection is still open.
    host.invoke("unread", "/ok").expect(200);
    drop(socket);
}

#[test]
fn a_long_body_of_declared_length_is_recorded_before_its_last_byte() {
    let host = Host::shared();
    Package::rogue("declared").deploy(&host.control());
    for http2 in [false, true] {
        let received = fetch(&host, http2, "/fn/default/declared/big?bytes=300000", |_| ());
        assert!(received.whole && received.body.len() == 300_000, "{:?}", received.headers);
        let record = host.record(received.invocation());
        assert_eq!(record["outcome"], "ok", "{record}");
        assert_eq!(record["bytes_out"], 300_000, "{record}");
    }
}

#[test]
fn head_is_answered_with_the_head_alone_and_is_billed() {
    let host = Host::shared();
    Package::rogue("headless").deploy(&host.control());
    for (http2, path) in
        [(false, "/ok"), (true, "/ok"), (false, "/big?bytes=300000&chunked"), (false, "/status?code=204")]
    {
        let received = fetch(&host, http2, &format!("/fn/default/headless{path}"), |request| {
            *request.method_mut() = "HEAD".parse().expect("a method");
        });
        assert!((200..300).contains(&received.status) && received.body.is_empty(), "{path}: {received:?}");
        let record = host.record(received.invocation());
        assert_eq!((&record["outcome"], &record["bytes_out"]), (&"ok".into(), &0.into()), "{path}: {record}");
        assert_eq!(record["charge"].as_str(), received.value("vesta-cost"), "{path}: {record}");
    }
}

#[test]
fn a_connection_on_which_nothing_is_asked_is_closed() {
    use std::io::{Read, Write};
    let host = Host::shared();
    for (address, begin) in
        [(host.invoke_address(), ""), (host.invoke_address(), "PRI * HT"), (host.control_address(), "")]
    {
        let mut silent = std::net::TcpStream::connect(address).expect("connect");
        silent.write_all(begin.as_bytes()).expect("write");
        silent.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let read = silent.read(&mut [0; 16]);
        // An end or a reset, but no waiting for ever.
        let timed_out = read.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!timed_out && !matches!(read, Ok(n) if n > 0), "{begin:?}: {read:?}");
    }
}
