//! Clients that go away in the middle of a control request: memory and database stay the same.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::net::sockopt::set_socket_linger;
use serde_json::{Value, json};
use sqlx::Row;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};
use vesta_tests::{Api, Host, Neighbour, PATIENCE, Package, load, wait_for};

/// Requests that are cut in all, and the clients that send them at once.
const REQUESTS: usize = 1_000;
const CLIENTS: usize = 8;
/// Each client has a tenant of its own, with so many keys to revoke, and so many functions of so many
/// versions.
const KEYS: usize = 60;
const FUNCTIONS: usize = 4;
const VERSIONS: usize = 6;
/// The connection is cut within this time after the request was sent.
const CUT_WITHIN_US: u64 = 6_000;

/// A client's tenant.
struct Tenant {
    name: String,
    key: String,
    /// Prefix and key of those that may be revoked.
    keys: Vec<(String, String)>,
}

#[test]
fn memory_and_database_agree_after_a_thousand_requests_whose_clients_went_away() {
    let seed = std::env::var("VESTA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(1, |t| t.as_secs())
    });
    println!("VESTA_SEED={seed}");
    let mut host = Host::start();
    let neighbour = Neighbour::start(&host);
    let tenants: Vec<Tenant> = (0..CLIENTS).map(|n| tenant(&host, &format!("client-{n}"))).collect();

    let answered: usize = std::thread::scope(|scope| {
        let clients = tenants.iter().enumerate().map(|(n, tenant)| {
            let (address, operator) = (host.control_address(), host.operator_key());
            let random = SmallRng::seed_from_u64(seed.wrapping_add(n as u64));
            scope.spawn(move || client(tenant, address, operator, random))
        });
        clients.collect::<Vec<_>>().into_iter().map(|c| c.join().expect("no panic")).sum()
    });

    let served = neighbour.stop();
    println!(
        "{REQUESTS} requests, {answered} of them answered before they were cut; the neighbour: {} calls, p99 {:?}",
        served.statuses.len(),
        served.p99()
    );
    assert!(served.statuses.iter().all(|s| *s == 200), "{:?}", served.statuses);
    assert!(answered < REQUESTS * 9 / 10, "the requests were not cut");
    let said = settled(&host);
    assert_eq!(said, load::runtime().block_on(stored(&host)), "memory (left) and database (right)");
    // A key opens if and only if it is in the list.
    let mut revoked = 0;
    for tenant in &tenants {
        for (prefix, key) in &tenant.keys {
            let status = host.control().with_key(key).get("/api/v1/whoami").status;
            let listed = said["keys"].contains(&format!("{}/{prefix}", tenant.name));
            assert_eq!(status == 200, listed, "key {prefix} of {}", tenant.name);
            revoked += usize::from(!listed);
        }
    }
    let count = |what: &str| said[what].len();
    println!(
        "{} tenants, {} keys ({revoked} revoked), {} versions, {} aliases",
        count("tenants"),
        count("keys"),
        count("versions"),
        count("aliases")
    );
    assert!(revoked > 20 && count("tenants") > CLIENTS + 20, "hardly anything was changed");
    host.kill_9();
    host.restart();
    assert_eq!(said, all(&host), "before a restart (left) and after it (right)");
}

fn tenant(host: &Host, name: &str) -> Tenant {
    let key = host.tenant(name);
    let api = host.control().with_key(&key);
    for function in 0..FUNCTIONS {
        let package = Package::rogue(&format!("f-{function}"));
        for _ in 0..VERSIONS {
            package.deploy(&api);
        }
    }
    let keys = (0..KEYS).map(|_| {
        let made = api.post_json("/api/v1/keys", &json!({})).expect(201).json();
        let text = |name: &str| made[name].as_str().expect("text").to_owned();
        (text("prefix"), text("key"))
    });
    Tenant { name: name.into(), keys: keys.collect(), key: key.clone() }
}

/// Sends its share of the requests; how many were answered before they were cut.
fn client(tenant: &Tenant, address: &str, operator: &str, mut random: SmallRng) -> usize {
    let manifest = Package::rogue("f-0").manifest().clone();
    let mut answered = 0;
    let mut revocations = tenant.keys.iter();
    for n in 0..REQUESTS / CLIENTS {
        let mut pick = |most: usize| random.random_range(0..most);
        let function = format!("/api/v1/functions/f-{}", pick(FUNCTIONS));
        let version = 1 + pick(VERSIONS);
        let (key, method, path, body) = match pick(8) {
            0 => {
                let name = format!("{}-made-{n}", tenant.name);
                (operator, "POST", "/api/v1/tenants".to_owned(), json!({ "name": name }))
            }
            1 => (&*tenant.key, "POST", "/api/v1/keys".to_owned(), json!({})),
            2 | 3 => match revocations.next() {
                Some((prefix, _)) => (&*tenant.key, "DELETE", format!("/api/v1/keys/{prefix}"), Value::Null),
                None => continue,
            },
            4 => {
                let path = format!("{function}/aliases/alias-{}", pick(3));
                (&*tenant.key, "PUT", path, json!({ "version": version }))
            }
            5 => {
                let mut manifest = manifest.clone();
                manifest["name"] = json!(format!("f-{}", pick(FUNCTIONS + 2)));
                let deployment = begun(address, &tenant.key, &manifest);
                let path = format!("/api/v1/deployments/{deployment}/commit");
                (&*tenant.key, "POST", path, json!({ "alias": "live" }))
            }
            6 if pick(12) == 0 => (&*tenant.key, "DELETE", function, Value::Null),
            6 => (&*tenant.key, "POST", "/api/v1/deployments".to_owned(), manifest.clone()),
            _ => (&*tenant.key, "DELETE", format!("{function}/versions/{version}"), Value::Null),
        };
        // Mostly at once, so that a fast machine does not answer before.
        let (a, b) = (random.random_range(0..CUT_WITHIN_US), random.random_range(0..CUT_WITHIN_US));
        let after = Duration::from_micros(a * b / CUT_WITHIN_US);
        answered += usize::from(cut(address, key, method, &path, &body, after));
    }
    answered
}

/// Begins a deployment, whose blobs its tenant has uploaded before.
fn begun(address: &str, key: &str, manifest: &Value) -> String {
    let api = Api::new(&format!("http://{address}"), Some(key));
    // Those that were begun and never committed are under way until they expire.
    let reply = api.post_json("/api/v1/deployments", manifest);
    reply.json()["id"].as_str().unwrap_or("none").to_owned()
}

/// Sends one request and hangs up; whether its answer had begun by then.
fn cut(address: &str, key: &str, method: &str, path: &str, body: &Value, after: Duration) -> bool {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.write_all(format!("{head}{body}").as_bytes()).expect("sent");
    std::thread::sleep(after);
    stream.set_nonblocking(true).expect("non-blocking");
    let answered = stream.read(&mut [0; 1]).is_ok();
    // A reset: the host is to notice at once that nobody waits any more.
    set_socket_linger(&stream, Some(Duration::ZERO)).expect("linger");
    answered
}

/// What there is, as sorted texts: tenants, keys, versions, aliases.
type State = BTreeMap<&'static str, Vec<String>>;

/// What the API says once nothing changes any more.
fn settled(host: &Host) -> State {
    let mut before = all(host);
    wait_for("the host to have done what it was asked for", PATIENCE, || {
        std::thread::sleep(Duration::from_secs(2));
        let now = all(host);
        let same = now == before;
        before = now;
        same.then(|| before.clone())
    })
}

fn all(host: &Host) -> State {
    let operator = host.operator();
    let get = |path: &str| operator.get(path).expect(200).json();
    let list = |json: &Value, name: &str| json[name].as_array().expect("a list").clone();
    let text = |json: &Value, name: &str| json[name].as_str().expect("text").to_owned();
    let (mut tenants, mut keys) = (Vec::new(), Vec::new());
    let (mut versions, mut aliases) = (Vec::new(), Vec::new());
    for tenant in list(&get("/api/v1/tenants"), "tenants") {
        let tenant = text(&tenant, "name");
        let of_tenant = list(&get(&format!("/api/v1/keys?tenant={tenant}")), "keys");
        keys.extend(of_tenant.iter().map(|key| format!("{tenant}/{}", text(key, "prefix"))));
        for function in list(&get(&format!("/api/v1/functions?tenant={tenant}")), "functions") {
            let name = text(&function, "name");
            let function = get(&format!("/api/v1/functions/{name}?tenant={tenant}"));
            let numbers = list(&function, "versions");
            versions.extend(numbers.iter().map(|v| format!("{tenant}/{name}/{}", v["version"])));
            let pointing = function["aliases"].as_object().expect("aliases");
            aliases.extend(pointing.iter().map(|(alias, n)| format!("{tenant}/{name}/{alias}/{n}")));
        }
        tenants.push(tenant);
    }
    sorted([("tenants", tenants), ("keys", keys), ("versions", versions), ("aliases", aliases)])
}

/// What the database says.
async fn stored(host: &Host) -> State {
    use sqlx::ConnectOptions;
    let options = SqliteConnectOptions::new().filename(host.data_dir().join("vesta.db")).read_only(true);
    let mut connection = options.connect().await.expect("open");
    let keys =
        "SELECT tenant || '/' || prefix FROM api_keys WHERE revoked_unix_ms IS NULL AND tenant IS NOT NULL";
    sorted([
        ("tenants", rows(&mut connection, "SELECT name FROM tenants").await),
        ("keys", rows(&mut connection, keys).await),
        (
            "versions",
            rows(&mut connection, "SELECT tenant || '/' || function || '/' || number FROM versions").await,
        ),
        (
            "aliases",
            rows(
                &mut connection,
                "SELECT tenant || '/' || function || '/' || alias || '/' || version FROM aliases",
            )
            .await,
        ),
    ])
}

async fn rows(connection: &mut SqliteConnection, sql: &'static str) -> Vec<String> {
    let rows = sqlx::query(sql).fetch_all(connection).await.expect("rows");
    rows.iter().map(|row| row.get::<String, _>(0)).collect()
}

fn sorted<const N: usize>(state: [(&'static str, Vec<String>); N]) -> State {
    let sort = |(what, mut of): (&'static str, Vec<String>)| {
        of.sort();
        (what, of)
    };
    state.into_iter().map(sort).collect()
}
