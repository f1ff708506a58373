use super::*;

const WHOLE: &str = r#"name = "digits"
component = "target/wasm32-wasip2/release/digits.wasm"
public = true
[[models]]
name = "digits"
file = "models/digits.onnx"
encoding = "onnx"
[limits]
memory = "64MiB"
cpu = "500ms"
wall = "10s"
request_body = "1MB"
response_body = 2048
concurrency = 16
model_memory = "256MiB"
inference = "5s"
[scaling]
minimum = 1
keep_alive = "2h"
reuse = 100
[outbound]
hosts = ["api.example.com:443"]
[variables]
GREETING = "hi"
"#;

fn parse(text: &str) -> Result<ManifestFile, ManifestFileError> {
    ManifestFile::parse(text, Path::new("vesta.toml"))
}

fn refused(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

#[test]
fn every_key_reaches_the_manifest() {
    let m = parse(WHOLE).expect("sound");
    assert_eq!(m.name.as_str(), "digits");
    assert!(m.public);
    assert_eq!(m.component.as_deref(), Some(Path::new("target/wasm32-wasip2/release/digits.wasm")));
    assert_eq!((m.models[0].name.as_str(), m.models[0].encoding), ("digits", Encoding::Onnx));
    assert_eq!(m.models[0].engine, EngineChoice::Auto);
    assert_eq!(
        m.limits,
        Limits {
            memory_bytes: 64 << 20,
            cpu_ms: 500,
            wall_ms: 10_000,
            request_body_bytes: 1_000_000,
            response_body_bytes: 2048,
            concurrency: 16,
            model_memory_bytes: 256 << 20,
            inference_ms: 5_000,
        }
    );
    assert_eq!(m.scaling, Scaling { minimum: 1, keep_alive_ms: Some(7_200_000), reuse: 100 });
    assert_eq!(m.outbound, ["api.example.com:443"]);
    assert_eq!(m.variables["GREETING"], "hi");
}

#[test]
fn only_the_name_is_needed() {
    let m = parse("name = \"a\"").expect("sound");
    assert_eq!((m.limits, m.scaling), (Limits::default(), Scaling::default()));
    assert!(!m.public && m.snapshot && m.models.is_empty() && m.component.is_none());
}

#[test]
fn a_snapshot_can_be_declined() {
    let m = parse("name = \"a\"\nsnapshot = false").expect("sound");
    let component = BlobRef { digest: Digest::from_bytes([1; 32]), size: 1 };
    assert!(!m.snapshot && !m.package(component, Vec::new()).snapshot);
    assert!(refused("name = \"a\"\nsnapshot = 0").contains("vesta.toml:2: snapshot: must be true or false"));
}

/// Replaces one line of the whole example and returns the error.
fn with_line(line: usize, text: &str) -> String {
    let mut lines: Vec<&str> = WHOLE.lines().collect();
    lines[line - 1] = text;
    refused(&lines.join("\n"))
}

#[test]
fn every_mistake_names_file_line_and_key() {
    for (line, text, wanted) in [
        (1, "name = \"Not A Name\"", "vesta.toml:1: name: function name"),
        (1, "name = 5", "vesta.toml:1: name: must be a string, not of type integer"),
        (1, "title = \"x\"", "vesta.toml:1: title: unknown key; the keys of the top level are name,"),
        (2, "component = \"../x.wasm\"", "vesta.toml:2: component: \"../x.wasm\" must be a path inside"),
        (2, "component = \"/x.wasm\"", "vesta.toml:2: component:"),
        (3, "public = \"yes\"", "vesta.toml:3: public: must be true or false, not of type string"),
        (5, "name = \"a/b\"", "vesta.toml:5: models[0].name: \"a/b\" must be 1 to 128"),
        (5, "", "vesta.toml:4: models[0].name: is missing"),
        (6, "file = \"\"", "vesta.toml:6: models[0].file:"),
        (
            7,
            "encoding = \"gguf\"",
            "vesta.toml:7: models[0].encoding: unknown variant `gguf`, expected `onnx`",
        ),
        (
            7,
            "engine = \"tract\"",
            "vesta.toml:7: models[0].engine: unknown variant `tract`, expected one of `auto`, `rten`, `onnxruntime`",
        ),
        (7, "thread = 2", "vesta.toml:7: models[0].thread: unknown key; the keys of [models[0]] are name,"),
        (7, "threads = 65", "vesta.toml:7: models[0].threads: 65 is out of bounds: 1 to 64"),
        (7, "batch = { max = 0 }", "vesta.toml:7: models[0].batch.max: 0 is out of bounds: 1 to 256"),
        (
            7,
            "batch = { wait = \"2s\" }",
            "vesta.toml:7: models[0].batch.wait: \"2s\" is out of bounds: 0s to 1s",
        ),
        (7, "threads = 0", "vesta.toml:7: models[0].threads: 0 is out of bounds: 1 to 64"),
        (9, "memory = \"9TiB\"", "vesta.toml:9: limits.memory: \"9TiB\" is out of bounds: 1MiB to 4GiB"),
        (9, "memory = -5", "vesta.toml:9: limits.memory: -5 is out of bounds: 1MiB to 4GiB"),
        (9, "memory = \"64 apples\"", "vesta.toml:9: limits.memory: \"64 apples\" is not a size"),
        (
            9,
            "memory = 1.5",
            "vesta.toml:9: limits.memory: must be a size such as \"64MiB\", not of type float",
        ),
        (10, "cpu = \"0s\"", "vesta.toml:10: limits.cpu: \"0s\" is out of bounds: 1ms to 10m"),
        (10, "cpu = 500", "vesta.toml:10: limits.cpu: must be a duration with its unit"),
        (11, "wall = \"10 parsecs\"", "vesta.toml:11: limits.wall: \"10 parsecs\" is not a duration"),
        (14, "concurrency = 0", "vesta.toml:14: limits.concurrency: 0 is out of bounds: 1 to 1000"),
        (
            14,
            "concurrency = 99999999999999999999",
            "vesta.toml:14: limits.concurrency: 99999999999999999999 is",
        ),
        (14, "speed = 1", "vesta.toml:14: limits.speed: unknown key; the keys of [limits] are memory, cpu,"),
        (
            15,
            "model_memory = \"1MiB\"",
            "vesta.toml:15: limits.model_memory: \"1MiB\" is out of bounds: 16MiB to 64GiB",
        ),
        (16, "inference = \"11m\"", "vesta.toml:16: limits.inference: \"11m\" is out of bounds: 1ms to 10m"),
        (
            19,
            "keep_alive = \"8d\"",
            "vesta.toml:19: scaling.keep_alive: \"8d\" is out of bounds: 0s to 7days",
        ),
        (20, "reuse = 0", "vesta.toml:20: scaling.reuse: 0 is out of bounds: 1 to 1000000"),
        (22, "hosts = [\"http://x\"]", "vesta.toml:22: outbound.hosts[0]: \"http://x\" is not a host name"),
        (22, "hosts = [7]", "vesta.toml:22: outbound.hosts[0]: must be a string"),
        (22, "hosts = \"x\"", "vesta.toml:22: outbound.hosts: must be a list of strings"),
        (24, "1A = \"x\"", "vesta.toml:24: variables.1A: a name must be"),
        (24, "A = 1", "vesta.toml:24: variables.A: must be a string"),
        (24, "A = ", "vesta.toml:24: "),
        (8, "[limits", "vesta.toml:8: "),
    ] {
        let message = with_line(line, text);
        assert!(message.contains(wanted), "{text}: {message}");
    }
}

/// A manifest whose model has a sample of these lines, the first of which is line 6.
fn with_sample(lines: &str) -> String {
    format!("name = \"a\"\n[[models]]\nname = \"m\"\nfile = \"m.onnx\"\n[[models.sample]]\n{lines}\n")
}

#[test]
fn threads_and_samples_reach_the_manifest() {
    let second = "[[models.sample]]\ninput = \"y\"\nshape = []\nfill = 7";
    let text = with_sample(&format!("input = \"x\"\nshape = [1, 3]\nvalues = [1, -2.5, 0x10]\n{second}"));
    let keys = "threads = 4\nengine = \"onnxruntime\"\nbatch = { max = 2, wait = \"3ms\" }";
    let file = parse(&text.replace("[[models]]\n", &format!("[[models]]\n{keys}\n"))).expect("sound");
    let blob = || BlobRef { digest: Digest::from_bytes([1; 32]), size: 1 };
    let model = &file.package(blob(), vec![blob()]).models[0];
    assert_eq!((model.threads, model.engine), (4, EngineChoice::OnnxRuntime));
    assert_eq!(model.batch, Batch { max: 2, wait_ms: 3 });
    let [x, y] = &model.samples[..] else { panic!("{model:?}") };
    assert_eq!((x.input.as_str(), &x.shape[..], x.fill), ("x", &[1, 3][..], None));
    assert_eq!(x.values.as_deref(), Some(&[1.0, -2.5, 16.0][..]));
    assert_eq!((y.input.as_str(), &y.shape[..], y.fill, &y.values), ("y", &[][..], Some(7.0), &None));
}

#[test]
fn every_mistake_in_a_sample_names_line_and_key() {
    for (lines, wanted) in [
        ("shape = [1]", "vesta.toml:5: models[0].sample[0].input: is missing"),
        ("input = \"x\"", "vesta.toml:5: models[0].sample[0].shape: is missing"),
        (
            "input = \"x\"\nshape = 1",
            "vesta.toml:7: models[0].sample[0].shape: must be a list of whole numbers",
        ),
        (
            "input = \"x\"\nshape = [-1]",
            "vesta.toml:7: models[0].sample[0].shape[0]: -1 is out of bounds: 0 to 4294967295",
        ),
        (
            "input = \"x\"\nshape = [2]\nvalues = [1]",
            "vesta.toml:8: models[0].sample[0].values: 1 values; the shape [2] has 2 elements",
        ),
        (
            "input = \"x\"\nshape = [2]\nvalues = [1, \"2\"]",
            "vesta.toml:8: models[0].sample[0].values[1]: must be a number, not of type string",
        ),
        (
            "input = \"x\"\nshape = [2]\nfill = nan",
            "vesta.toml:8: models[0].sample[0].fill: NaN is not a finite",
        ),
        (
            "input = \"x\"\nshape = [2]\nfill = true",
            "vesta.toml:8: models[0].sample[0].fill: must be a number",
        ),
        (
            "input = \"x\"\nshape = [9999999, 9]",
            "vesta.toml:7: models[0].sample[0].shape: the samples of a model have more than 33554432 elements",
        ),
        (
            "input = \"x\"\nshape = [2]\nvalue = [1]",
            "vesta.toml:8: models[0].sample[0].value: unknown key; the keys of [models[0].sample[0]] are input,",
        ),
    ] {
        let message = refused(&with_sample(lines));
        assert!(message.contains(wanted), "{lines}: {message}");
    }
}

#[test]
fn several_mistakes_are_told_at_once_in_the_order_of_lines() {
    let message = refused("public = 1\n[limits]\nwall = \"x\"\ncpu = \"y\"\ncolour = 1\n");
    let keys: Vec<&str> = message.lines().filter_map(|l| l.split(": ").nth(1)).collect();
    assert_eq!(keys, ["name", "public", "limits.wall", "limits.cpu", "limits.colour"], "{message}");
}

#[test]
fn two_models_of_one_name_are_refused() {
    let model = "[[models]]\nname = \"m\"\nfile = \"m.onnx\"\n";
    let message = refused(&format!("name = \"a\"\n{model}{model}"));
    assert!(message.contains("vesta.toml:6: models[1].name: \"m\" is used twice"), "{message}");
}

#[test]
fn too_many_of_anything_is_refused_at_its_section() {
    let models: String = (0..40).map(|i| format!("[[models]]\nname = \"m{i}\"\nfile = \"m\"\n")).collect();
    let message = refused(&format!("name = \"a\"\n{models}"));
    assert!(message.contains("vesta.toml:2: models: 40 models; at most 32"), "{message}");
}

#[test]
fn missing_and_escaping_files_are_refused_with_their_line() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let read = |file: &str| {
        let text = format!("name = \"a\"\n[[models]]\nname = \"m\"\nfile = \"{file}\"\n");
        fs::write(dir.path().join(MANIFEST_FILE), text).expect("written");
        ManifestFile::read(dir.path())
    };
    let message = read("none.onnx").expect_err("refused").to_string();
    assert!(message.ends_with("vesta.toml:4: models[0].file: none.onnx does not exist"), "{message}");

    fs::create_dir(dir.path().join("folder")).expect("made");
    assert!(read("folder").expect_err("refused").to_string().contains("folder is not a file"));

    let outside = tempfile::NamedTempFile::new().expect("a temporary file");
    std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).expect("linked");
    assert!(read("link").expect_err("refused").to_string().contains("leads out of the function's folder"));

    fs::write(dir.path().join("m.onnx"), b"x").expect("written");
    assert!(read("m.onnx").is_ok());
}

#[test]
fn a_missing_or_unreadable_manifest_is_a_clear_error() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let message = ManifestFile::read(dir.path()).expect_err("refused").to_string();
    assert!(message.contains("vesta.toml: there is no such file"), "{message}");
    fs::write(dir.path().join(MANIFEST_FILE), [0xff, 0xfe]).expect("written");
    let message = ManifestFile::read(dir.path()).expect_err("refused").to_string();
    assert!(message.contains("is not UTF-8"), "{message}");
    fs::write(dir.path().join(MANIFEST_FILE), vec![b' '; 2 << 20]).expect("written");
    let message = ManifestFile::read(dir.path()).expect_err("refused").to_string();
    assert!(message.contains("is larger than"), "{message}");
}
