//! The server's CPU time for a request of `hello`, over a bare hyper server that answers the same.

use crate::report::Line;
use crate::{Effort, reference};
use std::io::{BufRead, BufReader};
use vesta_tests::process::Process;
use vesta_tests::{Host, Package, guests, load};

const CLIENTS: usize = 16;

pub fn measure(effort: Effort) -> Vec<Line> {
    let host = Host::start();
    let hello = guests::example("hello").component;
    Package::new("hello", &hello).deploy(&host.control());
    Package::new("hello-reused", &hello).reuse(1_000_000).deploy(&host.control());
    let key = host.tenant_key().to_string();

    let mut bare = reference::start("reference-hyper", &[]);
    let mut port = String::new();
    let stdout = bare.stdout.take().expect("its output");
    BufReader::new(stdout).read_line(&mut port).expect("its port");
    let bare_address = format!("127.0.0.1:{}", port.trim());
    let bare_process = Process::new(bare.id());

    let runtime = load::runtime();
    let block = |address: &str, process: Process, path: &'static str| {
        let before = process.cpu();
        let (to, key) = (address.to_string(), key.clone());
        let make = move |_| load::request("GET", &to, path, &key, "");
        let answered = runtime.block_on(load::run(address, CLIENTS, effort.hellos, make, |reply| {
            assert_eq!(reply.status, 200, "{reply:?}");
        }));
        assert_eq!(answered, effort.hellos);
        process.cpu().since(&before).as_secs_f64() / effort.hellos as f64
    };
    let ours = || block(host.invoke_address(), host.process(), "/fn/default/hello/");
    let reused = || block(host.invoke_address(), host.process(), "/fn/default/hello-reused/");
    let theirs = || block(&bare_address, bare_process, "/");
    ours();
    reused();
    theirs();

    let (mut ratios, mut same, mut us) = (Vec::new(), Vec::new(), Vec::new());
    let (mut reuse_ratios, mut bare_us) = (Vec::new(), Vec::new());
    for _ in 0..effort.pairs {
        let (a1, r1, b1, b2, r2, a2) = (ours(), reused(), theirs(), theirs(), reused(), ours());
        ratios.push((a1 + a2) / (b1 + b2));
        reuse_ratios.push((r1 + r2) / (b1 + b2));
        bare_us.push((b1 + b2) / 2.0 * 1e6);
        same.push(a1 / a2);
        us.push((a1 + a2) / 2.0 * 1e6);
    }
    let _ = bare.kill();
    let _ = bare.wait();
    us.sort_by(f64::total_cmp);
    bare_us.sort_by(f64::total_cmp);
    let (us, bare_us) = (us[us.len() / 2], bare_us[bare_us.len() / 2]);
    println!("hello: {us:.1} us of server CPU a request, bare hyper: {bare_us:.1} us (medians of blocks)");
    vec![
        Line::of("P3-a/a", "hello against itself: what a difference may mean", &same, 1.1, true),
        Line::of("P3", "server CPU a request of hello / bare hyper's", &ratios, 15.0, true),
        Line::of("P3-reuse", "the same with an instance that is used again", &reuse_ratios, 3.0, true),
    ]
}
