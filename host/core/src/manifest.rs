//! The package manifest: what a function consists of, by digest. The JSON that an upload begins with.

use crate::limits::{self, LimitError, Limits};
use crate::sample::{self, Sample, SampleError};
use crate::{Digest, FunctionName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The format that this build writes and reads.
pub const FORMAT: &str = "vesta-package/1";

/// A blob of a package.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobRef {
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
}

/// The encoding of a model's file; the names of `wasi:nn`'s graph-encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    Onnx,
}

/// Which inference engine runs a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// The host chooses at deploy, among the engines that run the model and agree about its outputs.
    #[default]
    Auto,
    /// The embedded engine.
    Rten,
    /// ONNX Runtime, where it is installed.
    OnnxRuntime,
}

impl EngineChoice {
    fn is_auto(&self) -> bool {
        *self == EngineChoice::Auto
    }
}

/// A model of a package, under the name by which its guest loads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRef {
    /// 1 to 128 characters.
    pub name: String,
    pub encoding: Encoding,
    pub blob: BlobRef,
    /// Threads that compute a run; it takes as many inference slots.
    #[serde(default = "one_thread")]
    pub threads: u32,
    /// How runs that wait at the same time are merged into one.
    #[serde(default, skip_serializing_if = "Batch::is_default")]
    pub batch: Batch,
    #[serde(default, skip_serializing_if = "EngineChoice::is_auto")]
    pub engine: EngineChoice,
    /// Inputs of the trial run at deploy. What is not named is made up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
    /// Whether an engine may compute with fewer bits than the model says.
    #[serde(default, skip_serializing_if = "Precision::is_full")]
    pub precision: Precision,
}

/// With how many bits a model is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// With those that the model says.
    #[default]
    Full,
    /// Integers of 64 bits may be computed in 32, and doubles in single precision.
    Reduced,
}

impl Precision {
    fn is_full(&self) -> bool {
        *self == Self::Full
    }
}

/// How runs of a model are merged that wait at the same time, where the trial at deploy has found that this
/// is right and
/// saves CPU time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// Most rows of a merged run; with 1 none are merged.
    pub max: u32,
    /// How long a run waits for others before it asks for its turn, in milliseconds.
    pub wait_ms: u64,
}

impl Default for Batch {
    fn default() -> Self {
        Self { max: 8, wait_ms: 0 }
    }
}

impl Batch {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The threads of manifests that do not name them.
fn one_thread() -> u32 {
    1
}

/// When instances are kept without requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaling {
    /// With 1 or more, the function is never let go.
    pub minimum: u32,
    /// How long it stays warm without a request, in milliseconds. Where it is not stated, as long as that is
    /// worth its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive_ms: Option<u64>,
    /// Most requests that one instance serves, one after another. With 1 each has a fresh instance.
    #[serde(default = "no_reuse")]
    pub reuse: u32,
}

/// The reuse of manifests that do not name it.
fn no_reuse() -> u32 {
    1
}

impl Default for Scaling {
    fn default() -> Self {
        Self { minimum: 0, keep_alive_ms: None, reuse: no_reuse() }
    }
}

/// Everything that a version of a function is. Immutable once deployed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageManifest {
    /// [`FORMAT`].
    pub format: String,
    pub name: FunctionName,
    pub component: BlobRef,
    #[serde(default)]
    pub models: Vec<ModelRef>,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub scaling: Scaling,
    /// Hosts that outbound HTTP may reach: `name` or `name:port`.
    #[serde(default)]
    pub outbound: Vec<String>,
    /// Environment of the guest.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    /// Whether it may be invoked without a key.
    #[serde(default)]
    pub public: bool,
    /// Whether a component that exports an initialisation is initialised at deploy.
    #[serde(default = "yes")]
    pub snapshot: bool,
}

fn yes() -> bool {
    true
}

/// Why a package manifest was refused; each names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("format: {0:?} is not {FORMAT:?}, the format that this host reads")]
    Format(String),
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error("models: {0} models; at most {max} are allowed", max = limits::MODELS_MAX)]
    TooManyModels(usize),
    #[error("models[{index}].name: {name:?} must be 1 to 128 printable characters without '/'")]
    ModelName { index: usize, name: String },
    #[error("models[{index}].name: {name:?} is used twice")]
    ModelTwice { index: usize, name: String },
    #[error("models[{index}].threads = {got} is out of bounds: {min} to {max}", min = limits::THREADS.0, max = limits::THREADS.1)]
    Threads { index: usize, got: u32 },
    #[error("models[{index}].batch.max = {got} is out of bounds: {min} to {max}", min = limits::BATCH.0, max = limits::BATCH.1)]
    BatchMax { index: usize, got: u32 },
    #[error("models[{index}].batch.wait = {got} ms is out of bounds: 0 to {max} ms", max = limits::BATCH_WAIT_MS_MAX)]
    BatchWait { index: usize, got: u64 },
    #[error(transparent)]
    Sample(#[from] SampleError),
    #[error("{field}: an empty blob")]
    EmptyBlob { field: String },
    #[error("outbound: {0} hosts; at most {max} are allowed", max = limits::OUTBOUND_HOSTS_MAX)]
    TooManyHosts(usize),
    #[error("outbound[{index}]: {host:?} is not a host name, or a host name and a port")]
    Host { index: usize, host: String },
    #[error("variables: {0} variables; at most {max} are allowed", max = limits::VARIABLES_MAX)]
    TooManyVariables(usize),
    #[error("variables: {0} bytes; at most {max} are allowed", max = limits::VARIABLES_BYTES_MAX)]
    VariablesTooLong(usize),
    #[error(
        "variables.{0}: a name must be 1 to 128 of A-Z, a-z, 0-9 and '_', and must not begin with a digit"
    )]
    VariableName(String),
    #[error("variables.{0}: a value must not contain a NUL character")]
    VariableValue(String),
}

impl PackageManifest {
    /// All blobs of the package, the component first; a blob used twice is listed once.
    pub fn blobs(&self) -> Vec<&BlobRef> {
        let mut out = vec![&self.component];
        for model in &self.models {
            if !out.iter().any(|b| b.digest == model.blob.digest) {
                out.push(&model.blob);
            }
        }
        out
    }

    /// Checks every field against its bounds.
    pub fn check(&self) -> Result<(), ManifestError> {
        if self.format != FORMAT {
            return Err(ManifestError::Format(self.format.clone()));
        }
        self.limits.check()?;
        limits::check(
            "scaling.minimum",
            u64::from(self.scaling.minimum),
            (0, u64::from(limits::MINIMUM_MAX)),
        )?;
        let keep_alive_ms = self.scaling.keep_alive_ms.unwrap_or_default();
        limits::check("scaling.keep_alive_ms", keep_alive_ms, (0, limits::KEEP_ALIVE_MS_MAX))?;
        limits::check("scaling.reuse", u64::from(self.scaling.reuse), limits::REUSE)?;
        if self.component.size == 0 {
            return Err(ManifestError::EmptyBlob { field: "component".into() });
        }
        self.check_models()?;
        self.check_outbound()?;
        self.check_variables()
    }

    fn check_models(&self) -> Result<(), ManifestError> {
        if self.models.len() > limits::MODELS_MAX {
            return Err(ManifestError::TooManyModels(self.models.len()));
        }
        for (index, model) in self.models.iter().enumerate() {
            let name = model.name.clone();
            let printable = |c: char| !c.is_control() && c != '/';
            if name.is_empty() || name.len() > 128 || !name.chars().all(printable) {
                return Err(ManifestError::ModelName { index, name });
            }
            if self.models[..index].iter().any(|m| m.name == name) {
                return Err(ManifestError::ModelTwice { index, name });
            }
            if model.blob.size == 0 {
                return Err(ManifestError::EmptyBlob { field: format!("models[{index}]") });
            }
            let (min, max) = limits::THREADS;
            if !(min..=max).contains(&u64::from(model.threads)) {
                return Err(ManifestError::Threads { index, got: model.threads });
            }
            if !(limits::BATCH.0..=limits::BATCH.1).contains(&u64::from(model.batch.max)) {
                return Err(ManifestError::BatchMax { index, got: model.batch.max });
            }
            if model.batch.wait_ms > limits::BATCH_WAIT_MS_MAX {
                return Err(ManifestError::BatchWait { index, got: model.batch.wait_ms });
            }
            sample::check(index, model)?;
        }
        Ok(())
    }

    fn check_outbound(&self) -> Result<(), ManifestError> {
        if self.outbound.len() > limits::OUTBOUND_HOSTS_MAX {
            return Err(ManifestError::TooManyHosts(self.outbound.len()));
        }
        for (index, host) in self.outbound.iter().enumerate() {
            if !is_host(host) {
                return Err(ManifestError::Host { index, host: host.clone() });
            }
        }
        Ok(())
    }

    fn check_variables(&self) -> Result<(), ManifestError> {
        if self.variables.len() > limits::VARIABLES_MAX {
            return Err(ManifestError::TooManyVariables(self.variables.len()));
        }
        let bytes = self.variables.iter().map(|(k, v)| k.len() + v.len()).sum();
        if bytes > limits::VARIABLES_BYTES_MAX {
            return Err(ManifestError::VariablesTooLong(bytes));
        }
        for (name, value) in &self.variables {
            let word = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            let starts_well = name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
            if !word || !starts_well || name.len() > 128 {
                return Err(ManifestError::VariableName(name.clone()));
            }
            if value.contains('\0') {
                return Err(ManifestError::VariableValue(name.clone()));
            }
        }
        Ok(())
    }
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    host.len() <= 253
        && host.split('.').all(label)
        && port.is_none_or(|p| p.parse::<u16>().is_ok_and(|p| p != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> PackageManifest {
        let blob = BlobRef { digest: Digest::from_bytes([1; 32]), size: 10 };
        PackageManifest {
            format: FORMAT.into(),
            name: "hello".parse().expect("name"),
            component: blob.clone(),
            models: vec![ModelRef {
                name: "m".into(),
                encoding: Encoding::Onnx,
                blob,
                threads: 1,
                batch: Batch::default(),
                engine: Default::default(),
                samples: Vec::new(),
                precision: Precision::Full,
            }],
            limits: Limits::default(),
            scaling: Scaling::default(),
            outbound: vec!["api.example.com:443".into()],
            variables: BTreeMap::new(),
            public: false,
            snapshot: true,
        }
    }

    fn refused(change: impl FnOnce(&mut PackageManifest)) -> String {
        let mut m = manifest();
        change(&mut m);
        m.check().expect_err("refused").to_string()
    }

    #[test]
    fn a_sound_manifest_passes_and_lists_each_blob_once() {
        assert_eq!(manifest().check(), Ok(()));
        assert_eq!(manifest().blobs().len(), 1);
    }

    #[test]
    fn every_mistake_names_its_field() {
        assert!(refused(|m| m.format = "x".into()).contains("format"));
        assert!(refused(|m| m.limits.memory_bytes = 1).contains("limits.memory_bytes"));
        assert!(refused(|m| m.limits.concurrency = 0).contains("limits.concurrency"));
        for bytes in [(16 << 20) - 1, (64 << 30) + 1] {
            assert!(
                refused(|m| m.limits.model_memory_bytes = bytes).contains("limits.model_memory_bytes"),
                "{bytes}"
            );
        }
        for ms in [0, 600_001] {
            assert!(refused(|m| m.limits.inference_ms = ms).contains("limits.inference_ms"), "{ms}");
        }
        assert!(refused(|m| m.scaling.keep_alive_ms = Some(u64::MAX)).contains("scaling.keep_alive_ms"));
        assert!(refused(|m| m.scaling.reuse = 0).contains("scaling.reuse"));
        assert!(refused(|m| m.scaling.reuse = 1_000_001).contains("scaling.reuse"));
        assert!(refused(|m| m.models[0].name = "a/b".into()).contains("models[0].name"));
        assert!(refused(|m| m.models.push(m.models[0].clone())).contains("models[1].name"));
        for threads in [0, 65] {
            assert!(refused(|m| m.models[0].threads = threads).contains("models[0].threads = "), "{threads}");
        }
        let nan = Sample { input: "x".into(), shape: vec![1], values: None, fill: Some(f64::NAN) };
        assert!(refused(|m| m.models[0].samples.push(nan)).contains("models[0].samples[0].fill"));
        assert!(refused(|m| m.component.size = 0).contains("component"));
        assert!(refused(|m| m.outbound[0] = "http://x".into()).contains("outbound[0]"));
        assert!(refused(|m| m.outbound[0] = "x:0".into()).contains("outbound[0]"));
        assert!(refused(|m| drop(m.variables.insert("1A".into(), String::new()))).contains("variables.1A"));
        assert!(refused(|m| drop(m.variables.insert("A".into(), "\0".into()))).contains("variables.A"));
    }

    #[test]
    fn a_manifest_from_before_reuse_has_a_fresh_instance_for_each_request() {
        let mut json = serde_json::to_value(manifest()).expect("json");
        json["scaling"].as_object_mut().expect("an object").remove("reuse").expect("it is written");
        let read: PackageManifest = serde_json::from_value(json).expect("read");
        assert_eq!(read.scaling.reuse, 1);
    }

    #[test]
    fn a_manifest_of_before_snapshots_has_them() {
        let mut json = serde_json::to_value(manifest()).expect("json");
        json.as_object_mut().expect("an object").remove("snapshot");
        assert_eq!(serde_json::from_value::<PackageManifest>(json).expect("read"), manifest());
    }

    #[test]
    fn a_manifest_of_before_the_limits_of_models_has_their_defaults() {
        let mut json = serde_json::to_value(manifest()).expect("json");
        let limits = json["limits"].as_object_mut().expect("an object");
        for field in ["model_memory_bytes", "inference_ms"] {
            limits.remove(field).expect("it is written");
        }
        let read: PackageManifest = serde_json::from_value(json).expect("read");
        assert_eq!((read.limits.model_memory_bytes, read.limits.inference_ms), (1 << 30, 30_000));
    }

    #[test]
    fn the_host_chooses_the_engine_where_a_manifest_names_none() {
        let json = serde_json::to_value(manifest()).expect("json");
        assert!(json["models"][0].get("engine").is_none());
        assert_eq!(manifest().models[0].engine, EngineChoice::Auto);
        for (name, engine) in [("rten", EngineChoice::Rten), ("onnxruntime", EngineChoice::OnnxRuntime)] {
            let mut json = json.clone();
            json["models"][0]["engine"] = name.into();
            let read: PackageManifest = serde_json::from_value(json).expect("read");
            assert_eq!(read.models[0].engine, engine);
        }
    }

    #[test]
    fn a_manifest_of_before_threads_and_samples_has_one_thread_and_no_samples() {
        let mut json = serde_json::to_value(manifest()).expect("json");
        let model = json["models"][0].as_object_mut().expect("an object");
        model.remove("threads").expect("it is written");
        assert!(!model.contains_key("samples"));
        assert_eq!(serde_json::from_value::<PackageManifest>(json).expect("read"), manifest());
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let mut json = serde_json::to_value(manifest()).expect("json");
        json["surprise"] = 1.into();
        let err = serde_json::from_value::<PackageManifest>(json).expect_err("refused").to_string();
        assert!(err.contains("surprise"), "{err}");
    }
}
