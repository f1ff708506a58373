//! Too much of anything has its own status.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use vesta_tests::{Host, PATIENCE, Package};

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
