//! P16: work and bill. For each shape of load the CPU time of the host, its workers and its children by the
//! kernel's count, over the CPU time that the records bill.

use crate::Effort;
use crate::reference::MiniLm;
use crate::report::Line;
use crate::served;
use crate::stats::median;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::runtime::Runtime;
use vesta_tests::books::BILLED;
use vesta_tests::cores::{self, Side};
use vesta_tests::load::{self, Request};
use vesta_tests::{Host, PATIENCE, Package, guests, peer, wait_for};

/// What the kernel may count for each second that is billed.
const TARGET: f64 = 1.25;
const CLIENTS: usize = 4;

/// Blocks of a shape.
const BLOCKS: usize = 5;

/// A shape of load that is one request, again and again.
struct Shape {
    id: &'static str,
    what: &'static str,
    path: &'static str,
    /// Bytes of the request's body.
    body: usize,
    /// Requests of a block.
    requests: usize,
    target: Option<f64>,
}

const SHAPES: &[Shape] = &[
    Shape {
        id: "P16-busy",
        what: "a busy guest",
        path: "/burn?units=50",
        body: 0,
        requests: 100,
        target: Some(TARGET),
    },
    Shape {
        id: "P16-calls",
        what: "100,000 tiny host calls",
        path: "/ask-the-time?times=100000",
        body: 0,
        requests: 50,
        target: Some(TARGET),
    },
    Shape {
        id: "P16-log",
        what: "10 lines of log",
        path: "/lines?count=10",
        body: 0,
        requests: 100,
        target: None,
    },
    Shape {
        id: "P16-out",
        what: "a response of 8 MiB",
        path: "/big?bytes=8388608",
        body: 0,
        requests: 40,
        target: Some(TARGET),
    },
    Shape {
        id: "P16-in",
        what: "a request of 4 MB",
        path: "/hang-input",
        body: 4_000_000,
        requests: 60,
        target: Some(TARGET),
    },
];

pub fn measure(effort: Effort) -> Vec<Line> {
    let runtime = cores::on(Side::Client, load::runtime);
    let host = cores::on(Side::Server, || Host::builder().config(peer::OPENED).start());
    let blocks = if effort.quick { 1 } else { BLOCKS };
    let bench = Bench { host: &host, runtime: &runtime, blocks, few: if effort.quick { 4 } else { 1 } };
    Package::new("hello", &guests::example("hello").component).deploy(&host.control());
    Package::rogue("works")
        .limit("cpu_ms", 60_000)
        .set("/outbound", json!([peer::HOST]))
        .deploy(&host.control());

    let mut lines = vec![bench.requests("P16-hello", "hello", None, 2_000, |to, key| {
        load::request("GET", to, "/fn/default/hello/", key, "")
    })];
    for shape in SHAPES {
        let path = format!("/fn/default/works{}", shape.path);
        let method = if shape.body > 0 { "POST" } else { "GET" };
        let body = bytes::Bytes::from(vec![b'i'; shape.body]);
        let make = move |to: &str, key: &str| load::request(method, to, &path, key, body.clone());
        lines.push(bench.requests(shape.id, shape.what, shape.target, shape.requests, make));
    }
    for (id, what, scheme, port) in [
        ("P16-outbound", "an outbound call, its answer 256 KiB", "http", peer::http(256 << 10)),
        ("P16-tls", "an outbound call that ends in the handshake of TLS", "https", peer::tls()),
    ] {
        let path = format!("/fn/default/works/outbound?url={scheme}://{}:{port}/", peer::HOST);
        let make = move |to: &str, key: &str| load::request("GET", to, &path, key, "");
        lines.push(bench.requests(id, what, Some(TARGET), 200, make));
    }
    lines.push(bench.cold_starts());
    lines.push(bench.deploys());
    lines.push(bench.moved_aliases());
    drop(host);
    lines.extend(infer(&runtime, blocks, effort));
    lines
}

fn infer(runtime: &Runtime, blocks: usize, effort: Effort) -> Option<Line> {
    let minilm = MiniLm::find()?;
    let host = cores::on(Side::Server, || served::host(60_000));
    let bench = Bench { host: &host, runtime, blocks, few: 1 };
    let body = minilm.body();
    let make =
        move |to: &str, key: &str| load::request("POST", to, "/fn/default/text-embed/", key, body.clone());
    Some(bench.requests("P16-infer", "text-embed", Some(TARGET), effort.embeddings * 2, make))
}

struct Bench<'a> {
    host: &'a Host,
    runtime: &'a Runtime,
    blocks: usize,
    /// By how much fewer requests a block has than it says.
    few: usize,
}

/// Seconds of CPU time.
struct Spent {
    kernel: f64,
    billed: f64,
}

impl Bench<'_> {
    /// What records bill up to now, in seconds.
    fn billed(&self) -> f64 {
        let usage = self.host.control().get("/api/v1/usage").expect(200).json();
        let ns = |field: &&str| usage["total"][*field].as_u64().unwrap_or_else(|| panic!("{field}: {usage}"));
        BILLED.iter().map(ns).sum::<u64>() as f64 / 1e9
    }

    fn spent(&self, work: impl FnOnce()) -> Spent {
        let (billed, kernel) = (self.billed(), self.host.process().cpu());
        work();
        // What is written later is part of it: the records, the log.
        let spent = self.billed() - billed;
        std::thread::sleep(Duration::from_millis(300));
        Spent { kernel: self.host.process().cpu().since(&kernel).as_secs_f64(), billed: spent }
    }

    /// The blocks of a shape, after one for nothing.
    fn line(
        &self,
        id: &'static str,
        what: &str,
        target: Option<f64>,
        each: usize,
        mut block: impl FnMut(),
    ) -> Line {
        block();
        let blocks: Vec<Spent> = (0..self.blocks).map(|_| self.spent(&mut block)).collect();
        Self::told(id, what, target, each, &blocks)
    }

    fn told(id: &'static str, what: &str, target: Option<f64>, each: usize, blocks: &[Spent]) -> Line {
        let of = |f: fn(&Spent) -> f64| median(&blocks.iter().map(f).collect::<Vec<_>>()) / each as f64 * 1e6;
        let (kernel, billed) = (of(|s| s.kernel), of(|s| s.billed));
        println!(
            "{what}: {kernel:.0} us of CPU by the kernel, {billed:.0} us billed: {:.2}",
            kernel / billed
        );
        let ratios: Vec<f64> = blocks.iter().map(|s| s.kernel / s.billed).collect();
        let what = format!("kernel's CPU time / billed: {what}");
        match target {
            Some(target) => Line::of(id, what, &ratios, target, true),
            None => Line::info(id, what, &ratios),
        }
    }

    fn requests(
        &self,
        id: &'static str,
        what: &str,
        target: Option<f64>,
        requests: usize,
        make: impl Fn(&str, &str) -> Request + Clone + Send + Sync + 'static,
    ) -> Line {
        let requests = requests.div_ceil(self.few);
        self.line(id, what, target, requests, || {
            let (to, key) = (self.host.invoke_address().to_string(), self.host.tenant_key().to_string());
            let make = make.clone();
            let run = load::run(
                self.host.invoke_address(),
                CLIENTS,
                requests,
                move |_| make(&to, &key),
                |reply| {
                    assert_eq!(reply.status, 200, "{reply:?}");
                },
            );
            assert_eq!(self.runtime.block_on(run), requests);
        })
    }

    /// `hello` from cold: its fixed cost has a price line of its own. Each is looked at by itself, since the
    /// requests that ask whether it is cold take more than it does.
    fn cold_starts(&self) -> Line {
        let starts = 40usize.div_ceil(self.few * self.few);
        Package::new("cold", &guests::example("hello").component)
            .keep_alive_ms(1)
            .deploy(&self.host.control());
        let start = || {
            wait_for("cold to be cold", PATIENCE, || {
                let json = self.host.control().get("/api/v1/functions/cold").expect(200).json();
                (json["state"] == "cold").then_some(())
            });
            let before = self.host.process().cpu();
            let reply = self.host.invoke("cold", "/").expect(200);
            assert!(reply.timing("cold") > Some(0.0), "{reply:?}");
            let kernel = self.host.process().cpu().since(&before).as_secs_f64();
            Spent { kernel, billed: reply.billed_cpu_us() as f64 / 1e6 }
        };
        start();
        let all: Vec<Spent> = (0..starts).map(|_| start()).collect();
        Self::told("P16-cold", "a cold start of hello", None, 1, &all)
    }

    /// Components that differ, so that each is compiled.
    fn deploys(&self) -> Line {
        let deploys = if self.few > 1 { 1 } else { 4 };
        let mut number = 0;
        let package = Package::new("deployed", &guests::example("hello").component);
        self.line("P16-deploy", "a deployment of hello", Some(TARGET), deploys, || {
            for _ in 0..deploys {
                number += 1;
                package.distinct(number).deploy(&self.host.control());
            }
        })
    }

    /// Nobody pays for these: how many a tenant may do is bounded, so what counts is what one takes.
    fn moved_aliases(&self) -> Line {
        let moves = 100usize.div_ceil(self.few);
        let before = self.host.process().cpu();
        for n in 0..moves {
            let version: Value = json!({ "version": 1 + n % 2 });
            self.host.control().put_json("/api/v1/functions/deployed/aliases/live", &version).expect(200);
        }
        std::thread::sleep(Duration::from_millis(300));
        let us = self.host.process().cpu().since(&before).as_secs_f64() * 1e6 / moves as f64;
        println!("a moved alias: {us:.0} us of CPU by the kernel, none billed");
        Line::info("P16-alias", "CPU that a moved alias takes", &[us]).unit("us")
    }
}
