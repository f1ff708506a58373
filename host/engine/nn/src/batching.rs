//! Whether runs of a model may be merged into one: judged by its operators, and tried at deploy with rows
//! that differ.
//!
//! A merged run is right only where no row of an output depends on another row of the inputs. An operator
//! that makes its output
//! from all rows at once (a largest number, a scale over the whole tensor, a choice of rows) is not merged
//! at all. What is left is tried
//! beside companions of every kind: other rows, in another order, of nothing but zeros or ones, very large
//! ones, and ones that are
//! not numbers.

use crate::onnx::{GraphProto, NodeProto, TensorProto};
use crate::{Batching, Graph, Port, Signature, Tensor, TensorType};

/// A model whose run takes longer is not tried, in milliseconds: a batch gains where a run is short.
const RUN_MAX_MS: f64 = 100.0;
/// Rows of the batch that is tried.
const ROWS: usize = 4;
/// Times that each is run, of which the shortest counts.
const TIMES: usize = 3;
/// Of the CPU time of single runs, the part that a batch must save at least.
const SAVED_MIN: f64 = 0.1;

/// Operators that look at all rows at once, or whose output has other rows than their input.
const MIXING: [&str; 22] = [
    "DynamicQuantizeLinear",
    "If",
    "Loop",
    "Scan",
    "NonZero",
    "Unique",
    "Compress",
    "NonMaxSuppression",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
    "Dropout",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceInsert",
    "SequenceErase",
    "SplitToSequence",
    "ConcatFromSequence",
    "MeanVarianceNormalization",
];

/// ONNX's number of the type i64.
const INT64: i32 = 7;

type Values = Vec<(String, Tensor)>;

/// Whether an operator makes its output from several rows, or may do so.
pub fn mixes_rows(graph: &GraphProto) -> bool {
    graph.node.iter().any(|node| {
        let has_graph = node.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty());
        has_graph || MIXING.contains(&node.op()) || axes(graph, node).is_none_or(|axes| axes.contains(&0))
    })
}

/// The axes along which a node computes; `None` where that is not known, or it is all of them. Nodes that
/// compute along
/// none have none.
fn axes(graph: &GraphProto, node: &NodeProto) -> Option<Vec<i64>> {
    let one = |default: i64| Some(vec![node.int("axis").unwrap_or(default)]);
    match node.op() {
        op if op.starts_with("Reduce") => match node.attribute("axes") {
            Some(axes) => Some(axes.ints.clone()),
            None => constant(graph, node.input.get(1)?),
        }
        .filter(|axes| !axes.is_empty()),
        "CumSum" => constant(graph, node.input.get(1)?),
        "ArgMax" | "ArgMin" => one(0),
        "Softmax" | "LogSoftmax" | "Hardmax" | "TopK" | "LpNormalization" => one(-1),
        _ => Some(Vec::new()),
    }
}

/// Whole numbers that the graph states.
fn constant(graph: &GraphProto, name: &str) -> Option<Vec<i64>> {
    let initializer = graph.initializer.iter().find(|tensor| tensor.name.as_deref() == Some(name));
    let node = || graph.node.iter().find(|node| node.is("Constant") && node.output.iter().any(|o| o == name));
    if initializer.is_none()
        && let Some(attribute) = node()?.attribute.first()
    {
        return match &attribute.t {
            Some(tensor) => whole_numbers(tensor),
            None if attribute.ints.is_empty() => Some(vec![attribute.i?]),
            None => Some(attribute.ints.clone()),
        };
    }
    whole_numbers(initializer?)
}

fn whole_numbers(tensor: &TensorProto) -> Option<Vec<i64>> {
    if tensor.data_type != Some(INT64) {
        return None;
    }
    Some(match &tensor.raw_data {
        Some(raw) => raw.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect(),
        None => tensor.int64_data.clone(),
    })
}

/// What merging would gain; `None` where it gains too little, or where a row came out otherwise than by
/// itself. `inputs` are made up;
/// a run with them took `first_ms`. The model does not mix rows by its operators.
pub fn measure(
    signature: &Signature,
    graph: &dyn Graph,
    inputs: &[(String, Tensor)],
    first_ms: f64,
) -> Option<Batching> {
    let has_rows = |port: &Port| port.ranked && port.shape.first() == Some(&None);
    let is_one_row = |tensor: &Tensor| tensor.shape.first() == Some(&1) && tensor.elements() != Some(0);
    if first_ms > RUN_MAX_MS
        || !signature.inputs.iter().chain(&signature.outputs).all(has_rows)
        || !inputs.iter().all(|(_, tensor)| is_one_row(tensor))
    {
        return None;
    }
    let mut rows: Vec<Values> = (0..ROWS as u64).map(|seed| random(inputs, seed)).collect();
    rows.extend([filled(inputs, 0), filled(inputs, 1)]);
    let alone: Vec<Values> = rows.iter().map(|row| run(graph, row)).collect::<Option<_>>()?;
    if alone.iter().all(|outputs| *outputs == alone[0]) {
        // Nothing can be told from these.
        return None;
    }
    let agrees = |order: &[usize]| {
        let companions: Vec<&Values> = order.iter().map(|n| &rows[*n]).collect();
        let outputs = run(graph, &merged(&companions))?;
        order.iter().enumerate().all(|(at, n)| is_row(&outputs, at, order.len(), &alone[*n])).then_some(())
    };
    for order in [&[0, 1, 2, 3][..], &[2, 0], &[3, 1, 0], &[4, 5], &[5, 4, 0], &[1, 4], &[5, 2]] {
        agrees(order)?;
    }
    for value in [1e30, f32::NAN] {
        if let Some(companion) = with_floats(&rows[1], value) {
            let outputs = run(graph, &merged(&[&rows[0], &companion]))?;
            is_row(&outputs, 0, 2, &alone[0]).then_some(())?;
        }
    }
    let four = merged(&rows[..ROWS].iter().collect::<Vec<_>>());
    let (mut batch_ns, mut single_ns) = (u64::MAX, u64::MAX);
    for _ in 0..TIMES {
        batch_ns = batch_ns.min(graph.run(four.clone()).ok()?.cpu_ns);
        single_ns = single_ns.min(graph.run(rows[0].clone()).ok()?.cpu_ns);
    }
    let saved = 1.0 - batch_ns as f64 / (ROWS as f64 * single_ns.max(1) as f64);
    let row_elements = inputs.iter().filter_map(|(_, tensor)| tensor.elements()).sum();
    (saved >= SAVED_MIN).then_some(Batching { saved, row_elements })
}

fn run(graph: &dyn Graph, inputs: &[(String, Tensor)]) -> Option<Values> {
    graph.run(inputs.to_vec()).ok().map(|run| run.outputs)
}

/// A row with other values: whole numbers are 0 or 1, which are valid ids, masks and kinds nearly everywhere.
fn random(like: &[(String, Tensor)], seed: u64) -> Values {
    // The constants of Knuth's MMIX generator.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    with_values(like, |ty| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let number = (state >> 33) as u32;
        let float = f64::from(number) / f64::from(1u32 << 30) - 1.0;
        float_bytes(ty, float).unwrap_or_else(|| whole_bytes(ty, number as u8 & 1))
    })
}

/// A row of nothing but this number.
fn filled(like: &[(String, Tensor)], number: u8) -> Values {
    with_values(like, |ty| float_bytes(ty, f64::from(number)).unwrap_or_else(|| whole_bytes(ty, number)))
}

/// The row with all its floats set to a number; `None` without floats.
fn with_floats(row: &[(String, Tensor)], value: f32) -> Option<Values> {
    let has_floats = row.iter().any(|(_, tensor)| float_bytes(tensor.ty, 0.0).is_some());
    let mut changed = row.to_vec();
    for (_, tensor) in &mut changed {
        if let Some(bytes) = float_bytes(tensor.ty, f64::from(value)) {
            tensor.data.chunks_exact_mut(bytes.len()).for_each(|element| element.copy_from_slice(&bytes));
        }
    }
    has_floats.then_some(changed)
}

fn with_values(like: &[(String, Tensor)], mut value: impl FnMut(TensorType) -> Vec<u8>) -> Values {
    let mut row = like.to_vec();
    for (_, tensor) in &mut row {
        let ty = tensor.ty;
        tensor.data.chunks_exact_mut(ty.size_bytes()).for_each(|element| element.copy_from_slice(&value(ty)));
    }
    row
}

/// A small whole number, little-endian.
fn whole_bytes(ty: TensorType, number: u8) -> Vec<u8> {
    let mut bytes = vec![0; ty.size_bytes()];
    bytes[0] = number;
    bytes
}

/// A number in a type of floats, little-endian.
fn float_bytes(ty: TensorType, value: f64) -> Option<Vec<u8>> {
    Some(match ty {
        TensorType::F32 => (value as f32).to_le_bytes().into(),
        TensorType::F64 => value.to_le_bytes().into(),
        TensorType::F16 => half::f16::from_f64(value).to_le_bytes().into(),
        TensorType::Bf16 => half::bf16::from_f64(value).to_le_bytes().into(),
        _ => return None,
    })
}

/// Rows one under another, each of the same names, types and further dimensions.
fn merged(rows: &[&Values]) -> Values {
    let mut all = rows[0].clone();
    for row in &rows[1..] {
        for ((_, tensor), (_, more)) in all.iter_mut().zip(row.iter()) {
            tensor.shape[0] += more.shape[0];
            tensor.data.extend_from_slice(&more.data);
        }
    }
    all
}

/// Whether the row `at` of outputs with so many rows is the output of a single run, to the last bit: nobody
/// can tell then whether
/// a run was merged.
fn is_row(outputs: &Values, at: usize, rows: usize, alone: &Values) -> bool {
    outputs.iter().zip(alone).all(|((_, all), (_, one))| {
        let is_shaped = all.shape.first() == Some(&(rows as u32))
            && one.shape.first() == Some(&1)
            && all.shape[1..] == one.shape[1..];
        is_shaped && all.data.chunks_exact(one.data.len().max(1)).nth(at) == Some(&one.data[..])
    })
}
