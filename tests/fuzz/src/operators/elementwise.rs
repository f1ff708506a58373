//! One output element for one of each input.

use crate::case::{Case, Value, float, int, string};
use crate::values::Ty;

pub const NUMBERS: [Ty; 3] = [Ty::F32, Ty::I32, Ty::I64];

pub fn unary(c: &mut Case, op: &str) {
    let x = c.any(&[Ty::F32], 0..=4);
    c.node(op, &[Some(&x)], vec![], &[(x.ty, x.shape.clone())]);
}

pub fn unary_number(c: &mut Case, op: &str) {
    let x = c.any(&NUMBERS, 0..=4);
    c.node(op, &[Some(&x)], vec![], &[(x.ty, x.shape.clone())]);
}

pub fn unary_steered(c: &mut Case, op: &str) {
    let x = c.any(&[Ty::F32], 0..=4);
    let (alpha, beta) = (c.f(0.5), c.f(0.1));
    let attributes = match op {
        "Gelu" => vec![string("approximate", c.s(&["none", "tanh"]))],
        "HardSigmoid" => vec![float("alpha", alpha), float("beta", beta)],
        _ => vec![float("alpha", alpha)],
    };
    c.node(op, &[Some(&x)], attributes, &[(x.ty, x.shape.clone())]);
}

pub fn with_bias(c: &mut Case, op: &str) {
    let x = c.any(&[Ty::F32], 1..=4);
    let last = x.shape.last().copied().unwrap_or(1);
    let bias = c.of(Ty::F32, &[last]);
    let bias = (op.ends_with("BiasGelu") || c.chance(0.5)).then_some(bias);
    c.node(op, &[Some(&x), bias.as_ref()], vec![], &[(x.ty, x.shape.clone())]);
}

pub fn test(c: &mut Case, op: &str) {
    let x = c.any(&[if op == "Not" { Ty::Bool } else { Ty::F32 }], 0..=4);
    c.node(op, &[Some(&x)], vec![], &[(Ty::Bool, x.shape.clone())]);
}

/// A value, and one that broadcasts to it, in either order.
fn pair(c: &mut Case, types: &[Ty], swap: bool) -> (Value, Value) {
    let a = c.any(types, 0..=4);
    let shape = c.broadcast(&a.shape);
    let b = c.of(a.ty, &shape);
    if swap && c.chance(0.3) { (b, a) } else { (a, b) }
}

fn wider(a: &Value, b: &Value) -> Vec<i64> {
    if a.shape.len() < b.shape.len() || a.shape.contains(&1) { b.shape.clone() } else { a.shape.clone() }
}

pub fn binary(c: &mut Case, op: &str) {
    let types: &[Ty] = if op == "PRelu" { &[Ty::F32] } else { &NUMBERS };
    let (a, b) = pair(c, types, op != "PRelu");
    let attributes = match op {
        "Mod" => vec![int("fmod", c.n(i64::from(a.ty.is_float())))],
        _ => vec![],
    };
    let shape = wider(&a, &b);
    c.node(op, &[Some(&a), Some(&b)], attributes, &[(a.ty, shape)]);
}

pub fn compare(c: &mut Case, op: &str) {
    let (a, b) = pair(c, &NUMBERS, true);
    let shape = wider(&a, &b);
    c.node(op, &[Some(&a), Some(&b)], vec![], &[(Ty::Bool, shape)]);
}

pub fn logic(c: &mut Case, op: &str) {
    let (a, b) = pair(c, &[Ty::Bool], true);
    let shape = wider(&a, &b);
    c.node(op, &[Some(&a), Some(&b)], vec![], &[(Ty::Bool, shape)]);
}

pub fn variadic(c: &mut Case, op: &str) {
    let types: &[Ty] = if matches!(op, "Max" | "Min") { &NUMBERS } else { &[Ty::F32] };
    let first = c.any(types, 0..=4);
    let mut all = vec![first.clone()];
    for _ in 0..c.below(4) {
        let shape = c.broadcast(&first.shape);
        all.push(c.of(first.ty, &shape));
    }
    let inputs: Vec<_> = all.iter().map(Some).collect();
    c.node(op, &inputs, vec![], &[(first.ty, first.shape.clone())]);
}

pub fn choose(c: &mut Case, op: &str) {
    let (x, y) = pair(c, &NUMBERS, true);
    let shape = wider(&x, &y);
    let narrow = c.broadcast(&shape);
    let condition = c.of(Ty::Bool, &narrow);
    c.node(op, &[Some(&condition), Some(&x), Some(&y)], vec![], &[(x.ty, shape)]);
}

pub fn clip(c: &mut Case, op: &str) {
    let x = c.any(&NUMBERS, 0..=4);
    let output = [(x.ty, x.shape.clone())];
    if c.chance(0.3) && x.ty == Ty::F32 {
        let (min, max) = (c.f(-1.0), c.f(1.0));
        c.node(op, &[Some(&x)], vec![float("min", min), float("max", max)], &output);
        return;
    }
    let [min, max] = [(); 2].map(|()| c.of(x.ty, &[]));
    let (min, max) = (c.chance(0.8).then_some(min), c.chance(0.8).then_some(max));
    c.node(op, &[Some(&x), min.as_ref(), max.as_ref()], vec![], &output);
}

pub fn cast(c: &mut Case, op: &str) {
    let x = c.any(&crate::values::ALL, 0..=4);
    let to = c.pick(&crate::values::ALL);
    if op == "CastLike" {
        let like = c.of(to, &[2]);
        c.node(op, &[Some(&x), Some(&like)], vec![], &[(to, x.shape.clone())]);
    } else {
        let number = c.n(i64::from(to.number()));
        c.node(op, &[Some(&x)], vec![int("to", number)], &[(to, x.shape.clone())]);
    }
}

pub fn dropout(c: &mut Case, op: &str) {
    let x = c.any(&[Ty::F32], 0..=4);
    let ratio = c.float(0.4);
    let training = c.of(Ty::Bool, &[]);
    let training = c.chance(0.7).then_some(training);
    let mut outputs = vec![(Ty::F32, x.shape.clone())];
    if c.chance(0.4) {
        outputs.push((Ty::Bool, x.shape.clone()));
    }
    c.node(op, &[Some(&x), Some(&ratio), training.as_ref()], vec![int("seed", 7)], &outputs);
}
