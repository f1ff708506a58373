//! Versions, aliases, and the ways to reach a function.

use serde_json::json;
use std::time::Duration;
use vesta_tests::{Api, Host, Package};

fn greeting(host: &Host, path: &str) -> String {
    host.data().get(path).expect(200).text()
}

/// Versions that tell themselves apart by a variable.
fn version(name: &str, says: &str) -> Package {
    Package::rogue(name).set("/variables", json!({ "GREETING": says }))
}

#[test]
fn every_deploy_is_a_version_and_live_follows_the_last() {
    let host = Host::shared();
    let api = host.control();
    assert_eq!(version("versions", "one").deploy(&api), 1);
    assert_eq!(greeting(&host, "/fn/default/versions/env"), "GREETING=one\n");
    assert_eq!(version("versions", "two").deploy(&api), 2);
    assert_eq!(greeting(&host, "/fn/default/versions/env"), "GREETING=two\n");
    assert_eq!(greeting(&host, "/fn/default/versions@1/env"), "GREETING=one\n");
    assert_eq!(greeting(&host, "/fn/default/versions@live/env"), "GREETING=two\n");
    host.data().get("/fn/default/versions@9/env").expect(404);
    host.data().get("/fn/default/versions@nobody/env").expect(404);

    // Rollback is moving the alias back.
    let live = "/api/v1/functions/versions/aliases/live";
    api.put_json(live, &json!({ "version": 1 })).expect(200);
    assert_eq!(greeting(&host, "/fn/default/versions/env"), "GREETING=one\n");
    let bad = api.put_json(live, &json!({ "version": 9 }));
    assert!(matches!(bad.status, 404 | 422), "{bad:?}");
    assert_eq!(greeting(&host, "/fn/default/versions/env"), "GREETING=one\n");
}

#[test]
fn aliases_are_made_moved_and_deleted_but_live_stays() {
    let host = Host::shared();
    let api = host.control();
    version("aliases", "one").deploy(&api);
    version("aliases", "two").deploy(&api);
    api.put_json("/api/v1/functions/aliases/aliases/canary", &json!({ "version": 1 })).expect(200);
    assert_eq!(greeting(&host, "/fn/default/aliases@canary/env"), "GREETING=one\n");
    let seen = api.get("/api/v1/functions/aliases").expect(200).json();
    assert_eq!(seen["aliases"], json!({ "canary": 1, "live": 2 }));

    let refused = api.delete("/api/v1/functions/aliases/versions/1").expect(409);
    assert!(refused.detail().contains("canary"), "{}", refused.text());
    api.delete("/api/v1/functions/aliases/aliases/live").expect(409);
    api.delete("/api/v1/functions/aliases/aliases/canary").expect(204);
    host.data().get("/fn/default/aliases@canary/env").expect(404);
    api.delete("/api/v1/functions/aliases/versions/1").expect(204);
    host.data().get("/fn/default/aliases@1/env").expect(404);
    api.get("/api/v1/functions/aliases/versions/1").expect(404);
    // A number is never used twice.
    assert_eq!(version("aliases", "three").deploy(&api), 3);
}

#[test]
fn a_deleted_function_is_gone_with_its_aliases_and_its_records_stay() {
    let host = Host::shared();
    let api = host.control();
    version("doomed", "one").deploy(&api);
    let invocation = host.invoke("doomed", "/ok").expect(200).invocation();
    api.delete("/api/v1/functions/doomed").expect(204);
    host.invoke("doomed", "/ok").expect(404);
    host.invoke("doomed@1", "/ok").expect(404);
    api.get("/api/v1/functions/doomed").expect(404);
    api.delete("/api/v1/functions/doomed").expect(404);
    assert_eq!(host.record(&invocation)["function"], "doomed");
}

#[test]
fn a_function_is_listed_with_its_state() {
    let host = Host::shared();
    let api = host.control();
    version("listed", "one").deploy(&api);
    let find = |api: &Api| {
        let list = api.get("/api/v1/functions").expect(200).json();
        let all = list["functions"].as_array().expect("functions").clone();
        all.into_iter().find(|f| f["name"] == "listed").expect("the function")
    };
    assert_eq!(find(&api)["live"], 1);
    assert_eq!(find(&api)["public"], false);
    host.invoke("listed", "/ok").expect(200);
    assert_eq!(find(&api)["state"], "warm");
    let version = api.get("/api/v1/functions/listed/versions/1").expect(200).json();
    assert_eq!(version["version"], 1);
    assert_eq!(version["manifest"]["name"], "listed");
}

#[test]
fn a_function_is_reached_by_host_name() {
    let host = Host::builder().config("domain = \"fn.example\"\n").start();
    version("named", "by name").deploy(&host.control());
    let by_host = |name: &str, path: &str| host.data().send("GET", path, &[("host", name)], b"");
    assert_eq!(by_host("named.default.fn.example", "/env").expect(200).text(), "GREETING=by name\n");
    assert_eq!(by_host("NAMED.default.fn.example:7070", "/env").expect(200).text(), "GREETING=by name\n");
    by_host("named.default.elsewhere.example", "/env").expect(404);
    by_host("named.nobody.fn.example", "/env").expect(404);
    by_host("a.named.default.fn.example", "/env").expect(404);
}

#[test]
fn the_guest_sees_its_own_path_and_the_invocations_headers() {
    let host = Host::shared();
    version("seen", "x").deploy(&host.control());
    let path = "/fn/default/seen@1/headers?a=b";
    let reply = host.data().send("GET", path, &[("x-own", "kept"), ("vesta-tenant", "forged")], b"");
    let text = reply.clone().expect(200).text();
    let has = |line: &str| assert!(text.lines().any(|l| l == line), "no {line:?} in:\n{text}");
    has("x-own: kept");
    has("vesta-function: seen");
    has("vesta-version: 1");
    has("vesta-tenant: default");
    has(&format!("vesta-invocation-id: {}", reply.invocation()));
    assert!(!text.contains("forged"), "{text}");
    assert!(!text.contains(host.tenant_key()), "the guest is not given the caller's key:\n{text}");
    let deadline = text.lines().find_map(|l| l.strip_prefix("vesta-deadline-ms: ")).expect("a deadline");
    let left = Duration::from_millis(deadline.parse().expect("milliseconds"));
    assert!(left <= Duration::from_secs(30) && left > Duration::from_secs(20), "{left:?}");
}

#[test]
fn a_host_that_is_restarted_knows_its_functions() {
    let mut host = Host::start();
    version("kept", "one").deploy(&host.control());
    host.invoke("kept", "/ok").expect(200);
    host.kill_9();
    host.restart();
    assert_eq!(greeting(&host, "/fn/default/kept/env"), "GREETING=one\n");
    assert_eq!(version("kept", "two").deploy(&host.control()), 2);
}

#[test]
fn a_data_directory_of_another_format_or_in_use_is_refused() {
    let mut host = Host::start();
    let data = host.data_dir().display().to_string();
    let serve = |words: &[&str]| {
        let args = ["serve", "--data", &data, "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"];
        vesta_tests::cli::Cli::stranger().run(&args).fails(words)
    };
    serve(&["in use"]);
    host.kill_9();
    std::fs::write(host.data_dir().join("VERSION"), "99\n").expect("write VERSION");
    serve(&["99", "format"]);
}

#[test]
fn a_models_signature_is_shown() {
    let host = Host::shared();
    let digits =
        vesta_tests::guests::model("digits/models/digits.onnx").expect("digits.onnx is in the repository");
    version("signature", "x").model("reader", &digits).deploy(&host.control());
    let seen = host.control().get("/api/v1/functions/signature/versions/1").expect(200).json();
    let model = &seen["models"][0];
    assert_eq!(model["name"], "reader", "{seen}");
    assert_eq!(model["inputs"], json!([{ "name": "image", "shape": [null, 64], "type": "f32" }]), "{seen}");
    assert_eq!(model["outputs"][0]["name"], "probabilities", "{seen}");
}
