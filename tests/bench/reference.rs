//! What Vesta is compared with, each in a process of its own.

mod guest;
mod partner;

pub use partner::Partner;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use vesta_core::manifest::Encoding;
use vesta_nn::{Backend, Form, ModelLimits, PreparedFiles, Rten, Tensor, TensorType};
use vesta_tests::process::Process;

/// Runs one of the references; its answer goes to standard output.
pub fn run(role: &str, arguments: &[String]) {
    match role {
        "reference-hyper" => bare_hyper(),
        "reference-guest" => guest::serve(Path::new(&arguments[0])),
        "reference-cold" => {
            let begun = Instant::now();
            run_model(Path::new(&arguments[0]), &tokens(&arguments[1]), 1, Form::Mapped);
            println!("{}", begun.elapsed().as_nanos());
        }
        "reference-read" => crate::cold_start::read_files(arguments),
        "reference-loop" | "reference-loop-packed" => {
            let n = arguments[2].parse().expect("a number of runs");
            let form = if role == "reference-loop" { Form::Mapped } else { Form::Packed };
            println!("{}", run_model(Path::new(&arguments[0]), &tokens(&arguments[1]), n, form));
        }
        "reference-runs" | "reference-load" | "reference-models" => {
            println!("{}", crate::workers::reference(role, arguments));
        }
        "reference-prepare" | "reference-model" => crate::models::reference(role, arguments),
        other => panic!("no reference {other}"),
    }
}

/// This program as a reference, to be started.
pub fn role(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
    command.arg(role);
    command
}

/// Starts a reference process.
pub fn start(name: &str, arguments: &[&str]) -> Child {
    let mut command = role(name);
    command.args(arguments).stdout(Stdio::piped());
    command.spawn().expect("start the reference")
}

/// The number that a reference process answers.
pub fn ask(role: &str, arguments: &[&str]) -> f64 {
    let out = start(role, arguments).wait_with_output().expect("the reference ends");
    assert!(out.status.success(), "{role} failed");
    String::from_utf8_lossy(&out.stdout).trim().parse().expect("the reference answers a number")
}

/// A server that is compared with. Dropping it ends it.
pub struct Server {
    child: Child,
    pub address: String,
}

impl Server {
    pub fn process(&self) -> Process {
        Process::new(self.child.id())
    }

    pub fn hyper() -> Server {
        let mut child = start("reference-hyper", &[]);
        let port = first_line(child.stdout.take().expect("its output"));
        Server { child, address: format!("127.0.0.1:{port}") }
    }

    /// `fastapi-server.py` with a model.
    pub fn fastapi(python: &Path, name: &str, model: &Path) -> Server {
        let mut command = Command::new(python);
        command.arg(vesta_tests::in_root("tests/bench/fastapi-server.py"));
        command.arg(format!("{name}={}", model.display())).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start Python");
        let port = first_line(child.stdout.take().expect("its output"));
        assert!(!port.is_empty(), "fastapi-server.py ended");
        Server { child, address: format!("127.0.0.1:{port}") }
    }

    /// `wasmtime serve` with a component; an instance answers `reuse` requests. `None` where there is no
    /// `wasmtime`: it is looked for in the variable `WASMTIME` and in `PATH`.
    pub fn wasmtime(component: &Path, reuse: usize) -> Option<Server> {
        let program = std::env::var_os("WASMTIME").unwrap_or_else(|| "wasmtime".into());
        let mut command = Command::new(program);
        command.args(["serve", "--addr", "127.0.0.1:0", "-S", "cli=y"]);
        command.arg(format!("--max-instance-reuse-count={reuse}")).arg(component);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().ok()?;
        let said = first_line(child.stderr.take().expect("its output"));
        let address = said.split("http://").nth(1).map(|a| a.trim_end_matches('/').to_string());
        Some(Server { child, address: address.unwrap_or_else(|| panic!("wasmtime serve said: {said}")) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first line of what a process says; the rest is read and dropped, so that it never waits.
fn first_line(output: impl Read + Send + 'static) -> String {
    let mut output = BufReader::new(output);
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");
    std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    line.trim().to_string()
}

/// A hyper server that answers what `hello` answers; prints its port.
fn bare_hyper() {
    // As many threads as Vesta has: one for each core that the process may use.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        println!("{}", listener.local_addr().expect("an address").port());
        loop {
            let (stream, _) = listener.accept().await.expect("accept");
            stream.set_nodelay(true).expect("nodelay");
            let answer = service_fn(async |_request| {
                let response = http::Response::builder().header("content-type", "text/plain; charset=utf-8");
                response.body(Full::new(Bytes::from_static(b"Hello, world!")))
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer),
            );
        }
    });
}

/// Maps a prepared MiniLM, runs it `n` times over one text and gives the CPU nanoseconds of all runs.
fn run_model(dir: &Path, tokens: &[i64], n: usize, form: Form) -> u64 {
    let files = PreparedFiles::open(dir).expect("prepared files");
    let graph = Rten.load(files, form).expect("the prepared model loads");
    let row = |value: &dyn Fn(i64) -> i64| Tensor {
        ty: TensorType::I64,
        shape: vec![1, tokens.len() as u32],
        data: tokens.iter().flat_map(|t| value(*t).to_le_bytes()).collect(),
    };
    let mut cpu_ns = 0;
    for _ in 0..n {
        let inputs = vec![
            ("input_ids".to_string(), row(&|t| t)),
            ("attention_mask".to_string(), row(&|_| 1)),
            ("token_type_ids".to_string(), row(&|_| 0)),
        ];
        cpu_ns += graph.run(inputs).expect("the model runs").cpu_ns;
    }
    cpu_ns
}

fn tokens(text: &str) -> Vec<i64> {
    text.split(',').map(|t| t.parse().expect("a token")).collect()
}

/// The text of `text-embed`'s reference that has about so many tokens, and its tokens.
pub fn text_of_about(length: usize) -> (String, Vec<i64>) {
    let reference = std::fs::read_to_string(vesta_tests::in_root("examples/text-embed/reference.json"));
    let reference: serde_json::Value =
        serde_json::from_str(&reference.expect("reference.json")).expect("reference.json is JSON");
    let tokens = |case: &serde_json::Value| -> Vec<i64> {
        case["tokens"].as_array().expect("tokens").iter().filter_map(serde_json::Value::as_i64).collect()
    };
    let cases = reference["cases"].as_array().expect("cases");
    let case = cases.iter().min_by_key(|case| tokens(case).len().abs_diff(length)).expect("a case");
    (case["text"].as_str().expect("a text").to_string(), tokens(case))
}

/// A text with its tokens, of about 64 tokens, and MiniLM as Vesta prepares it.
pub struct MiniLm {
    pub text: String,
    pub tokens: String,
    pub prepared: PathBuf,
    _dir: tempfile::TempDir,
}

impl MiniLm {
    /// None where the model is not on this machine.
    pub fn find() -> Option<MiniLm> {
        let source = vesta_tests::in_root("examples/text-embed/models/minilm.onnx");
        if !source.exists() {
            vesta_tests::skip("text-embed's model is missing: run examples/fetch-models");
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let prepared = dir.path().join("prepared");
        std::fs::create_dir(&prepared).expect("create");
        vesta_nn::prepare(&source, Encoding::Onnx, &[], &prepared, &ModelLimits::default())
            .expect("prepares");
        let (text, tokens) = text_of_about(64);
        let tokens: Vec<String> = tokens.iter().map(i64::to_string).collect();
        println!("MiniLM over a text of {} tokens", tokens.len());
        Some(MiniLm { text, tokens: tokens.join(","), prepared, _dir: dir })
    }

    pub fn body(&self) -> Vec<u8> {
        serde_json::json!({ "texts": [self.text] }).to_string().into_bytes()
    }

    pub fn prepared(&self) -> &str {
        self.prepared.to_str().expect("a plain path")
    }
}
