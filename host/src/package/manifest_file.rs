//! `vesta.toml`: what a developer writes about a function. Every key is described in guest-sdk/MANIFEST.md.

use super::reader::{Document, ManifestFileError, Problem, Section};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use vesta_core::limits::{self, Limits};
use vesta_core::manifest::{
    Batch, BlobRef, Encoding, EngineChoice, FORMAT, ModelRef, PackageManifest, Precision, Scaling,
};
use vesta_core::sample::Sample;
use vesta_core::{Digest, FunctionName};

/// The manifest's name in a function's folder.
pub const MANIFEST_FILE: &str = "vesta.toml";

/// Longest manifest file that is read, in bytes.
const FILE_LEN_MAX: u64 = 1 << 20;

/// A manifest file that was read and checked; paths are relative to its folder and stay inside of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ManifestFile {
    /// Where it was read from.
    pub path: PathBuf,
    pub name: FunctionName,
    pub public: bool,
    pub snapshot: bool,
    /// The component's file; found among cargo's artifacts where it is not given.
    pub component: Option<PathBuf>,
    pub models: Vec<ModelFile>,
    pub limits: Limits,
    pub scaling: Scaling,
    pub outbound: Vec<String>,
    pub variables: BTreeMap<String, String>,
    component_line: usize,
}

/// A model as the file names it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFile {
    pub name: String,
    pub file: PathBuf,
    pub encoding: Encoding,
    pub threads: u32,
    pub batch: Batch,
    pub engine: EngineChoice,
    pub samples: Vec<Sample>,
    pub precision: Precision,
    line: usize,
}

impl ManifestFile {
    /// Reads `vesta.toml` of a folder, and checks that the models' files are there.
    pub fn read(dir: &Path) -> Result<Self, ManifestFileError> {
        let path = dir.join(MANIFEST_FILE);
        let text = read_text(&path).map_err(|message| error(&path, 0, "", message))?;
        let manifest = Self::parse(&text, &path)?;
        let mut problems = Vec::new();
        for (i, model) in manifest.models.iter().enumerate() {
            if let Err(message) = find_file(dir, &model.file) {
                problems.push(Problem { line: model.line, key: format!("models[{i}].file"), message });
            }
        }
        match problems.is_empty() {
            true => Ok(manifest),
            false => Err(ManifestFileError { file: path, problems }),
        }
    }

    /// Parses and checks the text of a manifest; touches no file. `path` is what errors call it.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ManifestFileError> {
        let document = Document::new(text);
        let manifest = document.root().and_then(|root| read_root(&document, root, path));
        if let Some(manifest) = &manifest
            && document.is_sound()
        {
            manifest.check(&document);
        }
        match manifest {
            Some(manifest) if document.is_sound() => Ok(manifest),
            _ => Err(ManifestFileError { file: path.to_path_buf(), problems: document.into_problems() }),
        }
    }

    /// The package manifest, once the blobs are known; `models` in the order of the file's.
    pub fn package(&self, component: BlobRef, models: Vec<BlobRef>) -> PackageManifest {
        let models = self.models.iter().zip(models).map(|(model, blob)| ModelRef {
            name: model.name.clone(),
            encoding: model.encoding,
            blob,
            threads: model.threads,
            batch: model.batch,
            engine: model.engine,
            samples: model.samples.clone(),
            precision: model.precision,
        });
        PackageManifest {
            format: FORMAT.into(),
            name: self.name.clone(),
            component,
            models: models.collect(),
            limits: self.limits,
            scaling: self.scaling,
            outbound: self.outbound.clone(),
            variables: self.variables.clone(),
            public: self.public,
            snapshot: self.snapshot,
        }
    }

    /// An error about the component's file, at its line.
    pub fn component_error(&self, message: impl Into<String>) -> ManifestFileError {
        error(&self.path, self.component_line, "component", message)
    }

    /// An error about a model's file, at its line.
    pub fn model_error(&self, index: usize, message: impl Into<String>) -> ManifestFileError {
        let line = self.models.get(index).map_or(0, |m| m.line);
        error(&self.path, line, &format!("models[{index}].file"), message)
    }

    /// Lets the core check what does not depend on files, and finds the lines of what it names.
    fn check(&self, document: &Document<'_>) {
        let blob = BlobRef { digest: Digest::from_bytes([0; 32]), size: 1 };
        let package = self.package(blob.clone(), vec![blob; self.models.len()]);
        if let Err(e) = package.check() {
            let text = e.to_string();
            let (field, message) = text.split_once(": ").unwrap_or(("", &text));
            let key = field.replacen("outbound", "outbound.hosts", 1).replacen(".samples", ".sample", 1);
            document.problem_at(&key, message);
        }
    }
}

fn read_root(document: &Document<'_>, mut root: Section<'_, '_>, path: &Path) -> Option<ManifestFile> {
    let name = root.required_string("name").and_then(|text| {
        text.parse::<FunctionName>().map_err(|e| document.problem_at("name", e.to_string())).ok()
    });
    let component = root.string("component").and_then(|text| safe_path(document, "component", &text));
    let public = root.boolean("public").unwrap_or_default();
    let snapshot = root.boolean("snapshot").unwrap_or(true);
    let models = root.sections("models").into_iter().map(|s| read_model(document, s)).collect::<Vec<_>>();
    let limits = root.section("limits").map_or_else(Limits::default, read_limits);
    let scaling = root.section("scaling").map_or_else(Scaling::default, read_scaling);
    let outbound = root.section("outbound").map_or_else(Vec::new, |mut section| {
        let hosts = section.strings("hosts");
        section.finish(&["hosts"]);
        hosts
    });
    let variables = root.string_table("variables");
    root.finish(&[
        "name",
        "component",
        "public",
        "snapshot",
        "models",
        "limits",
        "scaling",
        "outbound",
        "variables",
    ]);
    Some(ManifestFile {
        path: path.to_path_buf(),
        name: name?,
        public,
        snapshot,
        component,
        models: models.into_iter().collect::<Option<_>>()?,
        limits,
        scaling,
        outbound,
        variables,
        component_line: document.line_of("component"),
    })
}

fn read_model(document: &Document<'_>, mut section: Section<'_, '_>) -> Option<ModelFile> {
    let name = section.required_string("name");
    let file_key = section.key("file");
    let file = section.required_string("file").and_then(|text| safe_path(document, &file_key, &text));
    let encoding = read_word(document, &mut section, "encoding", Encoding::Onnx);
    let engine = read_word(document, &mut section, "engine", EngineChoice::Auto);
    let threads = small(section.integer("threads", limits::THREADS), 1);
    let samples: Vec<_> = section.sections("sample").into_iter().map(read_sample).collect();
    let batch = section.section("batch").map_or_else(Batch::default, read_batch);
    let precision = read_word(document, &mut section, "precision", Precision::Full);
    section.finish(&["name", "file", "encoding", "threads", "batch", "engine", "sample", "precision"]);
    Some(ModelFile {
        name: name?,
        file: file?,
        encoding: encoding?,
        threads,
        batch,
        engine: engine?,
        samples: samples.into_iter().collect::<Option<_>>()?,
        precision: precision?,
        line: document.line_of(&file_key),
    })
}

fn read_batch(mut section: Section<'_, '_>) -> Batch {
    let default = Batch::default();
    let max = small(section.integer("max", limits::BATCH), default.max);
    let wait_ms = section.duration_ms("wait", (0, limits::BATCH_WAIT_MS_MAX)).unwrap_or(default.wait_ms);
    section.finish(&["max", "wait"]);
    Batch { max, wait_ms }
}

/// One of a few words.
fn read_word<T: for<'d> Deserialize<'d>>(
    document: &Document<'_>,
    section: &mut Section<'_, '_>,
    name: &str,
    default: T,
) -> Option<T> {
    let key = section.key(name);
    let Some(text) = section.string(name) else { return Some(default) };
    T::deserialize(text.as_str().into_deserializer())
        .map_err(|e: serde::de::value::Error| document.problem_at(&key, e.to_string()))
        .ok()
}

fn read_sample(mut section: Section<'_, '_>) -> Option<Sample> {
    let input = section.required_string("input");
    let shape = section.required_integers("shape", (0, u64::from(u32::MAX)));
    let (values, fill) = (section.numbers("values"), section.number("fill"));
    section.finish(&["input", "shape", "values", "fill"]);
    let shape = shape?.into_iter().map(|d| small(Some(d), 0)).collect();
    Some(Sample { input: input?, shape, values, fill })
}

fn read_limits(mut section: Section<'_, '_>) -> Limits {
    let default = Limits::default();
    let read = Limits {
        memory_bytes: section.size("memory", limits::MEMORY_BYTES).unwrap_or(default.memory_bytes),
        cpu_ms: section.duration_ms("cpu", limits::CPU_MS).unwrap_or(default.cpu_ms),
        wall_ms: section.duration_ms("wall", limits::WALL_MS).unwrap_or(default.wall_ms),
        request_body_bytes: section
            .size("request_body", limits::BODY_BYTES)
            .unwrap_or(default.request_body_bytes),
        response_body_bytes: section
            .size("response_body", limits::BODY_BYTES)
            .unwrap_or(default.response_body_bytes),
        concurrency: small(section.integer("concurrency", limits::CONCURRENCY), default.concurrency),
        model_memory_bytes: section
            .size("model_memory", limits::MODEL_MEMORY_BYTES)
            .unwrap_or(default.model_memory_bytes),
        inference_ms: section.duration_ms("inference", limits::INFERENCE_MS).unwrap_or(default.inference_ms),
    };
    section.finish(&[
        "memory",
        "cpu",
        "wall",
        "request_body",
        "response_body",
        "concurrency",
        "model_memory",
        "inference",
    ]);
    read
}

fn read_scaling(mut section: Section<'_, '_>) -> Scaling {
    let default = Scaling::default();
    let read = Scaling {
        minimum: small(section.integer("minimum", (0, u64::from(limits::MINIMUM_MAX))), default.minimum),
        keep_alive_ms: section.duration_ms("keep_alive", (0, limits::KEEP_ALIVE_MS_MAX)),
        reuse: small(section.integer("reuse", limits::REUSE), default.reuse),
    };
    section.finish(&["minimum", "keep_alive", "reuse"]);
    read
}

/// The bounds that were checked lie within 32 bits.
fn small(value: Option<u64>, default: u32) -> u32 {
    value.and_then(|n| u32::try_from(n).ok()).unwrap_or(default)
}

/// A relative path without `..`.
fn safe_path(document: &Document<'_>, key: &str, text: &str) -> Option<PathBuf> {
    let path = PathBuf::from(text);
    let inside = path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if text.is_empty() || text.contains('\0') || !inside {
        document
            .problem_at(key, format!("{text:?} must be a path inside the function's folder, without '..'"));
        return None;
    }
    Some(path)
}

/// The real path of a regular file inside a folder; symbolic links may not lead out of it.
pub(super) fn find_file(dir: &Path, file: &Path) -> Result<PathBuf, String> {
    let shown = file.display();
    let real = dir.join(file).canonicalize().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => format!("{shown} does not exist"),
        _ => format!("{shown}: {e}"),
    })?;
    let root = dir.canonicalize().map_err(|e| format!("{}: {e}", dir.display()))?;
    if !real.starts_with(&root) {
        return Err(format!("{shown} is a link that leads out of the function's folder"));
    }
    match real.is_file() {
        true => Ok(real),
        false => Err(format!("{shown} is not a file")),
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    let not_found = "there is no such file; `vesta new` makes a folder with one";
    let file = fs::File::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => not_found.to_string(),
        _ => e.to_string(),
    })?;
    let mut bytes = Vec::new();
    file.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > FILE_LEN_MAX {
        return Err(format!("is larger than {FILE_LEN_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_string())
}

fn error(path: &Path, line: usize, key: &str, message: impl Into<String>) -> ManifestFileError {
    let problem = Problem { line, key: key.to_string(), message: message.into() };
    ManifestFileError { file: path.to_path_buf(), problems: vec![problem] }
}

#[cfg(test)]
#[path = "manifest_file_tests.rs"]
mod tests;
