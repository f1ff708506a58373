//! `vesta.toml` with every kind of mistake: the message has the file, the line and the key.

use std::path::Path;
use vesta_tests::cli::Cli;
use vesta_tests::guests;

/// A folder of a function whose component is there.
fn folder(dir: &Path, manifest: &str) {
    std::fs::create_dir_all(dir).expect("create a folder");
    std::fs::write(dir.join("hello.wasm"), guests::fixture("rogue")).expect("write the component");
    std::fs::write(dir.join("vesta.toml"), manifest).expect("write vesta.toml");
}

/// Builds a manifest that should fail, with exit code 5, at a line and a key.
#[track_caller]
fn refused(manifest: &str, line: usize, words: &[&str]) {
    let cli = Cli::stranger();
    let dir = cli.home().join("function");
    folder(&dir, manifest);
    let path = dir.display().to_string();
    let place = format!("vesta.toml:{line}");
    let words = [&[place.as_str()], words].concat();
    let ran = cli.run(&["build", &path, "--no-build"]).fails(&words);
    assert_eq!(ran.code, 5, "{}", ran.stderr);
}

const HEAD: &str = "name = \"hello\"\ncomponent = \"hello.wasm\"\n";

#[test]
fn a_sound_manifest_builds() {
    let cli = Cli::stranger();
    let dir = cli.home().join("function");
    folder(
        &dir,
        &format!(
            "{HEAD}public = true\n[limits]\nmemory = \"64MiB\"\ncpu = \"200ms\"\n[scaling]\nkeep_alive = \"10s\"\n"
        ),
    );
    let path = dir.display().to_string();
    let json = cli.run(&["build", &path, "--no-build", "--json"]).ok().json();
    assert_eq!(json["manifest"]["limits"]["memory_bytes"], 64 << 20);
    assert_eq!(json["manifest"]["scaling"]["keep_alive_ms"], 10_000);
    let file = cli.home().join("hello.vesta");
    let out = file.display().to_string();
    cli.run(&["build", &path, "--no-build", "--output", &out]).ok();
    let first = std::fs::read(&file).expect("the package");
    cli.run(&["build", &path, "--no-build", "--output", &out]).ok();
    assert!(first == std::fs::read(&file).expect("the package"), "the same package gives the same bytes");
}

#[test]
fn mistakes_are_named_with_their_line_and_key() {
    refused("name = \"hello\ncomponent = 1\n", 1, &[]);
    refused("component = \"hello.wasm\"\n", 1, &["name"]);
    refused("name = \"Not A Name\"\ncomponent = \"hello.wasm\"\n", 1, &["name", "Not A Name"]);
    refused(&format!("{HEAD}colour = \"red\"\n"), 3, &["colour"]);
    refused(&format!("{HEAD}[limits]\nmemry = \"64MiB\"\n"), 4, &["limits.memry"]);
    refused(&format!("{HEAD}[limits]\nmemory = \"64 apples\"\n"), 4, &["limits.memory", "64 apples"]);
    refused(&format!("{HEAD}[limits]\nmemory = \"1TiB\"\n"), 4, &["limits.memory"]);
    refused(&format!("{HEAD}[limits]\ncpu = 7\n"), 4, &["limits.cpu"]);
    refused(&format!("{HEAD}[limits]\nwall = \"-1s\"\n"), 4, &["limits.wall"]);
    refused(&format!("{HEAD}[limits]\nconcurrency = 0\n"), 4, &["limits.concurrency"]);
    refused(&format!("{HEAD}[scaling]\nminimum = 100000\n"), 4, &["scaling.minimum"]);
    refused(&format!("{HEAD}[scaling]\nkeep_alive = \"400d\"\n"), 4, &["scaling.keep_alive"]);
    refused(&format!("{HEAD}public = \"yes\"\n"), 3, &["public"]);
    refused(&format!("{HEAD}[outbound]\nhosts = [\"http://x/\"]\n"), 4, &["outbound.hosts", "http://x/"]);
    refused(&format!("{HEAD}[variables]\n\"1A\" = \"x\"\n"), 4, &["variables.1A"]);
    refused(&format!("{HEAD}[variables]\nA = 7\n"), 4, &["variables.A"]);
    refused(&format!("{HEAD}name = \"twice\"\n"), 3, &["name"]);
}

#[test]
fn models_and_components_that_are_missing_or_outside_are_refused() {
    let model = |body: &str| format!("{HEAD}[[models]]\n{body}");
    refused(&model("name = \"m\"\n"), 3, &["models[0]", "file"]);
    refused(&model("file = \"m.onnx\"\n"), 3, &["models[0]", "name"]);
    refused(&model("name = \"m\"\nfile = \"nowhere.onnx\"\n"), 5, &["models[0].file", "nowhere.onnx"]);
    refused(&model("name = \"m\"\nfile = \"../secret\"\n"), 5, &["models[0].file", "../secret"]);
    refused(&model("name = \"m\"\nfile = \"/etc/passwd\"\n"), 5, &["models[0].file", "/etc/passwd"]);
    refused(
        &model("name = \"m\"\nfile = \"hello.wasm\"\nencoding = \"magic\"\n"),
        6,
        &["models[0].encoding", "magic"],
    );
    let twice = "name = \"m\"\nfile = \"hello.wasm\"\n";
    refused(&model(&format!("{twice}[[models]]\n{twice}")), 7, &["models[1].name"]);
    refused("name = \"hello\"\ncomponent = \"nowhere.wasm\"\n", 2, &["component", "nowhere.wasm"]);
    refused("name = \"hello\"\ncomponent = \"vesta.toml\"\n", 2, &["component"]);
}

#[test]
fn all_mistakes_are_told_at_once() {
    let cli = Cli::stranger();
    let dir = cli.home().join("function");
    folder(&dir, &format!("{HEAD}colour = \"red\"\n[limits]\nmemry = 1\ncpu = 7\n"));
    let path = dir.display().to_string();
    cli.run(&["build", &path, "--no-build"]).fails(&[
        "vesta.toml:3",
        "colour",
        "vesta.toml:5",
        "memry",
        "vesta.toml:6",
    ]);
    cli.run(&["build", "/no/such/folder", "--no-build"]).fails(&["vesta.toml"]);
}
