//! Softmax and LogSoftmax as they were before opset 13.
//!
//! There, the input is seen as a matrix: all dimensions before `axis` (1, where it is not given) are its rows, all from
//! `axis` on its columns, and each row sums to one. The engine knows only today's meaning, one dimension, the last by
//! default, and would silently give other numbers. Where both mean the same the axis is written out; elsewhere the
//! matrix is built: Flatten, Softmax over the last dimension, Reshape back.

use crate::onnx::*;
use std::collections::{HashMap, HashSet};

/// Rewrites a graph and the graphs in it; returns how many nodes had to be given another form.
pub fn rewrite(graph: &mut GraphProto, opset: i64) -> usize {
    if opset >= 13 {
        return 0;
    }
    let ranks = known_ranks(graph);
    let mut taken: HashSet<String> = graph.node.iter().flat_map(|n| n.output.iter().cloned()).collect();
    taken.extend(graph.initializer.iter().filter_map(|t| t.name.clone()));
    taken.extend(graph.input.iter().filter_map(|i| i.name.clone()));
    let mut changed = 0;
    let mut nodes = Vec::with_capacity(graph.node.len());
    for mut node in std::mem::take(&mut graph.node) {
        for attribute in &mut node.attribute {
            for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                changed += rewrite(graph, opset);
            }
        }
        let softmax = matches!(node.op(), "Softmax" | "LogSoftmax") && node.op_domain().is_empty();
        if !softmax || node.input.len() != 1 || node.output.len() != 1 {
            nodes.push(node);
            continue;
        }
        let axis = node.attribute("axis").and_then(|a| a.i).unwrap_or(1);
        set_axis(&mut node, -1);
        if is_last(axis, ranks.get(&node.input[0]).copied()) {
            nodes.push(node);
        } else {
            changed += 1;
            nodes.extend(as_matrix(node, axis, &mut taken));
        }
    }
    graph.node = nodes;
    changed
}

/// Whether the matrix has the last dimension alone as its columns.
fn is_last(axis: i64, rank: Option<usize>) -> bool {
    axis == -1 || rank.is_some_and(|rank| axis + 1 == rank as i64)
}

fn set_axis(node: &mut NodeProto, axis: i64) {
    node.attribute.retain(|a| a.name.as_deref() != Some("axis"));
    node.attribute.push(int_attribute("axis", axis));
}

fn int_attribute(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        i: Some(value),
        r#type: Some(ATTRIBUTE_INT),
        ..AttributeProto::default()
    }
}

/// Four nodes for one; `softmax` has its axis set already.
fn as_matrix(mut softmax: NodeProto, axis: i64, taken: &mut HashSet<String>) -> [NodeProto; 4] {
    let (input, output) = (softmax.input[0].clone(), softmax.output[0].clone());
    let [shape, matrix, rows] = ["shape", "matrix", "rows"].map(|part| fresh(&output, part, taken));
    let node = |op: &str, input: Vec<String>, output: &str| NodeProto {
        name: Some(format!("{} ({op})", softmax.label())),
        op_type: Some(op.into()),
        input,
        output: vec![output.to_owned()],
        ..NodeProto::default()
    };
    let shape_of = node("Shape", vec![input.clone()], &shape);
    let mut flatten = node("Flatten", vec![input], &matrix);
    flatten.attribute.push(int_attribute("axis", axis));
    let reshape = node("Reshape", vec![rows.clone(), shape], &output);
    softmax.input = vec![matrix];
    softmax.output = vec![rows];
    [shape_of, flatten, softmax, reshape]
}

fn fresh(output: &str, part: &str, taken: &mut HashSet<String>) -> String {
    let mut name = format!("{output}/{part}");
    while !taken.insert(name.clone()) {
        name.push('\'');
    }
    name
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
