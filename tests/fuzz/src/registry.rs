//! The operators that the engine knows, read from its source: it has no list to ask.

use crate::operators;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

/// Where the engine registers its operators, in its package.
const REGISTRY: &str = "src/op_registry/onnx_registry.rs";

/// Fails unless there is a generator for each operator that the engine has, and for no other.
pub fn check() -> Result<()> {
    let mut known: BTreeSet<String> = parse(&source()?)?;
    // Not an operator to the engine: it takes its value as a weight.
    known.insert("Constant".into());
    let made: BTreeSet<String> = operators::names().map(str::to_owned).collect();
    let missing: Vec<_> = known.difference(&made).collect();
    ensure!(
        missing.is_empty(),
        "no generator for the engine's operators {missing:?}: add them in operators.rs"
    );
    let gone: Vec<_> = made.difference(&known).collect();
    ensure!(gone.is_empty(), "the engine has no operators {gone:?} any more");
    Ok(())
}

/// The text of the engine's registry, of the very package that is built.
fn source() -> Result<String> {
    // Without a platform, packages of all others would be asked for.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .args(["--filter-platform", &platform, "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .context("run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let engine = packages.iter().find(|p| p["name"] == "rten").context("there is no package rten")?;
    let manifest = PathBuf::from(engine["manifest_path"].as_str().unwrap_or_default());
    let path = manifest.with_file_name(REGISTRY);
    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// Names in `register_op!(…)`: `Name`, `"domain", Name` or `"domain", "Name", Type`.
fn parse(source: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for call in source.split("register_op!(").skip(1) {
        let (call, _) = call.split_once(')').context("a call without an end")?;
        let words: Vec<&str> = call
            .split(',')
            .map(|word| word.trim().trim_matches('"'))
            .filter(|word| !word.is_empty() && !word.starts_with("feature"))
            .collect();
        match words[..] {
            [word, ..] if word.contains('$') => {}
            [name] | ["ai.onnx", name, ..] => drop(names.insert(name.to_owned())),
            [domain, name, ..] => drop(names.insert(format!("{domain}.{name}"))),
            [] => bail!("a call without a name"),
        }
    }
    ensure!(names.len() > 100, "the engine's registry is written in another way: {names:?}");
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_of_the_engine_has_a_generator() {
        check().expect("the same operators");
    }
}
