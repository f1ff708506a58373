//! Turns magika's configuration into tables for `src/tables.rs`, so that an instance parses nothing.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

use serde_json::Value;

fn main() {
    let config = read("models/config.json");
    let types = read("models/content-types.json");
    let number =
        |key: &str| config[key].as_u64().unwrap_or_else(|| panic!("models/config.json: no number {key}"));

    let mut out = String::new();
    for (name, key) in [
        ("BEG_SIZE", "beg_size"),
        ("END_SIZE", "end_size"),
        ("BLOCK_SIZE", "block_size"),
        ("MIN_FILE_SIZE", "min_file_size_for_dl"),
    ] {
        writeln!(out, "pub const {name}: usize = {};", number(key)).expect("strings take everything");
    }
    writeln!(out, "pub const PADDING: i32 = {};", number("padding_token")).expect("strings take everything");

    // Every label of the model with what it is reported as, and how sure the model must be of it.
    let labels =
        config["target_labels_space"].as_array().expect("models/config.json: no target_labels_space");
    writeln!(out, "pub static LABELS: [Label; {}] = [", labels.len()).expect("strings take everything");
    for label in labels.iter().map(|label| label.as_str().expect("a label is a string")) {
        let reported = config["overwrite_map"][label].as_str().unwrap_or(label);
        let usual = config["medium_confidence_threshold"].as_f64().expect("no medium_confidence_threshold");
        let threshold = config["thresholds"][label].as_f64().unwrap_or(usual);
        let kind = kind(&types, reported);
        writeln!(out, "    Label {{ name: {label:?}, kind: {kind}, threshold: {threshold:?} }},")
            .expect("strings take everything");
    }
    out.push_str("];\n");
    for name in ["empty", "txt", "unknown"] {
        writeln!(out, "pub static {}: Kind = {};", name.to_uppercase(), kind(&types, name))
            .expect("strings take everything");
    }
    let target = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&target).join("tables.rs"), out).expect("OUT_DIR can be written");
}

/// What is said of a content type. The package has defaults for what its list leaves open.
fn kind(types: &Value, name: &str) -> String {
    let info = types.get(name).unwrap_or_else(|| panic!("models/content-types.json: no type {name}"));
    let is_text = info["is_text"].as_bool().unwrap_or(false);
    let mime_type =
        info["mime_type"].as_str().unwrap_or(if is_text { "text/plain" } else { "application/octet-stream" });
    let group = info["group"].as_str().unwrap_or("unknown");
    let description = info["description"].as_str().unwrap_or(name);
    format!(
        "Kind {{ label: {name:?}, mime_type: {mime_type:?}, group: {group:?}, description: {description:?}, is_text: {is_text} }}"
    )
}

fn read(path: &str) -> Value {
    println!("cargo::rerun-if-changed={path}");
    let text = fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("{path}: {error}. Run examples/fetch-models, which brings it."));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}
