//! Numbers of models are right, or the model is refused: a few kinds through deploy and invocation. `just
//! conformance` has all of them.

use crate::onnx::{F32, I64, model, node, port};
use serde_json::json;
use vesta_tests::{Host, Package};

/// ONNX's number of uint8.
const U8: i32 = 2;

#[test]
fn a_quantised_number_without_a_zero_point_is_unsigned() {
    let scaled = model(
        vec![node("QuantizeLinear", &["x", "scale"], "y")],
        vec![port("x", F32, &[3]), port("scale", F32, &[1])],
        vec![port("y", U8, &[3])],
    );
    let host = Host::shared();
    Package::rogue("quantised").model("m", &scaled).deploy(&host.control());
    // 'V', 'e' and 's' as numbers.
    let path = "/run?model=m&in=x:f32:3:172,202,230;scale:f32:1:2";
    assert_eq!(host.invoke("quantised", path).expect(200).text(), "y TensorType::U8 [3]\nVes");
}

#[test]
fn a_vector_adds_no_dimension_to_a_product() {
    let product = model(
        vec![node("MatMul", &["a", "b"], "y")],
        vec![port("a", F32, &[2, 2, 2]), port("b", F32, &[2])],
        vec![port("y", F32, &[2, 2])],
    );
    let host = Host::shared();
    Package::rogue("product").model("m", &product).deploy(&host.control());
    let path = "/run?model=m&in=a:f32:2x2x2:1;b:f32:2:1";
    assert_eq!(host.invoke("product", path).expect(200).text(), "y TensorType::Fp32 [2, 2]\n");
}

#[test]
fn integers_of_64_bits_are_computed_only_where_the_manifest_allows_it() {
    let product =
        model(vec![node("Mul", &["a", "a"], "y")], vec![port("a", I64, &[1])], vec![port("y", I64, &[1])]);
    let host = Host::shared();
    let package = Package::rogue("squares").model("m", &product);
    let problem = package.clone().refused(&host.control());
    let detail = problem["detail"].as_str().expect("a detail");
    for word in ["Mul", "32 bits", "precision = \"reduced\""] {
        assert!(detail.contains(word), "no {word:?} in {detail:?}");
    }
    let mut entry = package.manifest()["models"][0].clone();
    entry["precision"] = json!("reduced");
    let allowed = package.set("/models/0", entry);
    allowed.deploy(&host.control());
    let small = host.invoke("squares", "/run?model=m&in=a:i64:1:30000").expect(200).text();
    assert_eq!(small, "y TensorType::I64 [1]\n");
    let large = host.invoke("squares", "/run?model=m&in=a:i64:1:100000").expect(200).text();
    assert!(large.contains("does not fit into its integers"), "{large}");
    let version = host.control().get("/api/v1/functions/squares/versions/1").expect(200).json();
    let notes = version["models"][0]["notes"].to_string();
    assert!(notes.contains("reduced precision") && notes.contains("made-up inputs"), "{notes}");
}
