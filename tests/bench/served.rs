//! P4: served `text-embed` requests per CPU-second of the server, over the same engine in a loop on one
//! thread, its weights packed as those of a model that is called often.

use crate::Effort;
use crate::reference::{self, MiniLm};
use crate::report::Line;
use crate::stats::{interleaved, median_of, ratios, same};
use vesta_tests::cores::{self, Side};
use vesta_tests::{Host, Package, guests, load};

const CLIENTS: usize = 2;
/// Clients whose short requests wait for one another, and a text of 16 tokens with these tokens.
const CROWD: usize = 12;
const SHORT: &str = "the cat sat on the mat and the dog lay on the warm red floor";
const SHORT_TOKENS: usize = 16;

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
    let looped = |role: &str| {
        let runs = n.to_string();
        let ask = || reference::ask(role, &[minilm.prepared(), &minilm.tokens, &runs]);
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
    vesta_tests::wait_for("the weights to be packed", vesta_tests::PATIENCE, || {
        served();
        (host.metric("vesta_models_packed") == 1.0).then_some(())
    });
    let (mut packed, mut mapped) = (|| looped("reference-loop-packed"), || looped("reference-loop"));
    let all = interleaved(effort.pairs.div_ceil(2), &mut [&mut packed, &mut served, &mut mapped]);
    let [packed, ours, mapped] = [&all[0], &all[1], &all[2]];
    println!(
        "text-embed warm: {:.2} ms of server CPU a request; in a loop {:.2} ms packed, {:.2} ms mapped (medians)",
        median_of(ours),
        median_of(packed),
        median_of(mapped)
    );
    let short = shorts(&host, &runtime, &minilm, effort);
    let what = "served text-embed per CPU-second / the engine in a loop, one thread, both packed";
    let than_mapped = "served text-embed per CPU-second / the engine in a loop with mapped weights";
    vec![
        Line::of("P4", what, &ratios(packed, ours), 0.97, false)
            .same(&same(ours))
            .anchor("Nexus 0.84 of optimal; Triton 0.87 to 0.96"),
        Line::info("P4-mapped", than_mapped, &ratios(mapped, ours)),
        short,
    ]
}

/// Short texts of many clients at once, whose runs are merged, over single runs in a loop.
fn shorts(host: &Host, runtime: &tokio::runtime::Runtime, minilm: &MiniLm, effort: Effort) -> Line {
    let n = effort.embeddings * 4;
    let tokens: Vec<&str> = minilm.tokens.split(',').take(SHORT_TOKENS).collect();
    let tokens = tokens.join(",");
    let body = serde_json::json!({ "texts": [SHORT] }).to_string();
    let mut looped = || {
        let runs = n.to_string();
        let ask = || reference::ask("reference-loop", &[minilm.prepared(), &tokens, &runs]);
        cores::on(Side::Server, ask) / 1e6 / n as f64
    };
    let mut served = || {
        let before = host.process().cpu();
        let (to, key, body) =
            (host.invoke_address().to_string(), host.tenant_key().to_string(), body.clone());
        let make = move |_| load::request("POST", &to, "/fn/default/text-embed/", &key, body.clone());
        let run = load::run(host.invoke_address(), CROWD, n, make, |reply| {
            assert_eq!(reply.status, 200, "{reply:?}");
        });
        assert_eq!(runtime.block_on(run), n);
        host.process().cpu().since(&before).as_secs_f64() * 1e3 / n as f64
    };
    let merged = host.metric("vesta_inference_merged_total");
    let all = interleaved(effort.pairs.div_ceil(2), &mut [&mut looped, &mut served]);
    let merged = host.metric("vesta_inference_merged_total") - merged;
    let (looped, served) = (&all[0], &all[1]);
    println!(
        "text-embed of 16 tokens, {CROWD} clients: {:.2} ms of server CPU a request, {merged} runs merged; in a loop {:.2} ms",
        median_of(served),
        median_of(looped)
    );
    let what = "served text-embed of 16 tokens per CPU-second / single runs in a loop, mapped";
    Line::of("P4-short", what, &ratios(looped, served), 1.3, false).same(&same(served))
}
