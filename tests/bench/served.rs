//! Served `text-embed` requests per CPU-second of the server, over the same engine in a loop on one thread.

use crate::Effort;
use crate::reference::{self, MiniLm};
use crate::report::Line;
use vesta_tests::{Host, Package, guests, load};

const CLIENTS: usize = 2;

/// A host with `text-embed`, which is let go after `keep_alive_ms` without a request.
pub fn host(keep_alive_ms: u64) -> Host {
    let host = Host::builder().config("inference_threads = 1\n").start();
    let model = guests::model("text-embed/models/minilm.onnx").expect("looked for before");
    Package::new("text-embed", &guests::example("text-embed").component)
        .model("minilm", &model)
        .keep_alive_ms(keep_alive_ms)
        .deploy(&host.control());
    host
}

pub fn measure(effort: Effort) -> Vec<Line> {
    let Some(minilm) = MiniLm::find() else { return Vec::new() };
    let host = host(60_000);
    let runtime = load::runtime();
    let n = effort.embeddings;
    let served = || {
        let before = host.process().cpu();
        let (to, key, body) =
            (host.invoke_address().to_string(), host.tenant_key().to_string(), minilm.body());
        let make = move |_| load::request("POST", &to, "/fn/default/text-embed/", &key, body.clone());
        let run = load::run(host.invoke_address(), CLIENTS, n, make, |reply| {
            assert_eq!(reply.status, 200, "{reply:?}");
        });
        assert_eq!(runtime.block_on(run), n);
        host.process().cpu().since(&before).as_secs_f64() / n as f64
    };
    let looped = || {
        let runs = n.to_string();
        reference::ask("reference-loop", &[minilm.prepared(), &minilm.tokens, &runs]) / 1e9 / n as f64
    };
    served();
    looped();
    let (mut ratios, mut ours, mut theirs) = (Vec::new(), 0.0, 0.0);
    for _ in 0..effort.pairs {
        let (a1, b1, b2, a2) = (served(), looped(), looped(), served());
        ratios.push((b1 + b2) / (a1 + a2));
        (ours, theirs) = (ours + a1 + a2, theirs + b1 + b2);
    }
    let per = 1e3 / (2 * effort.pairs) as f64;
    println!(
        "text-embed warm: {:.2} ms of server CPU a request; in a loop {:.2} ms (means)",
        ours * per,
        theirs * per
    );
    vec![Line::of("P4", "served text-embed per CPU-second / the engine in a loop", &ratios, 0.9, false)]
}
