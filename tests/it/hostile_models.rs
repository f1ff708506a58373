//! Models that mean harm: invoked again and again beside another tenant's function, which must not notice.

use crate::onnx::{self, F32, I64, model, node, port};
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use vesta_tests::load::{self, Connection, Request};
use vesta_tests::{Host, Package};

const CLIENTS: usize = 8;
const INVOCATIONS: usize = 200;
/// Each hostile client waits so long between two requests, so that the other tenant's are many in the
/// meantime.
const PAUSE: Duration = Duration::from_millis(40);
/// Each so-manieth hostile request is a harmless one: it is answered, so that the model is not set aside.
const HARMLESS: usize = 3;
/// Requests of the other tenant, alone; from so many clients.
const ALONE: usize = 400;
const NEIGHBOURS: usize = 2;
/// Other tests run at the same time, before or after the other tenant is alone. On a machine that does
/// nothing else, 1 holds.
const BESIDE_OTHER_TESTS: f64 = 4.0;
/// CPU time of a hostile run, in milliseconds.
const INFERENCE_MS: u64 = 50;

/// A model, the request that makes it do harm, and the words of which one has to be in each answer.
pub struct Hostile {
    pub name: &'static str,
    /// What it does.
    pub kind: &'static str,
    pub model: Vec<u8>,
    pub inputs: String,
    /// The same with sizes that do no harm.
    pub harmless: &'static str,
    pub ends: &'static [&'static str],
}

const MEMORY: &[&str] = &["model-memory", "set aside"];

/// 25,000,000,000 floats: 100 GB.
const MANY: &str = "100000,250000";

pub fn hostile() -> Vec<Hostile> {
    let n = || port("n", I64, &[2]);
    let x = || port("x", F32, &[1, 1]);
    let y = || vec![port("y", F32, &[0, 0])];
    let sized = |op: &str| model(vec![node(op, &["x", "n"], "y")], vec![x(), n()], y());
    let mut all = vec![
        Hostile {
            name: "constant-of-shape",
            kind: "allocates",
            model: model(vec![node("ConstantOfShape", &["n"], "y")], vec![n()], y()),
            inputs: format!("n:i64:2:{MANY}"),
            harmless: "n:i64:2:1,2",
            ends: MEMORY,
        },
        Hostile {
            name: "expand",
            kind: "allocates",
            model: sized("Expand"),
            inputs: format!("x:f32:1x1:1;n:i64:2:{MANY}"),
            harmless: "x:f32:1x1:1;n:i64:2:1,2",
            ends: MEMORY,
        },
        Hostile {
            name: "tile",
            kind: "allocates",
            model: sized("Tile"),
            inputs: format!("x:f32:1x1:1;n:i64:2:{MANY}"),
            harmless: "x:f32:1x1:1;n:i64:2:1,2",
            ends: MEMORY,
        },
        Hostile {
            name: "pad",
            kind: "allocates",
            model: model(vec![node("Pad", &["x", "n"], "y")], vec![x(), port("n", I64, &[4])], y()),
            inputs: format!("x:f32:1x1:1;n:i64:4:0,0,{MANY}"),
            harmless: "x:f32:1x1:1;n:i64:4:0,0,1,2",
            ends: MEMORY,
        },
        Hostile {
            name: "resize",
            kind: "allocates",
            model: model(
                vec![node("Resize", &["x", "", "", "n"], "y")],
                vec![port("x", F32, &[1, 1, 1, 1]), port("n", I64, &[4])],
                vec![port("y", F32, &[0, 0, 0, 0])],
            ),
            inputs: "x:f32:1x1x1x1:1;n:i64:4:1,1,1000000,25000".into(),
            harmless: "x:f32:1x1x1x1:1;n:i64:4:1,1,2,2",
            ends: MEMORY,
        },
        Hostile {
            name: "top-k",
            kind: "allocates",
            model: model(
                vec![node("TopK", &["x", "n"], "y")],
                vec![port("x", F32, &[0]), port("n", I64, &[1])],
                vec![port("y", F32, &[0])],
            ),
            inputs: "x:f32:4:1;n:i64:1:2000000000".into(),
            harmless: "x:f32:4:1;n:i64:1:2",
            ends: &["error", "set aside"],
        },
        Hostile {
            name: "product",
            kind: "allocates",
            model: model(
                vec![node("MatMul", &["a", "b"], "y")],
                vec![port("a", F32, &[0, 1]), port("b", F32, &[1, 0])],
                vec![port("y", F32, &[0, 0])],
            ),
            inputs: "a:f32:160000x1:1;b:f32:1x160000:1".into(),
            harmless: "a:f32:2x1:1;b:f32:1x2:1",
            ends: MEMORY,
        },
        // 2^64 + 20 elements.
        Hostile {
            name: "wrapping-reshape",
            kind: "wraps",
            model: model(
                vec![
                    node("Reshape", &["x", "n"], "r"),
                    node("Flatten", &["r"], "f"),
                    node("Exp", &["f"], "y"),
                ],
                vec![port("x", F32, &[0]), port("n", I64, &[3])],
                vec![port("y", F32, &[0, 0])],
            ),
            inputs: "x:f32:20:1;n:i64:3:10827767,199537566,8538".into(),
            harmless: "x:f32:20:1;n:i64:3:1,4,5",
            ends: &["error"],
        },
        Hostile {
            name: "wrapping-expand",
            kind: "wraps",
            model: model(
                vec![node("Expand", &["x", "n"], "y")],
                vec![port("x", F32, &[1, 1, 1]), port("n", I64, &[3])],
                vec![port("y", F32, &[0, 0, 0])],
            ),
            inputs: "x:f32:1x1x1:1;n:i64:3:10827767,199537566,8538".into(),
            harmless: "x:f32:1x1x1:1;n:i64:3:1,4,5",
            ends: &["error"],
        },
    ];
    all.push(endless());
    all
}

/// Forty products of matrices of 4,000 by 4,000: some minutes.
pub fn endless() -> Hostile {
    let mut nodes = vec![node("ConstantOfShape", &["n"], "m0")];
    nodes.extend((0..40).map(|i| {
        let (of, to) = (format!("m{i}"), format!("m{}", i + 1));
        node("MatMul", &[&of, "m0"], &to)
    }));
    nodes.push(node("Shape", &["m40"], "y"));
    Hostile {
        name: "endless",
        kind: "never ends",
        model: model(nodes, vec![port("n", I64, &[2])], vec![port("y", I64, &[2])]),
        inputs: "n:i64:2:4000,4000".into(),
        harmless: "n:i64:2:2,2",
        ends: &["inference-limit", "set aside"],
    }
}

/// A model at which the worker `unchecked` of `tests/worker` crashes.
pub fn crash() -> Hostile {
    Hostile {
        name: "crash",
        kind: "crashes",
        model: onnx::sound().encode_to_vec(),
        inputs: "x:f32:1x4:666".into(),
        harmless: "x:f32:1x4:1",
        ends: &["model-crashed"],
    }
}

/// Operators in a chain, in a branch that the trial run does not take. Refused at deploy, unless the host
/// allows graphs as deep as that.
pub fn deep() -> Hostile {
    const LENGTH: usize = 50_000;
    let name = |n: usize| if n == 0 { "x".to_string() } else { format!("d{n}") };
    let chain = (0..LENGTH).map(|n| node("Neg", &[&name(n)], &name(n + 1))).collect();
    let nodes = vec![
        node("Greater", &["x", "z"], "is-greater"),
        onnx::branch("is-greater", chain, vec![node("Identity", &["x"], "same")], "y"),
    ];
    Hostile {
        name: "deep",
        kind: "crashes",
        model: model(nodes, vec![port("x", F32, &[1]), port("z", F32, &[1])], vec![port("y", F32, &[0])]),
        inputs: "x:f32:1:1;z:f32:1:0".into(),
        harmless: "x:f32:1:0;z:f32:1:1",
        ends: &["model-crashed"],
    }
}

impl Hostile {
    pub fn package(&self) -> Package {
        Package::rogue(self.name).model("m", &self.model).limit("inference_ms", INFERENCE_MS)
    }
    pub fn path(&self, tenant: &str) -> String {
        self.path_with(tenant, &self.inputs)
    }
    fn path_with(&self, tenant: &str, inputs: &str) -> String {
        format!("/fn/{tenant}/{}/run?model=m&in={inputs}", self.name)
    }
}

/// The other tenant.
struct Neighbour {
    address: String,
    request: Box<dyn Fn() -> Request + Send + Sync>,
}

impl Neighbour {
    /// Requests one after another on each of its connections, `least` in all and on until `enough`: how long
    /// each took, in milliseconds.
    async fn load(self: Arc<Self>, least: usize, enough: Arc<AtomicBool>) -> Vec<f64> {
        let count = Arc::new(AtomicUsize::new(0));
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..NEIGHBOURS {
            let (this, count, enough) = (self.clone(), count.clone(), enough.clone());
            clients.spawn(async move {
                let mut connection = Connection::http1(&this.address).await.expect("connect");
                let mut took = Vec::new();
                while count.fetch_add(1, Ordering::Relaxed) < least || !enough.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let reply = connection.send((this.request)()).await.expect("an answer");
                    assert_eq!(reply.status, 200, "the other tenant's: {}", reply.text());
                    took.push(begun.elapsed().as_secs_f64() * 1e3);
                }
                took
            });
        }
        clients.join_all().await.concat()
    }
}

/// The tenant of the hostile models.
struct Attacker {
    address: String,
    key: String,
    /// The hostile request, and the harmless one.
    paths: [String; 2],
    ends: &'static [&'static str],
}

impl Attacker {
    /// So many invocations, each answered as it should be: how long the models ran in each, in milliseconds.
    async fn load(self: Arc<Self>, invocations: usize) -> Vec<f64> {
        let count = Arc::new(AtomicUsize::new(0));
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            let (this, count) = (self.clone(), count.clone());
            clients.spawn(async move {
                let mut connection = Connection::http1(&this.address).await.expect("connect");
                let mut ran = Vec::new();
                loop {
                    let n = count.fetch_add(1, Ordering::Relaxed);
                    if n >= invocations {
                        return ran;
                    }
                    let is_harmless = n % HARMLESS == HARMLESS - 1;
                    let path = &this.paths[usize::from(is_harmless)];
                    let request = load::request("GET", &this.address, path, &this.key, "");
                    let reply = connection.send(request).await.expect("the host answers");
                    let text = reply.text();
                    let is_told = this.ends.iter().any(|end| text.contains(end));
                    assert!(
                        is_told || (is_harmless && text.starts_with("y ")),
                        "{path}: {} {text}",
                        reply.status
                    );
                    ran.extend(reply.timing("infer"));
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        clients.join_all().await.concat()
    }
}

fn at(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share) as usize]
}

/// Invokes each model beside the other tenant's load.
pub fn nobody_else_notices(host: &Host, models: &[Hostile]) {
    let Some(package) = crate::examples::text_embed("text-embed") else { return };
    let mallory = host.tenant("mallory");
    package.deploy(&host.control());
    for hostile in models {
        hostile.package().deploy(&host.control().with_key(&mallory));
    }
    let (address, key) = (host.invoke_address().to_string(), host.tenant_key().to_string());
    let body = crate::examples::text_request("the hearth that is always ready");
    let to = address.clone();
    let request = move || load::request("POST", &to, "/fn/default/text-embed/", &key, body.clone());
    let neighbour = Arc::new(Neighbour { address: address.clone(), request: Box::new(request) });
    let runtime = load::runtime();
    let enough = |is: bool| Arc::new(AtomicBool::new(is));
    runtime.block_on(neighbour.clone().load(20, enough(true)));
    let mut alone = runtime.block_on(neighbour.clone().load(ALONE, enough(true)));
    let (run, alone) = (at(&mut alone, 0.5), at(&mut alone, 0.99));
    println!("text-embed alone: {run:.1} ms at the median, {alone:.1} ms at p99");
    let mut kinds: BTreeMap<&str, Kind> = BTreeMap::new();
    for hostile in models {
        let attacker = Arc::new(Attacker {
            address: address.clone(),
            key: mallory.clone(),
            paths: [hostile.path("mallory"), hostile.path_with("mallory", hostile.harmless)],
            ends: hostile.ends,
        });
        // Its cold start is another matter.
        runtime.block_on(attacker.clone().load(1));
        let done = enough(false);
        let beside = runtime.spawn(neighbour.clone().load(0, done.clone()));
        let begun = Instant::now();
        let mut ran = runtime.block_on(attacker.load(INVOCATIONS));
        let seconds = begun.elapsed().as_secs_f64();
        done.store(true, Ordering::Relaxed);
        let mut took = runtime.block_on(beside).expect("no request of the other tenant fails");
        let (name, count, p50, p99) = (hostile.name, took.len(), at(&mut took, 0.5), at(&mut took, 0.99));
        println!(
            "{name}: {INVOCATIONS} in {seconds:.1} s; beside it {count} of text-embed: {p50:.1} and {p99:.1} ms"
        );
        assert!(count >= INVOCATIONS / 8, "the other tenant's load is thin: {count}");
        let kind = kinds.entry(hostile.kind).or_default();
        kind.took.append(&mut took);
        kind.ran.append(&mut ran);
    }
    for (kind, Kind { mut took, mut ran }) in kinds {
        // A run that is under way is not interrupted: it may be one of ours, or one of the attacker's.
        let under_way = run.max(at(&mut ran, 0.99));
        let (p99, most) = (at(&mut took, 0.99), 1.5 * alone + under_way);
        println!("{kind}: p99 {p99:.1} ms; 1.5 of alone and a run of {under_way:.1} ms are {most:.1} ms");
        assert!(
            p99 <= BESIDE_OTHER_TESTS * most,
            "the other tenant notices {kind}: {p99:.1} ms, at most {most:.1}"
        );
    }
    assert!(host.is_ready());
}

/// What was measured beside models of one kind: the other tenant's requests and the attacker's runs, in
/// milliseconds.
#[derive(Default)]
struct Kind {
    took: Vec<f64>,
    ran: Vec<f64>,
}

#[test]
fn hostile_models_do_not_reach_another_tenant() {
    nobody_else_notices(&Host::start(), &hostile());
}
