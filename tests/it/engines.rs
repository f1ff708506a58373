//! Given a host with ONNX Runtime or without it: which engine runs a model, what is said of it, and what
//! becomes of runs, bills and limits in that engine's workers.

use crate::onnx::{self, model, node, port, value};
use prost::Message;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use vesta_tests::books::Books;
use vesta_tests::cli::Cli;
use vesta_tests::host::Builder;
use vesta_tests::process::Process;
use vesta_tests::{Host, PATIENCE, Package, in_root, skip, wait_for};

const F64: i32 = 11;

/// The pinned library.
fn library() -> Option<PathBuf> {
    let library = vesta_tests::onnx_runtime();
    if library.is_none() {
        skip("no ONNX Runtime (vesta engines install onnxruntime --data target/engines-of-tests brings it)");
    }
    library
}

/// A host that has ONNX Runtime.
fn host() -> Option<Host> {
    Some(builder("")?.start())
}

/// Builds a host that has ONNX Runtime, and more in its configuration.
pub fn builder(config: &str) -> Option<Builder> {
    let library = library()?.display().to_string();
    Some(Host::builder().config(&format!("onnx_runtime = {library:?}\n{config}")))
}

/// A determinant, which the embedded engine does not compute.
fn determinant() -> Vec<u8> {
    model(vec![node("Det", &["x"], "y")], vec![value("x", &[2, 2])], vec![value("y", &[])])
}

const DETERMINANT_RUN: &str = "/run?model=m&in=x:f32:2x2:1,2,3,4";

/// What the host says of the only model of a function.
pub fn described(host: &Host, function: &str) -> Value {
    let function = host.control().get(&format!("/api/v1/functions/{function}")).expect(200).json();
    let versions = function["versions"].as_array().expect("versions");
    versions.last().expect("a version")["models"][0].clone()
}

fn on(engine: &str, package: Package) -> Package {
    package.of_model("engine", json!(engine))
}

#[test]
fn without_onnx_runtime_a_refusal_says_that_it_may_help_and_how_it_is_installed() {
    let host = Host::start();
    let package = Package::rogue("determinant").model("m", &determinant());
    let problem = package.refused(&host.control());
    assert_eq!(problem["type"], "urn:vesta:problem:operator-not-supported", "{problem}");
    let detail = problem["detail"].as_str().expect("a detail").to_owned();
    for word in ["Det", "ONNX Runtime may run it", "`vesta engines install onnxruntime`"] {
        assert!(detail.contains(word), "{detail}");
    }
    let problem = on("onnxruntime", package.named("named")).refused(&host.control());
    assert_eq!(problem["type"], "urn:vesta:problem:engine-not-installed", "{problem}");
    // What no engine would take has no such hint.
    let external = onnx::changed(|g| g.initializer[0].data_location = 1);
    let problem = Package::rogue("external").model("m", &external).refused(&host.control());
    assert!(!problem["detail"].as_str().expect("a detail").contains("ONNX Runtime"), "{problem}");

    let Some(library) = library() else { return };
    let (cli, data) = (Cli::stranger(), host.data_dir());
    let (data, library) = (data.display().to_string(), library.display().to_string());
    cli.run(&["engines", "--data", &data]).ok().says(&["rten", "embedded", "not installed"]);
    let install = ["engines", "install", "onnxruntime", "--data", &data, "--from"];
    let wrong = in_root("README.md").display().to_string();
    cli.run(&[&install[..], &[&wrong]].concat()).fails(&["README.md", "SHA-256"]);
    cli.run(&["engines", "--data", &data]).ok().says(&["not installed"]);
    cli.run(&[&install[..], &[&library]].concat()).ok();
    cli.run(&["engines", "--data", &data]).ok().says(&["1.32.0", "installed"]);
    // The running host finds it at its next deploy.
    package.deploy(&host.control());
    let said = host.invoke("determinant", DETERMINANT_RUN).expect(200).text();
    assert!(said.starts_with("y "), "{said}");
}

#[test]
fn a_model_that_the_embedded_engine_refuses_runs_on_onnx_runtime_and_outlives_the_host() {
    let Some(mut host) = host() else { return };
    Package::rogue("determinant").model("m", &determinant()).deploy(&host.control());
    let model = described(&host, "determinant");
    assert_eq!(model["engine"], "onnxruntime", "{model}");
    assert!(model["engine_reason"].as_str().expect("a reason").contains("Det"), "{model}");
    let shown = Cli::of(&host, host.tenant_key()).run(&["inspect", "determinant"]).ok();
    shown.says(&["runs on onnxruntime", "Det"]);
    let run = |host: &Host| host.invoke("determinant", DETERMINANT_RUN).expect(200).text();
    let said = run(&host);
    assert!(said.starts_with("y "), "{said}");
    host.kill_9();
    host.restart();
    assert_eq!(run(&host), said);
    // Prepared forms and choices are made anew from what was uploaded.
    host.kill_9();
    std::fs::remove_dir_all(host.data_dir().join("cache")).expect("removed");
    host.restart();
    assert_eq!(run(&host), said);
}

#[test]
fn both_engines_are_tried_and_the_embedded_one_is_used_where_they_agree() {
    let Some(host) = host() else { return };
    Package::rogue("sound").model("m", &onnx::sound().encode_to_vec()).deploy(&host.control());
    let model = described(&host, "sound");
    assert_eq!(model["engine"], "rten", "{model}");
    assert!(model["engine_reason"].as_str().expect("a reason").contains("same outputs"), "{model}");
    assert!(
        host.process().workers().iter().all(|worker| !worker.maps("libonnxruntime")),
        "it is open for nothing"
    );
    host.invoke("sound", "/run?model=m&in=x:f32:1x4:1").expect(200);
    assert!(host.process().mapped_here("libonnxruntime").is_empty(), "the host has it open");
}

/// A function with a model whose outputs the embedded engine computes too roughly.
fn difference_of_doubles() -> Package {
    // In single precision this is 0.
    let nodes = vec![node("Sub", &["x", "w"], "y")];
    let doubles = model(nodes, vec![port("x", F64, &[1]), port("w", F64, &[1])], vec![port("y", F64, &[1])]);
    let sample = |input: &str, value: f64| json!({ "input": input, "shape": [1], "values": [value] });
    let package = Package::rogue("doubles").model("m", &doubles);
    package.of_model("samples", json!([sample("x", 1.000_000_000_1), sample("w", 1.0)]))
}

#[test]
fn an_engine_whose_outputs_differ_is_not_used() {
    let Some(host) = host() else { return };
    difference_of_doubles().deploy(&host.control());
    let model = described(&host, "doubles");
    assert_eq!(model["engine"], "onnxruntime", "{model}");
}

#[test]
fn a_model_that_no_engine_runs_is_refused_with_the_reason_of_each() {
    let Some(host) = host() else { return };
    let unknown =
        model(vec![node("NoSuchThing", &["x"], "y")], vec![value("x", &[1])], vec![value("y", &[1])]);
    let problem = Package::rogue("unknown").model("m", &unknown).refused(&host.control());
    let detail = problem["detail"].as_str().expect("a detail");
    for word in ["rten: ", "onnxruntime: ", "NoSuchThing"] {
        assert!(detail.contains(word), "{detail}");
    }
    // And where the manifest names an engine, by that one.
    let problem = on("rten", Package::rogue("det").model("m", &determinant())).refused(&host.control());
    assert_eq!(problem["type"], "urn:vesta:problem:operator-not-supported", "{problem}");
}

#[test]
fn an_example_answers_the_same_on_both_engines() {
    let Some(host) = host() else { return };
    let (component, model) = crate::examples::digits();
    for engine in ["rten", "onnxruntime"] {
        on(engine, Package::new(engine, &component).model("digits", &model)).deploy(&host.control());
        assert_eq!(described(&host, engine)["engine"], engine);
    }
    for index in 0..20 {
        let body = crate::examples::digit_request(index);
        let answer = |engine: &str| {
            let reply = host.data().send("POST", &format!("/fn/default/{engine}/"), &[], body.as_bytes());
            crate::examples::digit_answer(&reply.expect(200).text())
        };
        assert_eq!(answer("rten"), answer("onnxruntime"));
    }
    let with_library =
        host.process().busy_workers().into_iter().filter(|worker| worker.maps("libonnxruntime"));
    assert_eq!(with_library.count(), 1);
    assert!(host.process().mapped_here("libonnxruntime").is_empty(), "the host has it open");
}

fn signal(process: Process, name: &str) {
    let status = std::process::Command::new("kill").args([name, &process.id().to_string()]).status();
    // It may have ended meanwhile.
    let _ = status.expect("run kill");
}

#[test]
fn a_worker_that_is_killed_or_crashes_mid_run_is_replaced() {
    let Some(host) = host() else { return };
    on("onnxruntime", Package::rogue("slow").model("m", &onnx::slow())).deploy(&host.control());
    const RUN: &str = "/run?model=m&in=x:f32:2000x256:1";
    let right = host.invoke("slow", RUN).expect(200).text();
    for name in ["-KILL", "-ABRT"] {
        let before = host.process().busy_workers();
        std::thread::scope(|scope| {
            let run = scope.spawn(|| host.invoke("slow", RUN).expect(200).text());
            std::thread::sleep(Duration::from_millis(50));
            before.iter().for_each(|worker| signal(*worker, name));
            assert_eq!(run.join().expect("an answer"), right, "{name}");
        });
        let after = wait_for("another worker", PATIENCE, || {
            Some(host.process().busy_workers()).filter(|workers| !workers.is_empty())
        });
        assert!(after.iter().all(|worker| before.iter().all(|old| old.id() != worker.id())), "{name}");
    }
}

#[test]
fn a_run_that_needs_too_much_memory_ends_with_that_reason_and_others_go_on() {
    let Some(host) = host() else { return };
    let square = Package::rogue("square").model("m", &onnx::square()).limit("model_memory_bytes", 32 << 20);
    on("onnxruntime", square).deploy(&host.control());
    let run = |rows: u32| format!("/run?model=m&in=x:f32:{rows}x1:1");
    host.invoke("square", &run(100)).expect(200);
    let said = host.invoke("square", &run(20_000)).expect(200).text();
    assert!(said.contains("model-memory"), "{said}");
    let record = host.invoke("square", &run(100)).expect(200);
    assert!(host.record(&record.invocation())["inference_cpu_ns"].as_u64().expect("a number") > 0);
}

#[test]
fn the_cpu_time_of_runs_is_billed_and_the_books_balance() {
    let Some(host) = host() else { return };
    on("onnxruntime", Package::rogue("slow").model("m", &onnx::slow())).deploy(&host.control());
    const RUN: &str = "/run?model=m&in=x:f32:16x256:1";
    host.invoke("slow", RUN).expect(200);
    let (before, begun) = (Books::of(&host), Instant::now());
    let (mut billed_ns, mut runs) = (0, 0);
    while begun.elapsed() < Duration::from_secs(5) {
        let reply = host.invoke("slow", RUN).expect(200);
        billed_ns += host.record(&reply.invocation())["inference_cpu_ns"].as_u64().expect("a number");
        runs += 1;
    }
    let spent = Books::of(&host).since(&before);
    println!("{runs} runs, {:.2} ms each; {spent:?}", billed_ns as f64 / 1e6 / f64::from(runs));
    assert!(billed_ns > 0);
    assert!(spent.unattributed().abs() <= 0.02, "{spent:?}");
}

#[test]
fn several_threads_compute_a_run() {
    let Some(host) = host() else { return };
    let slow = Package::rogue("wide").model("m", &onnx::slow()).of_model("threads", json!(2));
    on("onnxruntime", slow).deploy(&host.control());
    host.invoke("wide", "/run?model=m&in=x:f32:64x256:1").expect(200);
    let worker = *host.process().busy_workers().first().expect("a worker");
    assert!(worker.threads() >= 3, "{} threads", worker.threads());
}

#[test]
fn a_file_in_the_place_of_the_library_is_not_opened() {
    let host = Host::start();
    let folder = host.data_dir().join("engines/onnxruntime-1.32.0");
    std::fs::create_dir_all(&folder).expect("made");
    std::fs::write(folder.join("libonnxruntime.so"), "not a library").expect("written");
    let package = on("onnxruntime", Package::rogue("m").model("m", &determinant()));
    let problem = package.refused(&host.control());
    assert_eq!(problem["type"], "urn:vesta:problem:engine-not-installed", "{problem}");
    let data = host.data_dir().display().to_string();
    Cli::stranger().run(&["engines", "--data", &data]).ok().says(&["wrong checksum"]);
}

#[test]
fn a_library_that_cannot_be_opened_is_the_hosts_fault() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "not a library").expect("written");
    let config = format!("onnx_runtime = {:?}", file.path().display().to_string());
    let host = Host::builder().config(&config).start();
    let sound = onnx::sound().encode_to_vec();
    for package in [
        on("onnxruntime", Package::rogue("named").model("m", &determinant())),
        Package::rogue("open").model("m", &sound),
    ] {
        let refused = package.refused(&host.control());
        assert_eq!(refused["type"], "urn:vesta:problem:runtime", "{refused}");
        let path = file.path().display().to_string();
        assert!(!refused.to_string().contains(&path), "{refused}");
    }
    // What names the embedded engine goes on.
    on("rten", Package::rogue("sound").model("m", &sound)).deploy(&host.control());
    assert_eq!(described(&host, "sound")["engine"], "rten");
}

#[test]
fn a_library_that_cannot_be_read_is_the_hosts_fault() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = format!("onnx_runtime = {:?}", folder.path().join("none.so").display().to_string());
    let host = Host::builder().config(&config).start();
    let sound = Package::rogue("sound").model("m", &onnx::sound().encode_to_vec());
    let refused = sound.refused(&host.control());
    assert_eq!(refused["type"], "urn:vesta:problem:runtime", "{refused}");
    on("rten", sound).deploy(&host.control());
}

#[test]
fn a_choice_of_onnx_runtime_outlives_its_library_and_a_lost_choice_is_made_again() {
    let Some(library) = library() else { return };
    let mut host = Host::start();
    let data = host.data_dir().display().to_string();
    let library = library.display().to_string();
    let install = ["engines", "install", "onnxruntime", "--data", &data, "--from", &library];
    Cli::stranger().run(&install).ok();
    let package = difference_of_doubles();
    package.deploy(&host.control());
    assert_eq!(described(&host, "doubles")["engine"], "onnxruntime");
    const RUN: &str = "/run?model=m&in=x:f64:1:3;w:f64:1:1";
    let said = host.invoke("doubles", RUN).expect(200).text();
    // The embedded engine would run it, and differently.
    host.kill_9();
    let installed = host.data_dir().join("engines");
    std::fs::rename(&installed, installed.with_extension("away")).expect("moved");
    host.restart();
    let problem = package.refused(&host.control());
    assert_eq!(problem["type"], "urn:vesta:problem:engine-not-installed", "{problem}");
    assert_ne!(host.invoke("doubles", RUN).status, 200);
    host.kill_9();
    std::fs::rename(installed.with_extension("away"), &installed).expect("moved");
    let files = std::fs::read_dir(host.data_dir().join("cache/models")).expect("a folder").flatten();
    let choices =
        files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|e| e == "engine"));
    let choices: Vec<_> = choices.collect();
    assert!(!choices.is_empty());
    choices.iter().for_each(|path| std::fs::remove_file(path).expect("removed"));
    host.restart();
    assert_eq!(host.invoke("doubles", RUN).expect(200).text(), said);
    assert_eq!(described(&host, "doubles")["engine"], "onnxruntime");
}

#[test]
fn minilm_runs_on_both_engines() {
    let Some(host) = host() else { return };
    let Some(minilm) = vesta_tests::guests::model("text-embed/models/minilm.onnx") else {
        return skip("no models/minilm.onnx (examples/fetch-models brings it)");
    };
    let tensor = |name: &str| format!("{name}:i64:1x64:1");
    let inputs = ["input_ids", "attention_mask", "token_type_ids"].map(tensor).join(";");
    let run = format!("/run?model=m&in={inputs}");
    for engine in ["rten", "onnxruntime"] {
        on(engine, Package::rogue(engine).model("m", &minilm)).deploy(&host.control());
        let ms = |reply: &vesta_tests::Reply, field: &str| {
            host.record(&reply.invocation())[field].as_f64().expect("a number") / 1e6
        };
        let first = host.invoke(engine, &run).expect(200);
        assert!(
            first.text().starts_with(|c: char| c.is_alphanumeric()) && !first.text().starts_with("error")
        );
        let (cold, first_run) = (ms(&first, "cold_start_cpu_ns"), ms(&first, "inference_cpu_ns"));
        let mut runs: Vec<f64> =
            (0..15).map(|_| ms(&host.invoke(engine, &run).expect(200), "inference_cpu_ns")).collect();
        runs.sort_by(f64::total_cmp);
        let worker = host.process().busy_workers().into_iter().map(|w| w.private_dirty()).max().unwrap_or(0);
        println!(
            "MiniLM on {engine}: a run {:.1} ms of CPU time (median; least {:.1}), the first {first_run:.1}, a cold start {cold:.1}; a worker holds {} MB",
            runs[runs.len() / 2],
            runs[0],
            worker >> 20
        );
    }
}
