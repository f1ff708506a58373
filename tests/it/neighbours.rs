//! What one tenant does to the host's shared parts, and what its neighbour notices of it.

use serde_json::json;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use vesta_tests::{Host, Package};

/// Requests of the neighbour.
const REQUESTS: usize = 100;

/// The time that each of the neighbour's requests takes, in milliseconds: at the median, and at the 99th
/// percentile. Each is a cold start.
fn cold_starts(host: &Host) -> [f64; 2] {
    let mut took: Vec<f64> = (0..REQUESTS)
        .map(|_| {
            thread::sleep(Duration::from_millis(30));
            let begun = Instant::now();
            host.invoke("neighbour", "/ok").expect(200);
            begun.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    took.sort_by(f64::total_cmp);
    [took[REQUESTS / 2], took[REQUESTS * 99 / 100 - 1]]
}

fn neighbour(host: &Host) {
    Package::rogue("neighbour").keep_alive_ms(1).deploy(&host.control());
    host.invoke("neighbour", "/ok").expect(200);
}

/// What the neighbour notices while 10 clients of another tenant request `path` one time after another.
fn beside(host: &Host, function: &str, key: &str, path: &str) -> [f64; 2] {
    const CLIENTS: usize = 10;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let (data, done) = (host.data().with_key(key), &done);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    data.get(&format!("/fn/mallory/{function}{path}"));
                }
            });
        }
        thread::sleep(Duration::from_secs(1));
        let took = cold_starts(host);
        done.store(true, Ordering::Relaxed);
        took
    })
}

#[test]
fn a_silent_name_server_holds_up_nobody_else() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let server = silent.local_addr().expect("an address");
    let host = Host::builder().config(&format!("name_servers = [\"{server}\"]\n")).start();
    neighbour(&host);
    let alone = cold_starts(&host);
    let mallory = host.tenant("mallory");
    Package::rogue("asks")
        .set("/outbound", json!(["name.example.com"]))
        .limit("wall_ms", 300)
        .deploy(&host.control().with_key(&mallory));
    let beside = beside(&host, "asks", &mallory, "/outbound?url=http://name.example.com/");
    println!("cold starts beside look-ups without answers: {beside:.1?} ms (p50, p99); alone {alone:.1?}");
    assert!(beside[1] < 1_000.0, "{beside:?}");
    // The guest is told, and not left alone.
    Package::rogue("waits")
        .set("/outbound", json!(["other.example.com"]))
        .limit("wall_ms", 20_000)
        .deploy(&host.control());
    let said = host.invoke("waits", "/outbound?url=http://other.example.com/").expect(200).text();
    assert!(said.starts_with("refused"), "{said}");
}

#[test]
fn random_bytes_without_end_are_refused_and_hold_up_nobody() {
    const MIB: u64 = 1 << 20;
    let host = Host::builder().config("memory = \"1GiB\"\n").start();
    neighbour(&host);
    let alone = cold_starts(&host);
    let mallory = host.tenant("mallory");
    Package::rogue("draws").limit("cpu_ms", 1_000).deploy(&host.control().with_key(&mallory));
    let data = host.data().with_key(&mallory);
    assert_eq!(data.get("/fn/mallory/draws/random?bytes=65536&times=10").expect(200).text(), "655360\n");
    data.get("/fn/mallory/draws/random?bytes=65537&times=1").expect_problem(502, "guest-trap");
    let before = host.process().private_bytes();
    for path in ["/random?bytes=67108864&times=1000", "/random?bytes=65536&times=100000"] {
        let beside = beside(&host, "draws", &mallory, path);
        let more = host.process().private_bytes().saturating_sub(before) / MIB;
        println!("{path}: cold starts {beside:.1?} ms (p50, p99), alone {alone:.1?}; {more} MiB more held");
        assert!(beside[1] < 1_000.0 && more < 200, "{beside:?}, {more} MiB");
    }
}

#[test]
fn a_long_fill_is_held_to_its_cpu_time() {
    let host = Host::start();
    neighbour(&host);
    let alone = cold_starts(&host);
    let mallory = host.tenant("mallory");
    Package::rogue("fills")
        .limit("memory_bytes", 1 << 30)
        .limit("cpu_ms", 50)
        .deploy(&host.control().with_key(&mallory));
    let data = host.data().with_key(&mallory);
    let path = "/fill?bytes=900000000&times=100";
    let reply = data.get(&format!("/fn/mallory/fills{path}"));
    reply.expect_problem(504, "cpu-limit");
    let beside = beside(&host, "fills", &mallory, path);
    println!("cold starts beside long fills: {beside:.1?} ms (p50, p99); alone {alone:.1?}");
    assert!(beside[1] < 1_000.0, "{beside:?}");
}
