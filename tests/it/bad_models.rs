//! Models are checked at deploy: what is refused is refused with its reason, and the host goes on.

use crate::onnx::{self, Entry, changed, node, value};
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
