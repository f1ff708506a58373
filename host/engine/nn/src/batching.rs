//! Whether runs of a model may be merged into one: tried at deploy with rows that differ.
//!
//! A merged run is right only where no row of an output depends on another row of the inputs. That is tried with companions of every
//! kind: other rows, in another order, very large ones, and ones that are not numbers. An operator whose output for a row is made
//! from all rows at once (a scale over the whole tensor, a choice of rows) is not merged at all.

use crate::onnx::{GraphProto, NodeProto};
use crate::{Batching, Graph, Port, Signature, Tensor, TensorType};

/// A model whose run takes longer is not tried, in milliseconds: a batch gains where a run is short.
const RUN_MAX_MS: f64 = 100.0;
/// Rows of the batch that is tried.
const ROWS: usize = 4;
/// Times that each is run, of which the shortest counts.
const TIMES: usize = 3;
/// Of the CPU time of single runs, the part that a batch must save at least.
const SAVED_MIN: f64 = 0.1;
/// By how much an output may differ from that of a single run, as a part of its largest number: sums are made in another order.
const TOLERANCE: f32 = 1e-5;

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

type Values = Vec<(String, Tensor)>;

/// What merging would gain; `None` where it gains too little, or where a row may depend on others. `inputs` are those of the trial,
/// whose run took `first_ms`.
pub fn measure(
    model: &GraphProto,
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
        || mixes(model)
    {
        return None;
    }
    let rows: Vec<Values> = (0..ROWS as u64).map(|seed| row(inputs, seed)).collect();
    let alone: Vec<Values> = rows.iter().map(|row| run(graph, row)).collect::<Option<_>>()?;
    let agrees = |order: &[usize]| {
        let companions: Vec<&Values> = order.iter().map(|n| &rows[*n]).collect();
        let outputs = run(graph, &merged(&companions))?;
        order.iter().enumerate().all(|(at, n)| is_row(&outputs, at, order.len(), &alone[*n])).then_some(())
    };
    agrees(&[0, 1, 2, 3])?;
    agrees(&[2, 0])?;
    agrees(&[3, 1, 0])?;
    for value in [1e30, f32::NAN] {
        if let Some(companion) = filled(&rows[1], value) {
            let outputs = run(graph, &merged(&[&rows[0], &companion]))?;
            is_row(&outputs, 0, 2, &alone[0]).then_some(())?;
        }
    }
    let four = merged(&rows.iter().collect::<Vec<_>>());
    let (mut batch_ns, mut single_ns) = (u64::MAX, u64::MAX);
    for _ in 0..TIMES {
        batch_ns = batch_ns.min(graph.run(four.clone()).ok()?.cpu_ns);
        single_ns = single_ns.min(graph.run(rows[0].clone()).ok()?.cpu_ns);
    }
    let saved = 1.0 - batch_ns as f64 / (ROWS as f64 * single_ns as f64);
    let row_elements = inputs.iter().filter_map(|(_, tensor)| tensor.elements()).sum();
    (saved >= SAVED_MIN).then_some(Batching { saved, row_elements })
}

fn mixes(graph: &GraphProto) -> bool {
    let mixing =
        |node: &NodeProto| MIXING.contains(&node.op()) || node.attribute.iter().any(|a| a.g.is_some());
    graph.node.iter().any(mixing)
}

fn run(graph: &dyn Graph, inputs: &[(String, Tensor)]) -> Option<Values> {
    graph.run(inputs.to_vec()).ok().map(|run| run.outputs)
}

/// A row like that of the trial with other values: whole numbers are 0 or 1, which are valid ids, masks and kinds nearly everywhere.
fn row(like: &[(String, Tensor)], seed: u64) -> Values {
    // The constants of Knuth's MMIX generator.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let mut tensor = |tensor: &Tensor| {
        let mut tensor = tensor.clone();
        let ty = tensor.ty;
        for element in tensor.data.chunks_exact_mut(ty.size_bytes()) {
            let number = random();
            match float_bytes(ty, f64::from(number) / f64::from(1u32 << 30) - 1.0) {
                Some(bytes) => element.copy_from_slice(&bytes),
                None => {
                    element.fill(0);
                    element[0] = (number & 1) as u8;
                }
            }
        }
        tensor
    };
    like.iter().map(|(name, value)| (name.clone(), tensor(value))).collect()
}

/// The row with all its floats set to a number; `None` without floats.
fn filled(row: &[(String, Tensor)], value: f32) -> Option<Values> {
    let mut has_floats = false;
    let mut row = row.to_vec();
    for (_, tensor) in &mut row {
        if let Some(bytes) = float_bytes(tensor.ty, f64::from(value)) {
            has_floats = true;
            tensor.data.chunks_exact_mut(bytes.len()).for_each(|element| element.copy_from_slice(&bytes));
        }
    }
    has_floats.then_some(row)
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

/// Whether the row `at` of outputs with so many rows is the output of a single run.
fn is_row(outputs: &Values, at: usize, rows: usize, alone: &Values) -> bool {
    outputs.iter().zip(alone).all(|((_, all), (_, one))| {
        let is_shaped = all.shape.first() == Some(&(rows as u32))
            && one.shape.first() == Some(&1)
            && all.shape[1..] == one.shape[1..];
        is_shaped && {
            let size = one.data.len();
            is_same(one.ty, &all.data[at * size..][..size], &one.data)
        }
    })
}

fn is_same(ty: TensorType, got: &[u8], wanted: &[u8]) -> bool {
    let floats = |data: &[u8]| -> Option<Vec<f32>> {
        let float = |bytes: &[u8]| match ty {
            TensorType::F32 => Some(f32::from_le_bytes(bytes.try_into().ok()?)),
            TensorType::F64 => Some(f64::from_le_bytes(bytes.try_into().ok()?) as f32),
            TensorType::F16 => Some(half::f16::from_le_bytes(bytes.try_into().ok()?).to_f32()),
            TensorType::Bf16 => Some(half::bf16::from_le_bytes(bytes.try_into().ok()?).to_f32()),
            _ => None,
        };
        data.chunks_exact(ty.size_bytes()).map(float).collect()
    };
    match (floats(got), floats(wanted)) {
        (Some(got), Some(wanted)) => {
            let scale = wanted.iter().filter(|v| v.is_finite()).fold(0f32, |most, v| most.max(v.abs()));
            let same = |(a, b): (&f32, &f32)| {
                a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= TOLERANCE * scale
            };
            got.iter().zip(&wanted).all(same)
        }
        _ => got == wanted,
    }
}
