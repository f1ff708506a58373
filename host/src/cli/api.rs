//! The API's answers, as far as the tables show them; what is not read here still reaches `--json`.

use super::client::{Client, Problem};
use anyhow::Context;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use vesta_core::FunctionName;
use vesta_core::keepalive::Explanation;
use vesta_core::lifecycle::ColdStartParts;
use vesta_core::manifest::{BlobRef, PackageManifest};

#[derive(Debug, Deserialize)]
pub struct Deployment {
    pub id: String,
    pub state: DeploymentState,
    #[serde(default)]
    pub missing: Vec<BlobRef>,
    #[serde(default)]
    pub steps: Vec<Step>,
    pub version: Option<u32>,
    pub error: Option<Problem>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeploymentState {
    Uploading,
    Preparing,
    Ready,
    Failed,
}

/// One step of the host's preparation: `compile`, or `model NAME`.
#[derive(Debug, Deserialize)]
pub struct Step {
    pub name: String,
    pub state: String,
    pub ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub struct FunctionSummary {
    pub name: FunctionName,
    pub live: Option<u32>,
    #[serde(default)]
    pub versions: Value,
    #[serde(default)]
    pub state: String,
    #[serde(default)]
    pub public: bool,
    #[serde(default)]
    pub updated_at: String,
}

#[derive(Debug, Deserialize)]
pub struct FunctionDetail {
    pub live: Option<u32>,
    #[serde(default)]
    pub state: String,
    #[serde(default)]
    pub aliases: BTreeMap<String, u32>,
    pub versions: Vec<VersionInfo>,
    #[serde(default)]
    pub damaged_versions: Vec<u32>,
    #[serde(default)]
    pub standing: Option<Standing>,
}

/// How the live version stands on the host.
#[derive(Debug, Deserialize)]
pub struct Standing {
    #[serde(default)]
    pub invocations: u32,
    #[serde(default)]
    pub resident_bytes: u64,
    #[serde(default)]
    pub kept_by_minimum: bool,
    pub keep_alive: Explanation,
    #[serde(default)]
    pub cold_start: Option<ColdStartParts>,
    #[serde(default)]
    pub refused: Option<Refused>,
    #[serde(default)]
    pub models_set_aside: Vec<SetAside>,
}

#[derive(Debug, Deserialize)]
pub struct SetAside {
    #[serde(default)]
    pub model: String,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub retry_after_ms: u64,
}

#[derive(Debug, Deserialize)]
pub struct Refused {
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub retry_after_ms: u64,
}

#[derive(Debug, Deserialize)]
pub struct VersionInfo {
    pub version: u32,
    #[serde(default)]
    pub created_at: String,
    pub manifest: PackageManifest,
    #[serde(default)]
    pub models: Vec<ModelSignature>,
}

/// What a model takes and gives.
#[derive(Debug, Serialize, Deserialize)]
pub struct ModelSignature {
    pub name: String,
    #[serde(default)]
    pub inputs: Vec<Port>,
    #[serde(default)]
    pub outputs: Vec<Port>,
    /// What the deployment noticed.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The engine that runs it, and why that one. Versions of before ONNX Runtime have neither.
    #[serde(default)]
    pub engine: Option<String>,
    #[serde(default)]
    pub engine_reason: Option<String>,
    /// The engine that takes over while the function is busy, if one was faster.
    #[serde(default)]
    pub faster_engine: Option<FasterEngine>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct FasterEngine {
    pub engine: String,
    /// CPU time that a run saves, in milliseconds.
    pub saved_cpu_ms: f64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Port {
    pub name: String,
    #[serde(default, rename = "type")]
    pub element: String,
    /// A dimension without a number may differ from run to run.
    #[serde(default)]
    pub shape: Vec<Option<u64>>,
    /// False where the model leaves open how many dimensions there are.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub ranked: bool,
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

impl ModelSignature {
    /// `takes image f32[?,64]; gives probabilities f32[?,10]`.
    pub fn describe(&self) -> String {
        let port = |p: &Port| {
            if !p.ranked {
                return format!("{} {} of any shape", p.name, p.element);
            }
            let dims = p.shape.iter().map(|d| d.map_or("?".into(), |d| d.to_string()));
            format!("{} {}[{}]", p.name, p.element, dims.collect::<Vec<_>>().join(","))
        };
        let ports = |ports: &[Port]| ports.iter().map(port).collect::<Vec<_>>().join(", ");
        let mut text = format!("takes {}; gives {}", ports(&self.inputs), ports(&self.outputs));
        if let Some(engine) = &self.engine {
            text += &format!("; runs on {engine}: {}", self.engine_reason.as_deref().unwrap_or("-"));
        }
        if let Some(FasterEngine { engine, saved_cpu_ms }) = &self.faster_engine {
            text += &format!(
                "; {engine} takes over while it is busy, and saves {saved_cpu_ms:.2} ms of CPU time a run"
            );
        }
        super::output::printable(&text)
    }
}

/// A line for each note of each model: `digits: tried only with made-up inputs`.
pub fn model_notes(models: &[ModelSignature]) -> impl Iterator<Item = (&'static str, String)> + '_ {
    let line = |m: &ModelSignature, note: &String| super::output::printable(&format!("{}: {note}", m.name));
    models.iter().flat_map(move |m| m.notes.iter().map(move |note| ("note", line(m, note))))
}

/// Reads an answer into what the tables need.
pub fn read<T: DeserializeOwned>(answer: Value) -> anyhow::Result<T> {
    serde_json::from_value(answer).context("the host's answer is not as expected; is it of another version?")
}

/// Reads a function with its versions, the newest last.
pub fn function(client: &Client, name: &FunctionName) -> anyhow::Result<FunctionDetail> {
    let answer = client.get(&format!("/functions/{name}")).with_context(|| name.to_string())?;
    let mut detail: FunctionDetail = read(answer)?;
    detail.versions.sort_by_key(|v| v.version);
    Ok(detail)
}

/// A time of the API without its fraction of a second.
pub fn short_time(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        Err(_) => super::output::printable(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_is_read_with_and_without_its_optional_parts() {
        let json = r#"{"id":"d1","function":"f","state":"uploading","version":null,"error":null,
            "missing":[{"digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","size":1}]}"#;
        let d: Deployment = serde_json::from_str(json).expect("read");
        assert_eq!((d.state, d.missing.len()), (DeploymentState::Uploading, 1));
        let json = r#"{"id":"d1","state":"failed","error":{"title":"Not a component"}}"#;
        let d: Deployment = serde_json::from_str(json).expect("read");
        assert_eq!(d.error.expect("an error").title, "Not a component");
    }

    #[test]
    fn a_models_signature_is_shown_with_types_and_shapes() {
        let json = r#"{"name":"m","inputs":[{"name":"x","type":"f32","shape":[null,64]}],"outputs":[{"name":"y"},
            {"name":"z","type":"bool","shape":[],"ranked":false}]}"#;
        let signature: ModelSignature = serde_json::from_str(json).expect("read");
        assert_eq!(signature.describe(), "takes x f32[?,64]; gives y [], z bool of any shape");
        let engine =
            ModelSignature { engine: Some("rten".into()), engine_reason: Some("so".into()), ..signature };
        assert_eq!(engine.describe(), "takes x f32[?,64]; gives y [], z bool of any shape; runs on rten: so");
        let faster = FasterEngine { engine: "onnxruntime".into(), saved_cpu_ms: 1.234 };
        let both = ModelSignature { faster_engine: Some(faster), ..engine };
        assert!(
            both.describe().ends_with(
                "so; onnxruntime takes over while it is busy, and saves 1.23 ms of CPU time a run"
            )
        );
    }

    #[test]
    fn times_lose_their_fraction_only() {
        assert_eq!(short_time("2026-11-22T18:30:05.123456Z"), "2026-11-22 18:30:05Z");
        assert_eq!(short_time("soon"), "soon");
    }
}
