//! The least and the largest number that a value of whole numbers may have.

use super::Value;
use crate::facts::Facts;
use crate::onnx::*;

/// No dimension is longer: a run's memory would not hold it.
const LENGTH_MAX: i128 = i32::MAX as i128;

/// Both ends are included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    low: i128,
    high: i128,
}

const BITS_32: Bounds = Bounds { low: i32::MIN as i128, high: i32::MAX as i128 };
const LENGTH: Bounds = Bounds { low: 0, high: LENGTH_MAX };

impl Bounds {
    fn new(low: i128, high: i128) -> Option<Self> {
        // Numbers past 64 bits wrap: nothing is known of them.
        let fits = low >= i128::from(i64::MIN) && high <= i128::from(i64::MAX);
        fits.then_some(Self { low, high })
    }

    /// Those of a list; of an empty one, 0 alone.
    pub fn of_all(values: &[i64]) -> Option<Self> {
        let low = values.iter().min().copied().unwrap_or(0);
        let high = values.iter().max().copied().unwrap_or(0);
        Self::new(low.into(), high.into())
    }

    /// Those of an element type of whole numbers.
    pub fn of_element(element: Option<Element>) -> Option<Self> {
        let (low, high) = match element? {
            Element::Int64 => (i64::MIN.into(), i64::MAX.into()),
            Element::Int32 => (i32::MIN.into(), i32::MAX.into()),
            Element::Uint8 => (0, 255),
            Element::Int8 => (-128, 127),
            Element::Bool => (0, 1),
            Element::Float | Element::Float16 | Element::Double => return None,
        };
        Self::new(low, high)
    }

    pub fn within_32(self) -> Self {
        Self { low: self.low.max(BITS_32.low), high: self.high.min(BITS_32.high) }
    }

    /// Those of the nearest floats, which have 24 bits.
    fn rounded(self) -> Self {
        let step = self.largest() / (1 << 24);
        Self { low: self.low - step, high: self.high + step }
    }

    /// 2^31 alone is what the negation of a number of 32 bits may be beyond them.
    fn without_edge(self) -> Self {
        if self.high == BITS_32.high + 1 { Self { high: BITS_32.high, ..self } } else { self }
    }

    pub fn fits_32(self) -> bool {
        self.low >= BITS_32.low && self.high <= BITS_32.high
    }

    pub fn or(self, other: Self) -> Self {
        Self { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    fn largest(self) -> i128 {
        self.low.abs().max(self.high.abs())
    }

    fn times(self, other: Self) -> Option<Self> {
        let ends =
            [self.low * other.low, self.low * other.high, self.high * other.low, self.high * other.high];
        Self::new(ends.into_iter().min()?, ends.into_iter().max()?)
    }
}

/// Bounds of a node's output. `None`: any number of 64 bits.
pub fn of_node(
    node: &NodeProto,
    output: usize,
    facts: &Facts,
    inputs: &[Option<&Value>],
    element: Option<Element>,
) -> Option<Bounds> {
    let at = |i: usize| inputs.get(i).copied().flatten().and_then(|v| v.bounds);
    let given = |i: usize| node.input.get(i).is_some_and(|name| !name.is_empty());
    let all = || inputs.iter().enumerate().filter(|(i, _)| given(*i)).map(|(i, _)| at(i));
    let bounds = match (node.op(), output) {
        ("Shape" | "Size" | "NonZero" | "ArgMax" | "ArgMin" | "SequenceLength", _)
        | ("TopK" | "MaxPool", 1) => Some(LENGTH),
        (
            "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Transpose" | "Flatten" | "Slice" | "Split"
            | "Gather" | "GatherND" | "GatherElements" | "Expand" | "Tile" | "DepthToSpace"
            | "ReverseSequence" | "TopK" | "SequenceAt" | "ConcatFromSequence" | "CastLike" | "Cast",
            _,
        ) => at(0),
        ("ReduceMax" | "ReduceMin", _) => at(0),
        ("Trilu", _) => at(0).map(|b| b.or(Bounds { low: 0, high: 0 })),
        ("Pad", _) if given(2) => at(0).zip(at(2)).map(|(a, b)| a.or(b)),
        ("Pad", _) => at(0).map(|b| b.or(Bounds { low: 0, high: 0 })),
        ("Concat" | "SequenceConstruct", _) => all().reduce(|a, b| a.zip(b).map(|(a, b)| a.or(b))).flatten(),
        ("Where", _) => at(1).zip(at(2)).map(|(a, b)| a.or(b)),
        ("OneHot", _) => at(2),
        ("Scatter" | "ScatterElements" | "ScatterND", _) => {
            let kind = node.attribute("reduction").and_then(|a| a.s.as_deref()).unwrap_or(b"none");
            at(0).zip(at(2)).filter(|_| matches!(kind, b"none" | b"min" | b"max")).map(|(a, b)| a.or(b))
        }
        ("Max", _) => extreme(all(), |a, b| a.max(b)),
        ("Min", _) => extreme(all(), |a, b| a.min(b)),
        ("Clip", _) => {
            // A bound that is given and not known may be any number.
            let any = Bounds { low: i64::MIN.into(), high: i64::MAX.into() };
            let bound = |i: usize| given(i).then(|| at(i).unwrap_or(any));
            clip(at(0), bound(1), bound(2))
        }
        ("Add" | "Sum", _) => all()
            .reduce(|a, b| a.zip(b).and_then(|(a, b)| Bounds::new(a.low + b.low, a.high + b.high)))
            .flatten(),
        ("Sub", _) => at(0).zip(at(1)).and_then(|(a, b)| Bounds::new(a.low - b.high, a.high - b.low)),
        ("Mul", _) => at(0).zip(at(1)).and_then(|(a, b)| a.times(b)),
        // Of the least number of 32 bits both fail at run.
        ("Neg", _) => at(0).and_then(|a| Bounds::new(-a.high, -a.low)).map(|b| b.without_edge()),
        ("Abs", _) => at(0).and_then(|a| Bounds::new(0, a.largest())).map(|b| b.without_edge()),
        ("Sign", _) => Bounds::new(-1, 1),
        ("EyeLike", _) => Bounds::new(0, 1),
        ("Div", _) => at(0).and_then(|a| Bounds::new(-a.largest(), a.largest())).map(|b| b.without_edge()),
        ("Mod", _) => at(1).and_then(|b| Bounds::new(1 - b.largest(), b.largest() - 1)),
        ("Range", _) => {
            // As many numbers as a dimension may have, between the start and the limit.
            at(0).zip(at(1)).map(|(start, limit)| start.or(limit))
        }
        ("ConstantOfShape", _) => match node.attribute("value").and_then(|a| a.t.as_ref()) {
            Some(tensor) => Bounds::of_all(&crate::facts::ints(tensor, element?)),
            None => Bounds::new(0, 0),
        },
        ("ReduceSum" | "CumSum" | "ReduceL1", _) => at(0).and_then(|a| {
            let count = count(node, facts);
            Bounds::new(a.low.min(0) * count, a.largest().max(0).min(a.high.max(-a.low)) * count)
        }),
        ("ReduceSumSquare", _) => {
            let sum = |a: Bounds| a.largest().checked_pow(2)?.checked_mul(count(node, facts));
            at(0).and_then(|a| Bounds::new(0, sum(a)?))
        }
        _ => None,
    };
    match element {
        Some(Element::Int64) => bounds,
        // Sums and products of floats, and quotients by less than 1, may be anything.
        Some(Element::Float | Element::Float16 | Element::Double) => {
            bounds.filter(|_| !computes(node)).map(Bounds::rounded)
        }
        // Numbers of fewer bits stay within them.
        _ => bounds.map(Bounds::within_32).or_else(|| Bounds::of_element(element)),
    }
}

/// Whether a node's numbers are others than those of its inputs.
fn computes(node: &NodeProto) -> bool {
    matches!(
        node.op(),
        "Add"
            | "Sum"
            | "Sub"
            | "Mul"
            | "Neg"
            | "Abs"
            | "Div"
            | "Mod"
            | "Range"
            | "ReduceSum"
            | "CumSum"
            | "ReduceL1"
            | "ReduceSumSquare"
    )
}

/// Elements of the first input, or the most that a dimension may have.
fn count(node: &NodeProto, facts: &Facts) -> i128 {
    let dims = facts.input(node, 0).and_then(|f| f.dims.as_deref());
    let known = dims.and_then(|dims| dims.iter().try_fold(1i128, |n, d| n.checked_mul((*d)?.into())));
    known.unwrap_or(LENGTH_MAX).clamp(1, LENGTH_MAX)
}

fn extreme(all: impl Iterator<Item = Option<Bounds>>, of: impl Fn(i128, i128) -> i128) -> Option<Bounds> {
    let any = Bounds { low: i64::MIN.into(), high: i64::MAX.into() };
    let all = all.map(|b| b.unwrap_or(any));
    let bounds = all.reduce(|a, b| Bounds { low: of(a.low, b.low), high: of(a.high, b.high) })?;
    Some(bounds)
}

fn clip(of: Option<Bounds>, low: Option<Bounds>, high: Option<Bounds>) -> Option<Bounds> {
    let of = of.unwrap_or(Bounds { low: i64::MIN.into(), high: i64::MAX.into() });
    let mut bounds = of;
    if let Some(low) = low {
        bounds = Bounds { low: bounds.low.max(low.low), high: bounds.high.max(low.high) };
    }
    if let Some(high) = high {
        bounds = Bounds { low: bounds.low.min(high.low), high: bounds.high.min(high.high) };
    }
    Some(bounds)
}
