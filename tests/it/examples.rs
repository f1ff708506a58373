//! The examples answer over HTTP as their references say.

use serde_json::{Value, json};
use vesta_tests::{Host, Package, guests, in_root, skip};

fn file(path: &str) -> Value {
    let text =
        std::fs::read_to_string(in_root("examples").join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The component and the model of `digits`; both are always there.
pub fn digits() -> (Vec<u8>, Vec<u8>) {
    let model = guests::model("digits/models/digits.onnx").expect("digits.onnx is in the repository");
    (guests::example("digits").component, model)
}

fn test_images() -> (Vec<Value>, Vec<i64>) {
    let all = file("digits/test-images.json");
    let images = all["images"].as_array().expect("images").clone();
    let labels =
        all["labels"].as_array().expect("labels").iter().map(|l| l.as_i64().expect("a digit")).collect();
    (images, labels)
}

fn digit_body(image: &Value) -> String {
    json!({ "pixels": image }).to_string()
}

/// A request to `digits` with one of the images that training never saw.
pub fn digit_request(index: usize) -> String {
    digit_body(&test_images().0[index])
}

/// The digit in an answer of `digits`.
pub fn digit_answer(body: &str) -> i64 {
    let json: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}"));
    json["digit"].as_i64().unwrap_or_else(|| panic!("no digit in {body}"))
}

/// `text-embed` under a name, if its model is on this machine.
pub fn text_embed(name: &str) -> Option<Package> {
    let Some(model) = guests::model("text-embed/models/minilm.onnx") else {
        skip("text-embed: no models/minilm.onnx (examples/fetch-models brings it)");
        return None;
    };
    let package = Package::new(name, &guests::example("text-embed").component).model("minilm", &model);
    Some(package.limit("cpu_ms", 10_000).limit("wall_ms", 60_000))
}

/// A request to `text-embed`.
pub fn text_request(text: &str) -> String {
    json!({ "text": text }).to_string()
}

#[test]
fn digits_is_as_accurate_over_http_as_when_it_was_trained() {
    let host = Host::shared();
    let (component, model) = digits();
    Package::new("digits-accuracy", &component).model("digits", &model).deploy(&host.control());
    let (images, labels) = test_images();
    let stated = file("digits/models/accuracy.json");
    assert_eq!(stated["test_images"].as_u64(), Some(images.len() as u64));
    let mut right = 0;
    for (image, label) in images.iter().zip(&labels) {
        let body = digit_body(image);
        let reply =
            host.data().send("POST", "/fn/default/digits-accuracy/", &[], body.as_bytes()).expect(200);
        right += usize::from(digit_answer(&reply.text()) == *label);
    }
    let accuracy = right as f64 / images.len() as f64;
    println!("digits: {right} of {} right", images.len());
    let stated = stated["test_accuracy"].as_f64().expect("test_accuracy");
    assert!((accuracy - stated).abs() < 0.00005 + f64::EPSILON, "measured {accuracy}, stated {stated}");
}

#[test]
fn text_embed_answers_as_the_reference_package_does() {
    let Some(package) = text_embed("text-embed-reference") else { return };
    let host = Host::shared();
    package.deploy(&host.control());
    let reference = file("text-embed/reference.json");
    let cases = reference["cases"].as_array().expect("cases");
    assert!(cases.len() >= 5);
    let mut worst = 0f64;
    for case in cases {
        let text = case["text"].as_str().expect("a text");
        let body = text_request(text);
        let reply =
            host.data().send("POST", "/fn/default/text-embed-reference/", &[], body.as_bytes()).expect(200);
        let json = reply.json();
        let numbers = |v: &Value| {
            v.as_array()
                .expect("an embedding")
                .iter()
                .map(|n| n.as_f64().expect("a number"))
                .collect::<Vec<_>>()
        };
        let (got, wanted) = (numbers(&json["embeddings"][0]), numbers(&case["embedding"]));
        assert_eq!(got.len(), wanted.len(), "{text:?}");
        let off = got.iter().zip(&wanted).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
        assert!(off <= 1e-3, "{text:?}: off by {off}");
        worst = worst.max(off);
    }
    println!("text-embed: {} texts, at most {worst:.1e} off the reference", cases.len());
}

#[test]
fn file_type_answers_as_the_reference_package_does() {
    let Some(model) = guests::model("file-type/models/magika.onnx") else {
        return skip("file-type: no models/magika.onnx (examples/fetch-models brings it)");
    };
    let host = Host::shared();
    Package::new("file-type", &guests::example("file-type").component)
        .model("magika", &model)
        .limit("cpu_ms", 10_000)
        .deploy(&host.control());
    let reference = file("file-type/reference.json");
    let cases = reference["cases"].as_array().expect("cases");
    assert!(cases.len() >= 5);
    for case in cases {
        let name = case["name"].as_str().expect("a name");
        let content = base64(case["content_b64"].as_str().expect("content"));
        let reply = host.data().send("POST", "/fn/default/file-type/", &[], &content).expect(200).json();
        assert_eq!(reply["label"], case["label"], "{name}: {reply}");
        let (got, wanted) =
            (reply["score"].as_f64().expect("a score"), case["score"].as_f64().expect("a score"));
        assert!((got - wanted).abs() <= 1e-3, "{name}: {got}, the reference says {wanted}");
    }
}

fn base64(text: &str) -> Vec<u8> {
    data_encoding::BASE64.decode(text.as_bytes()).expect("base64")
}
