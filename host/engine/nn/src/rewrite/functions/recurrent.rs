//! GRU with `linear_before_reset = 0`, and RNN, step by step: for sequences whose length the model states.

use super::super::attributes::{output, refusal, text};
use super::super::build::FLOAT;
use super::{Body, Named};
use crate::PrepareError;
use crate::edit::{int_attribute, ints_attribute};

/// Operators of a step on the longest path.
const STEP_DEPTH: u64 = 10;

/// Weights of one gate in one direction.
struct Gate {
    /// [steps, batch, hidden]: the input's part, biases included.
    input: String,
    /// [hidden, hidden]
    recurrent: String,
}

/// Whether a GRU is one that the engine lacks.
pub fn is_missing(node: &crate::onnx::NodeProto) -> bool {
    node.op() == "RNN" || (node.op() == "GRU" && node.int("linear_before_reset").unwrap_or(0) == 0)
}

/// The node for all directions.
pub fn unrolled(body: &mut Body<'_, '_>) -> Result<(), PrepareError> {
    let gates: usize = if body.node.op() == "GRU" { 3 } else { 1 };
    let (x, r) = (body.input(0)?, body.input(2)?);
    let (x_shape, r_shape) = (body.build.known(&x).shape, body.build.known(&r).shape);
    let (Some(&[Some(steps), _, _]), Some(&[Some(directions), _, Some(hidden)])) =
        (x_shape.as_deref(), r_shape.as_deref())
    else {
        return Err(refusal(
            body.node,
            "the length of its sequences or the size of its weights is not stated",
        ));
    };
    let max = body.build.limits().depth_max / STEP_DEPTH;
    if steps == 0 || steps > max || !(1..=1 << 20).contains(&hidden) {
        return Err(refusal(body.node, &format!("its sequences have {steps} steps, of at most {max}")));
    }
    check(body, gates, directions)?;
    // What is stated is not believed: sequences of another length fail here.
    let x = body.build.reshape(body.node, &x, &[steps as i64, 0, 0])?;
    let backwards = |d: u64| d == 1 || text(body.node, "direction", "forward") == "reverse";
    let backwards: Vec<bool> = (0..directions).map(backwards).collect();
    let (mut all, mut last) = (Vec::new(), Vec::new());
    for (direction, backwards) in (0i64..).zip(backwards) {
        let states = direction_states(body, &x, gates, direction, backwards, steps as i64, hidden as i64)?;
        last.push(states[if backwards { 0 } else { states.len() - 1 }].clone());
        let states: Vec<&str> = states.iter().map(String::as_str).collect();
        all.push(body.along("Concat", &states, 0)?);
    }
    if let Some(name) = output(body.node, 1) {
        let last: Vec<&str> = last.iter().map(String::as_str).collect();
        body.build.put(body.node, "Concat", &last, name, vec![int_attribute("axis", 0)])?;
    }
    if let Some(name) = output(body.node, 0) {
        let mut parts = Vec::new();
        for states in all {
            parts.push(body.build.unsqueeze(body.node, &states, &[1])?);
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        body.build.state_element(name, FLOAT);
        body.build.put(body.node, "Concat", &parts, name, vec![int_attribute("axis", 1)])?;
    }
    Ok(())
}

fn check(body: &Body<'_, '_>, gates: usize, directions: u64) -> Result<(), PrepareError> {
    let node = body.node;
    let usual: &[&[u8]] = if gates == 3 { &[b"Sigmoid", b"Tanh"] } else { &[b"Tanh"] };
    let activations = node.attribute("activations").map_or(&[][..], |a| &a.strings);
    let other = activations.iter().zip(usual.iter().cycle()).any(|(given, usual)| given != usual);
    let why = if other {
        "its activations are not the usual ones"
    } else if node.attribute("clip").is_some() || node.int("layout").unwrap_or(0) != 0 {
        "clip and layout are not supported"
    } else if body.optional(4).is_some() {
        "sequence_lens is not supported"
    } else if (directions == 2) != (text(node, "direction", "forward") == "bidirectional") {
        "its weights are those of another number of directions"
    } else {
        return Ok(());
    };
    Err(refusal(node, why))
}

/// The hidden states of a direction, by step, each [1, batch, hidden].
fn direction_states(
    body: &mut Body<'_, '_>,
    x: &str,
    gates: usize,
    direction: i64,
    backwards: bool,
    steps: i64,
    hidden: i64,
) -> Result<Vec<String>, PrepareError> {
    let parts: Vec<Gate> = (0..gates as i64)
        .map(|gate| gate_of(body, x, gate, gates as i64, direction, hidden))
        .collect::<Result<_, _>>()?;
    let mut state = match body.optional(5) {
        Some(initial) => part(body, &initial, 0, direction, 1)?,
        None => {
            let (one, batch, size) = (body.ints(&[1])?, body.dims(x, 1, 2)?, body.ints(&[hidden])?);
            let shape = body.along("Concat", &[&one, &batch, &size], 0)?;
            let zero = body.float(0.0)?;
            body.op("Expand", &[&zero, &shape])?
        }
    };
    let mut states = vec![String::new(); steps as usize];
    for index in 0..steps {
        let step = if backwards { steps - 1 - index } else { index };
        state = if gates == 3 {
            let update = sum(body, &parts[0], step, &state)?;
            let update = body.op("Sigmoid", &[&update])?;
            let reset = sum(body, &parts[1], step, &state)?;
            let reset = body.op("Sigmoid", &[&reset])?;
            let kept = body.op("Mul", &[&reset, &state])?;
            let new = sum(body, &parts[2], step, &kept)?;
            let new = body.op("Tanh", &[&new])?;
            // (1 - update) new + update state
            let apart = body.op("Sub", &[&state, &new])?;
            let moved = body.op("Mul", &[&update, &apart])?;
            body.op("Add", &[&new, &moved])?
        } else {
            let sum = sum(body, &parts[0], step, &state)?;
            body.op("Tanh", &[&sum])?
        };
        states[step as usize] = state.clone();
    }
    Ok(states)
}

/// A part of a value along an axis: `count` elements from `from` on.
fn part(body: &mut Body<'_, '_>, value: &str, axis: i64, from: i64, count: i64) -> Named {
    let [from, to, axis] = [from, from + count, axis].map(|v| body.ints(&[v]));
    body.op("Slice", &[value, &from?, &to?, &axis?])
}

fn gate_of(
    body: &mut Body<'_, '_>,
    x: &str,
    gate: i64,
    gates: i64,
    direction: i64,
    hidden: i64,
) -> Result<Gate, PrepareError> {
    let turned = |body: &mut Body<'_, '_>, index: usize| -> Named {
        let weights = body.input(index)?;
        let weights = part(body, &weights, 0, direction, 1)?;
        let weights = part(body, &weights, 1, gate * hidden, hidden)?;
        let turned = body.op_with("Transpose", &[&weights], vec![ints_attribute("perm", vec![0, 2, 1])])?;
        let dims = if index == 2 { [hidden, hidden] } else { [-1, hidden] };
        body.build.reshape(body.node, &turned, &dims)
    };
    let (weights, recurrent) = (turned(body, 1)?, turned(body, 2)?);
    let mut input = body.op("MatMul", &[x, &weights])?;
    if let Some(biases) = body.optional(3) {
        let biases = part(body, &biases, 0, direction, 1)?;
        for of in [gate, gates + gate] {
            let bias = part(body, &biases, 1, of * hidden, hidden)?;
            input = body.op("Add", &[&input, &bias])?;
        }
    }
    Ok(Gate { input, recurrent })
}

/// A gate before its activation: [1, batch, hidden].
fn sum(body: &mut Body<'_, '_>, gate: &Gate, step: i64, state: &str) -> Named {
    let input = part(body, &gate.input, 0, step, 1)?;
    let product = body.op("MatMul", &[state, &gate.recurrent])?;
    body.op("Add", &[&input, &product])
}
