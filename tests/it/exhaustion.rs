//! One tenant tries to use up each thing that a host has, with the settings that it comes with. The other's
//! requests go through.

use prost::Message;
use serde_json::json;
use std::net::{TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use vesta_tests::load::{self, Connection};
use vesta_tests::{Host, Package};

/// Requests of the other tenant beside each attempt.
const REQUESTS: usize = 60;
/// The longest of them may take so long: a minute's time-out is not near, and a shared machine may stall.
const LONGEST: Duration = Duration::from_secs(8);

struct Attempt<'h> {
    host: &'h Host,
    mallory: String,
    alice: String,
}

impl Attempt<'_> {
    /// Alice's requests: each is a cold start, or a run of a model. Prints what she notices.
    fn alice_is_served(&self, beside: &str) {
        let data = self.host.data().with_key(&self.alice);
        let mut took: Vec<f64> = (0..REQUESTS)
            .map(|n| {
                std::thread::sleep(Duration::from_millis(20));
                let begun = Instant::now();
                match n % 3 {
                    0 => data.get("/fn/alice/cold/ok").expect(200),
                    1 => data.get("/fn/alice/warm/ok").expect(200),
                    _ => data.get("/fn/alice/model/run?model=m&in=x:f32:1x4:1").expect(200),
                };
                begun.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        took.sort_by(f64::total_cmp);
        println!("{beside:>40}: p50 {:>6.1} ms, p99 {:>6.1} ms", took[REQUESTS / 2], took[REQUESTS - 1]);
        assert!(took[REQUESTS - 1] < LONGEST.as_secs_f64() * 1e3, "{beside}: {took:.1?}");
    }

    /// Beside so many clients of Mallory's that send one request after another; they see statuses of
    /// `expected` only. `refused` are those of them that must be seen.
    fn beside(
        &self,
        name: &str,
        clients: usize,
        method: &str,
        path: &str,
        expected: &[u16],
        refused: &[u16],
    ) {
        let done = Arc::new(AtomicBool::new(false));
        let others = Arc::new(std::sync::Mutex::new(std::collections::BTreeMap::<u16, usize>::new()));
        let is_control = path.starts_with("/api/");
        let address = if is_control { self.host.control_address() } else { self.host.invoke_address() };
        let runtime = load::runtime();
        for n in 0..clients {
            let (done, others) = (done.clone(), others.clone());
            let (address, key, method) = (address.to_string(), self.mallory.clone(), method.to_string());
            let path = path.replace("{n}", &(n % 17).to_string());
            runtime.spawn(async move {
                while !done.load(Relaxed) {
                    let Ok(mut connection) = Connection::http1(&address).await else { continue };
                    while !done.load(Relaxed) {
                        let request = load::request(&method, &address, &path, &key, "{\"version\":1}");
                        let Ok(answer) = connection.send(request).await else { break };
                        *others.lock().expect("lock").entry(answer.status).or_default() += 1;
                        if answer.status == 429 || answer.status == 503 {
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_secs(2));
        self.alice_is_served(name);
        done.store(true, Relaxed);
        runtime.shutdown_background();
        let seen = others.lock().expect("lock").clone();
        println!("{:>40}  mallory got {seen:?}", "");
        assert!(!seen.is_empty(), "{name}: mallory got no answer");
        assert!(seen.keys().all(|status| expected.contains(status)), "{name}: {seen:?}");
        assert!(refused.iter().all(|status| seen.contains_key(status)), "{name}: not refused: {seen:?}");
    }
}

#[test]
fn what_one_tenant_tries_to_use_up_is_there_for_the_other() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let servers = format!("name_servers = [\"{}\"]\n", silent.local_addr().expect("an address"));
    // The rest is as it comes; there is no name server on a test's machine.
    let host = Host::builder().config(&servers).start();
    let (mallory, alice) = (host.tenant("mallory"), host.tenant("alice"));
    let attempt = Attempt { host: &host, mallory, alice };
    let control = host.control().with_key(&attempt.alice);
    Package::rogue("cold").keep_alive_ms(1).deploy(&control);
    Package::rogue("warm").deploy(&control);
    Package::rogue("model").model("m", &crate::onnx::sound().encode_to_vec()).deploy(&control);
    let control = host.control().with_key(&attempt.mallory);
    for n in 0..17 {
        let package = Package::rogue(&format!("f{n}")).limit("concurrency", 1_000).limit("wall_ms", 10_000);
        package
            .model("m", &crate::onnx::slow())
            .set("/outbound", json!(["name.example.com"]))
            .deploy(&control);
    }
    attempt.alice_is_served("alone");

    let f = |path: &str| format!("/fn/mallory/f{{n}}{path}");
    // More than there are.
    attempt.beside("instances", 1_200, "GET", &f("/sleep?ms=3000"), &[200, 429], &[429]);
    attempt.beside("memory", 200, "GET", &f("/memory-politely"), &[200, 429, 503, 504], &[]);
    attempt.beside(
        "inference slots",
        64,
        "GET",
        &f("/infer?model=m&input=x&shape=2048x256&bytes=2097152"),
        &[200, 429, 502, 503, 504],
        &[],
    );
    attempt.beside(
        "look-ups",
        64,
        "GET",
        &f("/outbound?url=http://name.example.com/"),
        &[200, 429, 502, 504],
        &[],
    );
    attempt.beside("logs", 32, "GET", &f("/log?lines=2000"), &[200, 429, 502, 503, 504], &[]);
    attempt.beside("the database, read", 32, "GET", "/api/v1/usage?by=function,day", &[200, 429, 503], &[]);
    attempt.beside(
        "the database, written",
        32,
        "PUT",
        "/api/v1/functions/f{n}/aliases/a",
        &[200, 201, 204, 429, 503],
        &[],
    );
    connections(&attempt);
    preparations(&attempt);
}

/// Connections that ask for nothing, as many as there can be and more.
fn connections(attempt: &Attempt<'_>) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised)
        .expect("a limit that may be raised");
    let most = limit.maximum.unwrap_or(20_000).min(20_000) as usize - 500;
    for address in [attempt.host.invoke_address(), attempt.host.control_address()] {
        let mut held = Vec::new();
        while held.len() < 10_500.min(most) {
            held.push(TcpStream::connect(address).expect("connect"));
        }
        attempt.alice_is_served(&format!("{} idle connections", held.len()));
        let whoami = attempt.host.control().with_key(&attempt.alice).get("/api/v1/whoami");
        whoami.expect(200);
    }
}

/// Deployments whose preparation takes long, as many as may be under way.
fn preparations(attempt: &Attempt<'_>) {
    let control = attempt.host.control().with_key(&attempt.mallory);
    for n in 0..16 {
        // Each compiles the component anew.
        Package::rogue(&format!("slow{n}")).distinct(n).commit(&control);
    }
    let begun = Instant::now();
    Package::rogue("deployed").distinct(99).deploy(&attempt.host.control().with_key(&attempt.alice));
    let took = begun.elapsed();
    println!("{:>40}: alice's deployment beside 16 takes {took:.1?}", "preparing children");
    let running =
        (0..16).filter(|n| control.get(&format!("/api/v1/functions/slow{n}")).status != 200).count();
    assert!(
        running > 0,
        "{running} of 16 deployments were still under way: alice's did not wait for them all"
    );
    attempt.alice_is_served("preparing children");
}
