//! Softmax and LogSoftmax as they were before opset 13.
//!
//! There, the input is seen as a matrix: all dimensions before `axis` (1, where it is not given) are its
//! rows, all from `axis` on its columns, and each row sums to one. The engine knows only today's meaning, one
//! dimension, the last by default, and would silently give other numbers. Where both mean the same the axis
//! is written out; elsewhere the matrix is built: Flatten, Softmax over the last dimension, Reshape back.

use crate::edit::{Editor, each_inner_graph, int_attribute, set_attribute};
use crate::onnx::*;
use std::collections::HashMap;
use std::convert::Infallible;

/// Rewrites a graph and the graphs in it; returns how many nodes had to be given another form.
pub fn rewrite(graph: &mut GraphProto, opset: i64) -> usize {
    if opset >= 13 {
        return 0;
    }
    let ranks = known_ranks(graph);
    let mut editor = Editor::new(graph);
    let mut changed = 0;
    for mut node in std::mem::take(&mut graph.node) {
        let Ok(()) = each_inner_graph(&mut node, |inner| -> Result<(), Infallible> {
            changed += rewrite(inner, opset);
            Ok(())
        });
        let softmax = node.is("Softmax") || node.is("LogSoftmax");
        if !softmax || node.input.len() != 1 || node.output.len() != 1 {
            editor.nodes.push(node);
            continue;
        }
        let axis = node.int("axis").unwrap_or(1);
        set_attribute(&mut node, int_attribute("axis", -1));
        if is_last(axis, ranks.get(&node.input[0]).copied()) {
            editor.nodes.push(node);
        } else {
            changed += 1;
            as_matrix(&mut editor, node, axis);
        }
    }
    graph.node = editor.nodes;
    changed
}

/// Whether the matrix has the last dimension alone as its columns.
fn is_last(axis: i64, rank: Option<usize>) -> bool {
    axis == -1 || rank.is_some_and(|rank| axis + 1 == rank as i64)
}

/// Four nodes for one, whose axis is set already.
fn as_matrix(editor: &mut Editor, mut softmax: NodeProto, axis: i64) {
    let (input, output) = (softmax.input[0].clone(), softmax.output[0].clone());
    let [shape, matrix, rows] = ["shape", "matrix", "rows"].map(|part| editor.fresh(&output, part));
    editor.add(&softmax, "Shape", &[&input], &[&shape], vec![]);
    editor.add(&softmax, "Flatten", &[&input], &[&matrix], vec![int_attribute("axis", axis)]);
    softmax.input = vec![matrix];
    softmax.output = vec![rows.clone()];
    editor.nodes.push(softmax.clone());
    editor.add(&softmax, "Reshape", &[&rows, &shape], &[&output], vec![]);
}

/// Ranks that the graph states; those of intermediate values are often missing.
fn known_ranks(graph: &GraphProto) -> HashMap<String, usize> {
    let mut ranks = HashMap::new();
    for value in graph.input.iter().chain(&graph.output).chain(&graph.value_info) {
        let Some(TypeValue::Tensor(tensor)) = value.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
            continue;
        };
        if let (Some(name), Some(shape)) = (&value.name, &tensor.shape) {
            ranks.insert(name.clone(), shape.dim.len());
        }
    }
    for tensor in &graph.initializer {
        if let Some(name) = &tensor.name {
            ranks.insert(name.clone(), tensor.dims.len());
        }
    }
    ranks
}
