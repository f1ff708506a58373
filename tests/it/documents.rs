//! The documents keep to what is there.

use std::path::Path;
use vesta_tests::{in_root, root};

const DOCUMENTS: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "SPECIFICATION.md",
    "SECURITY.md",
    "BENCHMARKS.md",
    "MODELS.md",
    "CHANGELOG.md",
    "guest-sdk/MANIFEST.md",
    "examples/hello/README.md",
    "examples/digits/README.md",
    "examples/text-embed/README.md",
    "examples/file-type/README.md",
];

fn text_of(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All Rust sources below a folder, as one text.
fn sources(dir: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())).flatten() {
        let path = entry.path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|e| e == "rs") {
            text += &text_of(&path);
        }
    }
    text
}

/// What stands between backticks in the last column of a table.
fn named_tests(specification: &str) -> Vec<&str> {
    let rows = specification.lines().filter(|l| l.starts_with('|') && l.contains('`'));
    let last = rows.filter_map(|l| l.trim_end_matches(['|', ' ']).rsplit(" | ").next());
    last.flat_map(|column| column.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn every_test_that_the_specification_names_is_there() {
    let specification = text_of(&in_root("SPECIFICATION.md"));
    let units = sources(&in_root("host")) + &sources(&in_root("tests/fuzz"));
    let named = named_tests(&specification);
    assert!(named.len() > 50, "only {} tests are named", named.len());
    for name in named {
        let (source, function) = match name.strip_prefix("it::").and_then(|n| n.split_once("::")) {
            Some((file, function)) => (text_of(&in_root(&format!("tests/it/{file}.rs"))), function),
            None => (units.clone(), name),
        };
        assert!(
            source.contains(&format!("fn {function}(")),
            "SPECIFICATION.md names {name}, which is not there"
        );
    }
}

#[test]
fn links_lead_to_files_that_are_there() {
    for document in DOCUMENTS {
        let path = in_root(document);
        for link in text_of(&path).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") || link.starts_with('#') {
                continue;
            }
            let target = path.parent().unwrap_or(root()).join(link);
            assert!(target.exists(), "{document} links to {link}, which is not there");
        }
    }
}

#[test]
fn every_key_of_the_configuration_is_described() {
    let source = text_of(&in_root("host/src/config.rs"));
    let readme = text_of(&in_root("README.md"));
    let body = source.split("pub struct HostConfig {").nth(1).and_then(|t| t.split("\n}").next());
    let fields =
        body.expect("HostConfig").lines().filter_map(|l| l.trim().strip_prefix("pub ")?.split(':').next());
    for field in fields {
        let described = readme.contains(&format!("| `{field}`")) || readme.contains(&format!("| `{field}."));
        assert!(described, "README.md does not describe the key {field} of the configuration");
    }
}
