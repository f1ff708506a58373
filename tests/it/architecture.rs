//! The import rules of ARCHITECTURE.md, read from the sources: what must not know what.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use vesta_tests::{in_root, root};

/// The rooms of the host, and what each may know of the others.
const ROOMS: &[(&str, &[&str])] = &[
    ("db", &[]),
    ("package", &[]),
    ("metering", &[]),
    ("telemetry", &["db"]),
    ("tenancy", &["db"]),
    ("registry", &["db"]),
    ("ledger", &["db"]),
    ("artifact", &["db", "registry"]),
    ("lifecycle", &["db", "registry", "artifact"]),
    ("control", &["db", "package", "telemetry", "tenancy", "registry", "artifact", "ledger"]),
    ("ingress", &["tenancy", "registry", "lifecycle", "metering", "telemetry"]),
    ("cli", &["package", "server"]),
];

/// The rooms that may name the engine.
const ENGINE_USERS: &[&str] = &["lifecycle", "metering", "ingress", "cli", "config", "server"];

/// Where `unsafe` may stand.
const UNSAFE_ROOMS: &[&str] = &["host/engine", "guest-sdk"];

/// Where the Wasm runtime and the inference engines may be named.
const RUNTIME_ROOMS: &[&str] = &["host/engine", "tests"];
const RUNTIMES: &[&str] = &["wasmtime", "rten", "cranelift", "ort", "tract"];

/// What the core must not depend on: it has no I/O.
const IMPURE: &[&str] = &["tokio", "sqlx", "wasmtime", "rten", "hyper", "axum", "ureq", "rustix", "tempfile"];

pub fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())).flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && name != "templates" && name != ".git" {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The words and signs of Rust source, without comments and without the content of strings.
pub fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw_string_length(rest) {
            length
        } else if first == '"' {
            string_length(rest)
        } else if first == '\'' {
            character_length(rest)
        } else if first.is_alphanumeric() || first == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            tokens.push(rest[..end].to_string());
            end
        } else if rest.starts_with("::") {
            tokens.push("::".into());
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

/// The length of `r"…"`, `r#"…"#` and so on, if the text begins with one.
fn raw_string_length(text: &str) -> Option<usize> {
    let after = text.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let content = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", &after[..hashes]);
    Some(content.find(&end).map_or(text.len(), |at| 1 + hashes + 1 + at + end.len()))
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// A character literal, or only the quote of a lifetime.
fn character_length(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some(_)) => {
            text[2..].char_indices().skip(1).find(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 3)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

/// The names that directly follow `crate::` or `super::` (or stand in the braces that do).
fn crate_names(text: &str) -> BTreeSet<String> {
    let tokens = tokens(text);
    let mut names = BTreeSet::new();
    for (at, pair) in tokens.windows(2).enumerate() {
        if !matches!(pair[0].as_str(), "crate" | "super" | "vesta") || pair[1] != "::" {
            continue;
        }
        let Some(next) = tokens.get(at + 2) else { continue };
        if next != "{" {
            names.insert(next.clone());
            continue;
        }
        let (mut depth, mut head) = (1, true);
        for token in &tokens[at + 3..] {
            match token.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                "," if depth == 1 => head = true,
                word if depth == 1 && head => {
                    names.insert(word.to_string());
                    head = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    names
}

fn has_word(text: &str, wanted: &str) -> bool {
    tokens(text).iter().any(|t| t == wanted)
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The files of a room: `host/src/<room>/**` and `host/src/<room>.rs`.
fn room_files(room: &str) -> Vec<PathBuf> {
    let dir = in_root("host/src").join(room);
    let file = in_root("host/src").join(format!("{room}.rs"));
    let mut files = if dir.is_dir() { sources(&dir) } else { Vec::new() };
    files.extend(file.is_file().then_some(file));
    files
}

#[test]
fn rooms_know_only_the_rooms_they_may() {
    let mut wrong = Vec::new();
    for (room, may) in ROOMS {
        let files = room_files(room);
        assert!(!files.is_empty(), "there is no room {room}");
        for file in files {
            for name in crate_names(&read(&file)) {
                let is_room = ROOMS.iter().any(|(r, _)| *r == name) || name == "server";
                if is_room && name != *room && !may.contains(&name.as_str()) {
                    wrong.push(format!("{}: {room} must not know {name}", shown(&file)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_room_has_its_rule() {
    let lib = read(&in_root("host/src/lib.rs"));
    let free = ["config", "error", "mutate", "server"];
    for words in tokens(&lib).windows(2).filter(|w| w[0] == "mod") {
        let known = ROOMS.iter().any(|(r, _)| *r == words[1]) || free.contains(&words[1].as_str());
        assert!(known, "host/src/lib.rs has a room {:?} without a rule in {}", words[1], file!());
    }
}

#[test]
fn only_some_rooms_know_the_engine() {
    for (room, _) in ROOMS {
        for file in room_files(room) {
            let text = read(&file);
            let knows = has_word(&text, "vesta_engine") || has_word(&text, "vesta_nn");
            assert!(!knows || ENGINE_USERS.contains(room), "{} names the engine", shown(&file));
        }
    }
}

fn below_any(path: &Path, rooms: &[&str]) -> bool {
    rooms.iter().any(|r| path.starts_with(in_root(r)))
}

#[test]
fn only_the_engine_names_the_runtime_and_the_inference_engines() {
    for dir in ["host", "guest-sdk"] {
        for file in sources(&in_root(dir)) {
            if below_any(&file, RUNTIME_ROOMS) {
                continue;
            }
            let text = read(&file);
            let words = tokens(&text);
            for pair in words.windows(2).filter(|p| p[1] == "::") {
                let named = RUNTIMES.iter().any(|r| pair[0] == *r || pair[0].starts_with(&format!("{r}_")));
                assert!(!named, "{} names {}", shown(&file), pair[0]);
            }
        }
    }
    for manifest in
        ["host/Cargo.toml", "host/core/Cargo.toml", "guest-sdk/Cargo.toml", "guest-sdk/macros/Cargo.toml"]
    {
        for dependency in dependencies(manifest) {
            let named = RUNTIMES.iter().any(|r| dependency == *r || dependency.starts_with(&format!("{r}-")));
            assert!(!named, "{manifest} depends on {dependency}");
        }
    }
}

/// The names of everything that a manifest depends on, whichever kind of dependency it is.
fn dependencies(manifest: &str) -> Vec<String> {
    let table: toml::Table = read(&in_root(manifest)).parse().unwrap_or_else(|e| panic!("{manifest}: {e}"));
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    kinds.iter().filter_map(|k| table.get(*k)?.as_table()).flat_map(|t| t.keys().cloned()).collect()
}

#[test]
fn the_core_is_pure() {
    for dependency in dependencies("host/core/Cargo.toml") {
        assert!(!IMPURE.contains(&dependency.as_str()), "vesta-core depends on {dependency}");
    }
    for file in sources(&in_root("host/core/src")) {
        let text = read(&file);
        let words = tokens(&text);
        for pair in words.windows(3) {
            let io = pair[0] == "std"
                && pair[1] == "::"
                && matches!(pair[2].as_str(), "fs" | "net" | "process" | "thread" | "env");
            assert!(!io, "{} uses std::{}", shown(&file), pair[2]);
        }
        let clock = file.ends_with("clock.rs");
        assert!(clock || !has_word(&text, "SystemTime"), "{} reads the wall clock", shown(&file));
    }
}

#[test]
fn there_is_no_unsafe_outside_the_engine_and_the_guest_sdk() {
    for dir in ["host", "tests/it", "tests/support", "tests/fuzz"] {
        for file in sources(&in_root(dir)) {
            let is_unsafe = has_word(&read(&file), "unsafe");
            assert!(!is_unsafe || below_any(&file, UNSAFE_ROOMS), "{} has unsafe code", shown(&file));
        }
    }
}

#[test]
fn the_layers_of_packages_are_kept() {
    let own = |manifest: &str| -> BTreeSet<String> {
        dependencies(manifest).into_iter().filter(|d| d.starts_with("vesta")).collect()
    };
    let set = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    assert_eq!(own("host/core/Cargo.toml"), set(&[]));
    assert_eq!(own("host/engine/nn/Cargo.toml"), set(&["vesta-core"]));
    assert_eq!(own("host/engine/Cargo.toml"), set(&["vesta-core", "vesta-nn"]));
    assert_eq!(own("host/Cargo.toml"), set(&["vesta-core", "vesta-engine"]));
    assert!(own("guest-sdk/Cargo.toml").is_subset(&set(&["vesta-sdk-macros"])));
}

#[test]
fn the_reader_of_sources_sees_what_it_should() {
    let text = r##"
        // use crate::ledger;
        /* crate::control */
        use crate::{ingress::{Route, control}, metering as m, tenancy};
        use super::artifact::Store;
        fn f<'a>(x: &'a str) { let _ = "crate::registry"; let _ = '"'; vesta::lifecycle::go(); crate::db() }
        let _ = r#"crate::cli"#;
    "##;
    let names: Vec<_> = crate_names(text).into_iter().collect();
    assert_eq!(names, ["artifact", "db", "ingress", "lifecycle", "metering", "tenancy"]);
    assert!(has_word("unsafe { x }", "unsafe") && !has_word("// unsafe\n#![deny(unsafe_code)]", "unsafe"));
    assert!(has_word(r"let c = '\''; unsafe {}", "unsafe"));
}
