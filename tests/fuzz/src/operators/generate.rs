//! Operators that make values from sizes.

use crate::case::{Case, float, floats, int, ints, tensor};
use crate::values::{ALL, Data, Ty};

pub fn constant(c: &mut Case, op: &str) {
    let list = {
        let count = c.below(5);
        c.dims(count)
    };
    let list: Vec<i64> = list.iter().map(|v| c.n(*v)).collect();
    let count = list.len() as i64;
    let (attribute, ty, shape) = match c.below(5) {
        0 => (int("value_int", c.n(3)), Ty::I64, vec![]),
        1 => (float("value_float", c.f(3.0)), Ty::F32, vec![]),
        2 => (ints("value_ints", &list), Ty::I64, vec![count]),
        3 => (floats("value_floats", &[c.f(1.0), c.f(2.0)]), Ty::F32, vec![2]),
        _ => {
            let ty = c.pick(&ALL);
            (tensor("value", ty, &[count], &Data::Ints(list)), ty, vec![count])
        }
    };
    c.node(op, &[], vec![attribute], &[(ty, shape)]);
}

pub fn constant_of_shape(c: &mut Case, op: &str) {
    let shape = {
        let rank = c.below(5);
        c.dims(rank)
    };
    let to = c.shape(&shape);
    let ty = c.pick(&ALL);
    let value = c.n(3);
    let attributes =
        if c.chance(0.7) { vec![tensor("value", ty, &[1], &Data::Ints(vec![value]))] } else { vec![] };
    let ty = if attributes.is_empty() { Ty::F32 } else { ty };
    c.node(op, &[Some(&to)], attributes, &[(ty, shape)]);
}

pub fn range(c: &mut Case, op: &str) {
    let (start, step) = (c.within(-5..=5), c.pick(&[1, 2, -1, 3]));
    let end = start + step * c.within(0..=9);
    let ty = c.pick(&[Ty::I64, Ty::I32, Ty::F32]);
    let inputs = [start, end, step].map(|v| {
        let data = if ty == Ty::F32 { Data::Floats(vec![c.f(v as f32)]) } else { Data::Ints(vec![c.n(v)]) };
        c.given(ty, &[], data)
    });
    c.node(op, &inputs.each_ref().map(Some), vec![], &[(ty, vec![(end - start) / step])]);
}

pub fn random(c: &mut Case, op: &str) {
    let shape = {
        let rank = c.below(4);
        c.dims(rank)
    };
    let given: Vec<i64> = shape.iter().map(|d| c.n(*d)).collect();
    let spread = if op == "RandomNormal" { "scale" } else { "high" };
    let attributes = vec![ints("shape", &given), float("seed", c.f(7.0)), float(spread, c.f(2.0))];
    c.node(op, &[], attributes, &[(Ty::F32, shape)]);
}

pub fn random_like(c: &mut Case, op: &str) {
    let x = c.any(&ALL, 0..=4);
    let attributes = vec![float("seed", c.f(7.0))];
    c.node(op, &[Some(&x)], attributes, &[(Ty::F32, x.shape.clone())]);
}

pub fn multinomial(c: &mut Case, op: &str) {
    let x = c.any(&[Ty::F32], 2..=2);
    let count = c.within(1..=9);
    let attributes = vec![int("sample_size", c.n(count)), float("seed", c.f(7.0))];
    let rows = x.shape.first().copied().unwrap_or(1);
    c.node(op, &[Some(&x)], attributes, &[(Ty::I32, vec![rows, count])]);
}
