//! A guest's initialisation is paid once, at deploy, and what it leaves holds no secret and no seed.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use vesta_tests::{Host, Package, guests};

/// The fixture whose initialisation does `what`, and makes a table of `mib` MiB.
pub fn prepared(what: &str, mib: usize) -> Vec<u8> {
    let mut component = guests::fixture("prepared");
    let built_with = b"the-order:table        ,00000005";
    let places: Vec<_> =
        component.windows(built_with.len()).enumerate().filter(|(_, w)| w == built_with).collect();
    let [(place, _)] = places[..] else { panic!("the order stands in {} places", places.len()) };
    let order = format!("the-order:{what:<13},{mib:08}");
    component[place..place + built_with.len()].copy_from_slice(order.as_bytes());
    component
}

/// What `/table` answers: the length of the table and a number of it.
fn table(host: &Host, function: &str) -> (String, u64) {
    let reply = host.invoke(function, "/table").expect(200);
    let guest_cpu_ns = host.record(&reply.invocation())["guest_cpu_ns"].as_u64().expect("a number");
    (reply.text(), guest_cpu_ns)
}

#[test]
fn an_initialisation_is_paid_at_deploy_or_in_each_instance_as_the_manifest_says() {
    let host = Host::shared();
    let with = |name: &str, snapshot: bool| {
        Package::new(name, &prepared("table", 5)).set("/snapshot", json!(snapshot)).deploy(&host.control());
    };
    // The same component each time: what is kept of it must not be confused.
    with("snapshot-first", true);
    with("snapshot-without", false);
    with("snapshot-second", true);
    let expected = table(&host, "snapshot-first").0;
    assert!(expected.starts_with("655360 "), "{expected}");
    let least = |function: &str| {
        let runs = (0..5).map(|_| table(&host, function)).inspect(|(said, _)| assert_eq!(*said, expected));
        runs.map(|(_, ns)| ns).min().expect("some")
    };
    let (first, without, second) =
        (least("snapshot-first"), least("snapshot-without"), least("snapshot-second"));
    println!("guest CPU: {first} and {second} ns with a snapshot, {without} ns without");
    assert!(
        without > 10 * first.max(second),
        "{first} and {second} ns with a snapshot, {without} ns without"
    );
}

#[test]
fn every_instance_of_a_snapshot_draws_its_own_seed() {
    let host = Host::shared();
    Package::new("snapshot-seeds", &prepared("table", 1)).deploy(&host.control());
    let seeds: BTreeSet<_> =
        (0..8).map(|_| host.invoke("snapshot-seeds", "/seed").expect(200).text()).collect();
    assert_eq!(seeds.len(), 8, "{seeds:?}");
}

#[test]
fn a_request_has_the_world_that_the_snapshot_was_made_without() {
    let host = Host::shared();
    for name in ["snapshot-ada", "snapshot-grace"] {
        let package =
            Package::new(name, &prepared("table", 1)).set("/variables", json!({ "GREETING": name }));
        package.deploy(&host.control());
    }
    for name in ["snapshot-ada", "snapshot-grace"] {
        assert_eq!(host.invoke(name, "/greeting").expect(200).text(), name);
        assert_eq!(host.invoke(name, "/print").expect(200).text(), "printed");
    }
    let logs = host.control().get("/api/v1/functions/snapshot-ada/logs").expect(200).text();
    assert!(logs.contains("printed by the handler"), "{logs}");
}

#[track_caller]
fn refused(host: &Host, what: &str, words: &[&str]) {
    let name = format!("snapshot-{what}");
    let package = Package::new(&name, &prepared(what, 1)).set("/variables", json!({ "GREETING": "rosebud" }));
    let problem: Value = package.refused(&host.control());
    let detail = problem["detail"].as_str().unwrap_or_else(|| panic!("{what}: {problem}"));
    println!("{what}: {detail}");
    assert_eq!(problem["type"], "urn:vesta:problem:snapshot-refused", "{what}: {problem}");
    for word in words.iter().chain(&["snapshot = false"]) {
        assert!(detail.contains(word), "{what}: no {word:?} in {detail:?}");
    }
    assert!(!detail.contains("rosebud"), "{what}: {detail}");
    host.invoke(&name, "/table").expect(404);
}

#[test]
fn an_initialisation_that_calls_the_host_is_refused_with_the_import_and_the_reason() {
    let host = Host::shared();
    refused(&host, "variable", &["wasi:cli/environment@", "variables may be secret"]);
    refused(&host, "arguments", &["wasi:cli/environment@"]);
    refused(&host, "hash-map", &["wasi:random/", "seed", "BTreeMap"]);
    refused(&host, "clock", &["wasi:clocks/wall-clock@", "time of the deploy"]);
    refused(&host, "stopwatch", &["wasi:clocks/monotonic-clock@"]);
    refused(&host, "sleep", &["wasi:clocks/monotonic-clock@"]);
    refused(&host, "connect", &["wasi:sockets/", "no network"]);
    refused(&host, "fetch", &["wasi:http/"]);
    refused(&host, "file", &["wasi:filesystem/", "include_bytes!"]);
    refused(&host, "model", &["wasi:nn/"]);
    refused(&host, "exit", &["wasi:cli/exit@"]);
    refused(&host, "print", &["stream", "printed by the initialisation"]);
    // What is refused in a snapshot is allowed in an instance.
    Package::new("snapshot-none", &prepared("variable", 1))
        .set("/snapshot", json!(false))
        .deploy(&host.control());
    host.invoke("snapshot-none", "/table").expect(200);
}

#[test]
fn an_initialisation_that_fails_or_does_not_end_is_refused_and_the_host_goes_on() {
    let host = Host::shared();
    Package::rogue("snapshot-bystander").deploy(&host.control());
    refused(&host, "panic", &["panicked", "the table is upside down"]);
    refused(&host, "memory", &["64 MiB"]);
    refused(&host, "loop", &["10 seconds of CPU time"]);
    host.invoke("snapshot-bystander", "/ok").expect(200);
}
