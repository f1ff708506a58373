use super::*;
use crate::artifact::deploy::DeployLimits;
use crate::artifact::testing::Billed;
use crate::artifact::{Artifacts, Prepare, PrepareError};
use crate::db::testing;
use crate::telemetry::logs::{Level, LogEntry};
use axum::body::{Body, to_bytes};
use axum::http::{Request, Response};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::path::Path;
use tower::ServiceExt;
use vesta_core::clock::SystemClock;
use vesta_core::lifecycle::{Standing, State};
use vesta_core::manifest::{ModelRef, PackageManifest};
use vesta_core::price::PricePlan;
use vesta_core::settlement::{Journaled, Position, Settlement};
use vesta_core::usage::{CpuTime, Phases, Quantities};
use vesta_core::{Charge, Digest, FunctionName, InvocationId, Outcome, TenantName, UsageRecord};

/// Regenerate with `UPDATE_OPENAPI=1 cargo test -p vesta --lib openapi`.
#[test]
fn the_checked_in_openapi_document_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let generated = openapi().to_pretty_json().expect("JSON") + "\n";
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(&path, &generated).expect("written");
    }
    let checked_in = std::fs::read_to_string(&path).expect("host/openapi.json");
    assert!(checked_in == generated, "host/openapi.json is old: run with UPDATE_OPENAPI=1");
}

struct Parts;

impl Prepare for Parts {
    fn fits(&self, _: &PackageManifest) -> Result<(), PrepareError> {
        Ok(())
    }

    fn component<'a>(
        &'a self,
        _: &'a PackageManifest,
        blob: &'a Path,
        _: &'a CpuTime,
    ) -> BoxFuture<'a, Result<(), PrepareError>> {
        Box::pin(async move {
            let refused = PrepareError {
                code: "not-a-component".into(),
                detail: "it is no Wasm at all".into(),
                platform: false,
            };
            let bytes = std::fs::read(blob).expect("the blob is there");
            if bytes.starts_with(b"bad") { Err(refused) } else { Ok(()) }
        })
    }
    fn model<'a>(
        &'a self,
        model: &'a ModelRef,
        _: &'a Path,
        _: &'a CpuTime,
    ) -> BoxFuture<'a, Result<Value, PrepareError>> {
        Box::pin(async move { Ok(json!({ "name": model.name })) })
    }
    fn discard(&self, _: &Digest) {}
}

impl States for Parts {
    fn state(&self, _: &TenantName, _: &FunctionName, _: u32) -> State {
        State::Warm
    }
    fn standing(&self, _: &TenantName, _: &FunctionName, _: u32) -> Option<Standing> {
        None
    }
}

struct Api {
    _dir: tempfile::TempDir,
    state: ControlState,
    router: axum::Router,
    operator: String,
    key: String,
    /// A key of another tenant.
    neighbour: String,
}

struct Answer {
    status: u16,
    json: Value,
}

impl Answer {
    #[track_caller]
    fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.json);
        self.json
    }
    #[track_caller]
    fn refused(self, status: u16, code: &str) -> Value {
        assert_eq!(self.json["type"], format!("urn:vesta:problem:{code}"), "{}", self.json);
        assert_eq!(self.json["status"], status);
        self.expect(status)
    }
}

impl Api {
    async fn start() -> Api {
        let dir = tempfile::tempdir().expect("dir");
        let db = testing::db(&dir).await;
        let clock = Arc::new(SystemClock::start());
        let tenancy = Tenancy::open(db.clone(), [1; 32]).await.expect("tenancy");
        let first = tenancy.bootstrap(clock.as_ref()).await.expect("bootstrap").expect("keys");
        let other = "other".parse().expect("name");
        let (_, neighbour) = tenancy.create_tenant(other, clock.as_ref()).await.expect("tenant");
        let registry = Registry::open(db.clone()).await.expect("registry");
        let artifacts = Arc::new(Artifacts::open(dir.path(), db.clone()).await.expect("artifacts"));
        let limits = DeployLimits { package_bytes_max: 1 << 20, ..DeployLimits::default() };
        let deployments = Deployments::open(
            db.clone(),
            artifacts,
            registry.clone(),
            Arc::new(Parts),
            Arc::new(Billed::default()),
            clock.clone(),
            limits,
        );
        let prices = PricePlan::default().checked().expect("valid");
        let state = ControlState {
            tenancy,
            registry,
            deployments: deployments.await.expect("deployments"),
            ledger: Ledger::open(db.clone(), Arc::new(Settlement::default()), &prices, clock.clone())
                .await
                .expect("ledger"),
            logs: LogStore::open(db, vesta_core::vital::Vital::unwatched()),
            states: Arc::new(Parts),
            clock,
            changes: Arc::new(changes()),
            currency: prices.currency,
            invoke_base_url: "http://127.0.0.1:7070".into(),
            drain: CancellationToken::new(),
        };
        let router = router(state.clone());
        Api {
            _dir: dir,
            state,
            router,
            operator: first.operator,
            key: first.tenant,
            neighbour: neighbour.key,
        }
    }

    async fn raw(&self, key: &str, method: &str, path: &str, body: impl Into<Body>) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        if !key.is_empty() {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let request = request.body(body.into()).expect("request");
        self.router.clone().oneshot(request).await.expect("infallible")
    }

    async fn send(&self, key: &str, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        let response = self.raw(key, method, path, body).await;
        let status = response.status().as_u16();
        let problem = response.headers().get("content-type").is_some_and(|t| t == "application/problem+json");
        assert_eq!(status >= 400, problem, "{method} {path}: {status}");
        let bytes = to_bytes(response.into_body(), 1 << 24).await.expect("body");
        let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status, json }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(&self.key, "GET", path, "").await
    }

    async fn deploy(&self, name: &str, component: &[u8]) -> Value {
        let begun =
            self.send(&self.key, "POST", "/api/v1/deployments", manifest(name, component).to_string());
        let begun = begun.await.expect(201);
        let path = format!("/api/v1/deployments/{}", begun["id"].as_str().expect("id"));
        for blob in begun["missing"].as_array().expect("missing") {
            let put = format!("{path}/blobs/{}", blob["digest"].as_str().expect("digest"));
            self.send(&self.key, "PUT", &put, component.to_vec()).await.expect(204);
        }
        self.send(&self.key, "POST", &format!("{path}/commit"), r#"{"alias":"live"}"#).await.expect(202);
        self.finished(&path).await
    }

    async fn finished(&self, path: &str) -> Value {
        loop {
            let seen = self.get(path).await.expect(200);
            if matches!(seen["state"].as_str(), Some("ready" | "failed")) {
                return seen;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    Digest::from_bytes(sha2::Sha256::digest(bytes).into()).to_string()
}

fn manifest(name: &str, component: &[u8]) -> Value {
    json!({
        "format": "vesta-package/1", "name": name,
        "component": { "digest": digest(component), "size": component.len() },
    })
}

fn record(function: &str, n: u64) -> UsageRecord {
    UsageRecord {
        id: InvocationId::new(n, 1),
        kind: vesta_core::usage::Kind::Invocation,
        tenant: "default".parse().expect("name"),
        function: function.parse().expect("name"),
        version: 1,
        started_unix_ns: 86_400_000_000_000 * 20_779,
        outcome: Outcome::Ok,
        status: 200,
        cold: true,
        inferences: 0,
        quantities: Quantities { guest_cpu_ns: 1_234_567, ..Quantities::default() },
        phases: Phases::default(),
        charge: Charge::from_attos(3),
        currency: "USD".parse().expect("code"),
        price_plan: None,
    }
}

#[tokio::test]
async fn every_operation_needs_a_key_and_those_of_the_operator_need_its() {
    let api = Api::start().await;
    let document = serde_json::to_value(openapi()).expect("JSON");
    let mut ids = std::collections::HashSet::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            let path = path.replace(['{', '}'], "");
            let method = method.to_uppercase();
            let id = operation["operationId"].as_str().expect("an id").to_owned();
            assert!(ids.insert(id), "{method} {path}: its operationId occurs twice");
            if path == "/api/v1/openapi.json" {
                assert!(api.send("", &method, &path, "").await.expect(200)["paths"].is_object());
                continue;
            }
            api.send("", &method, &path, "").await.refused(401, "no-key");
            api.send("nonsense", &method, &path, "").await.refused(401, "invalid-key");
            let wrong = format!("{}{}", &api.key[..api.key.len() - 4], "aaaa");
            api.send(&wrong, &method, &path, "").await.refused(401, "invalid-key");
            if path == "/api/v1/tenants" {
                api.send(&api.key, &method, &path, "").await.refused(403, "operator-only");
            }
        }
    }
    assert_eq!(ids.len(), 24);
    let response = api.raw("", "GET", "/api/v1/whoami", "").await;
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    api.get("/api/v1/nothing").await.refused(404, "no-such-endpoint");
    api.send(&api.key, "PATCH", "/api/v1/whoami", "").await.refused(405, "method-not-allowed");
}

#[tokio::test]
async fn a_package_becomes_a_function_whose_alias_moves_and_which_is_deleted() {
    let api = Api::start().await;
    let done = api.deploy("hello", b"one").await;
    assert_eq!((&done["version"], &done["error"]), (&json!(1), &Value::Null));
    assert_eq!(done["steps"][0]["name"], "compile");
    assert_eq!(api.deploy("hello", b"two").await["version"], 2);

    let list = api.get("/api/v1/functions").await.expect(200);
    let function = &list["functions"][0];
    assert_eq!(
        (&function["name"], &function["live"], &function["versions"]),
        (&json!("hello"), &json!(2), &json!(2))
    );
    assert_eq!((&function["state"], &function["public"]), (&json!("warm"), &json!(false)));
    assert_eq!(function["url"], "http://127.0.0.1:7070/fn/default/hello");

    let alias = "/api/v1/functions/hello/aliases/live";
    let moved = api.send(&api.key, "PUT", alias, r#"{"version":1}"#).await.expect(200);
    assert_eq!(moved["aliases"], json!({ "live": 1 }));
    api.send(&api.key, "PUT", alias, r#"{"version":9}"#).await.refused(404, "no-such-version");
    api.send(&api.key, "PUT", alias, r#"{"versions":1}"#).await.refused(422, "invalid-json");
    api.send(&api.key, "DELETE", alias, "").await.refused(409, "live-stays");
    let one = "/api/v1/functions/hello/versions/1";
    api.send(&api.key, "DELETE", one, "").await.refused(409, "alias-points-at-it");
    assert_eq!(api.get(one).await.expect(200)["manifest"]["name"], "hello");
    api.get("/api/v1/functions/hello/versions/one").await.refused(404, "no-such-version");

    // Another tenant sees none of it; an operator does, as the tenant it names.
    for (method, path) in
        [("GET", "/api/v1/functions/hello"), ("DELETE", one), ("DELETE", "/api/v1/functions/hello")]
    {
        api.send(&api.neighbour, method, path, "").await.refused(404, "no-such-function");
        let named = format!("{path}?tenant=default");
        api.send(&api.neighbour, method, &named, "").await.refused(404, "no-such-tenant");
    }
    api.send(&api.operator, "GET", "/api/v1/functions/hello?tenant=default", "").await.expect(200);
    api.send(&api.operator, "GET", "/api/v1/functions/hello?tenant=other", "").await.expect(404);
    api.send(&api.operator, "GET", "/api/v1/functions/hello?tenant=nobody", "")
        .await
        .refused(404, "no-such-tenant");

    api.send(&api.key, "DELETE", "/api/v1/functions/hello", "").await.expect(204);
    api.get("/api/v1/functions/hello").await.refused(404, "no-such-function");
    assert_eq!(api.get("/api/v1/functions").await.expect(200)["functions"], json!([]));
}

#[tokio::test]
async fn a_bad_request_is_refused_with_the_field_that_is_wrong() {
    let api = Api::start().await;
    let post = |body: Value| api.send(&api.key, "POST", "/api/v1/deployments", body.to_string());
    let sound = manifest("hello", b"one");
    let changed = |key: &str, value: Value| {
        let mut body = sound.clone();
        body[key] = value;
        body
    };
    let refused = post(changed("surprise", json!(1))).await.refused(422, "invalid-json");
    assert!(refused["detail"].as_str().expect("detail").contains("surprise"), "{refused}");
    let mut limits = json!(vesta_core::limits::Limits::default());
    limits["cpu_ms"] = json!(0);
    let refused = post(changed("limits", limits.clone())).await.refused(422, "invalid-manifest");
    assert_eq!(refused["field"], "limits.cpu_ms");
    limits["cpu_ms"] = json!("fast");
    let refused = post(changed("limits", limits)).await.refused(422, "invalid-json");
    assert_eq!(refused["field"], "limits.cpu_ms");
    let huge = json!({ "digest": digest(b"x"), "size": 1u64 << 40 });
    assert_eq!(post(changed("component", huge)).await.refused(413, "package-too-large")["field"], "size");
    let raw = |body: Vec<u8>| api.send(&api.key, "POST", "/api/v1/deployments", body);
    raw(b"{\"format\":".to_vec()).await.refused(400, "malformed-json");
    raw(b"{} {}".to_vec()).await;
    raw(vec![b' '; extract::JSON_BYTES_MAX + 1]).await.refused(413, "body-too-large");
    for query in ["from=yesterday", "to=2026-13-01", "by=month", "frm=2026-01-01"] {
        api.get(&format!("/api/v1/usage?{query}")).await.refused(400, "invalid-query");
    }
    api.get("/api/v1/invocations?limit=5000").await.refused(400, "invalid-query");
    api.get("/api/v1/invocations/xyz").await.refused(400, "invalid-invocation-id");
    api.get("/api/v1/functions/%ff").await.refused(400, "invalid-path");
    let bad = api.send(&api.operator, "POST", "/api/v1/tenants", r#"{"name":"No Name"}"#).await;
    assert_eq!(bad.refused(422, "invalid-name")["field"], "name");
}

#[tokio::test]
async fn uploads_are_verified_and_a_refused_package_says_why() {
    let api = Api::start().await;
    let begun = api.send(&api.key, "POST", "/api/v1/deployments", manifest("hello", b"good").to_string());
    let id = begun.await.expect(201)["id"].as_str().expect("id").to_owned();
    let path = format!("/api/v1/deployments/{id}");
    let blob = format!("{path}/blobs/{}", digest(b"good"));
    api.send(&api.key, "POST", &format!("{path}/commit"), "").await.refused(409, "blobs-missing");
    api.send(&api.key, "PUT", &blob, "evil").await.refused(422, "wrong-digest");
    api.send(&api.key, "PUT", &blob, "goo").await.refused(400, "blob-short");
    api.send(&api.key, "PUT", &blob, "good and more").await.refused(413, "blob-too-long");
    api.send(&api.neighbour, "PUT", &blob, "good").await.refused(404, "no-such-deployment");
    let unknown = format!("{path}/blobs/{}", digest(b"unknown"));
    api.send(&api.key, "PUT", &unknown, "unknown").await.refused(404, "no-such-blob");
    api.send(&api.key, "PUT", &format!("{path}/blobs/sha256:zz"), "x").await.refused(400, "invalid-digest");
    api.send(&api.key, "PUT", &blob, "good").await.expect(204);
    api.send(&api.key, "PUT", &blob, "good").await.expect(204);

    let failed = api.deploy("hello", b"bad").await;
    assert_eq!((&failed["state"], &failed["version"]), (&json!("failed"), &Value::Null));
    assert_eq!(failed["error"]["type"], "urn:vesta:problem:not-a-component");
    assert_eq!((&failed["error"]["status"], &failed["steps"][0]["state"]), (&json!(422), &json!("failed")));
}

#[tokio::test]
async fn a_package_in_one_file_is_deployed_and_an_unsound_one_leaves_nothing() {
    let api = Api::start().await;
    let archive = |manifest: &Value, blob: &[u8]| {
        let mut tar = tar::Builder::new(Vec::new());
        let hex = digest(blob).replace("sha256:", "");
        for (name, bytes) in
            [("manifest.json".to_owned(), manifest.to_string().as_bytes()), (format!("blobs/{hex}"), blob)]
        {
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o644);
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, bytes).expect("tar");
        }
        tar.into_inner().expect("tar")
    };
    let post = |bytes: Vec<u8>| api.send(&api.key, "POST", "/api/v1/packages?alias=live", bytes);
    let sound = archive(&manifest("hello", b"component"), b"component");
    let begun = post(sound.clone()).await.expect(202);
    let id = begun["id"].as_str().expect("id");
    let done = api.finished(&format!("/api/v1/deployments/{id}")).await;
    assert_eq!((&done["state"], &done["version"]), (&json!("ready"), &json!(1)));
    // Again, with blobs that are here already.
    post(sound.clone()).await.expect(202);

    post(Vec::new()).await.refused(400, "archive-empty");
    post(sound[..sound.len() - 1024].to_vec()).await;
    post(sound[..700].to_vec()).await.refused(400, "archive-truncated");
    post(vec![b'x'; (4 << 20) + 1]).await.refused(413, "package-too-large");
    let mut lying = manifest("hello", b"component");
    lying["limits"] = json!(vesta_core::limits::Limits { cpu_ms: 0, ..Default::default() });
    post(archive(&lying, b"component")).await.refused(422, "invalid-manifest");
}

#[tokio::test]
async fn usage_and_invocations_are_the_tenants_own_and_exact() {
    let api = Api::start().await;
    let records: Vec<_> = (0..3).map(|n| record("hello", n)).collect();
    let place = |n| Position { segment: 0, bytes: n };
    let journaled: Vec<_> =
        (1..).zip(&records).map(|(n, r)| Journaled { record: r.clone(), end: place(n) }).collect();
    api.state.ledger.post(&journaled).await.expect("post");
    let usage = api.get("/api/v1/usage?from=2026-11-22&to=2026-11-22&by=function,day").await.expect(200);
    let row = &usage["rows"][0];
    assert_eq!((&row["function"], &row["day"]), (&json!("hello"), &json!("2026-11-22")));
    assert_eq!((&row["invocations"], &usage["total"]["charge"]), (&json!(3), &json!("0.000000000000000009")));
    assert_eq!((&usage["currency"], &row["memory_gb_s"]), (&json!("USD"), &json!("0.000000000000000000")));
    assert_eq!(api.get("/api/v1/usage?to=2026-11-21").await.expect(200)["rows"], json!([]));
    let empty = api.send(&api.neighbour, "GET", "/api/v1/usage", "").await.expect(200);
    assert_eq!(empty["total"]["invocations"], 0);

    assert_eq!((&usage["complete"], &usage["totals"][0]["currency"]), (&json!(true), &json!("USD")));
    assert_eq!((&row["period"], &usage["next"]), (&json!("day"), &Value::Null));

    // Pages: the cursor of one is where the next begins, and only the first has the totals.
    let mut more = record("other", 9);
    more.started_unix_ns += 86_400_000_000_000;
    api.state.ledger.post(&[Journaled { record: more, end: place(9) }]).await.expect("post");
    let (mut path, mut seen) = ("/api/v1/usage?by=day,function&limit=1".to_owned(), Vec::new());
    loop {
        let page = api.get(&path).await.expect(200);
        assert_eq!(page["total"].is_null(), !seen.is_empty(), "{page}");
        seen.extend(page["rows"].as_array().expect("rows").iter().map(|r| r["function"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/usage?by=day,function&limit=1&cursor={next}");
    }
    assert_eq!(seen, [json!("hello"), json!("other")]);
    for query in ["limit=0", "limit=1001", "cursor=x", "by=function&cursor=1.day.hello.USD"] {
        api.get(&format!("/api/v1/usage?{query}")).await.refused(400, "invalid-query");
    }
    let first = api.get("/api/v1/invocations?limit=3").await.expect(200);
    let next = first["next"].as_str().expect("a page more");
    let rest = api.get(&format!("/api/v1/invocations?limit=3&before={next}")).await.expect(200);
    assert_eq!((rest["invocations"].as_array().map(Vec::len), &rest["next"]), (Some(1), &Value::Null));
    api.get("/api/v1/invocations?before=x").await.refused(400, "invalid-query");
    let plans = api.get("/api/v1/price-plans").await.expect(200);
    assert!(
        plans["price_plans"][0]["text"].as_str().expect("text").contains("currency = \"USD\""),
        "{plans}"
    );

    let path = format!("/api/v1/invocations/{}", records[0].id);
    let one = api.get(&path).await.expect(200);
    assert_eq!((&one["billed_cpu_us"], &one["charge"]), (&json!(1_234), &json!("0.000000000000000003")));
    assert_eq!((&one["started_at"], &one["outcome"]), (&json!("2026-11-22T00:00:00Z"), &json!("ok")));
    api.send(&api.neighbour, "GET", &path, "").await.refused(404, "no-such-invocation");
    let list = api.get("/api/v1/invocations?function=hello&limit=2").await.expect(200);
    assert_eq!(list["invocations"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn keys_and_tenants_are_made_shown_once_and_ended() {
    let api = Api::start().await;
    let me = api.get("/api/v1/whoami").await.expect(200);
    assert_eq!((&me["role"], &me["tenant"]), (&json!("tenant"), &json!("default")));
    let made = api.send(&api.operator, "POST", "/api/v1/tenants", r#"{"name":"new"}"#).await.expect(201);
    let key = made["key"].as_str().expect("key");
    assert_eq!(made["tenant"]["name"], "new");
    let again = api.send(&api.operator, "POST", "/api/v1/tenants", r#"{"name":"new"}"#).await;
    again.refused(409, "tenant-exists");
    let tenants = api.send(&api.operator, "GET", "/api/v1/tenants", "").await.expect(200);
    assert_eq!(tenants["tenants"].as_array().map(Vec::len), Some(3));

    let second = api.send(key, "POST", "/api/v1/keys", "").await.expect(201);
    let listed = api.send(key, "GET", "/api/v1/keys", "").await.expect(200);
    assert_eq!(listed["keys"].as_array().map(Vec::len), Some(2));
    assert!(!listed.to_string().contains(second["key"].as_str().expect("key")));
    let path = format!("/api/v1/keys/{}", second["prefix"].as_str().expect("prefix"));
    api.send(&api.key, "DELETE", &path, "").await.refused(404, "no-such-key");
    api.send(key, "DELETE", &path, "").await.expect(204);
    api.send(second["key"].as_str().expect("key"), "GET", "/api/v1/keys", "")
        .await
        .refused(401, "invalid-key");

    api.send(key, "POST", "/api/v1/keys?role=operator", "").await.refused(403, "operator-only");
    let operator = api.send(&api.operator, "POST", "/api/v1/keys?role=operator", "").await.expect(201);
    let operator = operator["key"].as_str().expect("key");
    assert_eq!(api.send(operator, "GET", "/api/v1/whoami", "").await.expect(200)["role"], "operator");
}

#[tokio::test]
async fn changes_without_a_bill_have_a_pace_and_deployments_and_operators_have_none() {
    let api = Api::start().await;
    let path = "/api/v1/functions/none/aliases/canary";
    let mut changes = 0;
    let refused = loop {
        let answer = api.send(&api.key, "DELETE", path, "").await;
        if answer.status != 404 {
            break answer;
        }
        changes += 1;
        assert!(changes < 5_000, "there is no end of changes");
    };
    assert!(changes >= 1_000, "{changes}");
    refused.refused(429, "too-many-changes");
    api.send(&api.neighbour, "DELETE", path, "").await.expect(404);
    api.send(&api.operator, "DELETE", &format!("{path}?tenant=default"), "").await.expect(404);
    api.get("/api/v1/functions").await.expect(200);
    api.deploy("hello", b"component").await;
}

#[tokio::test]
async fn logs_are_read_and_followed_until_the_host_drains() {
    let api = Api::start().await;
    api.deploy("hello", b"one").await;
    let write = |message: &str| {
        api.state.logs.append(LogEntry {
            unix_ns: 1_000_000_000,
            tenant: "default".parse().expect("name"),
            function: "hello".parse().expect("name"),
            version: 1,
            invocation: InvocationId::new(1, 1),
            level: Level::Warn,
            message: message.into(),
            fields: Some(json!({ "a": 1 })),
        });
    };
    write("first");
    write("second");
    let seen = api.get("/api/v1/functions/hello/logs?limit=1").await.expect(200);
    assert_eq!(
        (&seen["message"], &seen["level"], &seen["fields"]["a"]),
        (&json!("second"), &json!("warn"), &json!(1))
    );
    api.send(&api.neighbour, "GET", "/api/v1/functions/hello/logs", "")
        .await
        .refused(404, "no-such-function");

    let response = api.raw(&api.key, "GET", "/api/v1/functions/hello/logs?follow=true", "").await;
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let mut lines = response.into_body().into_data_stream();
    write("third");
    for expected in ["first", "second", "third"] {
        let line = lines.next().await.expect("line").expect("line");
        let line: Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(line["message"], expected);
        assert_eq!(line["time"], "1970-01-01T00:00:01Z");
    }
    api.state.drain.cancel();
    assert!(lines.next().await.is_none());
}
