//! P7: what metering and preemption cost a computing guest, and how long others wait for one that does not
//! end.

use crate::Effort;
use crate::reference::Partner;
use crate::report::Line;
use crate::stats::{interleaved, median, median_of, quantile, ratios, same};
use std::time::{Duration, Instant};
use vesta_tests::books::Burn;
use vesta_tests::cores::{self, Side};
use vesta_tests::load::{self, Connection};
use vesta_tests::{Host, Package, guests};

/// The CPU time of the same computation by the same component: in Vesta, with epochs, limits, meter and
/// yields, over a plain wasmtime that has none of them.
pub fn cost(effort: Effort) -> Vec<Line> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), guests::fixture("rogue")).expect("write the component");
    let host = cores::on(Side::Server, Host::start);
    let mut plain = cores::on(Side::Server, || Partner::plain_guest(file.path()));
    Package::rogue("burner").limit("cpu_ms", 60_000).limit("wall_ms", 300_000).deploy(&host.control());
    host.invoke("burner", "/ok").expect(200);

    let units = Burn::units(&host, "burner", if effort.quick { 0.1 } else { 0.5 });
    let path = format!("/burn?units={units}");
    let mut processes = Vec::new();
    let mut metered = || {
        let burn = Burn::of(&host, "burner", units);
        processes.push(burn.process);
        burn.billed
    };
    let mut unmetered = || plain.ask(&path) / 1e9;
    let all = interleaved(effort.pairs, &mut [&mut metered, &mut unmetered]);
    let (ours, theirs) = (&all[0], &all[1]);
    println!(
        "a burn: {:.1} ms of guest CPU, {:.1} ms of the process; {:.1} ms without metering and preemption (medians)",
        median_of(ours) * 1e3,
        median(&processes) * 1e3,
        median_of(theirs) * 1e3
    );
    vec![
        Line::of(
            "P7",
            "guest CPU with all metering and preemption / none",
            &ratios(ours, theirs),
            1.03,
            true,
        )
        .same(&same(theirs))
        .anchor("epochs in Wasmtime's own figures 14 % to 2.8 %"),
    ]
}

/// A host on one core has one worker thread. Beside a guest on it that never ends, the health check (one wait
/// for that thread) takes as much longer as the guest takes to yield.
pub fn yields(effort: Effort) -> Vec<Line> {
    let probes = if effort.quick { (50, Duration::from_secs(2)) } else { (1_000, Duration::from_secs(20)) };
    let host = cores::on(Side::Server, Host::start);
    Package::rogue("runaway").limit("cpu_ms", 600_000).limit("wall_ms", 600_000).deploy(&host.control());
    Package::new("light", &guests::example("hello").component).deploy(&host.control());
    host.invoke("runaway", "/ok").expect(200);
    host.invoke("light", "/").expect(200);

    let runtime = cores::on(Side::Client, load::runtime);
    let (control, invoke, key) = (host.control_address(), host.invoke_address(), host.tenant_key());
    let (alone, beside, light_alone, light_beside) = runtime.block_on(async {
        let alone = probe(control, "/healthz", key, probes).await;
        let light_alone = probe(invoke, "/fn/default/light/", key, probes).await;
        // Dropping the connection ends the runaway.
        let mut runaway = Connection::http1(invoke).await.expect("connect");
        let endless = load::request("GET", invoke, "/fn/default/runaway/loop", key, "");
        let running = tokio::spawn(async move { runaway.send(endless).await.map(|r| r.status) });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let beside = probe(control, "/healthz", key, probes).await;
        let light_beside = probe(invoke, "/fn/default/light/", key, probes).await;
        assert!(!running.is_finished(), "the runaway ended before its time");
        running.abort();
        (alone, beside, light_alone, light_beside)
    });
    println!(
        "ms alone and beside a runaway guest on the one worker, p50 and p99: health check {} and {}, hello {} and {}",
        middle_and_end(&alone),
        middle_and_end(&beside),
        middle_and_end(&light_alone),
        middle_and_end(&light_beside)
    );
    let longer: Vec<f64> = beside.iter().map(|ms| ms - median(&alone)).collect();
    let what = "longest wait for a runaway guest on the one worker thread (p99)";
    vec![Line::of("P7-yield", what, &longer, 2.0, true).at(0.99).unit("ms")]
}

/// The milliseconds of `count` requests one after another, each at another moment of the runaway's slice; of
/// fewer where they take longer than `at_most`.
async fn probe(address: &str, path: &str, key: &str, (count, at_most): (usize, Duration)) -> Vec<f64> {
    let mut connection = Connection::http1(address).await.expect("connect");
    let mut all = Vec::with_capacity(count);
    let over = Instant::now() + at_most;
    for n in 0..count {
        if Instant::now() > over {
            println!("{path}: {n} instead of {count} requests in {at_most:?}");
            break;
        }
        tokio::time::sleep(Duration::from_micros(500 + 370 * (n as u64 % 7))).await;
        let begun = Instant::now();
        let reply = connection.send(load::request("GET", address, path, key, "")).await.expect("an answer");
        assert_eq!(reply.status, 200, "{reply:?}");
        all.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    all
}

fn middle_and_end(ms: &[f64]) -> String {
    format!("{:.2}/{:.2}", median(ms), quantile(ms, 0.99))
}
