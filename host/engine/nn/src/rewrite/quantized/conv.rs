//! Convolutions of 8-bit integers, computed by floats that are integers.

use super::*;

/// Floats hold integers up to this one exactly, and so are their sums in any order.
const EXACT_MAX: u64 = 1 << 24;

/// ConvInteger.
pub fn integer(build: &mut Build<'_>, node: &NodeProto) -> Result<(), PrepareError> {
    let sums = sums(build, node, [0, 1, 2, 3])?;
    let output = only_output(node)?;
    build.state_element(output, INT32);
    if sums.whole {
        return build.put(node, "Identity", &[&sums.name], output, vec![]);
    }
    build.put_integral(node, &sums.name, output)
}

/// QLinearConv: the sums and the bias times the ratio of the scales, as bytes.
pub fn quantized(build: &mut Build<'_>, node: &NodeProto) -> Result<(), PrepareError> {
    let mut sums = sums(build, node, [0, 3, 2, 5])?;
    if let Some(bias) = optional(node, 8) {
        if !sums.whole {
            sums.name = build.cast(node, &sums.name, INT32)?;
            sums.whole = true;
        }
        let shape: Vec<i64> = [-1].into_iter().chain(vec![1; sums.dims]).collect();
        let bias = build.reshape(node, bias, &shape)?;
        sums.name = build.op(node, "Add", &[&sums.name, &bias], vec![])?;
    }
    if sums.whole {
        sums.name = build.cast(node, &sums.name, FLOAT)?;
    }
    let scales = [1, 4, 6].map(|i| input(node, i));
    let [left, right, over] = scales;
    let ratio = ratio(build, node, [left?, right?, over?], sums.dims)?;
    let scaled = build.op(node, "Mul", &[&sums.name, &ratio], vec![])?;
    let kind = element(build, node, input(node, 0)?)?;
    let zero = zero_point(build, node, 7, kind)?;
    saturated(build, node, &scaled, &zero, only_output(node)?)
}

/// Sums of products.
struct Sums {
    name: String,
    /// Whether they are 32-bit integers; else floats that are integers within [`EXACT_MAX`].
    whole: bool,
    /// Dimensions after that of the channels.
    dims: usize,
}

/// Exact sums of (x - zero) times (weights - zero). `places` are those of the inputs x, weights, and their
/// zero points.
///
/// Both factors are integers within 255 of zero, so floats hold them, padding of 0 means the zero point,
/// and all sums of some of
/// the products are exact as long as the sizes of the weights of an output channel add up to no more than
/// 2^24 / 255. Where they
/// do not, the input's channels are taken in several convolutions that do, whose sums are added as 32-bit
/// integers.
fn sums(build: &mut Build<'_>, node: &NodeProto, places: [usize; 4]) -> Result<Sums, PrepareError> {
    let [x, weights, x_zero, weights_zero] = places;
    let (x, weights) = (input(node, x)?, input(node, weights)?);
    let Some((dims, _, values)) = weights_of(build, weights) else {
        return Err(refusal(node, "its weights are not constant"));
    };
    let (Some(&outputs), Some(&channels), true) = (dims.first(), dims.get(1), dims.len() >= 3) else {
        return Err(refusal(node, "its weights have fewer than 3 dimensions"));
    };
    let (outputs, channels) = (outputs as usize, channels as usize);
    let zeros = match optional(node, weights_zero) {
        Some(zero) => match build.constant(zero).and_then(ints_of) {
            Some(zeros) if zeros.len() == 1 || zeros.len() == outputs => zeros,
            _ => {
                return Err(refusal(
                    node,
                    "the zero point of its weights is not one constant, or one for each output",
                ));
            }
        },
        None => vec![0],
    };
    if values.is_empty() || outputs == 0 {
        return Err(refusal(node, "it has no weights"));
    }
    let each = values.len() / outputs;
    let zero_of = |output: usize| zeros[if zeros.len() == 1 { 0 } else { output }];
    let moved: Vec<f32> =
        values.iter().enumerate().map(|(place, v)| (i64::from(*v) - zero_of(place / each)) as f32).collect();
    let (x_value, x_max) = centred(build, node, x, optional(node, x_zero))?;
    let pieces = pieces(&moved, outputs, channels, EXACT_MAX / x_max)
        .ok_or_else(|| refusal(node, "its windows are too large to be summed exactly"))?;
    let attributes: Vec<_> = node.attribute.clone();
    let groups = node.int("group").unwrap_or(1);
    let mut total: Option<String> = None;
    let count = pieces.len();
    for piece in pieces {
        let taps = each / channels;
        let part: Vec<f32> = if groups == 1 {
            let rows = moved.chunks_exact(each);
            rows.flat_map(|row| row[piece.start * taps..piece.end * taps].iter().copied()).collect()
        } else {
            // The channels of all groups, with weights of zero for those that belong to other pieces.
            let place = |index: usize| index % each / taps;
            let of_piece = |(index, w): (usize, &f32)| if piece.contains(&place(index)) { *w } else { 0.0 };
            moved.iter().enumerate().map(of_piece).collect()
        };
        let mut shape = dims.clone();
        if groups == 1 {
            shape[1] = piece.len() as i64;
        }
        let part = build.floats(node, &shape, &part)?;
        let x = if count == 1 || groups != 1 {
            x_value.clone()
        } else {
            let bounds = [piece.start, piece.end, 1].map(|b| build.ints(node, &[1], &[b as i64]));
            let [from, to, axis] = bounds;
            build.op(node, "Slice", &[&x_value, &from?, &to?, &axis?], vec![])?
        };
        let sum = build.op(node, "Conv", &[&x, &part], attributes.clone())?;
        if count == 1 {
            return Ok(Sums { name: sum, whole: false, dims: dims.len() - 2 });
        }
        let sum = build.cast(node, &sum, INT32)?;
        total = Some(match total {
            None => sum,
            Some(before) => build.op(node, "Add", &[&before, &sum], vec![])?,
        });
    }
    let name = total.ok_or_else(|| refusal(node, "it has no weights"))?;
    Ok(Sums { name, whole: true, dims: dims.len() - 2 })
}

/// The input less its zero point, as floats, and how far it can be from zero.
fn centred(
    build: &mut Build<'_>,
    node: &NodeProto,
    x: &str,
    zero: Option<&str>,
) -> Result<(String, u64), PrepareError> {
    let kind = element(build, node, x)?;
    let (low, high) = if kind == UINT8 { (0, 255) } else { (-128, 127) };
    let value = build.cast(node, x, FLOAT)?;
    let Some(zero) = zero else { return Ok((value, 255)) };
    let known = build.constant(zero).and_then(ints_of).filter(|z| z.len() == 1);
    if known.as_deref() == Some(&[0]) {
        return Ok((value, 255));
    }
    let max = known.map_or(255, |zero| (high - zero[0]).max(zero[0] - low).unsigned_abs());
    let zero = build.cast(node, zero, FLOAT)?;
    let zero = build.reshape(node, &zero, &[])?;
    Ok((build.op(node, "Sub", &[&value, &zero], vec![])?, max))
}

/// Ranges of input channels: in each, the sizes of the weights of any output add up to at most `max`.
fn pieces(weights: &[f32], outputs: usize, channels: usize, max: u64) -> Option<Vec<std::ops::Range<usize>>> {
    let taps = weights.len() / outputs / channels.max(1);
    let mut pieces = Vec::new();
    let mut sums = vec![0u64; outputs];
    let mut start = 0;
    for channel in 0..channels {
        let size = |output: usize| -> u64 {
            let from = (output * channels + channel) * taps;
            weights[from..from + taps].iter().map(|w| w.abs() as u64).sum()
        };
        let sizes: Vec<u64> = (0..outputs).map(size).collect();
        if sizes.iter().any(|size| *size > max) {
            return None;
        }
        if sums.iter().zip(&sizes).any(|(sum, size)| sum + size > max) {
            pieces.push(start..channel);
            start = channel;
            sums.fill(0);
        }
        sums.iter_mut().zip(sizes).for_each(|(sum, size)| *sum += size);
    }
    pieces.push(start..channels);
    Some(pieces)
}
