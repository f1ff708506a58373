//! Connections: how long they are waited for, and what clients that do not read hold.

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};
use vesta_tests::load::{self, Connection};
use vesta_tests::{Host, PATIENCE, Package, wait_for};

/// A connection over which `text` was sent.
fn sent(address: &str, text: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).expect("connect");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
    socket.write_all(text.as_bytes()).expect("send");
    socket
}

fn get(path: &str, key: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n")
}

/// Everything up to the end of the connection.
fn rest(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = socket.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One answer of a known body.
fn answer(socket: &mut TcpStream, body: &str) -> String {
    let mut text = String::new();
    let mut piece = [0; 1024];
    while !text.ends_with(body) {
        let n = socket.read(&mut piece).expect("an answer");
        assert!(n > 0, "the connection ended after {text:?}");
        text.push_str(&String::from_utf8_lossy(&piece[..n]));
    }
    text
}

#[test]
fn a_client_that_closes_its_own_side_gets_its_answer() {
    let host = Host::shared();
    Package::rogue("half-closed").deploy(&host.control());
    let (address, key) = (host.invoke_address(), host.tenant_key());
    // At once, after the first bytes were sent to see whether it is there, and piece by piece.
    for (path, body) in [
        ("/ok", "ok\n"),
        ("/sleep?ms=900", "slept\n"),
        ("/sleep?ms=2000", "slept\n"),
        ("/trickle?chunks=5&ms=200", "0\r\n\r\n"),
    ] {
        let mut socket = sent(address, &get(&format!("/fn/default/half-closed{path}"), key));
        socket.shutdown(Shutdown::Write).expect("shutdown");
        let text = rest(&mut socket);
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {text:?}");
        assert!(text.ends_with(body), "{path}: {text:?}");
    }
    // Several requests, then the end; and one with a body.
    let two = get("/fn/default/half-closed/sleep?ms=300", key) + &get("/fn/default/half-closed/ok", key);
    let mut socket = sent(address, &two);
    socket.shutdown(Shutdown::Write).expect("shutdown");
    let text = rest(&mut socket);
    assert!(text.contains("slept\n") && text.ends_with("ok\n"), "{text:?}");
    assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{text:?}");
    let post = format!(
        "POST /fn/default/half-closed/echo HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 5\r\n\r\nhello"
    );
    let mut socket = sent(address, &post);
    socket.shutdown(Shutdown::Write).expect("shutdown");
    assert!(rest(&mut socket).ends_with("hello"));
    // The control API does the same.
    let mut socket = sent(host.control_address(), &get("/api/v1/whoami", key));
    socket.shutdown(Shutdown::Write).expect("shutdown");
    assert!(rest(&mut socket).starts_with("HTTP/1.1 200 OK\r\n"));
    // Again and again: the body and the end may come together.
    for _ in 0..60 {
        let mut socket = sent(address, &post);
        socket.shutdown(Shutdown::Write).expect("shutdown");
        assert!(rest(&mut socket).ends_with("hello"));
    }
    // What does not fit a socket's buffers, to a client that takes its time.
    let large = "/fn/default/half-closed/big?bytes=12000000";
    let mut socket = sent(address, &get(large, key));
    socket.shutdown(Shutdown::Write).expect("shutdown");
    std::thread::sleep(Duration::from_millis(500));
    let text = rest(&mut socket);
    assert!(text.len() > 12_000_000, "{} bytes", text.len());
    // A body that breaks off is no request.
    let mut socket = sent(address, &post[..post.len() - 2]);
    let begun = Instant::now();
    socket.shutdown(Shutdown::Write).expect("shutdown");
    rest(&mut socket);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn a_client_that_has_gone_loses_its_guest() {
    let host = Host::shared();
    Package::rogue("gone").limit("wall_ms", 60_000).deploy(&host.control());
    let socket = sent(host.invoke_address(), &get("/fn/default/gone/sleep?ms=50000", host.tenant_key()));
    std::thread::sleep(Duration::from_millis(300));
    drop(socket);
    let begun = Instant::now();
    let record = wait_for("the record of a client that has gone", PATIENCE, || {
        host.records("gone").into_iter().next()
    });
    assert_eq!(record["outcome"], "client_gone", "{record}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn a_quiet_connection_is_kept_for_as_long_as_is_set() {
    // By default for longer than a head is waited for.
    let host = Host::shared();
    Package::rogue("quiet").deploy(&host.control());
    let request = get("/fn/default/quiet/ok", host.tenant_key());
    let mut kept = sent(host.invoke_address(), &request);
    answer(&mut kept, "ok\n");

    let short = Host::builder().config("keep_alive_seconds = 2\n").start();
    Package::rogue("large").deploy(&short.control());
    // Nor is a connection quiet while its answer is read slowly.
    let path = "/fn/default/large/big?bytes=12000000";
    let mut slow = sent(short.invoke_address(), &get(path, short.tenant_key()));
    std::thread::sleep(Duration::from_secs(4));
    slow.shutdown(Shutdown::Write).expect("shutdown");
    assert!(rest(&mut slow).len() > 12_000_000);
    let whoami = get("/api/v1/whoami", short.tenant_key());
    for address in [short.control_address(), short.invoke_address()] {
        let mut socket = sent(address, &whoami);
        let mut piece = [0; 4096];
        assert!(socket.read(&mut piece).expect("an answer") > 0);
        let begun = Instant::now();
        assert_eq!(rest(&mut socket), "");
        let took = begun.elapsed().as_secs_f64();
        assert!((1.5..5.0).contains(&took), "{took}");
    }
    std::thread::sleep(Duration::from_secs(8));
    kept.write_all(request.as_bytes()).expect("send");
    answer(&mut kept, "ok\n");
    // A head that has begun has to come within 10 s.
    kept.write_all(&request.as_bytes()[..20]).expect("send");
    let begun = Instant::now();
    rest(&mut kept);
    let took = begun.elapsed().as_secs_f64();
    assert!((8.0..15.0).contains(&took), "{took}");
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let host = Host::shared();
    Package::rogue("large-head").deploy(&host.control());
    host.invoke("large-head", "/large-head?bytes=20000").expect(200);
    let refused = host.invoke("large-head", "/large-head?bytes=40000").expect_problem(502, "guest-error");
    assert!(refused.detail().contains("32768 bytes"), "{}", refused.detail());
}

#[test]
fn clients_that_ask_for_nothing_give_their_places_to_others() {
    let host = Host::builder().config("connections_max = 20\n").start();
    Package::rogue("sought").limit("wall_ms", 30_000).deploy(&host.control());
    let request = get("/fn/default/sought/ok", host.tenant_key());
    // One that is at work, one between requests, and many that say nothing or never finish a head.
    let mut busy = sent(host.invoke_address(), &get("/fn/default/sought/sleep?ms=4000", host.tenant_key()));
    for address in [host.invoke_address(), host.control_address()] {
        let mut idle: Vec<_> =
            (0..60).map(|n| sent(address, if n % 2 == 0 { "" } else { "GET / HTTP/1.1\r\nx: " })).collect();
        let mut took: Vec<f64> = (0..40)
            .map(|_| {
                let begun = Instant::now();
                match address == host.invoke_address() {
                    true => assert!(answer(&mut sent(address, &request), "ok\n").starts_with("HTTP/1.1 200")),
                    false => drop(host.control().get("/api/v1/whoami").expect(200)),
                }
                idle.push(sent(address, ""));
                begun.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        took.sort_by(f64::total_cmp);
        println!("beside connections that ask for nothing: p50 {:.1} ms, p99 {:.1} ms", took[20], took[39]);
        assert!(took[39] < 1_000.0, "{took:?}");
    }
    assert!(answer(&mut busy, "slept\n").starts_with("HTTP/1.1 200"));
}

#[test]
fn refusals_are_counted_and_told_with_their_caller() {
    let host = Host::start();
    Package::rogue("refuses").deploy(&host.control());
    let prefix = host.tenant_key().split('_').nth(1).expect("a prefix").to_string();
    for n in 0..50 {
        if n == 30 {
            // Longer than the time of one sample.
            std::thread::sleep(Duration::from_millis(1_100));
        }
        host.invoke("nobody", "/").expect_problem(404, "not-found");
        host.invoke("refuses", "/status?code=418").expect(418);
        host.invoke("refuses", "/status?code=503").expect(503);
        host.control().get("/api/v1/functions/nobody").expect(404);
        host.control().without_key().get("/api/v1/functions").expect(401);
    }
    let metrics = host.control().without_key().get("/metrics").expect(200).text();
    for series in [
        r#"listener="invocations",reason="not-found",class="4xx""#,
        r#"listener="invocations",reason="function",class="4xx""#,
        r#"listener="invocations",reason="function",class="5xx""#,
        r#"listener="control",reason="no-such-function",class="4xx""#,
        r#"listener="control",reason="no-key",class="4xx""#,
    ] {
        assert!(metrics.contains(&format!("vesta_refusals_total{{{series}}} 50")), "{series}: {metrics}");
    }
    let log = host.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("vesta::refusals")).collect();
    // A sample of them, each with its caller, and the function where there is one.
    assert!((8..60).contains(&told.len()), "{told:#?}");
    assert!(told.iter().any(|line| !line.contains("passed_over=0")), "{told:#?}");
    assert!(told.iter().all(|line| line.contains("from=127.0.0.1:")), "{told:#?}");
    let of = |text: &str| told.iter().filter(|line| line.contains(text)).count();
    assert!(of("default/refuses") >= 1 && of(&prefix) >= 3 && of("no-key") >= 1, "{told:#?}");
    let secret = host.tenant_key().rsplit('_').next().expect("a secret");
    assert!(told.iter().all(|line| !line.contains(secret)), "{told:#?}");
}

/// A client of HTTP/2 that reads as much of each answer as it must.
async fn reluctant(address: &str) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
    let io = TokioIo::new(tokio::net::TcpStream::connect(address).await.expect("connect"));
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(1).initial_connection_window_size(1 << 20);
    let (sender, connection) = builder.handshake(io).await.expect("a handshake");
    tokio::spawn(connection);
    sender
}

#[test]
fn answers_that_nobody_reads_are_bounded_and_their_memory_is_there_again_at_once() {
    const CLIENTS: usize = 40;
    const EACH: usize = 200;
    let host = Host::builder().config("memory = \"512MiB\"\n").start();
    let mallory = host.tenant("mallory");
    let package = Package::rogue("unread").limit("concurrency", 1_000).limit("wall_ms", 20_000);
    package.deploy(&host.control().with_key(&mallory));
    Package::rogue("neighbour").deploy(&host.control());
    host.invoke("neighbour", "/ok").expect(200);
    let before = host.process().private_bytes();
    let address = host.invoke_address().to_string();
    load::runtime().block_on(async {
        let (mut held, mut clients) = (Vec::new(), Vec::new());
        let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
        for _ in 0..CLIENTS {
            let mut sender = reluctant(&address).await;
            for _ in 0..EACH {
                let path = "/fn/mallory/unread/big?bytes=60000";
                let request = load::request("GET", &address, path, &mallory, "");
                let answer =
                    tokio::time::timeout(Duration::from_secs(10), sender.send_request(request)).await;
                let Ok(Ok(answer)) = answer else { break };
                *statuses.entry(answer.status().as_u16()).or_default() += 1;
                held.push(answer);
            }
            clients.push(sender);
        }
        let whole = host.process().private_bytes().saturating_sub(before);
        println!("{} answers unread ({statuses:?}): the host holds {} MiB more", held.len(), whole >> 20);
        assert!(statuses[&429] > 0 && statuses[&200] > 50, "{statuses:?}");
        assert!(whole < 200 << 20, "{whole}");
        // Another tenant is served meanwhile.
        let mut took = Vec::new();
        for _ in 0..100 {
            let begun = Instant::now();
            let request = load::request("GET", &address, "/fn/default/neighbour/ok", host.tenant_key(), "");
            let mut connection = Connection::http1(&address).await.expect("connect");
            assert_eq!(connection.send(request).await.expect("an answer").status, 200);
            took.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        took.sort_by(f64::total_cmp);
        println!("another tenant's requests meanwhile: p50 {:.1} ms, p99 {:.1} ms", took[50], took[98]);
        assert!(took[98] < 500.0, "{took:?}");
    });
    // They have gone: what they held is given to others within a second.
    let begun = Instant::now();
    wait_for("the answers to have gone", PATIENCE, || {
        (host.metrics().sum_of("vesta_memory_bytes", "buffers") < 1e6).then_some(())
    });
    println!("the answers' memory is free after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}
