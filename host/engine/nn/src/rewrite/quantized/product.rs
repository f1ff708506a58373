//! Products of matrices of 8-bit integers.

use super::*;

/// What a pair of weights may add up to: 255 x 128 = 32,640 is within 16 bits.
const PAIR_MAX: i16 = 128;

/// What part of the rows may have too much for the kernel of bytes to be used.
const FEW: i64 = 4;

/// MatMulInteger.
pub fn integer(build: &mut Build<'_>, node: &NodeProto) -> Result<(), PrepareError> {
    let zeros = [2, 3].map(|i| optional(node, i).map(str::to_owned));
    let total = product(build, node, [input(node, 0)?, input(node, 1)?], zeros)?;
    let output = only_output(node)?;
    match build.integral(&total).map(str::to_owned) {
        Some(floats) => build.put_integral(node, &floats, output),
        None => build.put(node, "Identity", &[&total], output, vec![]),
    }
}

/// QLinearMatMul: the sums times the ratio of the scales, as bytes.
pub fn quantized(build: &mut Build<'_>, node: &NodeProto) -> Result<(), PrepareError> {
    let zeros = [2, 5].map(|i| optional(node, i).map(str::to_owned));
    let total = product(build, node, [input(node, 0)?, input(node, 3)?], zeros)?;
    let value = build.cast(node, &total, FLOAT)?;
    let scales = [1, 4, 6].map(|i| input(node, i));
    let [left, right, over] = scales;
    let (left, right, over) = (left?, right?, over?);
    let one = |name: &str| build.known(name).shape.is_some_and(|s| s.is_empty() || s == [Some(1)]);
    if !(one(left) && one(over)) || build.known(right).rank().is_none_or(|rank| rank > 1) {
        return Err(refusal(node, "its scales are not known to be one, or one for each column"));
    }
    let ratio = ratio(build, node, [left, right, over], 0)?;
    let scaled = build.op(node, "Mul", &[&value, &ratio], vec![])?;
    let kind = element(build, node, input(node, 0)?)?;
    let zero = zero_point(build, node, 7, kind)?;
    saturated(build, node, &scaled, &zero, only_output(node)?)
}

/// QGemm, an operator of ONNX Runtime, with two matrices as they are.
pub fn gemm(build: &mut Build<'_>, node: &NodeProto) -> Result<(), PrepareError> {
    let alpha = node.attribute("alpha").and_then(|a| a.f).unwrap_or(1.0);
    if node.int("transA").unwrap_or(0) != 0 || alpha != 1.0 {
        return Err(refusal(node, "transA and alpha are not supported"));
    }
    let mut right = input(node, 3)?.to_owned();
    if node.int("transB").unwrap_or(0) != 0 {
        let Some((dims, kind, values)) = weights_of(build, &right) else {
            return Err(refusal(node, "transB is supported for constant weights alone"));
        };
        let &[rows, columns] = &dims[..] else { return Err(refusal(node, "its weights are not a matrix")) };
        let (rows, columns) = (rows as usize, columns as usize);
        let turned = (0..columns).flat_map(|c| (0..rows).map(move |r| (r, c)));
        let turned = turned.map(|(r, c)| values[r * columns + c] as u8).collect();
        right = build.tensor(node, kind, &[columns as i64, rows as i64], turned)?;
    }
    let zeros = [2, 5].map(|i| optional(node, i).map(str::to_owned));
    let mut total = product(build, node, [input(node, 0)?, &right], zeros)?;
    if let Some(bias) = optional(node, 6) {
        total = build.op(node, "Add", &[&total, bias], vec![])?;
    }
    let value = build.cast(node, &total, FLOAT)?;
    let (left, right) = (input(node, 1)?, input(node, 4)?);
    let one = build.floats(node, &[], &[1.0])?;
    let output = only_output(node)?;
    let Some(over) = optional(node, 7) else {
        let ratio = ratio(build, node, [left, right, &one], 0)?;
        build.state_element(output, FLOAT);
        return build.put(node, "Mul", &[&value, &ratio], output, vec![]);
    };
    let ratio = ratio(build, node, [left, right, over], 0)?;
    let scaled = build.op(node, "Mul", &[&value, &ratio], vec![])?;
    let kind = element(build, node, input(node, 0)?)?;
    let zero = zero_point(build, node, 8, kind)?;
    saturated(build, node, &scaled, &zero, output)
}

/// Exact sums of products as 32-bit integers: (left - zero) times (right - zero).
///
/// The engine's kernel takes the left as unsigned and the right as signed bytes, and adds the products of
/// two neighbours along the
/// sum, of places 2i and 2i + 1, in 16 bits. These are at most 255 (a + b) and at least -255 (a + b) for
/// the sums a + b of the
/// positive and of the negative weights of a pair; so the product is exact where those are within
/// [`PAIR_MAX`]. Constant weights
/// mostly are. What a pair has too much is taken off its second weight, and multiplied apart: only rows of
/// weights that have some
/// are, each beside a row of zeros, so that no pair has two. Weights that are computed are split into two
/// parts within 64.
fn product(
    build: &mut Build<'_>,
    node: &NodeProto,
    [left, right]: [&str; 2],
    [left_zero, right_zero]: [Option<String>; 2],
) -> Result<String, PrepareError> {
    if let Some(floats) = by_floats(build, node, [left, right], [&left_zero, &right_zero])? {
        let total = build.fresh(only_output(node)?, "total");
        build.put_integral(node, &floats, &total)?;
        return Ok(total);
    }
    let left_zero = match left_zero.map(|zero| zero_of(build, node, &zero)).transpose()? {
        Some(Zero::Columns(_)) => {
            return Err(refusal(node, "the zero point of its left side is not one number"));
        }
        Some(Zero::One(zero)) => Some(zero),
        None => None,
    };
    let (left, left_zero) = unsigned(build, node, left, left_zero)?;
    match right_zero.map(|zero| zero_of(build, node, &zero)).transpose()? {
        None => plain(build, node, [&left, right], left_zero, None),
        Some(Zero::One(zero)) => plain(build, node, [&left, right], left_zero, Some(zero)),
        Some(Zero::Columns(zeros)) => {
            // The engine mistakes columns where each has a zero point: what these take off is the zero
            // point times the row's sum.
            let total = plain(build, node, [&left, right], left_zero.clone(), None)?;
            let mut rows = build.cast(node, &left, INT32)?;
            if let Some(zero) = left_zero {
                let zero = build.cast(node, &zero, INT32)?;
                rows = build.op(node, "Sub", &[&rows, &zero], vec![])?;
            }
            let sums = build.sum(node, &rows, -1, true)?;
            let zeros = build.cast(node, &zeros, INT32)?;
            let off = build.op(node, "Mul", &[&sums, &zeros], vec![])?;
            build.op(node, "Sub", &[&total, &off], vec![])
        }
    }
}

/// The product by floats, which hold all sums exactly as long as the sizes of a column of weights add up to
/// at most 2^24 / 255.
/// That costs a product of floats, whereas the kernel for bytes costs about that, and as much again for
/// what pairs of weights have
/// too much: so it pays where more than a few rows have some.
fn by_floats(
    build: &mut Build<'_>,
    node: &NodeProto,
    [left, right]: [&str; 2],
    [left_zero, right_zero]: [&Option<String>; 2],
) -> Result<Option<String>, PrepareError> {
    let Some((dims, kind, values)) = weights_of(build, right) else { return Ok(None) };
    let &[rows, columns] = &dims[..] else { return Ok(None) };
    let signed: Vec<i16> = values.iter().map(|v| if kind == UINT8 { v - 128 } else { *v }).collect();
    let few = split(&dims, &signed).is_none_or(|(_, over, _)| over.len() as i64 <= rows / FEW);
    let zeros = right_zero.as_ref().map_or(Some(vec![0]), |zero| build.constant(zero).and_then(ints_of));
    let zeros = zeros.filter(|zeros| zeros.len() == 1 || zeros.len() as i64 == columns);
    let room = (values.len() as u64).saturating_mul(4) <= build.left.bytes / 2;
    let (false, Some(zeros), true) = (few, zeros, room) else { return Ok(None) };
    let columns = columns as usize;
    let mut sums = vec![0u64; columns];
    let mut weights = Vec::with_capacity(values.len());
    for (place, value) in values.into_iter().enumerate() {
        let column = place % columns;
        let weight = i64::from(value) - zeros[if zeros.len() == 1 { 0 } else { column }];
        sums[column] += weight.unsigned_abs();
        weights.push(weight as f32);
    }
    if sums.iter().any(|sum| *sum > (1 << 24) / 255) {
        return Ok(None);
    }
    let mut x = build.cast(node, left, FLOAT)?;
    if let Some(zero) = left_zero {
        if !matches!(build.known(zero).shape.as_deref(), Some([] | [Some(1)])) {
            return Err(refusal(node, "the zero point of its left side is not one number"));
        }
        let zero = build.cast(node, zero, FLOAT)?;
        let zero = build.reshape(node, &zero, &[])?;
        x = build.op(node, "Sub", &[&x, &zero], vec![])?;
    }
    let weights = build.floats(node, &dims, &weights)?;
    Ok(Some(build.op(node, "MatMul", &[&x, &weights], vec![])?))
}

/// As [`product`], with zero points that are one number.
fn plain(
    build: &mut Build<'_>,
    node: &NodeProto,
    [left, right]: [&str; 2],
    left_zero: Option<String>,
    right_zero: Option<String>,
) -> Result<String, PrepareError> {
    let kind = element(build, node, right)?;
    let constant = weights_of(build, right);
    let (main, rest) = match constant {
        Some((dims, _, values)) => {
            let signed: Vec<i16> = values.iter().map(|v| if kind == UINT8 { v - 128 } else { *v }).collect();
            match split(&dims, &signed) {
                None => {
                    let inputs = operands(left, right, left_zero.as_deref(), right_zero.as_deref());
                    return build.op(node, "MatMulInteger", &inputs, vec![]);
                }
                Some((main, rows, rest)) => {
                    let main = build.tensor(node, INT8, &dims, main)?;
                    let rank = dims.len();
                    let mut fewer = dims;
                    fewer[rank - 2] = rows.len() as i64;
                    let rest = build.tensor(node, INT8, &fewer, rest)?;
                    let rows = build.ints(node, &[rows.len() as i64], &rows)?;
                    let left = build.op(node, "Gather", &[left, &rows], vec![int_attribute("axis", -1)])?;
                    (main, (left, rest))
                }
            }
        }
        None => {
            let whole = build.cast(node, right, INT32)?;
            let shift = build.ints32(node, &[], &[if kind == UINT8 { 128 } else { 0 }])?;
            let signed = build.op(node, "Sub", &[&whole, &shift], vec![])?;
            let bounds = [build.ints32(node, &[], &[-64])?, build.ints32(node, &[], &[63])?];
            let main = build.op(node, "Clip", &[&signed, &bounds[0], &bounds[1]], vec![])?;
            let rest = build.op(node, "Sub", &[&signed, &main], vec![])?;
            (build.cast(node, &main, INT8)?, (left.to_owned(), build.cast(node, &rest, INT8)?))
        }
    };
    let right_zero = signed_zero(build, node, kind, right_zero)?;
    let inputs = operands(left, &main, left_zero.as_deref(), right_zero.as_deref());
    let main = build.op(node, "MatMulInteger", &inputs, vec![])?;
    let inputs = operands(&rest.0, &rest.1, left_zero.as_deref(), None);
    let rest = build.op(node, "MatMulInteger", &inputs, vec![])?;
    build.op(node, "Add", &[&main, &rest], vec![])
}

fn operands<'n>(
    left: &'n str,
    right: &'n str,
    left_zero: Option<&'n str>,
    right_zero: Option<&'n str>,
) -> Vec<&'n str> {
    let mut list = vec![left, right];
    if left_zero.is_some() || right_zero.is_some() {
        list.push(left_zero.unwrap_or_default());
        list.extend(right_zero);
    }
    list
}

/// A zero point: one, or one for each column.
enum Zero {
    One(String),
    Columns(String),
}

fn zero_of(build: &mut Build<'_>, node: &NodeProto, zero: &str) -> Result<Zero, PrepareError> {
    let known = build.known(zero);
    let same = build.constant(zero).and_then(ints_of).and_then(|list| {
        let first = *list.first()?;
        list.iter().all(|v| *v == first).then_some(first)
    });
    match (known.shape.as_deref(), same, known.element) {
        (Some([]), ..) => Ok(Zero::One(zero.to_owned())),
        (Some([_]), Some(value), Some(kind)) => Ok(Zero::One(byte(build, node, kind, value)?)),
        (Some([Some(1)]), _, kind) => {
            let scalar = build.reshape(node, zero, &[])?;
            build.state_element(&scalar, kind.unwrap_or(UINT8));
            Ok(Zero::One(scalar))
        }
        (Some([_]), ..) => Ok(Zero::Columns(zero.to_owned())),
        _ => Err(refusal(node, "a zero point is not known to be one number, or one for each column")),
    }
}

/// The left side and its zero point as unsigned bytes. The engine makes them so itself, but without VNNI it
/// moves both by the
/// smallest number on the left, by which a smaller zero point becomes negative, and wraps.
fn unsigned(
    build: &mut Build<'_>,
    node: &NodeProto,
    left: &str,
    zero: Option<String>,
) -> Result<(String, Option<String>), PrepareError> {
    if element(build, node, left)? != INT8 {
        return Ok((left.to_owned(), zero));
    }
    let zero = match zero {
        Some(zero) => Some(moved(build, node, &zero, 128, UINT8)?),
        None => Some(byte(build, node, UINT8, 128)?),
    };
    Ok((moved(build, node, left, 128, UINT8)?, zero))
}

/// Bytes plus a number, as bytes of the other kind.
fn moved(
    build: &mut Build<'_>,
    node: &NodeProto,
    value: &str,
    by: i32,
    kind: i64,
) -> Result<String, PrepareError> {
    let whole = build.cast(node, value, INT32)?;
    let by = build.ints32(node, &[], &[by])?;
    let sum = build.op(node, "Add", &[&whole, &by], vec![])?;
    build.cast(node, &sum, kind)
}

/// The zero point of weights that were moved by 128 to become signed.
fn signed_zero(
    build: &mut Build<'_>,
    node: &NodeProto,
    kind: i64,
    zero: Option<String>,
) -> Result<Option<String>, PrepareError> {
    match zero {
        zero if kind == INT8 => Ok(zero),
        None => Ok(Some(byte(build, node, INT8, -128)?)),
        Some(zero) => Ok(Some(moved(build, node, &zero, -128, INT8)?)),
    }
}

/// Weights [.., rows, columns] without what pairs of rows have too much: the weights, the numbers of the
/// rows that had some (each
/// twice), and what it was (the second of each pair of rows is zero). `None` where no pair has too much.
#[allow(clippy::type_complexity)]
fn split(dims: &[i64], weights: &[i16]) -> Option<(Vec<u8>, Vec<i64>, Vec<u8>)> {
    let [.., rows, columns] = *dims else { return None };
    if weights.is_empty() {
        return None;
    }
    let (rows, columns) = (rows as usize, columns as usize);
    let matrix = rows * columns;
    let excess = |first: i16, second: i16| match (first > 0, second > 0) {
        (true, true) => (first + second - PAIR_MAX).max(0),
        (false, false) => (first + second + PAIR_MAX).min(0),
        _ => 0,
    };
    let at = |start: usize, row: usize, column: usize| {
        excess(weights[start + (row - 1) * columns + column], weights[start + row * columns + column])
    };
    let starts: Vec<usize> = (0..weights.len()).step_by(matrix).collect();
    let has =
        |row: &usize| starts.iter().any(|start| (0..columns).any(|column| at(*start, *row, column) != 0));
    let over: Vec<usize> = (1..rows).step_by(2).filter(has).collect();
    if over.is_empty() {
        return None;
    }
    let mut main: Vec<u8> = weights.iter().map(|w| *w as u8).collect();
    let mut rest = Vec::with_capacity(starts.len() * over.len() * 2 * columns);
    for start in &starts {
        for row in &over {
            for column in 0..columns {
                let excess = at(*start, *row, column);
                let place = start + row * columns + column;
                main[place] = (weights[place] - excess) as u8;
                rest.push(excess as u8);
            }
            rest.resize(rest.len() + columns, 0);
        }
    }
    Some((main, over.iter().flat_map(|row| [*row as i64; 2]).collect(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the AVX2 kernel computes: products of neighbours are added in 16 bits, which saturate.
    fn kernel(left: &[i64], right: &[i64]) -> i64 {
        let pairs = left.chunks(2).zip(right.chunks(2));
        pairs.map(|(a, b)| a.iter().zip(b).map(|(a, b)| a * b).sum::<i64>().clamp(-32_768, 32_767)).sum()
    }

    #[test]
    fn what_a_pair_has_too_much_is_taken_apart_and_nothing_saturates() {
        let short = |weights: &[i64]| weights.iter().map(|w| *w as i16).collect::<Vec<_>>();
        // Both signs, alone and in pairs, and an odd row at the end.
        let columns: [[i64; 5]; 4] =
            [[127, 127, -128, -128, 127], [64, 65, -64, -65, -128], [127, -128, -128, 127, 0], [1; 5]];
        let weights: Vec<i64> = (0..5).flat_map(|row| columns.map(|column| column[row])).collect();
        let (main, rows, rest) = split(&[5, 4], &short(&weights)).expect("too much");
        assert_eq!(rows, [1, 1, 3, 3]);
        let column = |bytes: &[u8], column: usize| -> Vec<i64> {
            bytes.iter().skip(column).step_by(4).map(|b| i64::from(*b as i8)).collect()
        };
        for left in [[255; 5], [255, 0, 255, 0, 255], [0, 255, 0, 255, 0], [1, 254, 255, 3, 255]] {
            let gathered: Vec<i64> = rows.iter().map(|row| left[*row as usize]).collect();
            for (index, weights) in columns.iter().enumerate() {
                let exact: i64 = left.iter().zip(weights).map(|(a, b)| a * b).sum();
                let total = kernel(&left, &column(&main, index)) + kernel(&gathered, &column(&rest, index));
                assert_eq!(total, exact, "{left:?} {weights:?}");
            }
        }
        assert!(split(&[5, 1], &short(&columns[3])).is_none());
        assert!(split(&[5, 1], &short(&columns[2])).is_none());
    }
}
