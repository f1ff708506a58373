//! Operators along some dimensions of one input.

use super::elementwise::NUMBERS;
use crate::case::{Case, Value, float, int, ints};
use crate::values::Ty;

/// A shape with a dimension taken out, or left as `left`.
fn at(shape: &[i64], axis: i64, left: Option<i64>) -> Vec<i64> {
    let place = if axis < 0 { axis + shape.len() as i64 } else { axis };
    let keep = |(i, d): (usize, &i64)| if i as i64 == place { left } else { Some(*d) };
    shape.iter().enumerate().filter_map(keep).collect()
}

fn last(x: &Value) -> i64 {
    x.shape.last().copied().unwrap_or(1)
}

pub fn reduce(c: &mut Case, op: &str) {
    let whole =
        matches!(op, "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceSum" | "ReduceSumSquare" | "ReduceL1");
    let x = c.any(if whole { &NUMBERS } else { &[Ty::F32] }, 0..=5);
    let keep = c.chance(0.5);
    let mut axes: Vec<i64> = (0..x.rank()).filter(|_| c.chance(0.4)).collect();
    if c.chance(0.3) {
        axes.iter_mut().for_each(|a| *a -= x.rank());
    }
    let mut shape = x.shape.clone();
    for axis in axes.iter().rev() {
        shape = at(&shape, if *axis < 0 { *axis + x.rank() } else { *axis }, keep.then_some(1));
    }
    let mut attributes = vec![int("keepdims", c.n(i64::from(keep)))];
    if c.chance(0.3) {
        attributes.push(int("noop_with_empty_axes", c.n(1)));
    }
    let mut given = None;
    if c.chance(0.5) {
        given = Some(c.ints(&axes));
    } else if c.chance(0.8) {
        let axes: Vec<i64> = axes.iter().map(|a| c.n(*a)).collect();
        attributes.push(ints("axes", &axes));
    }
    c.node(op, &[Some(&x), given.as_ref()], attributes, &[(x.ty, shape)]);
}

pub fn place(c: &mut Case, op: &str) {
    let x = c.any(&NUMBERS, 1..=4);
    let axis = c.axis(x.rank());
    let keep = c.chance(0.5);
    let shape = at(&x.shape, axis, keep.then_some(1));
    let attributes = vec![int("axis", c.n(axis)), int("keepdims", c.n(i64::from(keep)))];
    c.node(op, &[Some(&x)], attributes, &[(Ty::I64, shape)]);
}

pub fn running_sum(c: &mut Case, op: &str) {
    let x = c.any(&NUMBERS, 1..=4);
    let axis = c.axis(x.rank());
    let axis = c.int(axis);
    let attributes = vec![int("exclusive", c.below(2)), int("reverse", c.below(2))];
    c.node(op, &[Some(&x), Some(&axis)], attributes, &[(x.ty, x.shape.clone())]);
}

pub fn top(c: &mut Case, op: &str) {
    let x = c.any(&NUMBERS, 1..=4);
    let axis = c.axis(x.rank());
    let size = x.shape.get(axis.rem_euclid(x.rank().max(1)) as usize).copied().unwrap_or(1);
    let k = c.within(0..=size.clamp(0, 100));
    let shape = at(&x.shape, axis, Some(k));
    let k = c.ints(&[k]);
    let attributes = vec![int("axis", c.n(axis)), int("largest", c.below(2)), int("sorted", c.below(2))];
    c.node(op, &[Some(&x), Some(&k)], attributes, &[(x.ty, shape.clone()), (Ty::I64, shape)]);
}

pub fn non_zero(c: &mut Case, op: &str) {
    let x = c.any(&[Ty::F32, Ty::I32, Ty::Bool], 0..=4);
    c.node(op, &[Some(&x)], vec![], &[(Ty::I64, vec![x.rank(), 1])]);
}

pub fn softmax(c: &mut Case, op: &str) {
    let x = c.any(&[Ty::F32], 1..=4);
    let axis = c.axis(x.rank());
    let mut attributes = vec![int("axis", c.n(axis))];
    if op == "LpNormalization" {
        let p = c.pick(&[1, 2]);
        attributes.push(int("p", c.n(p)));
    }
    c.node(op, &[Some(&x)], attributes, &[(x.ty, x.shape.clone())]);
}

pub fn layer_norm(c: &mut Case, op: &str) {
    let x = c.any(&[Ty::F32], 1..=4);
    let axis = c.axis(x.rank());
    let from = axis.rem_euclid(x.rank().max(1)) as usize;
    let scale = c.of(Ty::F32, x.shape.get(from..).unwrap_or_default());
    let bias = (op == "LayerNormalization" && c.chance(0.7))
        .then(|| c.of(Ty::F32, x.shape.get(from..).unwrap_or_default()));
    let attributes = vec![int("axis", c.n(axis)), float("epsilon", c.f(1e-5))];
    c.node(op, &[Some(&x), Some(&scale), bias.as_ref()], attributes, &[(x.ty, x.shape.clone())]);
}

pub fn skip_norm(c: &mut Case, op: &str) {
    let x = c.any(&[Ty::F32], 2..=3);
    let skip = c.of(Ty::F32, &x.shape);
    let [gamma, beta, bias] = [(); 3].map(|()| c.of(Ty::F32, &[last(&x)]));
    let (beta, bias) = (c.chance(0.6).then_some(beta), c.chance(0.6).then_some(bias));
    let attributes = vec![float("epsilon", c.f(1e-5))];
    let mut inputs = vec![Some(&x), Some(&skip), Some(&gamma)];
    if op.ends_with("SkipLayerNormalization") {
        inputs.push(beta.as_ref());
    }
    inputs.push(bias.as_ref());
    c.node(op, &inputs, attributes, &[(x.ty, x.shape.clone())]);
}

pub fn channel_norm(c: &mut Case, op: &str) {
    let x = c.any(&[Ty::F32], 2..=4);
    let channels = x.shape.get(1).copied().unwrap_or(1);
    let [scale, bias, mean, var] = [(); 4].map(|()| c.of(Ty::F32, &[channels]));
    let attributes = vec![float("epsilon", c.f(1e-5))];
    let mut inputs = vec![Some(&x), Some(&scale), Some(&bias)];
    if op == "BatchNormalization" {
        inputs.extend([Some(&mean), Some(&var)]);
    }
    c.node(op, &inputs, attributes, &[(x.ty, x.shape.clone())]);
}
