//! The API's contract is a document in the repository.

use serde_json::Value;
use vesta_tests::{Host, in_root};

fn checked_in() -> Value {
    let text = std::fs::read_to_string(in_root("host/openapi.json")).expect("host/openapi.json");
    serde_json::from_str(&text).expect("host/openapi.json is JSON")
}

#[test]
fn the_document_in_the_repository_is_what_the_host_serves() {
    let host = Host::shared();
    let served = host.control().get("/api/v1/openapi.json").expect(200).json();
    assert!(served == checked_in(), "run `just openapi` and commit host/openapi.json");
}

#[test]
fn nothing_in_it_answers_without_a_key() {
    let host = Host::shared();
    let document = checked_in();
    let mut tried = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("methods").keys() {
            if !["get", "put", "post", "delete", "patch"].contains(&method.as_str()) {
                continue;
            }
            if path == "/api/v1/openapi.json" {
                continue;
            }
            let mut concrete = path.clone();
            while let (Some(from), Some(to)) = (concrete.find('{'), concrete.find('}')) {
                concrete.replace_range(from..=to, "1");
            }
            let api = host.control().without_key();
            let reply = api.send(&method.to_uppercase(), &concrete, &[], b"");
            assert_eq!(reply.status, 401, "{method} {concrete} without a key: {reply:?}");
            tried += 1;
        }
    }
    assert!(tried >= 20, "the document has only {tried} operations");
}
