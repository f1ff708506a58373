//! Models are checked at deploy: what is refused is refused with its reason, and the host goes on.

use crate::onnx::{self, Entry, Tensor, changed, node, open, value};
use prost::Message;
use vesta_tests::{Host, Package};

#[track_caller]
fn refused(host: &Host, what: &str, model: &[u8], words: &[&str]) {
    let problem = Package::rogue("bad-model").model("suspect", model).refused(&host.control());
    let detail = problem["detail"].as_str().unwrap_or_else(|| panic!("{what}: {problem}"));
    assert!(detail.contains("suspect"), "{what}: the message names the model: {detail}");
    for word in words {
        assert!(detail.contains(word), "{what}: no {word:?} in {detail:?}");
    }
}

#[test]
fn a_sound_model_of_our_own_making_runs() {
    let host = Host::shared();
    Package::rogue("sound-model").model("m", &onnx::sound().encode_to_vec()).deploy(&host.control());
    let path = "/infer?model=m&input=x&shape=1x4&type=f32&bytes=16";
    assert_eq!(host.invoke("sound-model", path).expect(200).text(), "y TensorType::Fp32 [1, 2]\n");
}

#[test]
fn what_is_not_onnx_is_refused() {
    let host = Host::shared();
    refused(&host, "text", b"this is not a model at all, but a sentence", &[]);
    refused(&host, "noise", &[0xff; 10_000], &[]);
    refused(&host, "GGUF", b"GGUF\x03\0\0\0rest of it", &[]);
    let whole = onnx::sound().encode_to_vec();
    refused(&host, "truncated", &whole[..whole.len() - 20], &[]);
    refused(&host, "no graph", &onnx::Model { graph: None, ..onnx::sound() }.encode_to_vec(), &[]);
    refused(&host, "no outputs", &changed(|g| g.output.clear()), &[]);
}

#[test]
fn an_unknown_operator_is_named() {
    let host = Host::shared();
    let model = changed(|g| g.node[0].op_type = "FluxCapacitor".into());
    refused(&host, "unknown operator", &model, &["FluxCapacitor"]);
}

#[test]
fn a_model_that_lies_about_shapes_is_refused() {
    let host = Host::shared();
    refused(&host, "too few weights", &changed(|g| g.initializer[0].raw_data.truncate(12)), &["w"]);
    refused(&host, "too many weights", &changed(|g| g.initializer[0].raw_data.extend([0; 400])), &["w"]);
    refused(&host, "negative", &changed(|g| g.initializer[0].dims = vec![-4, -2]), &["w"]);
    refused(&host, "overflow", &changed(|g| g.initializer[0].dims = vec![1 << 40, 1 << 40]), &["w"]);
    refused(&host, "does not fit", &changed(|g| g.input[0] = value("x", &[1, 3])), &[]);
    refused(&host, "no such tensor", &changed(|g| g.node[0].input[1] = "nowhere".into()), &["nowhere"]);
    refused(&host, "no such output", &changed(|g| g.output[0].name = "elsewhere".into()), &["elsewhere"]);
    let cycle = changed(|g| g.node = vec![node("MatMul", &["z", "w"], "y"), node("Relu", &["y"], "z")]);
    refused(&host, "a cycle", &cycle, &[]);
}

#[test]
fn a_model_may_not_point_at_files() {
    let host = Host::shared();
    for location in ["/etc/passwd", "../../secret", "weights.bin"] {
        let model = changed(|g| {
            let weights = &mut g.initializer[0];
            weights.raw_data.clear();
            weights.data_location = 1;
            weights.external_data = vec![Entry { key: "location".into(), value: location.into() }];
        });
        refused(&host, location, &model, &["w"]);
    }
}

/// Integers as a weight.
fn ints(name: &str, values: &[i64]) -> Tensor {
    let raw_data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor { dims: vec![values.len() as i64], data_type: 7, name: name.into(), raw_data, ..Tensor::default() }
}

#[test]
fn a_model_whose_sizes_wrap_is_refused() {
    let host = Host::shared();
    // 2^64 elements.
    let model = changed(|g| {
        g.node = vec![node("ConstantOfShape", &["shape"], "big"), node("Slice", &["big", "from", "to"], "y")];
        g.initializer = vec![ints("shape", &[65_536; 4]), ints("from", &[0; 4]), ints("to", &[2; 4])];
        g.output = vec![value("y", &[2, 2, 2, 2])];
    });
    refused(&host, "wraps", &model, &["a trial run"]);
    let deep = changed(|g| {
        let name = |i: usize| if i == 5_000 { "y".to_owned() } else { format!("v{i}") };
        g.node = (1..=5_000).map(|i| node("Relu", &[&name(i - 1)], &name(i))).collect();
        g.node[0].input[0] = "x".into();
        g.output = vec![value("y", &[1, 4])];
    });
    refused(&host, "deep", &deep, &["5000 operators in a chain", "at most 2000"]);
}

#[test]
fn a_model_that_did_not_run_is_refused_unless_samples_have_it_run() {
    let host = Host::shared();
    // Nothing says that x has 4 columns; nothing reads the other input.
    let model = changed(|g| g.input = vec![open("x", 2), open("unused", 16)]);
    refused(&host, "untried", &model, &["x [1, 16]", "[[models.sample]]"]);
    let package = Package::rogue("sampled-model").model("suspect", &model);
    package.clone().sample("x", &[1, 4]).deploy(&host.control());
    for (input, shape, word) in [("z", &[1, 4][..], "no such input"), ("x", &[4], "its shape must be [?, ?]")]
    {
        let problem = package.clone().sample(input, shape).refused(&host.control());
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.contains(&format!("{input:?}")) && detail.contains(word), "{detail}");
    }
    let begun = package.clone().sample("x", &[1; 17]).begin(&host.control());
    assert!(begun.status == 422 || begun.status == 400, "{}", begun.status);
    assert!(begun.text().contains("models[0].samples[0].shape"), "{}", begun.text());
}
