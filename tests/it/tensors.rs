//! Tensors of every type and rank between functions, models and clients: what goes in, what comes out, what
//! is
//! handed on, and who is told when it does not fit.

use crate::onnx::{self, F32, Value as Port, node, port};
use serde_json::{Value, json};
use vesta_tests::{Host, Package, Reply, guests};

const I8: i32 = 3;
const BOOL: i32 = 9;
const MIB: u64 = 1 << 20;

/// An element type of ONNX, its name, and elements of it as JSON.
fn types() -> [(i32, &'static str, Value); 8] {
    [
        (1, "f32", json!([0.5, -2.0])),
        (2, "u8", json!([0, 255])),
        (I8, "i8", json!([-128, 127])),
        (6, "i32", json!([-2_147_483_648i64, 2_147_483_647])),
        (7, "i64", json!([-7, 1 << 30])),
        (BOOL, "bool", json!([true, false])),
        (10, "f16", json!([0.5, -2.0])),
        (11, "f64", json!([0.5, -2.0])),
    ]
}

/// `y = mask ? x · k : x`, `not = !mask` and `same = q`.
fn mixed() -> Vec<u8> {
    let nodes = vec![
        node("Mul", &["x", "k"], "scaled"),
        node("Where", &["mask", "scaled", "x"], "y"),
        node("Not", &["mask"], "not"),
        node("Identity", &["q"], "same"),
    ];
    let inputs =
        vec![port("x", F32, &[0, 2]), port("k", F32, &[]), port("mask", BOOL, &[0, 2]), port("q", I8, &[2])];
    let outputs = vec![port("y", F32, &[0, 2]), port("not", BOOL, &[0, 2]), port("same", I8, &[2])];
    onnx::model(nodes, inputs, outputs)
}

/// `next = state + step`.
fn step() -> Vec<u8> {
    let inputs = vec![port("state", F32, &[0]), port("step", F32, &[])];
    onnx::model(vec![node("Add", &["state", "step"], "next")], inputs, vec![port("next", F32, &[0])])
}

fn package(name: &str, model: &[u8]) -> Package {
    Package::new(name, &guests::fixture("tensors")).model("m", model)
}

fn run(host: &Host, function: &str, inputs: &Value) -> Reply {
    let body = inputs.to_string();
    host.data().send("POST", &format!("/fn/default/{function}/run"), &[], body.as_bytes())
}

fn tensor(ty: &str, shape: &[u64], data: &Value) -> Value {
    json!({ "type": ty, "shape": shape, "data": data })
}

fn mixed_inputs() -> Value {
    json!({
        "x": tensor("f32", &[1, 2], &json!([1.0, 2.0])),
        "k": tensor("f32", &[], &json!([10.0])),
        "mask": tensor("bool", &[1, 2], &json!([true, false])),
        "q": tensor("i8", &[2], &json!([-128, 127])),
    })
}

#[test]
fn every_type_goes_in_and_comes_out_as_what_it_is_at_every_rank() {
    let host = Host::shared();
    for (number, ty, data) in types() {
        let identity = |shape: &[i64]| {
            let ports: [Port; 2] = ["x", "y"].map(|name| port(name, number, shape));
            let [x, y] = ports;
            onnx::model(vec![node("Identity", &["x"], "y")], vec![x], vec![y])
        };
        let one = json!([data[0]]);
        let cases: [(&[u64], &[i64], &Value); 4] =
            [(&[], &[], &one), (&[1], &[1], &one), (&[2], &[0], &data), (&[2, 1, 1], &[0, 0, 1], &data)];
        for (shape, stated, data) in cases {
            let name = format!("type-{ty}-{}-{}", shape.len(), stated.first().copied().unwrap_or(0));
            let reduced = package(&name, &identity(stated)).of_model("precision", json!("reduced"));
            reduced.deploy(&host.control());
            let x = tensor(ty, shape, data);
            let answer = run(&host, &name, &json!({ "x": x })).expect(200).json();
            assert_eq!(answer["y"], x, "{name}");
            let said = host.invoke(&name, "/signature").expect(200).text();
            let sizes: Vec<String> =
                stated.iter().map(|s| if *s == 0 { "?".into() } else { s.to_string() }).collect();
            let sizes = sizes.join(", ");
            assert_eq!(said, format!("takes x {ty}[{sizes}]\ngives y {ty}[{sizes}]\n"), "{name}");
        }
    }
}

#[test]
fn inputs_of_mixed_types_are_chosen_when_the_function_runs_or_when_it_is_compiled() {
    let host = Host::shared();
    package("mixed", &mixed()).deploy(&host.control());
    let answer = run(&host, "mixed", &mixed_inputs()).expect(200).json();
    let expected = json!({
        "y": tensor("f32", &[1, 2], &json!([10.0, 2.0])),
        "not": tensor("bool", &[1, 2], &json!([false, true])),
        "same": tensor("i8", &[2], &json!([-128, 127])),
    });
    assert_eq!(answer, expected);
    let typed = host.invoke("mixed", "/typed").expect(200).text();
    let wrong = r#"Err("model \"m\": output \"not\" is bool, not i8")"#;
    assert_eq!(typed, format!("[10.0, 2.0] [false, true] [-128, 127] [128, 127] {wrong}"));
}

#[test]
fn a_guest_of_wasi_nn_has_bytes_for_bool_and_int8() {
    let host = Host::shared();
    Package::rogue("standard").model("m", &mixed()).deploy(&host.control());
    let inputs = "x:f32:1x2:1,2;k:f32::10;mask:u8:1x2:1,0;q:u8:2:65,66";
    let said = host.invoke("standard", &format!("/run?model=m&in={inputs}")).expect(200).text();
    let expected = "y TensorType::Fp32 [1, 2]\nnot TensorType::U8 [1, 2]\n\0\u{1}same TensorType::U8 [2]\nAB";
    assert_eq!(said, expected);
}

#[test]
fn a_model_says_what_it_takes_and_gives_to_its_function_and_to_its_owner() {
    let host = Host::shared();
    let unranked = {
        let mut port = port("x", F32, &[]);
        port.r#type.as_mut().and_then(|t| t.tensor_type.as_mut()).expect("a tensor").shape = None;
        onnx::model(vec![node("Relu", &["x"], "y")], vec![port], vec![onnx::open("y", 1)])
    };
    package("stated", &mixed()).model("unranked", &unranked).deploy(&host.control());
    let said = host.invoke("stated", "/signature").expect(200).text();
    let expected = "takes x f32[?, 2]\ntakes k f32[]\ntakes mask bool[?, 2]\ntakes q i8[2]\n\
                    gives y f32[?, 2]\ngives not bool[?, 2]\ngives same i8[2]\n";
    assert_eq!(said, expected);
    let said = host.invoke("stated", "/signature?model=unranked").expect(200).text();
    assert_eq!(said, "takes x f32 of any shape\ngives y f32[?]\n");

    let function = host.control().get("/api/v1/functions/stated").expect(200).json();
    let models = &function["versions"][0]["models"];
    let types = |ports: &Value| -> Vec<String> {
        let ports = ports.as_array().expect("ports").iter();
        ports.map(|port| format!("{} {}", port["name"], port["type"]).replace('"', "")).collect()
    };
    assert_eq!(types(&models[0]["inputs"]), ["x f32", "k f32", "mask bool", "q i8"], "{models}");
    assert_eq!(types(&models[0]["outputs"]), ["y f32", "not bool", "same i8"], "{models}");
}

#[test]
fn inputs_that_do_not_fit_are_a_400_with_what_was_expected_and_what_was_given() {
    let host = Host::shared();
    package("particular", &mixed()).deploy(&host.control());
    let with = |name: &str, value: Value| {
        let mut inputs = mixed_inputs();
        inputs[name] = value;
        inputs
    };
    let without_k = {
        let mut inputs = mixed_inputs();
        inputs.as_object_mut().expect("an object").remove("k");
        inputs
    };
    let cases: [(Value, &[&str]); 9] = [
        (with("x", tensor("f32", &[1, 3], &json!([1, 2, 3]))), &["input \"x\"", "[?, 2]", "[1, 3]"]),
        (with("x", tensor("f32", &[2], &json!([1, 2]))), &["input \"x\"", "[?, 2]", "[2]"]),
        (with("k", tensor("f32", &[1], &json!([1]))), &["input \"k\"", "must be []", "[1]"]),
        (with("x", tensor("i64", &[1, 2], &json!([1, 2]))), &["input \"x\"", "f32", "i64"]),
        (with("mask", tensor("i8", &[1, 2], &json!([1, 0]))), &["input \"mask\"", "bool", "i8"]),
        (with("q", tensor("bool", &[2], &json!([true, true]))), &["input \"q\"", "i8", "bool"]),
        (without_k, &["\"k\" is missing"]),
        (with("z", tensor("f32", &[], &json!([1]))), &["no input \"z\"", "\"x\", \"k\", \"mask\", \"q\""]),
        (with("x", tensor("f32", &[1, 2], &json!([1]))), &["shape [1, 2] takes 2 elements, got 1"]),
    ];
    for (inputs, words) in cases {
        let refused = run(&host, "particular", &inputs).expect(400);
        assert_eq!(refused.header("content-type"), Some("application/problem+json"), "{}", refused.text());
        for word in words {
            assert!(refused.detail().contains(word), "no {word:?}: {}", refused.detail());
        }
    }
    // The engine fails where the model itself does not say which shapes go together.
    let two = vec![port("a", F32, &[0]), port("b", F32, &[0])];
    let sum = onnx::model(vec![node("Add", &["a", "b"], "y")], two, vec![port("y", F32, &[0])]);
    package("sum", &sum).deploy(&host.control());
    let [two, three] = [json!([1, 2]), json!([1, 2, 3])];
    let apart = json!({ "a": tensor("f32", &[2], &two), "b": tensor("f32", &[3], &three) });
    let failed = run(&host, "sum", &apart).expect(500);
    assert!(!failed.detail().contains("Add"), "the client is told of the inside: {}", failed.detail());
}

#[test]
fn the_function_that_vesta_new_writes_answers_400_to_a_wrong_number_of_values() {
    let host = Host::shared();
    let relu = vec![node("Relu", &["input"], "output")];
    let model = onnx::model(relu, vec![port("input", F32, &[0, 4])], vec![port("output", F32, &[0, 4])]);
    let component = guests::fixture("model-template");
    Package::new("from-template", &component).model("model", &model).deploy(&host.control());
    let ask = |body: &str| host.data().send("POST", "/fn/default/from-template/", &[], body.as_bytes());
    let answer = ask(r#"{"values": [1, -2, 3, -4]}"#).expect(200).json();
    assert_eq!(answer, json!({ "shape": [1, 4], "values": [1.0, 0.0, 3.0, 0.0] }));
    let refused = ask(r#"{"values": [1, 2, 3]}"#).expect(400);
    assert!(refused.detail().contains("must be [?, 4], not [1, 3]"), "{}", refused.detail());
}

#[test]
fn outputs_are_handed_on_and_their_memory_counts_once_and_ends_with_them() {
    let host = Host::shared();
    package("chain", &step()).limit("memory_bytes", 32 * MIB).limit("cpu_ms", 60_000).deploy(&host.control());
    let elements = MIB;
    let chain = |by: &str| host.invoke("chain", &format!("/chain?elements={elements}&times=40&by={by}"));
    let peak_of = |reply: &Reply| {
        host.record(&reply.invocation())["peak_memory_bytes"].as_u64().expect("peak_memory_bytes")
    };
    // 40 states of 4 MiB each, of which there are two at a time.
    let guest_ns = |by: &str| {
        let reply = chain(by).expect(200);
        assert_eq!(reply.text(), format!("[{elements}] Some(40.0)"), "{by}");
        let peak = peak_of(&reply);
        assert!((8 * MIB..32 * MIB).contains(&peak), "{by}: {peak} bytes");
        host.record(&reply.invocation())["guest_cpu_ns"].as_u64().expect("guest_cpu_ns")
    };
    let rounds: Vec<_> = (0..5).map(|_| ["value", "reference", "copy"].map(guest_ns)).collect();
    let [value, reference, copy] =
        [0, 1, 2].map(|way| rounds.iter().map(|round| round[way]).min().expect("five rounds"));
    println!(
        "40 runs on 4 MiB, CPU time in the guest: {:.1} ms handed on, {:.1} ms by reference, {:.1} ms by copy",
        value as f64 / 1e6,
        reference as f64 / 1e6,
        copy as f64 / 1e6
    );
    // Two copies are saved. Those into the worker's memory and out of it stay, which are new pages each time.
    assert!(value.max(reference) < copy, "handing on saves no copy");
    // All of them at once are more than limits.memory: the run that finds no room for its output fails.
    let refused = chain("keeping").expect(500);
    let peak = peak_of(&refused);
    assert!((24 * MIB..48 * MIB).contains(&peak), "{peak} bytes");
}

#[test]
fn one_tensor_given_many_times_is_held_once_and_bounded_in_a_run() {
    let host = Host::shared();
    let names: Vec<String> = (0..10).map(|index| format!("state{index}")).collect();
    let nodes = {
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        vec![node("Sum", &all, "sum")]
    };
    let inputs = names.iter().map(|name| port(name, F32, &[0])).collect();
    let ten = onnx::model(nodes, inputs, vec![port("sum", F32, &[0])]);
    let step_and_ten = package("many", &step()).model("ten", &ten);
    step_and_ten.limit("memory_bytes", 32 * MIB).deploy(&host.control());
    let many = |elements: u64| host.invoke("many", &format!("/many?elements={elements}"));
    let reply = many(MIB / 2).expect(200);
    assert_eq!(reply.text(), r#"["sum"]"#);
    let peak = host.record(&reply.invocation())["peak_memory_bytes"].as_u64().expect("a number");
    assert!(peak < 16 * MIB, "2 MiB given ten times: {peak} bytes");
    many(MIB).expect(500);
}

#[test]
fn a_tensor_is_reached_by_its_own_instance_only() {
    let host = Host::shared();
    let api = host.tenant("other");
    let holder = Package::rogue("holder").reuse(100);
    holder.deploy(&host.control());
    let kept = host.invoke("holder", "/keep-tensor?bytes=5000").expect(200);
    let handle: u64 = host.invoke("holder", "/tensor-handle").expect(200).text().parse().expect("a number");
    let read = |function: &str, handle: u64| host.invoke(function, &format!("/read-handle?handle={handle}"));
    assert_eq!(read("holder", handle).expect(200).text(), "read 5000 bytes\n", "{}", kept.text());
    // Its instance still waits with the tensor. Others have no such handle, whatever its number.
    Package::rogue("stranger").deploy(&host.control());
    let theirs = vesta_tests::Api::new(&format!("http://{}", host.invoke_address()), Some(&api));
    Package::rogue("foreign")
        .deploy(&vesta_tests::Api::new(&format!("http://{}", host.control_address()), Some(&api)));
    for handle in (0..20).chain([handle, 1 << 20, u64::from(u32::MAX)]) {
        assert_eq!(read("stranger", handle).status, 502, "{handle}");
        let foreign = theirs.get(&format!("/fn/other/foreign/read-handle?handle={handle}"));
        assert_eq!(foreign.status, 502, "{handle}: {}", foreign.text());
    }
}

#[test]
fn asking_for_a_signature_is_billed_as_the_functions_own_time() {
    let host = Host::shared();
    let (many, long) = (256usize, "n".repeat(500));
    let name = |index: usize| format!("{index:03}{long}");
    let inputs: Vec<Port> = (0..many).map(|index| port(&name(index), F32, &[0; 16])).collect();
    let first = name(0);
    let large = onnx::model(vec![node("Relu", &[first.as_str()], "y")], inputs, vec![onnx::open("y", 16)]);
    package("large-signature", &large).deploy(&host.control());
    let asked = |times: u64| {
        let reply = host.invoke("large-signature", &format!("/signature?times={times}")).expect(200);
        assert!(reply.text().lines().count() == many + 1);
        host.record(&reply.invocation())["guest_cpu_ns"].as_u64().expect("guest_cpu_ns")
    };
    asked(1);
    let (once, often) = (asked(1), asked(51));
    let each_us = often.saturating_sub(once) / 50 / 1_000;
    println!("a signature of {many} inputs with names of 500 bytes: {each_us} us");
    assert!(each_us > 0, "nobody is billed");
    assert!(each_us < 20_000, "{each_us} us");
}
