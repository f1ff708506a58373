//! Whether a model is sound and within bounds, judged from its file alone.

use crate::onnx::*;
use crate::{ModelLimits, PrepareError};
use std::collections::{BTreeMap, HashSet};

/// Versions of the default operator set that are read. The engine knows no semantics of older ones, and may
/// not know newer ones.
pub const OPSET_MIN: i64 = 7;
pub const OPSET_MAX: i64 = 28;
/// The version of a model that imports none: the newest that ONNX Runtime reads.
const OPSET_ASSUMED: i64 = 26;

/// What a check found.
#[derive(Debug, Default)]
pub struct Checked {
    pub opset: i64,
    pub nodes: u64,
    pub parameters: u64,
    /// Each operator (domain, type) with the label of the first node that uses it.
    pub operators: BTreeMap<(String, String), String>,
    tensors: u64,
    weights_bytes: u64,
}

/// The engine that a model is checked for. ONNX Runtime has element types that the default engine lacks, and
/// may run loops: what a loop costs is bounded by the limits of the process that runs it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    Rten,
    OnnxRuntime,
}

/// Checks everything but operators and ports, for the default engine.
pub fn model(model: &ModelProto, limits: &ModelLimits) -> Result<Checked, PrepareError> {
    model_for(Target::Rten, model, limits)
}

/// The same for any engine.
pub fn model_for(target: Target, model: &ModelProto, limits: &ModelLimits) -> Result<Checked, PrepareError> {
    let graph = model.graph.as_ref().ok_or_else(|| PrepareError::NotOnnx("it has no graph".into()))?;
    let mut check = Check { target, limits, found: Checked { opset: opset(model)?, ..Checked::default() } };
    check.graph(graph, None, 0)?;
    Ok(check.found)
}

fn is_default(import: &&OperatorSetIdProto) -> bool {
    matches!(import.domain.as_deref(), None | Some("" | "ai.onnx"))
}

fn opset(model: &ModelProto) -> Result<i64, PrepareError> {
    let got =
        model.opset_import.iter().find(is_default).and_then(|import| import.version).unwrap_or(OPSET_ASSUMED);
    if (OPSET_MIN..=OPSET_MAX).contains(&got) {
        return Ok(got);
    }
    Err(PrepareError::Opset { domain: "ai.onnx".into(), got, min: OPSET_MIN, max: OPSET_MAX })
}

/// Imports the default operator set where a model does not, and gives it, as ONNX Runtime does.
///
/// # Errors
/// Operators whose meaning depends on its version.
pub fn assume_opset(model: &mut ModelProto) -> Result<Option<i64>, PrepareError> {
    if model.opset_import.iter().any(|import| is_default(&import)) {
        return Ok(None);
    }
    let depends =
        |n: &&NodeProto| matches!(n.op(), "Softmax" | "LogSoftmax" | "Hardmax") && n.op_domain().is_empty();
    if let Some(node) = model.graph.iter().flat_map(|g| &g.node).find(depends) {
        return Err(PrepareError::NoOpset { op: node.op().into(), node: node.label().into() });
    }
    model.opset_import.push(OperatorSetIdProto { domain: None, version: Some(OPSET_ASSUMED) });
    Ok(Some(OPSET_ASSUMED))
}

/// Names that a node may read: those of its graph so far, and of the graphs around it.
struct Scope<'a> {
    names: HashSet<&'a str>,
    outer: Option<&'a Scope<'a>>,
}

impl Scope<'_> {
    fn has(&self, name: &str) -> bool {
        self.names.contains(name) || self.outer.is_some_and(|o| o.has(name))
    }
}

struct Check<'l> {
    target: Target,
    limits: &'l ModelLimits,
    found: Checked,
}

impl Check<'_> {
    /// `nesting` is how many graphs this one lies in.
    fn graph(
        &mut self,
        graph: &GraphProto,
        outer: Option<&Scope<'_>>,
        nesting: u64,
    ) -> Result<(), PrepareError> {
        self.at_most("graphs within one another", nesting, self.limits.nesting_max)?;
        if let Some(sparse) = graph.sparse_initializer.first() {
            let name = sparse.values.as_ref().map_or("", |v| v.label()).to_owned();
            return Err(PrepareError::Sparse { name });
        }
        let mut scope = Scope { names: HashSet::new(), outer };
        for tensor in &graph.initializer {
            self.tensor(tensor)?;
            let name = tensor.name.as_deref().unwrap_or_default();
            if name.is_empty() {
                return Err(PrepareError::Graph("a weight has no name".into()));
            }
            if !scope.names.insert(name) {
                return Err(PrepareError::Graph(format!("there are two weights {name:?}")));
            }
        }
        // Old files list every weight among the inputs too, so a name may be both.
        scope.names.extend(graph.input.iter().map(|i| i.name.as_deref().unwrap_or_default()));
        for node in &graph.node {
            self.node(node, &mut scope, nesting)?;
        }
        for output in &graph.output {
            let name = output.name.as_deref().unwrap_or_default();
            if !scope.has(name) {
                return Err(PrepareError::Graph(format!("nothing produces the output {name:?}")));
            }
        }
        Ok(())
    }

    fn node<'n>(
        &mut self,
        node: &'n NodeProto,
        scope: &mut Scope<'n>,
        nesting: u64,
    ) -> Result<(), PrepareError> {
        self.found.nodes += 1;
        self.at_most("operators", self.found.nodes, self.limits.nodes_max)?;
        let label = || node.label().to_owned();
        if node.op().is_empty() {
            return Err(PrepareError::Graph(format!("node {:?} has no operator", node.label())));
        }
        let loops = self.limits.loops || self.target == Target::OnnxRuntime;
        if matches!(node.op(), "Loop" | "Scan") && node.op_domain().is_empty() && !loops {
            return Err(PrepareError::Unbounded { op: node.op().into(), node: label() });
        }
        let operator = (node.op_domain().to_owned(), node.op().to_owned());
        self.found.operators.entry(operator).or_insert_with(label);
        for name in node.input.iter().filter(|n| !n.is_empty()) {
            if !scope.has(name) {
                let message =
                    format!("node {:?} reads {name:?}, which nothing before it produces", node.label());
                return Err(PrepareError::Graph(message));
            }
        }
        for attribute in &node.attribute {
            self.attribute(attribute, scope, nesting)?;
        }
        for name in node.output.iter().filter(|n| !n.is_empty()) {
            if !scope.names.insert(name) {
                return Err(PrepareError::Graph(format!("{name:?} is produced twice")));
            }
        }
        Ok(())
    }

    fn attribute(
        &mut self,
        attribute: &AttributeProto,
        scope: &Scope<'_>,
        nesting: u64,
    ) -> Result<(), PrepareError> {
        if attribute.sparse_tensor.is_some() || !attribute.sparse_tensors.is_empty() {
            return Err(PrepareError::Sparse { name: attribute.name.clone().unwrap_or_default() });
        }
        for tensor in attribute.t.iter().chain(&attribute.tensors) {
            self.tensor(tensor)?;
        }
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            self.graph(graph, Some(scope), nesting + 1)?;
        }
        Ok(())
    }

    fn tensor(&mut self, tensor: &TensorProto) -> Result<(), PrepareError> {
        self.found.tensors += 1;
        self.at_most("tensors", self.found.tensors, self.limits.tensors_max)?;
        let Sound { bits, count, bytes } = sound(self.target, tensor, self.limits)?;
        self.found.parameters = self.found.parameters.saturating_add(count);
        let engine_bytes = match self.target {
            // It keeps all but numbers of 8 bits in 32.
            Target::Rten => count.saturating_mul(if bits == 8 && !is_bool(tensor) { 1 } else { 4 }),
            Target::OnnxRuntime => bytes,
        };
        self.found.weights_bytes = self.found.weights_bytes.saturating_add(engine_bytes);
        self.at_most("bytes of weights", self.found.weights_bytes, self.limits.weights_bytes_max)?;
        Ok(())
    }

    fn at_most(&self, what: &'static str, got: u64, max: u64) -> Result<(), PrepareError> {
        if got > max { Err(PrepareError::TooMany { what, got, max }) } else { Ok(()) }
    }
}

/// A tensor that holds what it says.
struct Sound {
    /// Bits of an element.
    bits: u64,
    /// Number of elements.
    count: u64,
    bytes: u64,
}

fn is_bool(tensor: &TensorProto) -> bool {
    tensor.data_type.and_then(Element::from_number) == Some(Element::Bool)
}

/// Whether a tensor holds what it says.
fn sound(target: Target, tensor: &TensorProto, limits: &ModelLimits) -> Result<Sound, PrepareError> {
    let name = || tensor.label().to_owned();
    if tensor.data_location == Some(EXTERNAL) || !tensor.external_data.is_empty() {
        return Err(PrepareError::ExternalData { name: name() });
    }
    let number = tensor.data_type.unwrap_or_default();
    let has = target == Target::OnnxRuntime || Element::from_number(number).is_some();
    let Some(bits) = element_bits(number).filter(|_| has) else {
        return Err(PrepareError::ElementType { name: name(), ty: element_name(number) });
    };
    let wrong =
        |reason: &str| PrepareError::Shape { name: name(), dims: tensor.dims.clone(), reason: reason.into() };
    if tensor.segment.is_some() {
        return Err(wrong("it is a segment of a larger tensor"));
    }
    if tensor.dims.len() as u64 > limits.rank_max {
        return Err(wrong(&format!("it has more than {} dimensions", limits.rank_max)));
    }
    let mut count = 1u64;
    for &dim in &tensor.dims {
        let dim = u64::try_from(dim).map_err(|_| wrong("a dimension is negative"))?;
        count = count.checked_mul(dim).ok_or_else(|| wrong("it has more elements than 64 bits count"))?;
    }
    let expected = count
        .checked_mul(bits)
        .map(|bits| bits.div_ceil(8))
        .ok_or_else(|| wrong("it has more bytes than 64 bits count"))?;
    let got = stored_bytes(tensor, number, bits);
    if got != expected {
        return Err(PrepareError::TensorLies { name: name(), dims: tensor.dims.clone(), expected, got });
    }
    Ok(Sound { bits, count, bytes: expected })
}

/// Bytes that a tensor has, in its raw data or in the typed list of its element type.
fn stored_bytes(tensor: &TensorProto, number: i32, bits: u64) -> u64 {
    if let Some(raw) = &tensor.raw_data {
        return raw.len() as u64;
    }
    let count = match element_name(number).as_str() {
        "float" => tensor.float_data.len(),
        "int64" => tensor.int64_data.len(),
        "double" => tensor.double_data.len(),
        "uint32" | "uint64" => tensor.uint64_data.len(),
        _ => tensor.int32_data.len(),
    };
    // A number of the list holds a whole byte at least.
    (count as u64).saturating_mul(bits.max(8) / 8)
}
