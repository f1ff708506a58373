//! Deploy-time work on a model for ONNX Runtime: the same check as for the default engine, which knows
//! whether a file is sound and within bounds; then the library's own optimiser, once; then a trial run.

use super::compare::{self, Kept};
use super::{NAME, OnnxRuntime, compat, rules};
use crate::check::Target;
use crate::dry_run::{self, Given};
use crate::mapped::bytes_of;
use crate::onnx::{BFLOAT16, Element, GraphProto, ModelProto};
use crate::prepare::{self, Read, WRITE, read, signature, write_file, write_info};
use crate::weights::{Written, take_initializers};
use crate::{
    Faster, GRAPH_FILE, INFO_FILE, LoadError, ModelInfo, ModelLimits, PrepareError, PreparedFiles, Signature,
    TensorType,
};
use bytes::Bytes;
use memmap2::MmapOptions;
use prost::Message;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::Path;
use vesta_core::manifest::Encoding;
use vesta_core::sample::Sample;

/// The optimised model as the library writes it. It is left behind, empty, since the process that prepares
/// may remove no file.
pub const LEFT_FILE: &str = "optimised";

/// A model with its weights inside is not larger, in bytes: protobuf itself ends at 2 GiB.
const OPTIMISED_BYTES_MAX: u64 = 2_000_000_000;

/// What the optimiser computes of constants is stored as weights. A small file must not become a large one:
/// it may grow
/// by this factor, with which weights of 8 bits become floats, and by so many bytes.
const GROWTH: u64 = 4;
const GROWN_BYTES: u64 = 16 << 20;

impl OnnxRuntime {
    /// As [`prepare`](crate::prepare()), for this engine. `version` is the library's, as in
    /// [`compat`](crate::onnx_runtime_compat). With `reference`, a file that
    /// [`prepare_kept`](crate::prepare_kept) wrote, the model is tried with the same inputs, and its outputs
    /// are compared: [`ModelInfo::difference`].
    ///
    /// # Errors
    /// As [`prepare`](crate::prepare()).
    pub fn prepare(
        &self,
        version: &str,
        (source, encoding): (&Path, Encoding),
        samples: &[Sample],
        reference: Option<&Path>,
        out_dir: &Path,
        limits: &ModelLimits,
    ) -> Result<ModelInfo, PrepareError> {
        let Encoding::Onnx = encoding;
        let Read { mut model, checked, producer, source_bytes } = read(Target::OnnxRuntime, source, limits)?;
        let graph = model.graph.get_or_insert_default();
        let signature = signature(Target::OnnxRuntime, graph, limits)?;
        rules::apply(graph, checked.opset)?;
        prepare::check_depth(graph, limits)?;
        // The library takes no graph without a name.
        graph.name.get_or_insert_with(|| "graph".into());
        name_apart(graph, &mut HashSet::new());
        let written = write_model(&model_without_weights(model, out_dir)?, out_dir)?;
        let mut info = ModelInfo {
            compat: compat(version),
            backend: NAME.into(),
            signature,
            opset: checked.opset,
            producer,
            nodes: checked.nodes,
            parameters: checked.parameters,
            source_bytes,
            graph_bytes: 0,
            weights_bytes: 0,
            table_bytes: 0,
            lookups: Vec::new(),
            dry_run: None,
            packed: None,
            // Not tried. A trial with rows of zeros may end the process: zeros may be divisors of integers.
            batching: None,
            reduced: Vec::new(),
            labels: BTreeMap::new(),
            notes: Vec::new(),
            difference: None,
            faster: None,
        };
        written.describe(&mut info);
        write_info(out_dir, &info)?;
        if info.weights_bytes + info.graph_bytes <= OPTIMISED_BYTES_MAX {
            let allowed = GROWTH * info.weights_bytes + GROWN_BYTES;
            self.optimise(out_dir)?.describe(&mut info);
            if info.weights_bytes > allowed {
                let what = "bytes of weights once its constants are computed";
                return Err(PrepareError::TooMany { what, got: info.weights_bytes, max: allowed });
            }
            write_info(out_dir, &info)?;
        }
        let tried = self.tried(out_dir, &info.signature, samples, reference, limits)?;
        info.dry_run = tried.dry_run;
        write_info(out_dir, &info)?;
        Ok(ModelInfo { difference: tried.difference, faster: tried.faster, ..info })
    }

    /// As [`try_prepared`](crate::try_prepared).
    ///
    /// # Errors
    /// As [`try_prepared`](crate::try_prepared).
    pub fn try_prepared(
        &self,
        dir: &Path,
        samples: &[Sample],
        reference: Option<&Path>,
        limits: &ModelLimits,
    ) -> Result<ModelInfo, PrepareError> {
        let unreadable = |source| PrepareError::Io { action: "read the prepared model", source };
        let file = File::open(dir.join(INFO_FILE)).map_err(unreadable)?;
        let info = prepare::parse_info(&file).map_err(|e| unreadable(std::io::Error::other(e)))?;
        let tried = self.tried(dir, &info.signature, samples, reference, limits)?;
        Ok(ModelInfo { dry_run: tried.dry_run, difference: tried.difference, faster: tried.faster, ..info })
    }

    /// Has the library optimise what was written, and writes that in its place.
    fn optimise(&self, dir: &Path) -> Result<Prepared, PrepareError> {
        let path = dir.join(LEFT_FILE);
        let files = PreparedFiles::open(dir).map_err(engine)?;
        drop(self.load_mapped(&files, 1, Some(&path)).map_err(engine)?);
        drop(files);
        let io = |source| PrepareError::Io { action: "read the optimised model", source };
        let file = File::open(&path).map_err(io)?;
        // SAFETY: this process alone writes to the folder of its job, and writes to this file only below,
        // when
        // nothing of it is mapped any more.
        #[allow(unsafe_code)]
        let mapped = unsafe { MmapOptions::new().len(bytes_of(&file).map_err(io)? as usize).map(&file) }
            .map_err(io)?;
        let model = ModelProto::decode(Bytes::from_owner(mapped))
            .map_err(|e| PrepareError::Engine(format!("it writes what is no model: {e}")))?;
        let prepared = write_model(&model_without_weights(model, dir)?, dir)?;
        File::create(&path).map_err(|source| PrepareError::Io { action: WRITE, source })?;
        Ok(prepared)
    }

    fn tried(
        &self,
        dir: &Path,
        signature: &Signature,
        samples: &[Sample],
        reference: Option<&Path>,
        limits: &ModelLimits,
    ) -> Result<Tried, PrepareError> {
        let Some(reference) = reference else {
            let trial = dry_run::run(self, dir, signature, Given::Samples(samples), limits)?;
            return Ok(Tried { dry_run: Some(trial.run), difference: None, faster: None });
        };
        let kept = Kept::read(reference)?;
        let (guessed, sampled, other_ms) = (kept.run.guessed, kept.run.sampled, kept.cpu_ms);
        let (inputs, expected) = kept.into_tensors();
        let trial = dry_run::run(self, dir, signature, Given::Tensors(inputs), limits)?;
        let tolerance = if has_16_bits(dir, signature)? { compare::TOLERANCE_16 } else { compare::TOLERANCE };
        let difference = compare::difference(&expected, &trial.outputs, tolerance);
        let faster = match other_ms.filter(|_| difference.is_none()) {
            Some(other_ms) => dry_run::gain_over(self, dir, &trial.inputs, trial.run.cpu_ms, other_ms)?,
            None => None,
        };
        Ok(Tried { dry_run: Some(crate::DryRun { guessed, sampled, ..trial.run }), difference, faster })
    }
}

struct Tried {
    dry_run: Option<crate::DryRun>,
    difference: Option<String>,
    faster: Option<Faster>,
}

/// What is in the files of a prepared model.
struct Prepared {
    weights: Written,
    graph_bytes: u64,
}

impl Prepared {
    fn describe(self, info: &mut ModelInfo) {
        info.graph_bytes = self.graph_bytes;
        info.weights_bytes = self.weights.bytes;
        info.table_bytes = self.weights.table_bytes;
        info.lookups = self.weights.lookups;
    }
}

/// Writes the weights of a model, and gives what is left of it.
fn model_without_weights(mut model: ModelProto, dir: &Path) -> Result<(ModelProto, Written), PrepareError> {
    let graph = model.graph.get_or_insert_default();
    let weights = prepare::write_weights(dir, |file| take_initializers(graph, file))?;
    Ok((model, weights))
}

fn write_model((model, weights): &(ModelProto, Written), dir: &Path) -> Result<Prepared, PrepareError> {
    let graph_bytes = write_file(&dir.join(GRAPH_FILE), &model.encode_to_vec())?;
    Ok(Prepared { weights: weights.clone(), graph_bytes })
}

/// Gives nodes other names where two have the same, which the library does not take.
fn name_apart(graph: &mut GraphProto, names: &mut HashSet<String>) {
    for node in &mut graph.node {
        if let Some(name) = node.name.as_mut().filter(|name| !name.is_empty()) {
            if names.contains(name) {
                *name = format!("{name} ({})", names.len());
            }
            names.insert(name.clone());
        }
        for attribute in &mut node.attribute {
            attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(|graph| name_apart(graph, names));
        }
    }
}

/// Whether a model computes with 16-bit floats somewhere.
fn has_16_bits(dir: &Path, signature: &Signature) -> Result<bool, PrepareError> {
    let mut ports = signature.inputs.iter().chain(&signature.outputs);
    if ports.any(|port| matches!(port.ty, TensorType::F16 | TensorType::Bf16)) {
        return Ok(true);
    }
    let read = dry_run::read_graph(dir);
    let model = read.map_err(|source| PrepareError::Io { action: "read the prepared model", source })?;
    let is_16 = |number: Option<i32>| {
        number.is_some_and(|n| n == BFLOAT16 || Element::from_number(n) == Some(Element::Float16))
    };
    let has = |graph: &GraphProto| graph.initializer.iter().any(|tensor| is_16(tensor.data_type));
    Ok(model.graph.as_ref().is_some_and(has))
}

fn engine(e: LoadError) -> PrepareError {
    match e {
        LoadError::Engine(reason) => PrepareError::Engine(reason),
        other => PrepareError::Engine(other.to_string()),
    }
}
