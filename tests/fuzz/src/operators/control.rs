//! Operators with graphs in them, and on lists of tensors.

use super::elementwise::NUMBERS;
use crate::case::{Case, Value, graph, int};
use crate::values::{Data, Ty};

/// Graphs in graphs, at most.
const DEPTH_MAX: usize = 2;

/// A few nodes, the last of which gives the value.
fn body(c: &mut Case, x: &Value) -> Value {
    if c.depth() < DEPTH_MAX && c.chance(0.3) {
        super::add_any(c);
    }
    let shape = c.broadcast(&x.shape);
    let other = c.of(x.ty, &shape);
    let op = c.pick(&["Add", "Mul", "Sub", "Max"]);
    c.node(op, &[Some(x), Some(&other)], vec![], &[(x.ty, x.shape.clone())]).remove(0)
}

pub fn branch(c: &mut Case, op: &str) {
    let x = c.any(&NUMBERS, 0..=4);
    let condition = c.of(Ty::Bool, &[]);
    let [yes, no] = [(); 2].map(|()| c.graph(&[], |c| vec![body(c, &x)]));
    let attributes = vec![graph("then_branch", yes), graph("else_branch", no)];
    c.node(op, &[Some(&condition)], attributes, &[(x.ty, x.shape.clone())]);
}

pub fn repeat(c: &mut Case, op: &str) {
    let x = c.any(&NUMBERS, 0..=3);
    let count = c.within(0..=4);
    let trips = c.int(count);
    let go_on = c.given(Ty::Bool, &[], Data::Ints(vec![1]));
    let inner = |name: &str, ty, shape: &[i64]| Value { name: name.into(), ty, shape: shape.to_vec() };
    // Names are unique in the whole model, as graphs see those around them.
    let unique = format!("{}_{}", x.name, trips.name);
    let inputs = [
        inner(&format!("{unique}_step"), Ty::I64, &[]),
        inner(&format!("{unique}_go"), Ty::Bool, &[]),
        inner(&format!("{unique}_x"), x.ty, &x.shape),
    ];
    let scan = c.chance(0.5);
    let graph_of = c.graph(&inputs, |c| {
        let next = body(c, &inputs[2]);
        let go = c.node("Identity", &[Some(&inputs[1])], vec![], &[(Ty::Bool, vec![])]).remove(0);
        let mut outputs = vec![go, next.clone()];
        if scan {
            outputs.push(next);
        }
        outputs
    });
    let mut outputs = vec![(x.ty, x.shape.clone())];
    if scan {
        let mut shape = vec![count];
        shape.extend(&x.shape);
        outputs.push((x.ty, shape));
    }
    c.node(op, &[Some(&trips), Some(&go_on), Some(&x)], vec![graph("body", graph_of)], &outputs);
}

/// A list is made, changed, and read, by the operator that is asked for and others.
pub fn sequence(c: &mut Case, op: &str) {
    let x = c.any(&NUMBERS, 1..=3);
    let y = c.of(x.ty, &x.shape);
    let add = |c: &mut Case, op: &str, inputs: &[Option<&Value>], attributes| {
        let list = c.node(op, inputs, attributes, &[(x.ty, vec![])]).remove(0);
        c.forget(&list);
        list
    };
    let makers = ["SequenceConstruct", "SequenceEmpty", "SplitToSequence"];
    let maker = if makers.contains(&op) { op } else { c.pick(&makers) };
    let mut list = match maker {
        "SequenceConstruct" => add(c, maker, &[Some(&x), Some(&y)], vec![]),
        "SequenceEmpty" => add(c, maker, &[], vec![int("dtype", i64::from(x.ty.number()))]),
        _ => {
            let axis = c.axis(x.rank());
            let size = x.shape.get(axis.rem_euclid(x.rank().max(1)) as usize).copied().unwrap_or(1);
            let first = c.within(0..=size.max(0));
            let by = match c.below(3) {
                0 => Some(c.ints(&[first, size - first])),
                1 => Some(c.int(2)),
                _ => None,
            };
            let attributes = vec![int("axis", c.n(axis)), int("keepdims", c.below(2))];
            add(c, maker, &[Some(&x), by.as_ref()], attributes)
        }
    };
    if matches!(op, "SequenceInsert" | "SequenceErase") || maker == "SequenceEmpty" || c.chance(0.3) {
        let place = c.int(0);
        let place = c.chance(0.7).then_some(place);
        list = if op == "SequenceErase" {
            add(c, op, &[Some(&list), place.as_ref()], vec![])
        } else {
            add(c, "SequenceInsert", &[Some(&list), Some(&y), place.as_ref()], vec![])
        };
    }
    let readers = ["SequenceAt", "SequenceLength", "ConcatFromSequence"];
    match if readers.contains(&op) { op } else { c.pick(&readers) } {
        "SequenceAt" => {
            let place = c.int(0);
            c.node("SequenceAt", &[Some(&list), Some(&place)], vec![], &[(x.ty, x.shape.clone())]);
        }
        "SequenceLength" => {
            c.node("SequenceLength", &[Some(&list)], vec![], &[(Ty::I64, vec![])]);
        }
        _ => {
            let axis = c.axis(x.rank());
            let attributes = vec![int("axis", c.n(axis)), int("new_axis", c.below(2))];
            c.node("ConcatFromSequence", &[Some(&list)], attributes, &[(x.ty, x.shape.clone())]);
        }
    }
}
