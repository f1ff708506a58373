//! Where the library computes something else than ONNX says, and does not tell. What can be written anew is
//! (`rewrites.rs`, `unsigned.rs`); the rest is refused, by the table `operators.toml` beside this file and by
//! what is written here. Found with the conformance suite against 1.32.

use super::rewrites;
use super::unsigned::Unsigned;
use crate::PrepareError;
use crate::edit::{Editor, each_inner_graph};
use crate::facts::{Fact, Facts};
use crate::guess::add_used;
use crate::onnx::*;
use crate::table::{self, Place, Table};
use std::collections::HashSet;
use std::sync::OnceLock;

fn table() -> Result<&'static Table, PrepareError> {
    static TABLE: OnceLock<Result<Table, String>> = OnceLock::new();
    Table::once(&TABLE, include_str!("operators.toml"))
}

/// Checks a graph and those in it, and rewrites them.
///
/// # Errors
/// The first node that the library would not compute rightly.
pub fn apply(graph: &mut GraphProto, opset: i64) -> Result<(), PrepareError> {
    in_graph(graph, opset, None)?;
    // Weights that nothing reads any more: the library would look for them in vain.
    let mut used = HashSet::new();
    add_used(graph, &mut used);
    let is_used: Vec<bool> =
        graph.initializer.iter().map(|t| used.contains(t.name.as_deref().unwrap_or_default())).collect();
    let mut is_used = is_used.into_iter();
    graph.initializer.retain(|_| is_used.next().unwrap_or(true));
    Ok(())
}

/// Gives what is known of the graph's outputs. `outer` is what the graph around it knows.
fn in_graph(graph: &mut GraphProto, opset: i64, outer: Option<&Facts>) -> Result<Vec<Fact>, PrepareError> {
    let mut facts = outer.unwrap_or(&Facts::default()).enter(graph);
    let mut editor = Editor::new(graph);
    let mut unsigned = Unsigned::of(graph);
    for mut node in std::mem::take(&mut graph.node) {
        let place = Place { node: &node, label: node.label().to_owned() };
        table()?.check_listed(&place, opset, &facts)?;
        let elements = table::outputs(&node, &facts)?;
        let mut branches = Vec::new();
        each_inner_graph(&mut node, |inner| {
            branches.push(in_graph(inner, opset, Some(&facts))?);
            Ok::<_, PrepareError>(())
        })?;
        facts.add(&node, &elements, &branches);
        let node = unsigned.rewrite(&mut editor, node, &facts)?;
        rewrites::add(&mut editor, node, opset, &facts)?;
    }
    graph.node = editor.nodes;
    unsigned.finish(graph);
    Ok(facts.outputs(graph))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_names_only_what_there_is() {
        super::table().expect("a table").check_names();
    }
}
