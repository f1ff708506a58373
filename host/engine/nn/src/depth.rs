//! How deep a graph is: the operators on its longest path. The engine's planner calls itself once for each of
//! them.

use crate::onnx::{GraphProto, NodeProto};
use std::collections::HashMap;

/// Operators on the longest path of a sound graph. A path goes on into the graphs of an operator, and from
/// the values that these take from around them. Calls itself for graphs within graphs alone, whose nesting
/// was bounded before.
pub fn of(graph: &GraphProto) -> u64 {
    deepest(graph, None, 0)
}

/// Depths of the values of a graph so far. What is not there is a weight, or an input.
struct Scope<'a> {
    depths: HashMap<&'a str, u64>,
    outer: Option<&'a Scope<'a>>,
}

impl Scope<'_> {
    fn depth(&self, name: &str) -> u64 {
        let here = self.depths.get(name).copied();
        here.or_else(|| self.outer.map(|o| o.depth(name))).unwrap_or(0)
    }
}

/// `from` is the depth of what the graph's inputs are given.
fn deepest(graph: &GraphProto, outer: Option<&Scope<'_>>, from: u64) -> u64 {
    let inputs = graph.input.iter().filter_map(|input| input.name.as_deref());
    let mut scope = Scope { depths: inputs.map(|name| (name, from)).collect(), outer };
    let mut deepest = from;
    for node in &graph.node {
        let depth = 1 + before(node, &scope);
        deepest = deepest.max(depth);
        // An output that is left out has no name, as an input that is left out has none.
        let outputs = node.output.iter().filter(|name| !name.is_empty());
        scope.depths.extend(outputs.map(|name| (name.as_str(), depth)));
    }
    deepest
}

/// The deepest of what a node takes and of the graphs that it holds.
fn before(node: &NodeProto, scope: &Scope<'_>) -> u64 {
    let from = node.input.iter().map(|name| scope.depth(name)).max().unwrap_or(0);
    let graphs = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
    graphs.map(|graph| deepest(graph, Some(scope), from)).fold(from, u64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::AttributeProto;
    use crate::tests::build::{node, port};

    fn graph(node: Vec<NodeProto>) -> GraphProto {
        GraphProto { node, input: vec![port("x", 1, &[1])], ..GraphProto::default() }
    }

    #[test]
    fn the_longest_path_counts() {
        assert_eq!(of(&graph(Vec::new())), 0);
        let wide = graph(vec![node("Neg", &["x"], "a"), node("Neg", &["x"], "b"), node("Neg", &["x"], "c")]);
        assert_eq!(of(&wide), 1);
        let left_out = graph(vec![node("Neg", &["x"], ""), node("Clip", &["x", ""], "y")]);
        assert_eq!(of(&left_out), 1);
        let joined = graph(vec![
            node("Neg", &["x"], "a"),
            node("Neg", &["a"], "b"),
            node("Neg", &["x"], "c"),
            node("Add", &["c", "b"], "d"),
        ]);
        assert_eq!(of(&joined), 3);
    }

    #[test]
    fn a_path_goes_through_graphs_within_and_what_they_capture() {
        let inner = GraphProto {
            node: vec![node("Neg", &["b"], "i"), node("Neg", &["i"], "j")],
            ..GraphProto::default()
        };
        let mut choice = node("If", &["x"], "y");
        choice.attribute.push(AttributeProto { g: Some(inner), ..AttributeProto::default() });
        let outer =
            graph(vec![node("Neg", &["x"], "a"), node("Neg", &["a"], "b"), choice, node("Neg", &["y"], "z")]);
        // a, b, i, j, y, z.
        assert_eq!(of(&outer), 6);
    }
}
