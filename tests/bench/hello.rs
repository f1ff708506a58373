//! P3: the server's CPU time for a request of `hello`, over a bare hyper server that answers the same, and
//! over `wasmtime serve` in the same mode. Each server has one core, and the client the other.
//!
//! The client never sleeps: a server pays for waking a client that does (some 15 us on a virtual machine),
//! which falls on whoever is slower than the client and not on bare hyper.

use crate::Effort;
use crate::reference::Server;
use crate::report::Line;
use crate::stats::{interleaved, median_of, ratios, same};
use vesta_tests::cores::{self, Side};
use vesta_tests::process::Process;
use vesta_tests::{Host, Package, guests, load};

const CLIENTS: usize = 16;
/// Requests that an instance answers where instances are reused; what `wasmtime serve` takes for WASI 0.3.
const REUSE: u64 = 128;

/// Awaits `work` without letting its thread sleep.
async fn sleepless<T>(work: impl Future<Output = T>) -> T {
    let spin = async {
        loop {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        done = work => done,
        () = spin => unreachable!("it spins for ever"),
    }
}

pub fn measure(effort: Effort) -> Vec<Line> {
    let component = guests::example("hello").component;
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &component).expect("write the component");

    let host = cores::on(Side::Server, Host::start);
    let fresh = Package::new("hello", &component);
    fresh.deploy(&host.control());
    let reusing = fresh.named("hello-reuse").reuse(REUSE).if_known(&host.control());
    let reuses = reusing.map(|package| package.deploy(&host.control())).is_some();
    let hyper = cores::on(Side::Server, Server::hyper);
    let serve = |reuse| cores::on(Side::Server, || Server::wasmtime(file.path(), reuse));
    let (serve, serve_reuse) = (serve(1), serve(REUSE as usize));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");

    let block = |address: &str, process: Process, path: &'static str| {
        let before = process.cpu();
        let (to, key) = (address.to_string(), host.tenant_key().to_string());
        let make = move |_| load::request("GET", &to, path, &key, "");
        let run = load::run(address, CLIENTS, effort.hellos, make, |reply| {
            assert_eq!((reply.status, &reply.body[..]), (200, &b"Hello, world!"[..]), "{reply:?}");
        });
        let answered = cores::on(Side::Client, || runtime.block_on(sleepless(run)));
        assert_eq!(answered, effort.hellos);
        process.cpu().since(&before).as_secs_f64() / effort.hellos as f64 * 1e6
    };
    let mut fresh = || block(host.invoke_address(), host.process(), "/fn/default/hello/");
    let mut reused = || match reuses {
        true => block(host.invoke_address(), host.process(), "/fn/default/hello-reuse/"),
        false => f64::NAN,
    };
    let mut bare = || block(&hyper.address, hyper.process(), "/");
    let other =
        |server: &Option<Server>| server.as_ref().map_or(f64::NAN, |s| block(&s.address, s.process(), "/"));
    let (mut serve_fresh, mut serve_reused) = (|| other(&serve), || other(&serve_reuse));
    let all = interleaved(
        effort.pairs,
        &mut [&mut fresh, &mut bare, &mut reused, &mut serve_fresh, &mut serve_reused],
    );
    let [fresh, bare, reused, serve_fresh, serve_reused] = &all[..] else { unreachable!("five variants") };
    println!(
        "us of server CPU a request, medians: hyper {:.1}; hello {:.1}, reused {:.1}; wasmtime serve {:.1}, reused {:.1}",
        median_of(bare),
        median_of(fresh),
        median_of(reused),
        median_of(serve_fresh),
        median_of(serve_reused)
    );

    let no_reuse = "this host knows no reuse of instances (scaling.reuse)";
    let no_wasmtime = "there is no wasmtime in PATH (or in the variable WASMTIME)";
    let mut lines = vec![
        Line::of(
            "P3",
            "server CPU of a warm hello, fresh instance / bare hyper",
            &ratios(fresh, bare),
            8.0,
            true,
        )
        .same(&same(fresh))
        .anchor("a tuned bare dispatcher 14, `wasmtime serve` 24"),
    ];
    lines.push(if reuses {
        let ratios = ratios(reused, bare);
        Line::of("P3-reuse", "the same with reused instances / bare hyper", &ratios, 3.0, true)
            .same(&same(reused))
            .anchor("a tuned bare dispatcher 5.4, `wasmtime serve` 6.2")
    } else {
        Line::skipped("P3-reuse", no_reuse)
    });
    lines.push(if serve.is_some() {
        let what = "server CPU of a warm hello / `wasmtime serve`, both with fresh instances";
        Line::of("P3-serve", what, &ratios(fresh, serve_fresh), 0.5, true).same(&same(serve_fresh))
    } else {
        Line::skipped("P3-serve", no_wasmtime)
    });
    lines.push(if serve_reuse.is_some() && reuses {
        let what = "the same, both with reused instances";
        Line::of("P3-serve-reuse", what, &ratios(reused, serve_reused), 0.5, true).same(&same(serve_reused))
    } else {
        Line::skipped("P3-serve-reuse", if reuses { no_wasmtime } else { no_reuse })
    });
    lines
}
