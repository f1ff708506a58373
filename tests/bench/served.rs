//! P4: served `text-embed` requests per CPU-second of the server, over the same engine in a loop on one
//! thread, its weights packed as those of a model that is called often.

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
    let what = "served text-embed per CPU-second / the engine in a loop, one thread, both packed";
    let than_mapped = "served text-embed per CPU-second / the engine in a loop with mapped weights";
    vec![
        Line::of("P4", what, &ratios(packed, ours), 0.97, false)
            .same(&same(ours))
            .anchor("Nexus 0.84 of optimal; Triton 0.87 to 0.96"),
        Line::info("P4-mapped", than_mapped, &ratios(mapped, ours)),
    ]
}
