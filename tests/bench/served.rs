//! P4: served `text-embed` requests per CPU-second of the server, over the same engine in a loop on one
//! thread.

use crate::Effort;
use crate::reference::{self, MiniLm};
use crate::report::Line;
use crate::stats::{interleaved, median_of, ratios, same};
use vesta_tests::cores::{self, Side};
use vesta_tests::{Host, Package, guests, load};

const CLIENTS: usize = 2;

/// `text-embed` under its own name; its model was looked for before.
pub fn package() -> Package {
    let model = guests::model("text-embed/models/minilm.onnx").expect("looked for before");
    Package::new("text-embed", &guests::example("text-embed").component).model("minilm", &model)
}

/// A host with `text-embed`, which is let go after `keep_alive_ms` without a request.
pub fn host(keep_alive_ms: u64) -> Host {
    let host = Host::builder().config("inference_slots = 1\n").start();
    package().keep_alive_ms(keep_alive_ms).deploy(&host.control());
    host
}

pub fn measure(effort: Effort) -> Vec<Line> {
    let Some(minilm) = MiniLm::find() else { return Vec::new() };
    let host = cores::on(Side::Server, || host(60_000));
    let runtime = cores::on(Side::Client, load::runtime);
    let n = effort.embeddings;
    let mut looped = || {
        let runs = n.to_string();
        let ask = || reference::ask("reference-loop", &[minilm.prepared(), &minilm.tokens, &runs]);
        cores::on(Side::Server, ask) / 1e6 / n as f64
    };
    let mut served = || {
        let before = host.process().cpu();
        let (to, key, body) =
            (host.invoke_address().to_string(), host.tenant_key().to_string(), minilm.body());
        let make = move |_| load::request("POST", &to, "/fn/default/text-embed/", &key, body.clone());
        let run = load::run(host.invoke_address(), CLIENTS, n, make, |reply| {
            assert_eq!(reply.status, 200, "{reply:?}");
        });
        assert_eq!(runtime.block_on(run), n);
        host.process().cpu().since(&before).as_secs_f64() * 1e3 / n as f64
    };
    let all = interleaved(effort.pairs.div_ceil(2), &mut [&mut looped, &mut served]);
    let (theirs, ours) = (&all[0], &all[1]);
    let (served, looped) = (median_of(ours), median_of(theirs));
    println!("text-embed warm: {served:.2} ms of server CPU a request; in a loop {looped:.2} ms (medians)");
    let what = "served text-embed per CPU-second / the engine in a loop, one thread";
    vec![
        Line::of("P4", what, &ratios(theirs, ours), 0.97, false)
            .same(&same(ours))
            .anchor("Nexus 0.84 of optimal; Triton 0.87 to 0.96"),
    ]
}
