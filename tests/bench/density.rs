//! P5: what deployed functions cost while nobody calls them, what a warm one costs, and what tenants share.

use crate::reference::MiniLm;
use crate::report::{self, Line};
use crate::stats::{interleaved, median, median_of, ratios, same};
use crate::{Effort, plot, served};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use vesta_tests::{Api, Host, PATIENCE, Package, guests, load, wait_for};

/// Deployments at a time: under the 16 deployments that a tenant may have under way.
const DEPLOYERS: usize = 8;
const KEEP_ALIVE_MS: u64 = 100;
const GB: f64 = 1e9;

/// Thousands of deployed functions, nearly all of them idle: the host's start, its memory, and the cold start
/// of an arbitrary one of them, against a host with one function.
///
/// The memory of a function has two parts: what is there from the host's start on (versions, aliases), and
/// what is kept of a function that was called (its history, its metrics). Each is taken as a difference
/// between hosts that did the same besides.
pub fn deployed(effort: Effort) -> Vec<Line> {
    let count = if effort.quick { 200 } else { 10_000 };
    let hello = Package::new("one", &guests::example("hello").component).keep_alive_ms(KEEP_ALIVE_MS);
    let (mut one, mut many) = (Host::start(), Host::start());
    hello.deploy(&one.control());
    let begun = Instant::now();
    deploy_all(&many, &hello, count);
    let took = begun.elapsed().as_secs_f64();
    println!("{count} functions deployed in {took:.1} s, {:.1} ms each", took * 1e3 / count as f64);

    restart_ms(&mut one);
    restart_ms(&mut many);
    let settled = |host: &Host, function: &str| {
        host.invoke(function, "/").expect(200);
        all_cold(host);
        host.process().private_bytes() as f64
    };
    let (base, full) = (settled(&one, "one"), settled(&many, &name(0)));
    let deployed = (full - base) / (count - 1) as f64;

    // Functions that have been called: memory after each tenth of them, each cold again.
    let called = count * 9 / 10;
    let step = called / 10;
    let mut memory = Vec::new();
    for tenth in 0..10 {
        call_each(&many, 1 + tenth * step..1 + (tenth + 1) * step);
        all_cold(&many);
        memory.push(many.process().private_bytes() as f64);
    }
    // The first steps also grow what the host itself keeps (buffers, pools).
    let kept = (memory[9] - memory[2]) / (7 * step) as f64;
    let curve = memory.iter().enumerate().map(|(n, bytes)| (((n + 1) * step) as f64, bytes / 1e6));
    let title = format!("P5: private memory of a host with {count} functions, all cold");
    plot::curve(&report::path("p5-memory.svg"), &title, ("functions called before", "MB"), curve.collect());
    println!(
        "memory of an idle function: {deployed:.0} bytes from the host's start on, {kept:.0} more once it was called; \
         the host with one function has {:.1} MB",
        base / 1e6
    );
    let density = GB / (deployed + kept).max(1.0);

    // Those that nobody has called yet, so that each call is a function's first.
    let mut never_called = (called + 1..count).map(name);
    let mut arbitrary = || {
        // The same pause before the call as the other host has.
        all_cold(&many);
        cold_ms(&many, &never_called.next().expect("functions that nobody has called"))
    };
    let mut only = || {
        all_cold(&one);
        cold_ms(&one, "one")
    };
    let rounds = effort.pairs.min((count / 10 - 2) / 2);
    let all = interleaved(rounds, &mut [&mut arbitrary, &mut only]);
    let (among_many, alone) = (&all[0], &all[1]);
    println!(
        "cold request: {:.2} ms among {count} functions, {:.2} ms where there is one (medians)",
        median_of(among_many),
        median_of(alone)
    );

    // With the histories of those that were called.
    let restarts = if effort.quick { 1 } else { 5 };
    let starts: Vec<f64> = (0..restarts).map(|_| restart_ms(&mut many)).collect();
    println!("start of a host with {count} functions: {:.0} ms (median)", median(&starts));

    let what = format!("idle functions per GB: {count} deployed, 90 % of them called before");
    vec![
        Line::of("P5", what, &[density], 50_000.0, false).unit("functions"),
        Line::of(
            "P5-start",
            format!("start of a host with {count} functions, 90 % of them called before, until it is ready"),
            &starts,
            500.0,
            true,
        )
        .unit("ms"),
        Line::info(
            "P5-cold",
            format!("cold request of an arbitrary one of {count} / of the only one"),
            &ratios(among_many, alone),
        )
        .same(&same(alone)),
        Line::info("P5-cold-ms", format!("cold request of hello among {count}"), among_many.as_flattened())
            .unit("ms"),
    ]
}

fn name(number: usize) -> String {
    format!("f{number}")
}

/// Deploys one package under many names, several at a time. The component is uploaded and compiled once.
fn deploy_all(host: &Host, package: &Package, count: usize) {
    package.named(&name(0)).deploy(&host.control());
    let next = AtomicUsize::new(1);
    std::thread::scope(|scope| {
        for _ in 0..DEPLOYERS {
            scope.spawn(|| {
                let api = host.control();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    package.named(&name(number)).deploy(&api);
                }
            });
        }
    });
}

/// Milliseconds from the start of the process until it says that it is ready.
fn restart_ms(host: &mut Host) -> f64 {
    host.terminate();
    host.wait(PATIENCE);
    let begun = Instant::now();
    host.restart();
    begun.elapsed().as_secs_f64() * 1e3
}

/// Waits until nothing is warm: no code is mapped. (`/metrics` would say so too, at length where thousands
/// were called.)
fn all_cold(host: &Host) {
    let cache = host.data_dir().join("cache").display().to_string();
    wait_for("all functions to be cold", PATIENCE, || (!host.process().maps(&cache)).then_some(()));
}

fn call_each(host: &Host, numbers: std::ops::Range<usize>) {
    let (to, key, first, count) =
        (host.invoke_address().to_string(), host.tenant_key().to_string(), numbers.start, numbers.len());
    let make = move |n| load::request("GET", &to, &format!("/fn/default/{}/", name(first + n)), &key, "");
    let run = load::run(host.invoke_address(), 4, count, make, |reply| {
        assert_eq!(reply.status, 200, "{reply:?}");
    });
    assert_eq!(load::runtime().block_on(run), count);
}

fn cold_ms(host: &Host, function: &str) -> f64 {
    let data = host.data();
    let begun = Instant::now();
    let reply = data.get(&format!("/fn/default/{function}/")).expect(200);
    let ms = begun.elapsed().as_secs_f64() * 1e3;
    assert!(reply.timing("cold").is_some_and(|ms| ms > 0.0), "{function} was warm: {reply:?}");
    ms
}

/// The private memory of a warm function beside its linear memory: by how much each further one, with code of
/// its own, grows the host.
pub fn warm(effort: Effort) -> Vec<Line> {
    const GROUP: u32 = 5;
    let groups = if effort.quick { 2 } else { 10 };
    let hello = Package::new("warm", &guests::example("hello").component).keep_alive_ms(3_600_000);
    let host = Host::start();
    for n in 0..groups * GROUP {
        hello.named(&format!("warm-{n}")).distinct(n).deploy(&host.control());
    }
    let memory = || {
        let process = host.process();
        (process.private_bytes() as f64, process.linear_memory_bytes() as f64)
    };
    let (mut private, mut linear) = (Vec::new(), Vec::new());
    let mut before = memory();
    for group in 0..groups {
        for n in 0..GROUP {
            host.invoke(&format!("warm-{}", group * GROUP + n), "/").expect(200);
        }
        let now = memory();
        let grown = now.1 - before.1;
        private.push((now.0 - before.0 - grown) / f64::from(GROUP) / 1e3);
        linear.push(grown / f64::from(GROUP) / 1e3);
        before = now;
    }
    assert_eq!(host.metric("vesta_functions_warm"), f64::from(groups * GROUP), "all are warm");
    // The first ones also grow what all share.
    let private = &private[1..];
    println!(
        "a warm hello: {:.0} kB of private memory, and {:.0} kB of linear memory in its pooled slot (medians)",
        median(private),
        median(&linear[1..])
    );
    vec![
        Line::of(
            "P5-warm",
            "private memory of a further warm function beside its linear memory",
            private,
            90.0,
            true,
        )
        .unit("kB")
        .anchor("Faasm 90 kB"),
    ]
}

/// Tenants that each have a function with the same model, all warm: by how much each further tenant grows the
/// host.
pub fn tenants(effort: Effort) -> Vec<Line> {
    let Some(minilm) = MiniLm::find() else { return Vec::new() };
    let count = if effort.quick { 3 } else { 8 };
    let host = Host::builder().config("inference_slots = 1\n").start();
    let package = served::package().keep_alive_ms(3_600_000);
    let model = package.blobs()[1].len() as f64;
    let mut tenants: Vec<(String, Api)> = Vec::new();
    for n in 0..count {
        let (tenant, key) = (format!("tenant-{n}"), host.tenant(&format!("tenant-{n}")));
        package.deploy(&host.control().with_key(&key));
        tenants.push((tenant, host.data().with_key(&key)));
    }
    let mut memory = Vec::new();
    let mut linear = Vec::new();
    for (tenant, data) in &tenants {
        for _ in 0..3 {
            data.post(&format!("/fn/{tenant}/text-embed/"), &minilm.body()).expect(200);
        }
        memory.push(host.process().private_bytes() as f64);
        linear.push(host.process().linear_memory_bytes() as f64);
    }
    let weights = host.process().mapped("weights.data");
    println!("{count} tenants; memory {memory:?}, linear {linear:?}; mapped {}", weights.len());
    let grown =
        |bytes: &[f64]| -> Vec<f64> { bytes.windows(2).map(|w| (w[1] - w[0]) / model * 100.0).collect() };
    println!(
        "a further tenant of a model of {:.0} MB: {:.2} % of it in private memory, of which {:.2} % linear (medians)",
        model / 1e6,
        median(&grown(&memory)),
        median(&grown(&linear))
    );
    let what = "private memory of a further tenant's warm function on the same model, of the model's size";
    vec![
        Line::of("P5-tenants", what, &grown(&memory), 1.0, true)
            .unit("%")
            .anchor("Tetris 93 % less than a copy each"),
    ]
}
