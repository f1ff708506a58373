//! Deploy-time work on a model, done once: check it, rewrite it so that it loads fast, try it.

use crate::check::Target;
use crate::dry_run::{self, Given, Trial};
use crate::mapped::bytes_in;
use crate::onnx::*;
use crate::weights::{Written, take_weights};
use crate::{
    GRAPH_FILE, INFO_FILE, LoadError, ModelInfo, ModelLimits, PORT_NAME_BYTES_MAX, Port, PrepareError, Rten,
    Signature, TensorType, WEIGHTS_FILE, batching, check, depth, inline, mapped, names, precision, quirks,
    rewrite, rten, softmax, table, wire,
};
use bytes::Bytes;
use memmap2::MmapOptions;
use prost::Message;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use vesta_core::manifest::Encoding;
use vesta_core::sample::Sample;

/// Number of the format of prepared directories, and the engine's version as in the workspace's manifest.
const COMPAT: &str = "6-rten0.27";

/// A name for what prepared directories depend on. Where it changes, they have to be prepared anew.
pub fn compat() -> String {
    COMPAT.into()
}

/// Checks the model in the file `source` and writes its prepared form into the existing, empty directory
/// `out_dir`.
///
/// Needs memory for the structure of the graph (weights are mapped and written from there), and CPU time for
/// one pass over the weights and one trial run. A model may make both large: call it where they are limited.
///
/// # Errors
/// A model that is not sound, exceeds `limits`, or cannot be run; `samples` that it does not take; and
/// failures to read or write.
pub fn prepare(
    source: &Path,
    encoding: Encoding,
    samples: &[Sample],
    out_dir: &Path,
    limits: &ModelLimits,
) -> Result<ModelInfo, PrepareError> {
    prepared(source, encoding, samples, out_dir, limits).map(|(info, _)| info)
}

/// The same; also keeps the inputs and outputs of the trial run in the file [`TRIAL_FILE`](crate::TRIAL_FILE)
/// of the folder `keep_in`, for another engine to be compared with.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_kept(
    source: &Path,
    encoding: Encoding,
    samples: &[Sample],
    out_dir: &Path,
    keep_in: &Path,
    limits: &ModelLimits,
) -> Result<ModelInfo, PrepareError> {
    let (info, trial) = prepared(source, encoding, samples, out_dir, limits)?;
    trial.keep(out_dir, keep_in)?;
    Ok(info)
}

/// A model that was read and found sound.
pub struct Read {
    pub model: ModelProto,
    pub checked: check::Checked,
    /// Who wrote the file.
    pub producer: String,
    pub source_bytes: u64,
}

/// Reads a file and checks all but its operators and ports.
pub fn read(target: Target, source: &Path, limits: &ModelLimits) -> Result<Read, PrepareError> {
    let (model, source_bytes) = decode(source, limits)?;
    let checked = check::model_for(target, &model, limits)?;
    let producer = producer(&model);
    Ok(Read { model, checked, producer, source_bytes })
}

/// A file's message, with names for all nodes; and its size.
fn decode(source: &Path, limits: &ModelLimits) -> Result<(ModelProto, u64), PrepareError> {
    let bytes = map(source, limits)?;
    let source_bytes = bytes.len() as u64;
    wire::check(&bytes, limits.messages_max)?;
    let mut model = ModelProto::decode(bytes).map_err(|e| PrepareError::NotOnnx(e.to_string()))?;
    inline::functions(&mut model, limits)?;
    names::give(&mut model);
    if let Some(graph) = &mut model.graph {
        without_weights_among_inputs(graph);
    }
    Ok((model, source_bytes))
}

/// An input with a value in the file is a weight, as files before IR version 4 had to list it.
fn without_weights_among_inputs(graph: &mut GraphProto) {
    let weights: HashSet<&str> = graph.initializer.iter().filter_map(|t| t.name.as_deref()).collect();
    graph.input.retain(|i| !weights.contains(i.name.as_deref().unwrap_or_default()));
}

fn producer(model: &ModelProto) -> String {
    let texts = [&model.producer_name, &model.producer_version].map(|s| s.as_deref().unwrap_or_default());
    texts.join(" ").trim().to_owned()
}

fn prepared(
    source: &Path,
    encoding: Encoding,
    samples: &[Sample],
    out_dir: &Path,
    limits: &ModelLimits,
) -> Result<(ModelInfo, Trial), PrepareError> {
    let Encoding::Onnx = encoding;
    let (mut model, source_bytes) = decode(source, limits)?;
    let texts = rewrite::begin(&mut model, limits)?;
    let assumed = check::assume_opset(&mut model)?;
    let given = check::model(&model, limits)?;
    let rewritten = rewrite::rewrite(&mut model, texts, given.opset, given.nodes, limits)?;
    let checked = check::model(&model, limits)?;
    check_operators(&checked)?;
    let producer = producer(&model);
    let graph = model.graph.get_or_insert_default();
    let signature = signature(Target::Rten, graph, limits)?;
    let mut notes = rewritten.notes;
    if let Some(opset) = assumed {
        notes.push(format!("it imports no opset of the default domain; {opset} is assumed"));
    }
    let reduced = precision::of(graph, checked.opset)?;
    quirks::rewrite(graph, checked.opset)?;
    let softmaxes = softmax::rewrite(graph, checked.opset);
    if softmaxes > 0 {
        notes.push(format!("{softmaxes} softmax nodes were rewritten from opset {}", checked.opset));
    }
    check_depth(graph, limits)?;
    let may_merge = !batching::mixes_rows(graph);
    let weights = write_weights(out_dir, |file| take_weights(graph, file))?;
    let graph_bytes = write_file(&out_dir.join(GRAPH_FILE), &model.encode_to_vec())?;
    drop(model);
    let mut info = ModelInfo {
        compat: compat(),
        backend: rten::NAME.into(),
        signature,
        opset: checked.opset,
        producer,
        nodes: given.nodes,
        parameters: given.parameters,
        source_bytes,
        graph_bytes,
        weights_bytes: weights.bytes,
        table_bytes: weights.table_bytes,
        lookups: weights.lookups,
        dry_run: None,
        packed: None,
        batching: None,
        reduced,
        labels: rewritten.labels,
        notes,
        difference: None,
        faster: None,
    };
    // The trial loads the directory as any later load does, so the description has to be there.
    write_info(out_dir, &info)?;
    let trial = dry_run::run(&Rten, out_dir, &info.signature, Given::Samples(samples), limits)?;
    info.dry_run = Some(trial.run.clone());
    let gains = dry_run::measure(&Rten, out_dir, &info.signature, may_merge, limits)?;
    (info.packed, info.batching) = (gains.packed, gains.batching);
    write_info(out_dir, &info)?;
    Ok((info, trial))
}

/// # Errors
/// A graph with a longer path than is allowed.
pub fn check_depth(graph: &GraphProto, limits: &ModelLimits) -> Result<(), PrepareError> {
    let depth = depth::of(graph);
    if depth <= limits.depth_max {
        return Ok(());
    }
    let what = "operators in a chain (on the longest path of its graph)";
    Err(PrepareError::TooMany { what, got: depth, max: limits.depth_max })
}

/// Tries what [`prepare`] wrote with other samples; changes nothing.
///
/// # Errors
/// Samples that the model does not take, a run that fails, and failures to read.
pub fn try_prepared(dir: &Path, samples: &[Sample], limits: &ModelLimits) -> Result<ModelInfo, PrepareError> {
    tried(dir, samples, limits).map(|(info, _)| info)
}

/// The same; also keeps the trial run in a file of `keep_in`, as [`prepare_kept`] does.
///
/// # Errors
/// As [`try_prepared`], and failures to write.
pub fn try_kept(
    dir: &Path,
    samples: &[Sample],
    keep_in: &Path,
    limits: &ModelLimits,
) -> Result<ModelInfo, PrepareError> {
    let (info, trial) = tried(dir, samples, limits)?;
    trial.keep(dir, keep_in)?;
    Ok(info)
}

fn tried(dir: &Path, samples: &[Sample], limits: &ModelLimits) -> Result<(ModelInfo, Trial), PrepareError> {
    let unreadable = |source| PrepareError::Io { action: "read the prepared model", source };
    let file = File::open(dir.join(INFO_FILE)).map_err(unreadable)?;
    let info = read_info(&file).map_err(|e| unreadable(io::Error::other(e)))?;
    let trial = dry_run::run(&Rten, dir, &info.signature, Given::Samples(samples), limits)?;
    Ok((ModelInfo { dry_run: Some(trial.run.clone()), ..info }, trial))
}

fn map(source: &Path, limits: &ModelLimits) -> Result<Bytes, PrepareError> {
    let io = |source| PrepareError::Io { action: "read the model", source };
    let file = File::open(source).map_err(io)?;
    let got = mapped::bytes_of(&file).map_err(io)?;
    if got > limits.model_bytes_max {
        return Err(PrepareError::FileTooLarge { got, max: limits.model_bytes_max });
    }
    if got == 0 {
        return Err(PrepareError::Truncated("it is empty".into()));
    }
    // SAFETY: blobs are stored by digest, read-only, and nothing but this host writes to their directory.
    #[allow(unsafe_code)]
    let mapped = unsafe { MmapOptions::new().len(got as usize).map(&file) }.map_err(io)?;
    Ok(Bytes::from_owner(mapped))
}

/// Names every operator that the engine does not know, each with a node that uses it.
fn check_operators(checked: &check::Checked) -> Result<(), PrepareError> {
    let mut unknown = Vec::new();
    for ((domain, op), node) in &checked.operators {
        if table::has(domain, op)? {
            continue;
        }
        if let Some(reason) = table::refusal(domain, op)? {
            unknown.push(format!("{op} (node {node:?}): {reason}"));
            continue;
        }
        let domain = if domain.is_empty() { "ai.onnx" } else { domain };
        unknown.push(format!("{op} (domain {domain}, node {node:?})"));
    }
    if unknown.is_empty() { Ok(()) } else { Err(PrepareError::Operator(unknown.join("; "))) }
}

/// The model's inputs and outputs. Dimensions of 0 or less, which some exporters write for open ones, are
/// opened.
pub fn signature(
    target: Target,
    graph: &mut GraphProto,
    limits: &ModelLimits,
) -> Result<Signature, PrepareError> {
    let mut signature = Signature::default();
    for (kind, values, ports) in [
        ("input", &mut graph.input, &mut signature.inputs),
        ("output", &mut graph.output, &mut signature.outputs),
    ] {
        let got = values.len() as u64;
        if got > limits.ports_max {
            return Err(PrepareError::TooMany { what: "inputs or outputs", got, max: limits.ports_max });
        }
        for value in values {
            let port = port(target, kind, value, limits)?;
            if ports.iter().any(|p: &Port| p.name == port.name) {
                return Err(PrepareError::Graph(format!("there are two {kind}s {:?}", port.name)));
            }
            ports.push(port);
        }
    }
    if signature.outputs.is_empty() {
        return Err(PrepareError::Graph("it has no outputs".into()));
    }
    Ok(signature)
}

fn port(
    target: Target,
    kind: &'static str,
    value: &mut ValueInfoProto,
    limits: &ModelLimits,
) -> Result<Port, PrepareError> {
    let name = value.name.clone().unwrap_or_default();
    let refuse = |reason: String| PrepareError::Port { port: kind, name: name.clone(), reason };
    if name.is_empty() {
        return Err(refuse("it has no name".into()));
    }
    if name.len() > PORT_NAME_BYTES_MAX {
        let (start, got) = (name.chars().take(40).collect(), name.len());
        let reason = format!("its name has {got} bytes; at most {PORT_NAME_BYTES_MAX} are allowed");
        return Err(PrepareError::Port { port: kind, name: start, reason });
    }
    let Some(TypeValue::Tensor(tensor)) = value.r#type.as_mut().and_then(|t| t.value.as_mut()) else {
        return Err(refuse("it is not a tensor".into()));
    };
    let number = tensor.elem_type.unwrap_or_default();
    let Some(ty) = port_type(target, number) else {
        return Err(refuse(format!("element type {} is not supported", element_name(number))));
    };
    let dims = tensor.shape.as_mut().map_or(&mut [][..], |s| &mut s.dim);
    if dims.len() as u64 > limits.rank_max {
        return Err(refuse(format!("it has more than {} dimensions", limits.rank_max)));
    }
    let mut shape = Vec::with_capacity(dims.len());
    for dim in dims {
        shape.push(match dim.value {
            Some(DimensionValue::Value(v)) if v > 0 => {
                Some(u32::try_from(v).map_err(|_| refuse(format!("a dimension of {v} is too large")))?)
            }
            Some(DimensionValue::Value(_)) => {
                dim.value = None;
                None
            }
            _ => None,
        });
    }
    Ok(Port { name, ty, shape, ranked: tensor.shape.is_some() })
}

fn port_type(target: Target, number: i32) -> Option<TensorType> {
    if target == Target::OnnxRuntime && number == BFLOAT16 {
        return Some(TensorType::Bf16);
    }
    Some(match Element::from_number(number)? {
        Element::Float => TensorType::F32,
        Element::Bool => TensorType::Bool,
        Element::Int8 => TensorType::I8,
        Element::Uint8 => TensorType::U8,
        Element::Int32 => TensorType::I32,
        Element::Int64 => TensorType::I64,
        Element::Float16 => TensorType::F16,
        Element::Double => TensorType::F64,
    })
}

pub const WRITE: &str = "write the prepared model";

/// Writes the file of weights by `take`.
pub fn write_weights(
    out_dir: &Path,
    take: impl FnOnce(&File) -> io::Result<Written>,
) -> Result<Written, PrepareError> {
    let write = || {
        let file = File::create(out_dir.join(WEIGHTS_FILE))?;
        let written = take(&file)?;
        file.sync_all()?;
        Ok(written)
    };
    write().map_err(|source| PrepareError::Io { action: WRITE, source })
}

pub fn write_info(out_dir: &Path, info: &ModelInfo) -> Result<(), PrepareError> {
    let json = serde_json::to_vec(info)
        .map_err(|e| PrepareError::Io { action: WRITE, source: io::Error::other(e) })?;
    write_file(&out_dir.join(INFO_FILE), &json).map(drop)
}

pub fn write_file(path: &Path, bytes: &[u8]) -> Result<u64, PrepareError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| PrepareError::Io { action: WRITE, source })?;
    Ok(bytes.len() as u64)
}

/// Largest description of a prepared model, in bytes. The child that wrote it has read the upload, so the
/// host
/// does not trust its size.
const INFO_BYTES_MAX: u64 = 4 << 20;

/// Reads the description of a model that was prepared for any engine.
///
/// # Errors
/// A file that cannot be read, is larger than any description, or is none.
pub fn parse_info(file: &File) -> Result<ModelInfo, LoadError> {
    let failed = |source| LoadError::Io { what: INFO_FILE.into(), source };
    let got = mapped::bytes_of(file).map_err(failed)?;
    if got > INFO_BYTES_MAX {
        let text = format!("it has {got} bytes; at most {INFO_BYTES_MAX} are read");
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, text)));
    }
    let json = bytes_in(file).map_err(failed)?;
    Ok(serde_json::from_slice(&json)?)
}

/// Reads the description of a model that was prepared for the default engine by this version of it.
pub fn read_info(file: &File) -> Result<ModelInfo, LoadError> {
    let info = parse_info(file)?;
    if info.compat != COMPAT {
        return Err(LoadError::Compat { found: info.compat, expected: COMPAT.into() });
    }
    Ok(info)
}
