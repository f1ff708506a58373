//! Operators whose inputs are places in others.

use super::elementwise::NUMBERS;
use crate::case::{Case, Value, int, string};
use crate::values::Ty;

fn size(x: &Value, axis: i64) -> i64 {
    x.shape.get(axis.rem_euclid(x.rank().max(1)) as usize).copied().unwrap_or(1)
}

pub fn gather(c: &mut Case, op: &str) {
    let x = c.any(&NUMBERS, 1..=4);
    let axis = c.axis(x.rank());
    let shape = {
        let rank = c.below(3);
        c.dims(rank)
    };
    let places = c.indices(&shape, size(&x, axis));
    let attributes = if axis == 0 && c.chance(0.5) { vec![] } else { vec![int("axis", c.n(axis))] };
    let at = axis.rem_euclid(x.rank().max(1)) as usize;
    let mut out = x.shape.clone();
    if at < out.len() {
        out.splice(at..=at, shape);
    }
    c.node(op, &[Some(&x), Some(&places)], attributes, &[(x.ty, out)]);
}

const REDUCTIONS: [&str; 5] = ["none", "add", "mul", "min", "max"];

pub fn elements(c: &mut Case, op: &str) {
    let x = c.any(&NUMBERS, 1..=4);
    let axis = c.axis(x.rank());
    let shape: Vec<i64> =
        x.shape.iter().map(|d| if c.chance(0.5) { *d } else { c.within(0..=(*d).max(0)) }).collect();
    let places = c.indices(&shape, size(&x, axis));
    let mut attributes = vec![int("axis", c.n(axis))];
    if op == "GatherElements" {
        c.node(op, &[Some(&x), Some(&places)], attributes, &[(x.ty, shape)]);
        return;
    }
    if op == "ScatterElements" && c.chance(0.7) {
        attributes.push(string("reduction", c.s(&REDUCTIONS)));
    }
    let updates = c.of(x.ty, &shape);
    c.node(op, &[Some(&x), Some(&places), Some(&updates)], attributes, &[(x.ty, x.shape.clone())]);
}

pub fn places(c: &mut Case, op: &str) {
    let x = c.any(&NUMBERS, 1..=4);
    let batch = if op == "GatherND" && c.chance(0.4) { c.below(x.rank()) } else { 0 };
    let k = c.within(1..=(x.rank() - batch).max(1));
    let mut shape: Vec<i64> = x.shape[..(batch as usize).min(x.shape.len())].to_vec();
    shape.push(c.dim());
    let mut out = shape.clone();
    out.extend(x.shape.get((batch + k) as usize..).unwrap_or_default());
    shape.push(k);
    let end = x.shape.iter().copied().min().unwrap_or(1);
    let indices = c.indices(&shape, end);
    if op == "GatherND" {
        let attributes = vec![int("batch_dims", c.n(batch))];
        c.node(op, &[Some(&x), Some(&indices)], attributes, &[(x.ty, out)]);
        return;
    }
    let updates = c.of(x.ty, &out);
    let attributes = if c.chance(0.6) { vec![string("reduction", c.s(&REDUCTIONS))] } else { vec![] };
    c.node(op, &[Some(&x), Some(&indices), Some(&updates)], attributes, &[(x.ty, x.shape.clone())]);
}

pub fn one_hot(c: &mut Case, op: &str) {
    let shape = {
        let rank = c.below(4);
        c.dims(rank)
    };
    let depth = c.within(1..=9);
    let places = c.indices(&shape, depth);
    let size = c.int(depth);
    let ty = c.ty(&NUMBERS);
    let values = c.of(ty, &[2]);
    let axis = c.axis(shape.len() as i64 + 1);
    let mut out = shape.clone();
    out.insert(axis.rem_euclid(shape.len() as i64 + 1) as usize, depth);
    let attributes = vec![int("axis", c.n(axis))];
    c.node(op, &[Some(&places), Some(&size), Some(&values)], attributes, &[(ty, out)]);
}

pub fn boxes(c: &mut Case, op: &str) {
    let count = c.dim();
    let boxes = c.of(Ty::F32, &[1, count, 4]);
    // The host takes it with one image and class alone, and wants that stated.
    let scores = c.stated(Ty::F32, &[1, 1, count]);
    let most = c.int(5);
    let (overlap, score) = (c.float(0.5), c.float(0.1));
    let attributes = vec![int("center_point_box", c.below(2))];
    let inputs = [Some(&boxes), Some(&scores), Some(&most), Some(&overlap), Some(&score)];
    let given = c.within(2..=5) as usize;
    c.node(op, &inputs[..given], attributes, &[(Ty::I64, vec![count, 3])]);
}
