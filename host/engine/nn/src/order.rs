//! In which order a run uses a graph's weights. They are laid out in that order, so that reading the file
//! from its beginning to its end stays ahead of a run that has begun.

use crate::onnx::{GraphProto, NodeProto, TensorProto};
use std::collections::{HashMap, HashSet};

/// Smaller tables are read with everything else: looking up their rows one by one from a disk would cost
/// more.
const TABLE_BYTES_MIN: u64 = 4 << 20;

/// Where weights are used.
#[derive(Debug, Default)]
pub struct Order {
    uses: HashMap<String, Use>,
    /// What is looked up, and the name of the value that tells the rows.
    lookups: Vec<(String, String)>,
    inputs: HashSet<String>,
}

#[derive(Debug, Clone, Copy)]
struct Use {
    /// Number of the first node that reads it.
    first: usize,
    /// Whether all who read it only look up rows.
    lookup: bool,
}

/// A place in the file: what every run reads comes first, in the order of its use; tables of rows come last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub table: bool,
    first: usize,
}

impl Order {
    /// Nodes of a graph stand in an order in which they can be run.
    pub fn of(graph: &GraphProto) -> Order {
        let inputs = graph.input.iter().filter_map(|input| input.name.clone()).collect();
        let mut order = Order { inputs, ..Order::default() };
        order.walk(graph, &mut 0);
        order
    }

    fn walk(&mut self, graph: &GraphProto, count: &mut usize) {
        for node in &graph.node {
            *count += 1;
            if let ([table, rows, ..], true) = (&node.input[..], looks_up_rows(node)) {
                self.lookups.push((table.clone(), rows.clone()));
            }
            for (index, name) in node.input.iter().enumerate() {
                let lookup = index == 0 && looks_up_rows(node);
                let first = *count;
                let found = self.uses.entry(name.clone()).or_insert(Use { first, lookup });
                found.lookup &= lookup;
            }
            for attribute in &node.attribute {
                for graph in attribute.g.iter().chain(&attribute.graphs) {
                    self.walk(graph, count);
                }
            }
        }
        // What is an output is read as a whole.
        for output in &graph.output {
            if let Some(found) = output.name.as_ref().and_then(|name| self.uses.get_mut(name)) {
                found.lookup = false;
            }
        }
    }

    /// The graph's inputs that are numbers of rows of this table.
    pub fn inputs_that_look_up(&self, table: Option<&str>) -> impl Iterator<Item = &str> {
        let found =
            self.lookups.iter().filter(move |(of, rows)| table == Some(of) && self.inputs.contains(rows));
        found.map(|(_, rows)| rows.as_str())
    }

    /// The place of the weights of this name.
    pub fn place(&self, name: Option<&str>, bytes: u64) -> Place {
        // What no node reads is read by nobody.
        let unused = Use { first: usize::MAX, lookup: false };
        let found = name.and_then(|name| self.uses.get(name)).copied().unwrap_or(unused);
        Place { table: found.lookup && bytes >= TABLE_BYTES_MIN, first: found.first }
    }
}

/// A `Gather` along the first axis copies whole rows.
fn looks_up_rows(node: &NodeProto) -> bool {
    let axis = node.attribute.iter().find(|a| a.name.as_deref() == Some("axis"));
    node.is("Gather") && axis.is_none_or(|a| a.i.unwrap_or_default() == 0)
}

/// All constant tensors of a graph and of those in it, each with the name that nodes know it by.
pub fn constants<'a>(graph: &'a mut GraphProto, visit: &mut impl FnMut(Option<&str>, &'a mut TensorProto)) {
    for tensor in &mut graph.initializer {
        let name = tensor.name.clone();
        visit(name.as_deref(), tensor);
    }
    for node in &mut graph.node {
        let name = node.is("Constant").then(|| node.output.first().cloned());
        for attribute in &mut node.attribute {
            if let (Some(name), Some(tensor)) = (&name, &mut attribute.t) {
                visit(name.as_deref(), tensor);
            }
            for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                constants(graph, visit);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::ValueInfoProto;
    use crate::tests::build::{int, node};

    const LARGE: u64 = TABLE_BYTES_MIN;

    fn graph(node: Vec<NodeProto>) -> GraphProto {
        GraphProto { node, ..GraphProto::default() }
    }

    #[test]
    fn weights_stand_in_the_order_of_their_use_and_tables_behind_them() {
        let order = Order::of(&graph(vec![
            node("Gather", &["table", "ids"], "rows"),
            node("MatMul", &["rows", "second"], "a"),
            node("MatMul", &["a", "third"], "b"),
            node("Add", &["b", "second"], "c"),
        ]));
        let mut names = ["third", "unused", "table", "second"];
        names.sort_by_key(|name| order.place(Some(name), LARGE));
        assert_eq!(names, ["second", "third", "unused", "table"]);
    }

    #[test]
    fn a_table_is_large_and_only_looked_up_by_row() {
        let mut columns = node("Gather", &["by column", "ids"], "d");
        columns.attribute.push(int("axis", 1));
        let mut graph = graph(vec![
            node("Gather", &["table", "ids"], "a"),
            node("Gather", &["tied", "ids"], "b"),
            node("MatMul", &["a", "tied"], "c"),
            columns,
            node("Gather", &["given back", "ids"], "e"),
        ]);
        graph.output.push(ValueInfoProto { name: Some("given back".into()), ..ValueInfoProto::default() });
        let order = Order::of(&graph);
        let is_table = |name: &str, bytes| order.place(Some(name), bytes).table;
        assert!(is_table("table", LARGE));
        assert!(!is_table("table", LARGE - 1));
        for name in ["tied", "by column", "given back", "ids", "unknown"] {
            assert!(!is_table(name, LARGE), "{name}");
        }
    }
}
