//! Who may do what: keys on the data plane and on the control API.

use serde_json::json;
use vesta_tests::{Host, Package};

#[test]
fn a_private_function_answers_only_to_keys_of_its_tenant_and_of_the_operator() {
    let host = Host::shared();
    Package::rogue("private").deploy(&host.control());
    let path = "/fn/default/private/ok";
    host.data().get(path).expect(200);
    host.data().with_key(host.operator_key()).get(path).expect(200);

    let stranger = host.data().without_key().get(path).expect(401);
    assert!(stranger.header("www-authenticate").is_some_and(|v| v.starts_with("Bearer")), "{stranger:?}");
    for wrong in ["vk_aaaaaaaaaaaa_wrong", "nonsense", "vk_", ""] {
        host.data().with_key(wrong).get(path).expect(401);
    }
    let stolen_prefix = format!("{}x", host.tenant_key());
    host.data().with_key(&stolen_prefix).get(path).expect(401);

    let neighbour = host.tenant("neighbour-data");
    let theirs = host.data().with_key(&neighbour).get(path).expect(404);
    let nothing = host.data().with_key(&neighbour).get("/fn/default/no-such/ok").expect(404);
    assert_eq!(theirs.json()["type"], nothing.json()["type"], "a neighbour cannot tell what exists");
}

#[test]
fn a_public_function_answers_to_anyone() {
    let host = Host::shared();
    Package::rogue("public").set("/public", json!(true)).deploy(&host.control());
    host.data().without_key().get("/fn/default/public/ok").expect(200);
}

#[test]
fn a_function_that_does_not_exist_is_a_404_for_those_who_may_know() {
    let host = Host::shared();
    host.invoke("never-deployed", "/").expect_problem(404, "not-found");
    host.data().get("/fn/no-tenant/hello/").expect(404);
    for odd in ["/", "/fn", "/fn/default", "/fn//x/", "/fn/default/UPPER/", "/fn/default/a@@/", "/other"] {
        host.data().get(odd).expect(404);
    }
}

#[test]
fn the_control_api_needs_a_key_and_knows_its_role() {
    let host = Host::shared();
    let paths = ["/api/v1/whoami", "/api/v1/functions", "/api/v1/usage", "/api/v1/keys", "/api/v1/tenants"];
    for path in paths {
        host.control().without_key().get(path).expect(401);
        host.control().with_key("vk_aaaaaaaaaaaa_wrong").get(path).expect(401);
    }
    let me = host.control().get("/api/v1/whoami").expect(200).json();
    assert_eq!((&me["role"], &me["tenant"]), (&json!("tenant"), &json!("default")));
    assert_eq!(host.operator().get("/api/v1/whoami").expect(200).json()["role"], "operator");

    let tenants = |api: vesta_tests::Api| api.post_json("/api/v1/tenants", &json!({ "name": "upstart" }));
    tenants(host.control()).expect(403);
    tenants(host.operator()).expect(201);
    tenants(host.operator()).expect(409);
    let bad = host.operator().post_json("/api/v1/tenants", &json!({ "name": "No Such Name" }));
    assert!((400..=422).contains(&bad.status), "{bad:?}");
    assert!(bad.detail().contains("No Such Name"), "{}", bad.text());
}

#[test]
fn another_tenants_things_do_not_exist() {
    let host = Host::shared();
    Package::rogue("mine").deploy(&host.control());
    let invocation = host.invoke("mine", "/ok").expect(200).invocation();
    let neighbour = host.control().with_key(&host.tenant("neighbour-control"));
    for path in [
        "/api/v1/functions/mine".to_string(),
        "/api/v1/functions/mine/versions/1".to_string(),
        "/api/v1/functions/mine/logs".to_string(),
        format!("/api/v1/invocations/{invocation}"),
    ] {
        host.control().get(&path).expect(200);
        neighbour.get(&path).expect(404);
    }
    neighbour.delete("/api/v1/functions/mine").expect(404);
    neighbour.put_json("/api/v1/functions/mine/aliases/live", &json!({ "version": 1 })).expect(404);
    let list = neighbour.get("/api/v1/functions").expect(200).json();
    assert_eq!(list["functions"], json!([]));
    // A tenant's own key cannot act for another by naming it.
    let asked = host.control().get("/api/v1/functions?tenant=neighbour-control");
    assert!(matches!(asked.status, 403 | 404), "{asked:?}");
    let seen = host.operator().get("/api/v1/functions/mine?tenant=default");
    seen.expect(200);
}

#[test]
fn a_key_that_was_deleted_opens_nothing() {
    let host = Host::shared();
    let tenant = host.control().with_key(&host.tenant("rotating"));
    let made = tenant.post_json("/api/v1/keys", &json!({})).expect(201).json();
    let second = tenant.with_key(made["key"].as_str().expect("a key"));
    second.get("/api/v1/functions").expect(200);
    let prefix = made["prefix"].as_str().expect("a prefix");
    let listed = tenant.get("/api/v1/keys").expect(200).text();
    assert!(listed.contains(prefix), "{listed}");
    assert!(!listed.contains(second.key().expect("a key")), "a key's secret is shown once");
    tenant.delete(&format!("/api/v1/keys/{prefix}")).expect(204);
    second.get("/api/v1/functions").expect(401);
}

#[test]
fn keys_are_stored_hashed_and_private_files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::start();
    let secret = host.tenant_key().rsplit_once('_').expect("vk_prefix_secret").1.as_bytes().to_vec();
    for entry in walk(&host.data_dir()) {
        let bytes = std::fs::read(&entry).expect("a file of the data directory");
        assert!(!bytes.windows(secret.len()).any(|w| w == secret), "{} has the key", entry.display());
    }
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(&host.data_dir()), 0o700, "the data directory");
    assert_eq!(mode(&host.data_dir().join("secret")), 0o600, "the host's secret");
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}
