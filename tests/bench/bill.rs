//! P6: the bill. What nobody is billed for and the platform does not own up to either; the bill of a guest
//! against the kernel's count; the bill of one request on a quiet and on an oversubscribed machine.

use crate::Effort;
use crate::reference::MiniLm;
use crate::report::Line;
use crate::served;
use crate::stats::{interleaved, median, quantile, ratios, same};
use vesta_tests::books::{Books, Burn, Neighbours};
use vesta_tests::cores::{self, Side};
use vesta_tests::load::{self, Request};
use vesta_tests::{Host, Package, guests};

const CLIENTS: usize = 16;
/// Neighbours that share the host's core with it where the machine is oversubscribed.
const OVERSUBSCRIBED: usize = 4;

pub fn hello(effort: Effort) -> Vec<Line> {
    let host = cores::on(Side::Server, Host::start);
    Package::new("hello", &guests::example("hello").component).deploy(&host.control());
    let (address, key) = (host.invoke_address().to_string(), host.tenant_key().to_string());
    let make = move |_| load::request("GET", &address, "/fn/default/hello/", &key, "");
    vec![unattributed("P6-hello", "hello", &host, effort, effort.hellos * 5, make)]
}

pub fn minilm(effort: Effort) -> Vec<Line> {
    let Some(minilm) = MiniLm::find() else { return Vec::new() };
    let host = cores::on(Side::Server, || served::host(60_000));
    let (address, key) = (host.invoke_address().to_string(), host.tenant_key().to_string());
    let body = minilm.body();
    let make = move |_| load::request("POST", &address, "/fn/default/text-embed/", &key, body.clone());
    vec![unattributed("P6-minilm", "text-embed", &host, effort, effort.embeddings * 2, make)]
}

/// The share of the process's CPU time that is neither billed nor the platform's own, block by block.
fn unattributed(
    id: &'static str,
    what: &str,
    host: &Host,
    effort: Effort,
    requests: usize,
    make: impl Fn(usize) -> Request + Clone + Send + Sync + 'static,
) -> Line {
    let runtime = cores::on(Side::Client, load::runtime);
    let block = || {
        let before = Books::of(host);
        let answered =
            runtime.block_on(load::run(host.invoke_address(), CLIENTS, requests, make.clone(), |reply| {
                assert_eq!(reply.status, 200, "{reply:?}");
            }));
        assert_eq!(answered, requests);
        Books::of(host).since(&before)
    };
    block();
    let blocks: Vec<_> = (0..effort.pairs.div_ceil(2)).map(|_| block()).collect();
    let shares: Vec<f64> = blocks.iter().map(|b| b.unattributed()).collect();
    let per_request = |of: f64| of / requests as f64 * 1e6;
    println!(
        "{what}: of {:.0} us a request {:.0} are billed and {:.0} are the platform's; unattributed {:.2} % (blocks from {:.2} % to {:.2} %)",
        per_request(median(&blocks.iter().map(|b| b.kernel).collect::<Vec<_>>())),
        per_request(median(&blocks.iter().map(|b| b.billed).collect::<Vec<_>>())),
        per_request(median(&blocks.iter().map(|b| b.platform).collect::<Vec<_>>())),
        median(&shares) * 100.0,
        quantile(&shares, 0.0) * 100.0,
        quantile(&shares, 1.0) * 100.0,
    );
    let percent: Vec<f64> = shares.iter().map(|share| share.abs() * 100.0).collect();
    let what = format!("CPU time of the process that is neither billed nor the platform's own: {what}");
    Line::of(id, what, &percent, 1.0, true).unit("%").anchor("published inflation up to 5.49 times")
}

pub fn burns(effort: Effort) -> Vec<Line> {
    let host = cores::on(Side::Server, Host::start);
    Package::rogue("burner").limit("cpu_ms", 60_000).limit("wall_ms", 300_000).deploy(&host.control());
    host.invoke("burner", "/ok").expect(200);
    let seconds = if effort.quick { 0.2 } else { 1.0 };
    let units = Burn::units(&host, "burner", seconds);
    let burn = || Burn::of(&host, "burner", units);

    let off: Vec<f64> = (0..effort.pairs.div_ceil(3)).map(|_| burn().off().abs() * 100.0).collect();
    let mut quiet = || burn().billed;
    let mut busy = || {
        let _neighbours = cores::on(Side::Server, || Neighbours::spin(OVERSUBSCRIBED));
        burn().billed
    };
    let all = interleaved(effort.pairs.div_ceil(6), &mut [&mut busy, &mut quiet]);
    let inflation: Vec<f64> = ratios(&all[0], &all[1]).iter().map(|r| (r - 1.0).abs() * 100.0).collect();
    let noise = same(&all[1]);
    vec![
        Line::of("P6-kernel", "the bill of a computing guest against the kernel's count", &off, 1.0, true)
            .unit("%"),
        Line::of(
            "P6-busy",
            "the bill of one request beside 4 spinning neighbours on its core, against quiet",
            &inflation,
            3.0,
            true,
        )
        .same(&noise)
        .unit("%")
        .anchor("published inflation up to 5.49 times; AccTEE 10 %"),
    ]
}
