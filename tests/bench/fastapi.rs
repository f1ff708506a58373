//! P11: served magika and MiniLM per CPU-second over what a user would pick instead: the same model behind
//! FastAPI with ONNX Runtime, one engine thread (`fastapi-server.py`). Both get the same bodies, tensors in
//! JSON, and give all of the model's outputs in JSON; Vesta's function is `tests/fixtures/json-tensors`.

use crate::Effort;
use crate::models::list;
use crate::onnx_runtime::python_with;
use crate::reference::{Partner, Server, text_of_about};
use crate::report::Line;
use crate::stats::{interleaved, median_of, ratios, same};
use bytes::Bytes;
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;
use tokio::runtime::Runtime;
use vesta_nn::{Tensor, TensorType};
use vesta_tests::cores::{self, Side};
use vesta_tests::process::Process;
use vesta_tests::{Host, PATIENCE, Package, guests, in_root, load, wait_for};

const CLIENTS: usize = 2;
const MODULES: &str = "fastapi, httptools, numpy, onnxruntime, orjson, uvicorn, uvloop";
const ANCHOR: &str = "FastAPI on the machine where Vesta was begun: 1.22 of its engine's CPU time";
/// What is done after the answer is part of it: the records, the log.
const AFTERWARDS: Duration = Duration::from_millis(200);
/// How far the answers may differ, as a part of the largest element.
const TOLERANCE: f64 = 1e-3;

struct Case {
    name: &'static str,
    file: &'static str,
    body: Value,
    /// Requests of a block.
    requests: usize,
    embedded: &'static str,
    fast: &'static str,
    ceiling: &'static str,
    /// Of all inputs.
    ty: TensorType,
}

pub fn magika(effort: Effort) -> Vec<Line> {
    let text = std::fs::read(in_root("BENCHMARKS.md")).expect("this document");
    let bytes = [&text[..1024], &text[text.len() - 1024..]].concat();
    measure(
        effort,
        &Case {
            name: "magika",
            file: "file-type/models/magika.onnx",
            body: json!({ "bytes": [bytes] }),
            requests: effort.embeddings * 2,
            embedded: "P11-magika-rten",
            fast: "P11-magika-onnxruntime",
            ceiling: "P11-magika-engine",
            ty: TensorType::I32,
        },
    )
}

pub fn minilm(effort: Effort) -> Vec<Line> {
    let (_, tokens) = text_of_about(64);
    let all = |value: i64| vec![value; tokens.len()];
    let body = json!({ "input_ids": [tokens], "attention_mask": [all(1)], "token_type_ids": [all(0)] });
    measure(
        effort,
        &Case {
            name: "minilm",
            file: "text-embed/models/minilm.onnx",
            body,
            requests: effort.embeddings,
            embedded: "P11-minilm-rten",
            fast: "P11-minilm-onnxruntime",
            ceiling: "P11-minilm-engine",
            ty: TensorType::I64,
        },
    )
}

fn measure(effort: Effort, case: &Case) -> Vec<Line> {
    let skipped = |why: &str| [case.embedded, case.fast].map(|id| Line::skipped(id, why)).into();
    let Some(python) = python_with(MODULES) else {
        return skipped("no Python with FastAPI and ONNX Runtime: `just bench-setup` makes one");
    };
    let Some(model) = guests::model(case.file) else {
        return skipped("the model is missing: run examples/fetch-models");
    };
    let library = vesta_tests::onnx_runtime();
    let mut config = "inference_slots = 1\n".to_string();
    if let Some(library) = &library {
        config += &format!("onnx_runtime = {:?}\n", library.display().to_string());
    }
    let host = cores::on(Side::Server, || Host::builder().config(&config).start());
    let path = in_root("examples").join(case.file);
    let server = cores::on(Side::Server, || Server::fastapi(&python, case.name, &path));
    let runtime = cores::on(Side::Client, load::runtime);
    let component = guests::fixture("json-tensors");
    let ours = |engine: &str| {
        let package = Package::new(engine, &component).model("m", &model).of_model("engine", json!(engine));
        let version = package.deploy(&host.control());
        let says = host.control().get(&format!("/api/v1/functions/{engine}/versions/{version}"));
        let says = says.expect(200).json()["models"][0].clone();
        assert_eq!(says["engine"], engine, "{says}");
        let path = format!("/fn/default/{engine}/{}", case.name);
        let target = Target::new(host.invoke_address(), &path, host.tenant_key(), host.process(), case);
        (target, says["packed"].is_object())
    };
    let theirs = Target::new(&server.address, &format!("/{}", case.name), "", server.process(), case);
    let expected = theirs.answer(&runtime);
    let (embedded, is_packed) = ours("rten");
    check(&embedded.answer(&runtime), &expected);
    let fast = library.is_some().then(|| ours("onnxruntime").0);
    if let Some(fast) = &fast {
        check(&fast.answer(&runtime), &expected);
    }
    // What a busy function gains comes after some requests.
    if is_packed {
        wait_for("the weights to be packed", PATIENCE, || {
            embedded.cpu_ms(&runtime);
            (host.metric("vesta_models_packed") == 1.0).then_some(())
        });
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut engine = cores::on(Side::Server, || {
        let mut command = Command::new(&python);
        command.arg(in_root("tests/bench/onnx-runtime-loop.py")).arg(&path);
        command.arg(list::write_inputs(dir.path(), &case.inputs()));
        Partner::start(command)
    });
    let line = case.requests.to_string();
    let mut block_engine = || engine.ask(&line) / 1e6 / case.requests as f64;
    let mut block = || theirs.cpu_ms(&runtime);
    let mut block_embedded = || embedded.cpu_ms(&runtime);
    let mut block_fast = || fast.as_ref().map_or(f64::NAN, |fast| fast.cpu_ms(&runtime));
    let rounds = effort.pairs.div_ceil(2);
    let all = interleaved(rounds, &mut [&mut block, &mut block_embedded, &mut block_fast, &mut block_engine]);
    let [theirs, embedded, fast, engine] = [&all[0], &all[1], &all[2], &all[3]];
    println!(
        "{}: ms of CPU a request: ONNX Runtime alone {:.2}; FastAPI {:.2}; Vesta with rten{} {:.2}, with ONNX Runtime {:.2} (medians)",
        case.name,
        median_of(engine),
        median_of(theirs),
        if is_packed { ", packed" } else { "" },
        median_of(embedded),
        median_of(fast)
    );
    let what = |engine: &str| format!("served {} with {engine} per CPU-second / FastAPI's", case.name);
    let line = |id, engine, ours, target| {
        Line::of(id, what(engine), &ratios(theirs, ours), target, false).same(&same(theirs)).anchor(ANCHOR)
    };
    let fast = match library {
        Some(_) => line(case.fast, "ONNX Runtime", fast, 1.1),
        None => Line::skipped(case.fast, "no ONNX Runtime in target/engines-of-tests"),
    };
    let what = format!("ONNX Runtime alone, without a server, on the same {} / FastAPI's", case.name);
    let ceiling = Line::info(case.ceiling, what, &ratios(theirs, engine));
    vec![line(case.embedded, "the embedded engine", embedded, 0.9), fast, ceiling]
}

impl Case {
    /// The body's tensors.
    fn inputs(&self) -> Vec<(String, Tensor)> {
        let inputs = self.body.as_object().expect("an object");
        let tensor = |rows: &Value| {
            let numbers = numbers(rows);
            let bytes = |number: &f64| match self.ty {
                TensorType::I32 => (*number as i32).to_le_bytes().to_vec(),
                _ => (*number as i64).to_le_bytes().to_vec(),
            };
            let data = numbers.iter().flat_map(bytes).collect();
            Tensor { ty: self.ty, shape: vec![1, numbers.len() as u32], data }
        };
        inputs.iter().map(|(name, rows)| (name.clone(), tensor(rows))).collect()
    }
}

/// One of the servers, and what it is asked.
struct Target {
    address: String,
    path: String,
    key: String,
    process: Process,
    body: Bytes,
    requests: usize,
}

impl Target {
    fn new(address: &str, path: &str, key: &str, process: Process, case: &Case) -> Target {
        Target {
            address: address.into(),
            path: path.into(),
            key: key.into(),
            process,
            body: case.body.to_string().into(),
            requests: case.requests,
        }
    }

    fn request(&self) -> load::Request {
        let mut request = load::request("POST", &self.address, &self.path, &self.key, self.body.clone());
        request.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
        request
    }

    fn answer(&self, runtime: &Runtime) -> Value {
        let answer = runtime.block_on(async {
            let mut connection = load::Connection::http1(&self.address).await.expect("connect");
            connection.send(self.request()).await
        });
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_slice(&answer.body).expect("JSON")
    }

    /// CPU time of all the server's processes for a request of a block, in milliseconds.
    fn cpu_ms(&self, runtime: &Runtime) -> f64 {
        let before = self.process.cpu();
        let request = self.request();
        let make = move |_| request.clone();
        let run = load::run(&self.address, CLIENTS, self.requests, make, |reply| {
            assert_eq!(reply.status, 200, "{reply:?}");
        });
        assert_eq!(runtime.block_on(run), self.requests);
        std::thread::sleep(AFTERWARDS);
        self.process.cpu().since(&before).as_secs_f64() * 1e3 / self.requests as f64
    }
}

/// Both servers have to give the same numbers, or they did not do the same work.
fn check(ours: &Value, expected: &Value) {
    let (ours, expected) = (numbers(ours), numbers(expected));
    assert_eq!(ours.len(), expected.len(), "as many numbers");
    let scale = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    let distance = ours.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(distance <= TOLERANCE * scale, "{distance} apart at a scale of {scale}");
}

/// All numbers of an answer, in their order.
fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(numbers).collect(),
        Value::Object(values) => values.values().flat_map(numbers).collect(),
        other => vec![other.as_f64().expect("a number")],
    }
}
