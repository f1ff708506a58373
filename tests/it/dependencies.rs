//! `deny.toml`, read with what Cargo says of the dependencies: licences, bans and sources. `just audit`
//! checks the same and advisories with cargo-deny, which takes many minutes to build and which CI therefore
//! does without.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use vesta_tests::{in_root, root};

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

struct Package {
    name: String,
    license: Option<String>,
    /// `None` for what is in this workspace.
    source: Option<String>,
    /// The names of the packages that depend on it.
    dependents: BTreeSet<String>,
}

fn deny() -> toml::Table {
    let text = std::fs::read_to_string(in_root("deny.toml")).expect("deny.toml");
    text.parse().expect("TOML")
}

fn texts(value: &toml::Value) -> BTreeSet<String> {
    let list = value.as_array().expect("a list");
    list.iter().map(|text| text.as_str().expect("a text").to_owned()).collect()
}

/// All packages for the targets of `deny.toml`, by id.
fn packages(deny: &toml::Table) -> BTreeMap<String, Package> {
    let mut all = BTreeMap::new();
    for target in texts(&deny["graph"]["targets"]) {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", &target]);
        let output = command.current_dir(root()).output().expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        add(&metadata, &mut all);
    }
    all
}

fn add(metadata: &Value, all: &mut BTreeMap<String, Package>) {
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let described: BTreeMap<String, Value> =
        list(&metadata["packages"]).into_iter().map(|p| (text(&p["id"]).expect("an id"), p)).collect();
    let nodes = list(&metadata["resolve"]["nodes"]);
    for node in &nodes {
        let id = text(&node["id"]).expect("an id");
        let package = &described[&id];
        all.entry(id).or_insert_with(|| Package {
            name: text(&package["name"]).expect("a name"),
            license: text(&package["license"]),
            source: text(&package["source"]),
            dependents: BTreeSet::new(),
        });
    }
    for node in &nodes {
        let dependent = text(&described[node["id"].as_str().expect("an id")]["name"]).expect("a name");
        for dependency in list(&node["dependencies"]) {
            let dependency = all.get_mut(dependency.as_str().expect("an id")).expect("a node");
            dependency.dependents.insert(dependent.clone());
        }
    }
}

/// What is wrong with the packages by the rules of `deny.toml`.
fn wrong(deny: &toml::Table, packages: &BTreeMap<String, Package>) -> Vec<String> {
    let mut wrong = Vec::new();
    let allowed: Vec<spdx::Licensee> = texts(&deny["licenses"]["allow"])
        .iter()
        .map(|text| spdx::Licensee::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")))
        .collect();
    for package in packages.values() {
        let name = &package.name;
        let license = package.license.as_deref().unwrap_or_default();
        let expression = spdx::Expression::parse_mode(license, spdx::ParseMode::LAX);
        let fits = expression.is_ok_and(|e| e.evaluate(|wanted| allowed.iter().any(|a| a.satisfies(wanted))));
        if !fits {
            wrong.push(format!("{name}: the licence {license:?} is not allowed"));
        }
        if package.source.as_deref().is_some_and(|source| source != CRATES_IO) {
            wrong.push(format!("{name}: comes from {:?}", package.source));
        }
    }
    for ban in deny["bans"]["deny"].as_array().expect("a list") {
        let banned = ban["crate"].as_str().expect("a name");
        let wrappers = ban.get("wrappers").map(texts);
        for package in packages.values().filter(|p| p.name == banned) {
            match &wrappers {
                None => wrong.push(format!("{banned} is banned, and {:?} use it", package.dependents)),
                Some(wrappers) => {
                    let others = package.dependents.difference(wrappers);
                    wrong.extend(others.map(|other| format!("{other} must not depend on {banned}")));
                }
            }
        }
    }
    wrong
}

#[test]
fn licences_bans_and_sources_are_those_of_deny_toml() {
    let deny = deny();
    let packages = packages(&deny);
    assert!(packages.len() > 200, "only {} packages", packages.len());
    let found = wrong(&deny, &packages);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn what_is_not_allowed_is_found() {
    let deny = deny();
    let package = |name: &str, license: &str, source: Option<&str>, dependent: &str| Package {
        name: name.into(),
        license: Some(license.into()),
        source: source.map(Into::into),
        dependents: BTreeSet::from([dependent.to_owned()]),
    };
    let packages = [
        package("sound", "MIT OR GPL-3.0-only", Some(CRATES_IO), "vesta"),
        package("copyleft", "GPL-3.0-only", Some(CRATES_IO), "vesta"),
        package("both", "MIT AND GPL-3.0-only", Some(CRATES_IO), "vesta"),
        package("elsewhere", "MIT", Some("git+https://example.com/x"), "vesta"),
        package("wasmtime", "Apache-2.0 WITH LLVM-exception", Some(CRATES_IO), "vesta"),
        package("openssl-sys", "MIT", Some(CRATES_IO), "vesta"),
    ];
    let packages = packages.into_iter().map(|p| (p.name.clone(), p)).collect();
    let found = wrong(&deny, &packages);
    let names = |word: &str| found.iter().any(|line| line.contains(word));
    assert!(found.len() == 5 && !names("sound"), "{found:?}");
    for word in
        ["copyleft: ", "both: ", "elsewhere: ", "vesta must not depend on wasmtime", "openssl-sys is banned"]
    {
        assert!(names(word), "{word}: {found:?}");
    }
}
