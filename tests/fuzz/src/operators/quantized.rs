//! Operators on 8 and 4 bits.

use super::nets::factors;
use crate::case::{Case, Value, int};
use crate::values::Ty;

pub fn matmul(c: &mut Case, op: &str) {
    let [left, right] = [(); 2].map(|()| c.pick(&[Ty::U8, Ty::I8]));
    let (a, b, out) = factors(c, left, right);
    let rows = out.get(out.len().saturating_sub(2)).copied().unwrap_or(1);
    let columns = out.last().copied().unwrap_or(1);
    let one = c.chance(0.6);
    let left = c.of(left, if one { &[] } else { std::slice::from_ref(&rows) });
    let right = c.of(right, if one { &[] } else { std::slice::from_ref(&columns) });
    let (left, right) = (c.chance(0.7).then_some(left), c.chance(0.7).then_some(right));
    c.node(op, &[Some(&a), Some(&b), left.as_ref(), right.as_ref()], vec![], &[(Ty::I32, out)]);
}

pub fn matmul_bits(c: &mut Case, op: &str) {
    let block = c.pick(&[16, 32, 64, 128]);
    let blocks = c.within(1..=3);
    let (k, n) = (block * blocks, c.dim());
    let shape = if c.chance(0.5) { vec![1, k] } else { vec![c.dim(), c.within(1..=9), k] };
    let x = c.of(Ty::F32, &shape);
    let weights = c.of(Ty::U8, &[n, blocks, block / 2]);
    let shape = if c.chance(0.5) { vec![n, blocks] } else { vec![n * blocks] };
    let scales = c.of(Ty::F32, &shape);
    let mut out = x.shape.clone();
    out.pop();
    out.push(n);
    let attributes = vec![
        int("block_size", c.n(block)),
        int("bits", c.n(4)),
        int("K", c.n(k)),
        int("N", c.n(n)),
        int("accuracy_level", c.pick(&[0, 1, 4])),
    ];
    c.node(op, &[Some(&x), Some(&weights), Some(&scales)], attributes, &[(Ty::F32, out)]);
}

/// An axis of a value, and the shape of what there is once for all or once for each place on the axis.
fn per_axis(c: &mut Case, x: &Value) -> (i64, Vec<i64>) {
    let axis = c.axis(x.rank());
    let place = axis.rem_euclid(x.rank().max(1)) as usize;
    let one = c.chance(0.5);
    (axis, if one { vec![] } else { x.shape.get(place).copied().into_iter().collect() })
}

pub fn quantize(c: &mut Case, op: &str) {
    let x = c.any(&[Ty::F32], 0..=4);
    let (axis, shape) = per_axis(c, &x);
    let ty = c.ty(&[Ty::U8, Ty::I8]);
    let scale = c.of(Ty::F32, &shape);
    let zero = c.of(ty, &shape);
    let mut attributes = vec![int("axis", c.n(axis))];
    let zero = if c.chance(0.7) { Some(zero) } else { None };
    if zero.is_none() {
        attributes.push(int("output_dtype", i64::from(ty.number())));
    }
    c.node(op, &[Some(&x), Some(&scale), zero.as_ref()], attributes, &[(ty, x.shape.clone())]);
}

pub fn dequantize(c: &mut Case, op: &str) {
    let x = c.any(&[Ty::U8, Ty::I8, Ty::I32], 0..=4);
    let (axis, shape) = per_axis(c, &x);
    let scale = c.of(Ty::F32, &shape);
    let zero = c.of(x.ty, &shape);
    let zero = c.chance(0.7).then_some(zero);
    let attributes = vec![int("axis", c.n(axis))];
    c.node(op, &[Some(&x), Some(&scale), zero.as_ref()], attributes, &[(Ty::F32, x.shape.clone())]);
}

pub fn quantize_dynamic(c: &mut Case, op: &str) {
    let x = c.any(&[Ty::F32], 0..=4);
    c.node(op, &[Some(&x)], vec![], &[(Ty::U8, x.shape.clone()), (Ty::F32, vec![]), (Ty::U8, vec![])]);
}
