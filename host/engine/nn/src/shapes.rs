//! Shapes of a node's outputs, as far as those of its inputs tell them.

use crate::facts::{Dim, Dims, Facts};
use crate::onnx::*;

/// Most dimensions of a shape that is followed.
const RANK_MAX: usize = 16;

/// The shape of each output. `None` where it is not known.
pub fn of(node: &NodeProto, facts: &Facts) -> Vec<Dims> {
    if !node.op_domain().is_empty() {
        return vec![facts.input(node, 0).and_then(|f| f.dims.clone())];
    }
    let mut shapes = Shapes { node, facts }.outputs();
    for shape in &mut shapes {
        // No tensor has more dimensions; a hostile graph could double them with each node.
        shape.take_if(|dims| dims.len() > RANK_MAX);
    }
    shapes
}

/// The numbers that a `Shape` node gives, where all are known.
pub fn known_shape(node: &NodeProto, facts: &Facts) -> Option<Vec<i64>> {
    let dims = facts.input(node, 0)?.dims.as_ref()?;
    let part = part_of_shape(node, dims.len());
    dims[part].iter().map(|d| d.and_then(|d| i64::try_from(d).ok())).collect()
}

fn part_of_shape(node: &NodeProto, rank: usize) -> std::ops::Range<usize> {
    let rank = rank as i64;
    let place = |name: &str, default: i64| {
        let at = node.int(name).unwrap_or(default);
        (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize
    };
    let (start, end) = (place("start", 0), place("end", rank));
    start..end.max(start)
}

struct Shapes<'a> {
    node: &'a NodeProto,
    facts: &'a Facts,
}

/// A dimension counted from either end.
fn place(axis: i64, rank: usize) -> Option<usize> {
    let rank_i = rank as i64;
    usize::try_from(if axis < 0 { axis.checked_add(rank_i)? } else { axis }).ok().filter(|a| *a < rank)
}

impl Shapes<'_> {
    fn dims(&self, index: usize) -> Dims {
        self.facts.input(self.node, index)?.dims.clone()
    }

    fn rank(&self, index: usize) -> Option<usize> {
        self.facts.rank(self.node, index)
    }

    /// As many open dimensions as an input has.
    fn open(&self, index: usize) -> Dims {
        Some(vec![None; self.rank(index)?])
    }

    /// The shape of the first input with one dimension open.
    fn open_at(&self, axis: i64) -> Dims {
        let mut dims = self.dims(0)?;
        let at = place(axis, dims.len())?;
        dims[at] = None;
        Some(dims)
    }

    /// Axes from the attribute or, in newer operator sets, from an input; `None` where they are not known.
    fn axes(&self, input: usize) -> Option<Vec<i64>> {
        match self.node.attribute("axes") {
            Some(attribute) => Some(attribute.ints.clone()),
            None => self.facts.ints(self.node, input).map(<[i64]>::to_vec),
        }
    }

    /// The number of axes.
    fn axes_len(&self, input: usize) -> Option<usize> {
        match self.axes(input) {
            Some(axes) => Some(axes.len()),
            None => self.length(input),
        }
    }

    /// Length of an input that is a list.
    fn length(&self, input: usize) -> Option<usize> {
        match self.dims(input)?[..] {
            [dim] => usize::try_from(dim?).ok().filter(|rank| *rank <= RANK_MAX),
            _ => None,
        }
    }

    fn is_given(&self, input: usize) -> bool {
        self.node.input.get(input).is_some_and(|name| !name.is_empty())
    }

    fn outputs(&self) -> Vec<Dims> {
        let int = |name: &str, default: i64| self.node.int(name).unwrap_or(default);
        let one = match self.node.op() {
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Equal" | "Greater" | "GreaterOrEqual"
            | "Less" | "LessOrEqual" | "And" | "Or" | "Xor" | "Where" | "Max" | "Min" | "Mean" | "Sum"
            | "BitShift" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" => self.broadcast(),
            "Shape" => self.rank(0).map(|rank| vec![Some(part_of_shape(self.node, rank).len() as u64)]),
            "Size" | "SequenceLength" => Some(vec![]),
            "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean"
            | "ReduceMin" | "ReduceProd" | "ReduceSum" | "ReduceSumSquare" => self.reduced(),
            "ArgMax" | "ArgMin" => self.along(int("axis", 0), int("keepdims", 1) != 0),
            "Transpose" => self.transposed(),
            "Flatten" => Some(vec![None, None]),
            "Reshape" => self.reshaped(),
            "Squeeze" => self.squeezed(),
            "Unsqueeze" => self.unsqueezed(),
            "Concat" => self.joined(int("axis", 0)),
            "Split" => return vec![self.open_at(int("axis", 0)); self.node.output.len()],
            "Slice" => self.sliced(),
            "Expand" => self.expanded(),
            "Tile" | "Pad" | "Resize" | "Upsample" | "Conv" | "ConvTranspose" | "ConvInteger" | "MaxPool"
            | "AveragePool" | "LpPool" | "GridSample" | "DFT" | "DepthToSpace" | "SpaceToDepth" => {
                return vec![self.open(0); 2];
            }
            "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => self.open(0),
            "Gather" => self.gathered(int("axis", 0)),
            "GatherElements" => self.dims(1),
            "GatherND" => self.gathered_nd(int("batch_dims", 0)),
            "OneHot" => self.rank(0).map(|rank| vec![None; rank + 1]),
            "MatMul" | "MatMulInteger" | "QLinearMatMul" => self.product(),
            "Gemm" => Some(vec![None, None]),
            "LSTM" | "GRU" | "RNN" => {
                return vec![Some(vec![None; 4]), Some(vec![None; 3]), Some(vec![None; 3])];
            }
            "Range" => Some(vec![None]),
            "ConstantOfShape" => self.filled(),
            "TopK" => return vec![self.open_at(int("axis", -1)); 2],
            "NonZero" => Some(vec![self.rank(0).map(|r| r.max(1) as u64), None]),
            "NonMaxSuppression" => Some(vec![None, Some(3)]),
            "STFT" => Some(vec![None; 4]),
            "Einsum" => self.einsum(),
            "DynamicQuantizeLinear" => return vec![self.dims(0), Some(vec![]), Some(vec![])],
            "If" | "SequenceAt" | "ConcatFromSequence" | "Compress" | "Unique" | "Constant" | "Attention"
            | "Loop" | "Scan" => None,
            "LayerNormalization" => return vec![self.dims(0), self.open(0), self.open(0)],
            _ => return vec![self.dims(0); self.node.output.len()],
        };
        vec![one]
    }

    fn broadcast(&self) -> Dims {
        let mut out: Vec<Dim> = Vec::new();
        for i in (0..self.node.input.len()).filter(|i| self.is_given(*i)) {
            out = broadcast(&out, &self.dims(i)?);
        }
        Some(out)
    }

    fn reduced(&self) -> Dims {
        let mut dims = self.dims(0)?;
        let keep = self.node.int("keepdims").unwrap_or(1) != 0;
        let absent = self.node.attribute("axes").is_none() && !self.is_given(1);
        let noop = self.node.int("noop_with_empty_axes").unwrap_or(0) != 0;
        let axes = if absent { Some(Vec::new()) } else { self.axes(1) };
        match axes {
            Some(axes) if axes.is_empty() && noop => Some(dims),
            Some(axes) if axes.is_empty() => Some(if keep { vec![Some(1); dims.len()] } else { vec![] }),
            Some(axes) => {
                let places = axes.iter().map(|a| place(*a, dims.len())).collect::<Option<Vec<_>>>()?;
                for at in &places {
                    dims[*at] = Some(1);
                }
                if !keep {
                    let kept = dims.into_iter().enumerate().filter(|(i, _)| !places.contains(i));
                    return Some(kept.map(|(_, d)| d).collect());
                }
                Some(dims)
            }
            None if keep => Some(vec![None; dims.len()]),
            None => {
                let count = self.axes_len(1).filter(|n| *n > 0)?;
                Some(vec![None; dims.len().checked_sub(count)?])
            }
        }
    }

    fn along(&self, axis: i64, keep: bool) -> Dims {
        let mut dims = self.dims(0)?;
        let at = place(axis, dims.len())?;
        if keep {
            dims[at] = Some(1);
        } else {
            dims.remove(at);
        }
        Some(dims)
    }

    fn transposed(&self) -> Dims {
        let dims = self.dims(0)?;
        match self.node.attribute("perm") {
            None => Some(dims.into_iter().rev().collect()),
            Some(perm) => perm.ints.iter().map(|i| dims.get(usize::try_from(*i).ok()?).copied()).collect(),
        }
    }

    fn reshaped(&self) -> Dims {
        let attribute = self.node.attribute("shape").map(|a| a.ints.as_slice());
        let Some(shape) = attribute.or_else(|| self.facts.ints(self.node, 1)) else {
            return Some(vec![None; self.length(1)?]);
        };
        let from = self.dims(0);
        let allow_zero = self.node.int("allowzero").unwrap_or(0) != 0;
        let dim = |(i, d): (usize, &i64)| match *d {
            0 if allow_zero => Some(0),
            0 => from.as_ref().and_then(|dims| dims.get(i).copied().flatten()),
            d => u64::try_from(d).ok(),
        };
        Some(shape.iter().enumerate().map(dim).collect())
    }

    fn squeezed(&self) -> Dims {
        let dims = self.dims(0)?;
        if self.node.attribute("axes").is_none() && !self.is_given(1) {
            let known = dims.iter().all(Option::is_some);
            return known.then(|| dims.into_iter().filter(|d| *d != Some(1)).collect());
        }
        let Some(axes) = self.axes(1) else {
            return Some(vec![None; dims.len().checked_sub(self.axes_len(1)?)?]);
        };
        let places = axes.iter().map(|a| place(*a, dims.len())).collect::<Option<Vec<_>>>()?;
        Some(dims.into_iter().enumerate().filter(|(i, _)| !places.contains(i)).map(|(_, d)| d).collect())
    }

    fn unsqueezed(&self) -> Dims {
        let dims = self.dims(0)?;
        let rank = dims.len() + self.axes_len(1)?;
        let Some(axes) = self.axes(1) else { return Some(vec![None; rank]) };
        let places = axes.iter().map(|a| place(*a, rank)).collect::<Option<Vec<_>>>()?;
        let mut rest = dims.into_iter();
        (0..rank).map(|i| if places.contains(&i) { Some(Some(1)) } else { rest.next() }).collect()
    }

    fn joined(&self, axis: i64) -> Dims {
        // One input whose shape is known tells the number of dimensions of all.
        let mut dims = (0..self.node.input.len()).find_map(|i| self.dims(i))?;
        let at = place(axis, dims.len())?;
        let sizes =
            (0..self.node.input.len()).map(|i| self.dims(i).and_then(|d| d.get(at).copied().flatten()));
        dims[at] = sizes.sum();
        Some(dims)
    }

    fn sliced(&self) -> Dims {
        let dims = self.dims(0)?;
        if dims.len() == 1
            && let (Some([start]), Some([end])) = (self.bounds("starts", 1), self.bounds("ends", 2))
            && let Some(size) = dims[0].and_then(|d| i64::try_from(d).ok())
            && (!self.is_given(4) || self.facts.ints(self.node, 4) == Some(&[1]))
        {
            let at = |v: i64| (if v < 0 { v.saturating_add(size) } else { v }).clamp(0, size);
            return Some(vec![Some((at(*end) - at(*start)).max(0).unsigned_abs())]);
        }
        Some(vec![None; dims.len()])
    }

    fn bounds(&self, attribute: &str, input: usize) -> Option<&[i64]> {
        self.node
            .attribute(attribute)
            .map(|a| a.ints.as_slice())
            .or_else(|| self.facts.ints(self.node, input))
    }

    fn expanded(&self) -> Dims {
        let dims = self.dims(0)?;
        match self.facts.ints(self.node, 1) {
            Some(shape) => {
                let shape: Vec<Dim> = shape.iter().map(|d| u64::try_from(*d).ok()).collect();
                Some(broadcast(&dims, &shape))
            }
            None => Some(vec![None; self.length(1)?.max(dims.len())]),
        }
    }

    fn gathered(&self, axis: i64) -> Dims {
        let (dims, indices) = (self.dims(0)?, self.dims(1)?);
        let at = place(axis, dims.len())?;
        let (before, after) = dims.split_at(at);
        Some([before, &indices, &after[1..]].concat())
    }

    fn gathered_nd(&self, batch: i64) -> Dims {
        let (rank, indices) = (self.rank(0)?, self.dims(1)?);
        let depth = usize::try_from((*indices.last()?)?).ok()?;
        let batch = usize::try_from(batch).ok()?;
        Some(vec![None; (indices.len() + rank).checked_sub(depth + 1 + batch)?])
    }

    fn product(&self) -> Dims {
        let right_at = if self.node.op() == "QLinearMatMul" { 3 } else { 1 };
        let (left, right) = (self.dims(0)?, self.dims(right_at)?);
        let batch = |dims: &[Dim]| dims[..dims.len().saturating_sub(2)].to_vec();
        let mut out = broadcast(&batch(&left), &batch(&right));
        if left.len() > 1 {
            out.push(left[left.len() - 2]);
        }
        if right.len() > 1 {
            out.push(right[right.len() - 1]);
        }
        Some(out)
    }

    fn filled(&self) -> Dims {
        match self.facts.ints(self.node, 0) {
            Some(shape) => Some(shape.iter().map(|d| u64::try_from(*d).ok()).collect()),
            None => Some(vec![None; self.length(0)?]),
        }
    }

    fn einsum(&self) -> Dims {
        let equation = self.node.attribute("equation").and_then(|a| a.s.as_deref())?;
        let text = std::str::from_utf8(equation).ok()?;
        let (_, out) = text.split_once("->")?;
        if out.contains('.') {
            return None;
        }
        Some(vec![None; out.chars().filter(|c| c.is_alphabetic()).count()])
    }
}

fn broadcast(a: &[Dim], b: &[Dim]) -> Vec<Dim> {
    let rank = a.len().max(b.len());
    let at = |dims: &[Dim], i: usize| (i + dims.len()).checked_sub(rank).map_or(Some(1), |i| dims[i]);
    let one = |i| match (at(a, i), at(b, i)) {
        (Some(1), d) | (d, Some(1)) => d,
        // A dimension that is not 1 wins over an open one, which is the same or 1.
        (Some(d), _) | (_, Some(d)) => Some(d),
        (None, None) => None,
    };
    (0..rank).map(one).collect()
}
