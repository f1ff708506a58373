//! Every operator that the engine registers, with what makes a node of it. What is made is right as ONNX has
//! it; [`Case`] puts odd numbers, values and shapes in its place.

mod control;
mod elementwise;
mod generate;
mod index;
mod layout;
mod nets;
mod quantized;
mod reduce;

use crate::case::Case;
use rand::RngExt;

type Make = fn(&mut Case, &str);

/// Groups of operators that one function makes. One outside of the usual domain has it before its name.
const GROUPS: &[(Make, &[&str])] = &[
    (
        elementwise::unary,
        &[
            "Acos",
            "Acosh",
            "Asin",
            "Asinh",
            "Atan",
            "Atanh",
            "Ceil",
            "Cos",
            "Cosh",
            "Erf",
            "Exp",
            "Floor",
            "HardSwish",
            "Log",
            "Reciprocal",
            "Relu",
            "Round",
            "Sigmoid",
            "Sin",
            "Sinh",
            "Softplus",
            "Softsign",
            "Sqrt",
            "Tan",
            "Tanh",
            "com.microsoft.Gelu",
        ],
    ),
    (elementwise::unary_number, &["Abs", "Neg", "Sign", "Identity"]),
    (
        elementwise::unary_steered,
        &["Elu", "LeakyRelu", "Swish", "HardSigmoid", "Gelu", "com.microsoft.QuickGelu"],
    ),
    (elementwise::with_bias, &["com.microsoft.FastGelu", "com.microsoft.BiasGelu"]),
    (elementwise::test, &["IsInf", "IsNaN", "Not"]),
    (elementwise::binary, &["Add", "Sub", "Mul", "Div", "Pow", "Mod", "PRelu"]),
    (elementwise::compare, &["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]),
    (elementwise::logic, &["And", "Or", "Xor"]),
    (elementwise::variadic, &["Max", "Min", "Mean", "Sum"]),
    (elementwise::choose, &["Where"]),
    (elementwise::clip, &["Clip"]),
    (elementwise::cast, &["Cast", "CastLike", "BitCast"]),
    (elementwise::dropout, &["Dropout"]),
    (
        reduce::reduce,
        &[
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSum",
            "ReduceLogSumExp",
            "ReduceMax",
            "ReduceMean",
            "ReduceMin",
            "ReduceProd",
            "ReduceSum",
            "ReduceSumSquare",
        ],
    ),
    (reduce::place, &["ArgMax", "ArgMin"]),
    (reduce::running_sum, &["CumSum"]),
    (reduce::top, &["TopK"]),
    (reduce::non_zero, &["NonZero"]),
    (reduce::softmax, &["Softmax", "LogSoftmax", "LpNormalization"]),
    (reduce::layer_norm, &["LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"]),
    (
        reduce::skip_norm,
        &["com.microsoft.SkipLayerNormalization", "com.microsoft.SkipSimplifiedLayerNormalization"],
    ),
    (reduce::channel_norm, &["BatchNormalization", "InstanceNormalization"]),
    (layout::reshape, &["Reshape"]),
    (layout::flatten, &["Flatten"]),
    (layout::squeeze, &["Squeeze"]),
    (layout::unsqueeze, &["Unsqueeze"]),
    (layout::transpose, &["Transpose"]),
    (layout::expand, &["Expand"]),
    (layout::tile, &["Tile"]),
    (layout::slice, &["Slice"]),
    (layout::split, &["Split"]),
    (layout::concat, &["Concat"]),
    (layout::pad, &["Pad"]),
    (layout::depth_to_space, &["DepthToSpace"]),
    (layout::shape_of, &["Shape", "Size"]),
    (layout::triangle, &["Trilu", "EyeLike"]),
    (layout::reverse, &["ReverseSequence"]),
    (index::gather, &["Gather"]),
    (index::elements, &["GatherElements", "Scatter", "ScatterElements"]),
    (index::places, &["GatherND", "ScatterND"]),
    (index::one_hot, &["OneHot"]),
    (index::boxes, &["NonMaxSuppression"]),
    (nets::matmul, &["MatMul"]),
    (nets::gemm, &["Gemm"]),
    (nets::einsum, &["Einsum"]),
    (nets::convolve, &["Conv", "ConvInteger", "ConvTranspose"]),
    (nets::pool, &["MaxPool", "AveragePool"]),
    (nets::pool_all, &["GlobalAveragePool", "GlobalMaxPool"]),
    (nets::recur, &["GRU", "LSTM", "com.microsoft.DynamicQuantizeLSTM"]),
    (nets::attend, &["Attention"]),
    (nets::attend_heads, &["com.microsoft.MultiHeadAttention"]),
    (nets::attend_groups, &["com.microsoft.GroupQueryAttention"]),
    (nets::rotate, &["RotaryEmbedding", "com.microsoft.RotaryEmbedding"]),
    (nets::grid_sample, &["GridSample"]),
    (nets::resize, &["Resize", "Upsample"]),
    (nets::fourier, &["DFT"]),
    (nets::short_fourier, &["STFT"]),
    (quantized::matmul, &["MatMulInteger"]),
    (quantized::matmul_bits, &["com.microsoft.MatMulNBits"]),
    (quantized::quantize, &["QuantizeLinear"]),
    (quantized::dequantize, &["DequantizeLinear"]),
    (quantized::quantize_dynamic, &["DynamicQuantizeLinear"]),
    (generate::constant, &["Constant"]),
    (generate::constant_of_shape, &["ConstantOfShape"]),
    (generate::range, &["Range"]),
    (generate::random, &["RandomNormal", "RandomUniform"]),
    (generate::random_like, &["RandomNormalLike", "RandomUniformLike"]),
    (generate::multinomial, &["Multinomial"]),
    (control::branch, &["If"]),
    (control::repeat, &["Loop"]),
    (
        control::sequence,
        &[
            "ConcatFromSequence",
            "SequenceAt",
            "SequenceConstruct",
            "SequenceEmpty",
            "SequenceErase",
            "SequenceInsert",
            "SequenceLength",
            "SplitToSequence",
        ],
    ),
];

/// Operators that the host refuses whatever their inputs are: the engine computes something else.
pub const REFUSED: &[&str] = &[
    "BitCast",
    "NonMaxSuppression",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SplitToSequence",
    "SimplifiedLayerNormalization",
    "com.microsoft.DynamicQuantizeLSTM",
    "com.microsoft.GroupQueryAttention",
    "com.microsoft.MatMulNBits",
];

/// Names of all operators that can be made.
pub fn names() -> impl Iterator<Item = &'static str> {
    GROUPS.iter().flat_map(|(_, names)| names.iter().copied())
}

/// Adds a node of some operator.
pub fn add_any(case: &mut Case) {
    let any = case.rng.random_range(0..count());
    add(case, any);
}

/// How many operators can be made.
pub fn count() -> usize {
    names().count()
}

/// Adds a node of the operator with this number, below [`count`], and of what it needs.
pub fn add(case: &mut Case, wanted: usize) {
    let mut before = 0;
    for (make, names) in GROUPS {
        if let Some(name) = names.get(wanted - before) {
            return make(case, name);
        }
        before += names.len();
    }
}
