//! `vesta new`: a folder that builds, deploys and answers as it is.

use super::exit::{Exit, Failure};
use super::output;
use anyhow::Context;
use std::path::{Path, PathBuf};
use vesta_core::FunctionName;

#[derive(clap::Args)]
pub struct Args {
    /// The function's name, and its folder's
    name: FunctionName,
    /// What it begins as
    #[arg(long, value_enum, default_value_t = Template::Hello)]
    template: Template,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Template {
    /// Answers with JSON
    Hello,
    /// Runs an ONNX model
    Model,
}

/// Paths in the new folder, and their content; Cargo.toml has another name here so that cargo leaves it
/// alone.
type Files = [(&'static str, &'static str)];

const HELLO: &Files = &[
    ("Cargo.toml", include_str!("templates/hello/Cargo.toml.tmpl")),
    ("README.md", include_str!("templates/hello/README.md")),
    ("src/lib.rs", include_str!("templates/hello/lib.rs")),
    ("vesta.toml", include_str!("templates/hello/vesta.toml")),
    (".gitignore", "target/\n*.vesta\n"),
];

const MODEL: &Files = &[
    ("Cargo.toml", include_str!("templates/model/Cargo.toml.tmpl")),
    ("README.md", include_str!("templates/model/README.md")),
    ("src/lib.rs", include_str!("templates/model/lib.rs")),
    ("vesta.toml", include_str!("templates/model/vesta.toml")),
    (".gitignore", "target/\n*.vesta\n"),
    ("models/.gitkeep", ""),
];

pub fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let dir = PathBuf::from(args.name.as_str());
    create(&dir, args.name.as_str(), args.template)?;
    if json {
        return output::json(&serde_json::json!({ "name": args.name, "folder": dir.display().to_string() }));
    }
    let first = match args.template {
        Template::Hello => "",
        Template::Model => "\n  put the model into models/model.onnx",
    };
    output::line(format!("{dir} is made; next:\n  cd {dir}{first}\n  vesta deploy", dir = dir.display()))
}

fn create(dir: &Path, name: &str, template: Template) -> anyhow::Result<()> {
    if let Err(e) = std::fs::create_dir(dir) {
        return Err(match e.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Failure::error(Exit::Refused, format!("{} exists already", dir.display()))
            }
            _ => anyhow::Error::new(e).context(format!("{}", dir.display())),
        });
    }
    let files = match template {
        Template::Hello => HELLO,
        Template::Model => MODEL,
    };
    let sdk = sdk_dependency();
    for (path, content) in files {
        let path = dir.join(path);
        let content = content.replace("{{name}}", name).replace("{{sdk}}", &sdk);
        let parent = path.parent().unwrap_or(dir);
        std::fs::create_dir_all(parent)
            .and_then(|()| std::fs::write(&path, content))
            .with_context(|| format!("{}", path.display()))?;
    }
    Ok(())
}

/// The SDK beside the source that this binary was built from, while that is there; else the release of the
/// same version.
fn sdk_dependency() -> String {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-sdk");
    match beside.canonicalize() {
        Ok(path) if path.join("Cargo.toml").is_file() => {
            format!("vesta-sdk = {{ path = {:?} }}", path.display().to_string())
        }
        _ => format!("vesta-sdk = {:?}", env!("CARGO_PKG_VERSION")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::ManifestFile;

    #[test]
    fn a_new_folder_has_a_sound_manifest_and_a_crate_of_its_name() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for template in [Template::Hello, Template::Model] {
            let dir = dir.path().join(format!("{template:?}"));
            create(&dir, "my-function", template).expect("made");
            let text = std::fs::read_to_string(dir.join("vesta.toml")).expect("read");
            let manifest = ManifestFile::parse(&text, Path::new("vesta.toml")).expect("sound");
            assert_eq!(manifest.name.as_str(), "my-function");
            let text = std::fs::read_to_string(dir.join("Cargo.toml")).expect("read");
            let cargo: toml::Table = text.parse().expect("toml");
            assert_eq!(cargo["package"]["name"].as_str(), Some("my-function"));
            assert!(cargo["dependencies"].get("vesta-sdk").is_some());
            assert!(dir.join("src/lib.rs").is_file());
        }
    }

    #[test]
    fn an_existing_folder_is_left_alone() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let error = create(dir.path(), "a", Template::Hello).expect_err("refused");
        assert!(error.to_string().contains("exists already"), "{error}");
    }
}
