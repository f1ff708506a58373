//! What is not a component of wasi:http is refused at deploy, with the reason.

use serde_json::Value;
use vesta_tests::{Host, Package, guests, wat};

#[track_caller]
fn refused(host: &Host, package: Package, words: &[&str]) {
    let name = package.name().to_string();
    let problem: Value = package.refused(&host.control());
    let detail = problem["detail"].as_str().unwrap_or_else(|| panic!("{name}: {problem}"));
    for word in words {
        assert!(detail.contains(word), "{name}: no {word:?} in {detail:?}");
    }
    assert!(
        problem["type"].as_str().is_some_and(|t| t.starts_with("urn:vesta:problem:")),
        "{name}: {problem}"
    );
    assert!(
        !detail.contains("/cache/") && !detail.contains("/blobs/"),
        "{name} shows the host's paths: {detail}"
    );
    host.invoke(&name, "/").expect(404);
}

#[test]
fn what_is_not_a_component_is_refused() {
    let host = Host::shared();
    refused(&host, Package::new("random", &[7; 5_000]), &["component"]);
    refused(&host, Package::new("text", b"#!/bin/sh\necho hello\n"), &["component"]);
    refused(&host, Package::wat("core-module", wat::CORE_MODULE), &["module", "component"]);
    let rogue = guests::fixture("rogue");
    refused(&host, Package::new("truncated-component", &rogue[..rogue.len() / 2]), &[]);
    let mut garbled = rogue.clone();
    garbled[100..2_000].fill(0xff);
    refused(&host, Package::new("garbled", &garbled), &[]);
    let elf = std::fs::read(guests::vesta()).expect("the binary");
    refused(&host, Package::new("native", &elf[..100_000]), &["component"]);
}

#[test]
fn an_import_that_the_host_does_not_offer_is_named() {
    let host = Host::shared();
    refused(&host, Package::wat("foreign", wat::FOREIGN_IMPORT), &["acme:rockets/launch@1.0.0"]);
}

#[test]
fn a_component_without_a_handler_is_refused_with_what_is_missing() {
    let host = Host::shared();
    refused(&host, Package::wat("handlerless", wat::NO_HANDLER), &["wasi:http/incoming-handler"]);
}

#[test]
fn a_refused_deploy_leaves_the_live_version_alone() {
    let host = Host::shared();
    Package::rogue("survivor").deploy(&host.control());
    Package::wat("survivor", wat::CORE_MODULE).refused(&host.control());
    host.invoke("survivor", "/ok").expect(200);
    let seen = host.control().get("/api/v1/functions/survivor").expect(200).json();
    assert_eq!(seen["live"], 1, "{seen}");
}

#[test]
fn the_handwritten_components_are_sound_but_for_what_they_try() {
    let engine = wasmtime::Engine::default();
    for text in [
        wat::handler(wat::SILENT),
        wat::handler(wat::TABLE_BOMB),
        wat::handler(wat::HUGE_MEMORY),
        wat::handler(wat::HUGE_TABLE),
        wat::many_instances(100),
        wat::FOREIGN_IMPORT.into(),
        wat::NO_HANDLER.into(),
    ] {
        let bytes = ::wat::parse_str(&text).unwrap_or_else(|e| panic!("{e}"));
        wasmtime::component::Component::new(&engine, &bytes).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
    }
}
