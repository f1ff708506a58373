//! Nodes that the library computes otherwise than ONNX says, or not at all, written as others.

use crate::PrepareError;
use crate::edit::{Editor, int_attribute, ints_attribute};
use crate::facts::Facts;
use crate::onnx::*;
use crate::table::Place;

/// Adds a node, or those that stand for it.
///
/// # Errors
/// A node that can be given no other form.
pub fn add(editor: &mut Editor, node: NodeProto, opset: i64, facts: &Facts) -> Result<(), PrepareError> {
    let refuse = |reason: &str| Err(Place { node: &node, label: node.label().to_owned() }.refuse(reason));
    let is_whole = !node.input.is_empty() && node.output.first().is_some_and(|name| !name.is_empty());
    if !is_whole || !node.op_domain().is_empty() {
        editor.nodes.push(node);
        return Ok(());
    }
    let element = |i: usize| facts.input(&node, i).and_then(|f| f.element);
    match node.op() {
        "NonZero" if facts.rank(&node, 0).is_none_or(|rank| rank == 0) => {
            if opset < 10 {
                return refuse("the number of dimensions of the input is 0, or not known at deploy");
            }
            places(editor, node);
        }
        "ReduceSum" if element(0) == Some(Element::Int64) => sum(editor, node),
        "Slice" if may_go_backwards(&node, facts) => match element(2) {
            Some(element @ (Element::Int64 | Element::Int32)) if opset >= 12 => slice(editor, node, element),
            _ => {
                return refuse(
                    "with a negative step the ends have to be constants, none of them the largest integer",
                );
            }
        },
        "RNN" | "GRU" | "LSTM" if node.int("layout") == Some(1) => rows_first(editor, node),
        _ => editor.nodes.push(node),
    }
    Ok(())
}

/// The largest numbers that the library takes for "to the end" also where a slice goes backwards.
const ENDS: [i64; 2] = [i32::MAX as i64, i64::MAX];

/// Whether an end of a slice may be one of [`ENDS`] where its step is negative.
fn may_go_backwards(node: &NodeProto, facts: &Facts) -> bool {
    let is_forward = |steps: &[i64]| steps.iter().all(|step| *step > 0);
    let is_given = node.input.get(4).is_some_and(|name| !name.is_empty());
    if !is_given || facts.ints(node, 4).is_some_and(is_forward) {
        return false;
    }
    facts.ints(node, 2).is_none_or(|ends| ends.iter().any(|end| ENDS.contains(end)))
}

/// Ends beyond all dimensions are made the largest number but one.
fn slice(editor: &mut Editor, mut node: NodeProto, element: Element) {
    let (end, most) = (editor.fresh(&node.output[0], "end"), editor.fresh(&node.output[0], "most"));
    constant(editor, &node, &most, &[], element, ENDS[0] - 1);
    editor.add(&node, "Min", &[&node.input[2], &most], &[&end], vec![]);
    node.input[2] = end;
    editor.nodes.push(node);
}

/// The library reads recurrent layers only with the steps before the rows.
fn rows_first(editor: &mut Editor, mut node: NodeProto) {
    node.attribute.retain(|a| a.name.as_deref() != Some("layout"));
    let of = node.clone();
    let transpose = |editor: &mut Editor, from: &str, to: &str, order: &[i64]| {
        editor.add(&of, "Transpose", &[from], &[to], vec![ints_attribute("perm", order.to_vec())]);
    };
    let label = node.output[0].clone();
    // The data, and the states at the start.
    for i in [0, 5, 6] {
        let Some(name) = node.input.get_mut(i).filter(|name| !name.is_empty()) else { continue };
        let turned = editor.fresh(&label, "turned");
        transpose(editor, name, &turned, &[1, 0, 2]);
        *name = turned;
    }
    let mut after = Vec::new();
    for (i, name) in node.output.iter_mut().enumerate().filter(|(_, name)| !name.is_empty()) {
        let turned = editor.fresh(&label, "turned");
        after.push((i, turned.clone(), std::mem::replace(name, turned)));
    }
    editor.nodes.push(node);
    for (i, from, to) in after {
        transpose(editor, &from, &to, if i == 0 { &[2, 0, 1, 3] } else { &[1, 0, 2] });
    }
}

/// Of a scalar the library gives a row of places, where ONNX says none: as many rows as there are dimensions
/// are kept.
fn places(editor: &mut Editor, mut node: NodeProto) {
    let (input, output) = (node.input[0].clone(), node.output[0].clone());
    let [all, shape, rank, zero] = ["all", "shape", "rank", "zero"].map(|part| editor.fresh(&output, part));
    editor.add(&node, "Shape", &[&input], &[&shape], vec![]);
    editor.add(&node, "Shape", &[&shape], &[&rank], vec![]);
    constant(editor, &node, &zero, &[1], Element::Int64, 0);
    node.output[0] = all.clone();
    editor.nodes.push(node.clone());
    editor.add(&node, "Slice", &[&all, &zero, &rank, &zero], &[&output], vec![]);
}

/// The library sums integers of 64 bits as doubles. The sums of their halves are exact, as long as there are
/// fewer than two million.
fn sum(editor: &mut Editor, mut node: NodeProto) {
    let (input, output) = (node.input[0].clone(), node.output[0].clone());
    let mut name = |part: &str| editor.fresh(&output, part);
    let [base, high, without, low] = ["base", "high", "without", "low"].map(&mut name);
    let [high_sum, low_sum, scaled] = ["high_sum", "low_sum", "scaled"].map(&mut name);
    constant(editor, &node, &base, &[], Element::Int64, 1 << 32);
    editor.add(&node, "Div", &[&input, &base], &[&high], vec![]);
    editor.add(&node, "Mul", &[&high, &base], &[&without], vec![]);
    editor.add(&node, "Sub", &[&input, &without], &[&low], vec![]);
    let whole = node.label().to_owned();
    for (part, sum) in [(&high, &high_sum), (&low, &low_sum)] {
        node.input[0].clone_from(part);
        node.output[0].clone_from(sum);
        node.name = Some(format!("{whole} ({sum})"));
        editor.nodes.push(node.clone());
    }
    node.name = Some(whole);
    editor.add(&node, "Mul", &[&high_sum, &base], &[&scaled], vec![]);
    editor.add(&node, "Add", &[&scaled, &low_sum], &[&output], vec![]);
}

/// A node with a constant of one integer, in a form that all operator sets have.
pub fn constant(editor: &mut Editor, of: &NodeProto, name: &str, dims: &[i64], element: Element, value: i64) {
    let data = match element {
        Element::Int32 => (value as i32).to_le_bytes().to_vec(),
        Element::Uint8 => vec![value as u8],
        _ => value.to_le_bytes().to_vec(),
    };
    let tensor = TensorProto {
        dims: dims.to_vec(),
        data_type: i32::try_from(element.number()).ok(),
        raw_data: Some(data.into()),
        ..TensorProto::default()
    };
    let value =
        AttributeProto { t: Some(tensor), r#type: Some(ATTRIBUTE_TENSOR), ..int_attribute("value", 0) };
    editor.add(of, "Constant", &[], &[name], vec![AttributeProto { i: None, ..value }]);
}
