//! Operators that move elements and do not compute.

use super::elementwise::NUMBERS;
use crate::case::{Case, Value, float, int, ints, string};
use crate::values::{ALL, Ty};

fn product(shape: &[i64]) -> i64 {
    shape.iter().fold(1, |n, d| n.saturating_mul(*d))
}

/// Axes, sizes and the like: an input, or an attribute as older versions have it.
fn steer(c: &mut Case, name: &str, list: &[i64], attributes: &mut Vec<crate::Attribute>) -> Option<Value> {
    if c.chance(0.75) {
        return Some(c.ints(list));
    }
    let list: Vec<i64> = list.iter().map(|v| c.n(*v)).collect();
    attributes.push(ints(name, &list));
    None
}

pub fn reshape(c: &mut Case, op: &str) {
    let x = c.any(&ALL, 0..=4);
    let total = product(&x.shape);
    let divisor = (2..=9).find(|d| total % d == 0).unwrap_or(1);
    let to = match c.below(6) {
        0 => vec![-1],
        1 => vec![total],
        2 => vec![divisor, -1],
        3 => vec![1, -1, 1],
        4 => x.shape.iter().rev().copied().collect(),
        _ => vec![0; x.shape.len()],
    };
    let to = c.shape(&to);
    let attributes = if c.chance(0.3) { vec![int("allowzero", c.n(1))] } else { vec![] };
    c.node(op, &[Some(&x), Some(&to)], attributes, &[(x.ty, vec![total])]);
}

pub fn flatten(c: &mut Case, op: &str) {
    let x = c.any(&NUMBERS, 0..=5);
    let axis = c.axis(x.rank() + 1);
    let at = axis.rem_euclid(x.rank() + 1) as usize;
    let shape =
        vec![product(&x.shape[..at.min(x.shape.len())]), product(x.shape.get(at..).unwrap_or_default())];
    let attributes = vec![int("axis", c.n(axis))];
    c.node(op, &[Some(&x)], attributes, &[(x.ty, shape)]);
}

pub fn squeeze(c: &mut Case, op: &str) {
    let mut shape = c.dims(4);
    let axis = c.below(4);
    shape[axis as usize] = 1;
    let x = c.of(Ty::F32, &shape);
    shape.remove(axis as usize);
    let mut attributes = vec![];
    let axes = steer(c, "axes", &[axis], &mut attributes);
    c.node(op, &[Some(&x), axes.as_ref()], attributes, &[(x.ty, shape)]);
}

pub fn unsqueeze(c: &mut Case, op: &str) {
    let x = c.any(&NUMBERS, 0..=4);
    let axes: Vec<i64> = (0..=c.below(2)).map(|i| (x.rank() - i).max(0)).collect();
    let mut shape = x.shape.clone();
    shape.insert(0, 1);
    let mut attributes = vec![];
    let axes = steer(c, "axes", &axes, &mut attributes);
    c.node(op, &[Some(&x), axes.as_ref()], attributes, &[(x.ty, shape)]);
}

pub fn transpose(c: &mut Case, op: &str) {
    let x = c.any(&ALL, 0..=5);
    if c.chance(0.3) {
        let shape = x.shape.iter().rev().copied().collect();
        c.node(op, &[Some(&x)], vec![], &[(x.ty, shape)]);
        return;
    }
    let mut order: Vec<i64> = (0..x.rank()).collect();
    for i in (1..order.len()).rev() {
        let j = c.below(i as i64 + 1) as usize;
        order.swap(i, j);
    }
    let shape = order.iter().map(|i| x.shape[*i as usize]).collect();
    let order: Vec<i64> = order.iter().map(|i| c.n(*i)).collect();
    c.node(op, &[Some(&x)], vec![ints("perm", &order)], &[(x.ty, shape)]);
}

pub fn expand(c: &mut Case, op: &str) {
    let shape = {
        let rank = c.below(5);
        c.dims(rank)
    };
    let narrow = c.broadcast(&shape);
    let ty = c.ty(&ALL);
    let x = c.of(ty, &narrow);
    let to = c.shape(&shape);
    c.node(op, &[Some(&x), Some(&to)], vec![], &[(x.ty, shape)]);
}

pub fn tile(c: &mut Case, op: &str) {
    let x = c.any(&NUMBERS, 0..=4);
    let repeats: Vec<i64> = x.shape.iter().map(|_| c.pick(&[1, 1, 2, 3, 0])).collect();
    let shape = x.shape.iter().zip(&repeats).map(|(d, r)| d.saturating_mul(*r)).collect();
    let repeats = c.shape(&repeats);
    c.node(op, &[Some(&x), Some(&repeats)], vec![], &[(x.ty, shape)]);
}

pub fn slice(c: &mut Case, op: &str) {
    let x = c.any(&ALL, 1..=4);
    let axes: Vec<i64> = (0..x.rank()).filter(|_| c.chance(0.5)).collect();
    let back = c.chance(0.3);
    let (mut starts, mut ends, mut steps) = (vec![], vec![], vec![]);
    let mut shape = x.shape.clone();
    for axis in &axes {
        let size = x.shape[*axis as usize];
        let start = c.below(size);
        if back {
            starts.push(-1);
            ends.push(c.pick(&[i64::MIN + 1, -size - 1, i64::from(i32::MIN)]));
            steps.push(c.pick(&[-1, -2, -3]));
        } else {
            starts.push(start);
            ends.push(c.pick(&[size, i64::MAX, start + 1, -1]));
            steps.push(c.pick(&[1, 1, 2, 3]));
            shape[*axis as usize] = size - start;
        }
    }
    let output = [(x.ty, shape)];
    if c.chance(0.15) {
        let attributes = vec![ints("starts", &starts), ints("ends", &ends), ints("axes", &axes)];
        c.node(op, &[Some(&x)], attributes, &output);
        return;
    }
    let [starts, ends, axes, steps] = [starts, ends, axes, steps].map(|list| c.ints(&list));
    c.node(op, &[Some(&x), Some(&starts), Some(&ends), Some(&axes), Some(&steps)], vec![], &output);
}

pub fn split(c: &mut Case, op: &str) {
    let x = c.any(&NUMBERS, 1..=4);
    let axis = c.axis(x.rank());
    let place = axis.rem_euclid(x.rank().max(1)) as usize;
    let size = x.shape.get(place).copied().unwrap_or(1);
    let first = c.below(size + 1);
    let mut attributes = vec![int("axis", c.n(axis))];
    let mut sizes = None;
    if c.chance(0.7) {
        sizes = steer(c, "split", &[first, size - first], &mut attributes);
    } else {
        attributes.push(int("num_outputs", c.n(2)));
    }
    let of = |n: i64| {
        let mut shape = x.shape.clone();
        if let Some(d) = shape.get_mut(place) {
            *d = n
        }
        (x.ty, shape)
    };
    c.node(op, &[Some(&x), sizes.as_ref()], attributes, &[of(first), of(size - first)]);
}

pub fn concat(c: &mut Case, op: &str) {
    let x = c.any(&ALL, 1..=4);
    let axis = c.axis(x.rank());
    let place = axis.rem_euclid(x.rank().max(1)) as usize;
    let mut all = vec![x.clone()];
    let mut shape = x.shape.clone();
    for _ in 0..c.below(4) {
        let mut other = x.shape.clone();
        if let (Some(d), Some(sum)) = (other.get_mut(place), shape.get_mut(place)) {
            *d = c.dim();
            *sum += *d;
        }
        all.push(c.of(x.ty, &other));
    }
    let inputs: Vec<_> = all.iter().map(Some).collect();
    let attributes = vec![int("axis", c.n(axis))];
    c.node(op, &inputs, attributes, &[(x.ty, shape)]);
}

pub fn pad(c: &mut Case, op: &str) {
    let x = c.any(&NUMBERS, 1..=4);
    let mode = c.s(&["constant", "constant", "reflect", "edge", "wrap"]);
    let axes: Vec<i64> = (0..x.rank()).filter(|_| c.chance(0.6)).collect();
    let some = c.chance(0.4);
    let count = if some { axes.len() } else { x.shape.len() };
    let pads: Vec<i64> = (0..count * 2).map(|_| c.pick(&[0, 0, 1, 2, -1])).collect();
    let shape = x.shape.iter().map(|d| d + 1).collect();
    let mut attributes = vec![string("mode", mode)];
    if c.chance(0.15) {
        let pads: Vec<i64> = pads.iter().map(|p| c.n(*p)).collect();
        attributes.extend([ints("pads", &pads), float("value", c.f(1.0))]);
        c.node(op, &[Some(&x)], attributes, &[(x.ty, shape)]);
        return;
    }
    let pads = c.ints(&pads);
    let value = c.of(x.ty, &[]);
    let value = c.chance(0.5).then_some(value);
    let axes = if some { Some(c.ints(&axes)) } else { None };
    c.node(op, &[Some(&x), Some(&pads), value.as_ref(), axes.as_ref()], attributes, &[(x.ty, shape)]);
}

pub fn depth_to_space(c: &mut Case, op: &str) {
    let block = c.within(1..=3);
    let mut shape = c.dims(4);
    shape[1] = block * block * c.within(1..=3);
    let x = c.of(Ty::F32, &shape);
    let out = vec![shape[0], shape[1] / (block * block), shape[2] * block, shape[3] * block];
    let attributes = vec![int("blocksize", c.n(block)), string("mode", c.s(&["DCR", "CRD"]))];
    c.node(op, &[Some(&x)], attributes, &[(x.ty, out)]);
}

pub fn shape_of(c: &mut Case, op: &str) {
    let x = c.any(&ALL, 0..=5);
    if op == "Size" {
        c.node(op, &[Some(&x)], vec![], &[(Ty::I64, vec![])]);
        return;
    }
    let mut attributes = vec![];
    if c.chance(0.4) {
        attributes.extend([int("start", c.n(0)), int("end", c.n(x.rank()))]);
    }
    c.node(op, &[Some(&x)], attributes, &[(Ty::I64, vec![x.rank()])]);
}

pub fn triangle(c: &mut Case, op: &str) {
    let x = c.any(&NUMBERS, if op == "EyeLike" { 2..=2 } else { 2..=4 });
    let k = c.within(-2..=2);
    if op == "EyeLike" {
        let attributes = vec![int("k", c.n(k)), int("dtype", i64::from(x.ty.number()))];
        c.node(op, &[Some(&x)], attributes, &[(x.ty, x.shape.clone())]);
        return;
    }
    let k = c.int(k);
    let k = c.chance(0.8).then_some(k);
    let attributes = vec![int("upper", c.below(2))];
    c.node(op, &[Some(&x), k.as_ref()], attributes, &[(x.ty, x.shape.clone())]);
}

pub fn reverse(c: &mut Case, op: &str) {
    let x = c.any(&NUMBERS, 2..=4);
    let time = c.below(2);
    let size = |axis: i64| x.shape.get(axis as usize).copied().unwrap_or(1);
    let lengths: Vec<i64> = (0..size(1 - time)).map(|_| c.within(0..=size(time))).collect();
    let lengths = c.ints(&lengths);
    let attributes = vec![int("time_axis", c.n(time)), int("batch_axis", c.n(1 - time))];
    c.node(op, &[Some(&x), Some(&lengths)], attributes, &[(x.ty, x.shape.clone())]);
}
