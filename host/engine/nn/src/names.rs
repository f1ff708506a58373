//! Names for nodes that have none, so that every message can say which one it means.

use crate::onnx::*;
use std::collections::HashMap;

/// Gives each node without a name that of its operator and its number among those: `MatMul number 12`.
pub fn give(model: &mut ModelProto) {
    if let Some(graph) = &mut model.graph {
        in_graph(graph, &mut HashMap::new());
    }
}

/// Calls itself for graphs within graphs, which the decoder of the file allows 100 deep.
fn in_graph(graph: &mut GraphProto, counts: &mut HashMap<String, u64>) {
    for node in &mut graph.node {
        let op = node.op().to_owned();
        let count = counts.entry(op.clone()).or_default();
        *count += 1;
        if node.name.as_deref().is_none_or(str::is_empty) {
            node.name = Some(format!("{op} number {count}"));
        }
        for attribute in &mut node.attribute {
            for inner in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                in_graph(inner, counts);
            }
        }
    }
}
