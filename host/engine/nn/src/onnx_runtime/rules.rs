//! Where the library computes something else than ONNX says, and does not tell. What can be written anew is
//! (`rewrites.rs`); the rest is refused, by the table `operators.toml` beside this file and by what is written here. Found with
//! the conformance suite against 1.32.

use super::rewrites;
use crate::PrepareError;
use crate::edit::{Editor, each_inner_graph};
use crate::facts::{Fact, Facts};
use crate::onnx::*;
use crate::table::{self, Place, Table};
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
    in_graph(graph, opset, None).map(drop)
}

/// Gives what is known of the graph's outputs. `outer` is what the graph around it knows.
fn in_graph(graph: &mut GraphProto, opset: i64, outer: Option<&Facts>) -> Result<Vec<Fact>, PrepareError> {
    let mut facts = outer.unwrap_or(&Facts::default()).enter(graph);
    let mut editor = Editor::new(graph);
    for mut node in std::mem::take(&mut graph.node) {
        let place = Place { node: &node, label: node.label().to_owned() };
        table()?.check_listed(&place, opset, &facts)?;
        check_product(&place, &facts, outer.is_some())?;
        let elements = table::outputs(&node, &facts)?;
        let mut branches = Vec::new();
        each_inner_graph(&mut node, |inner| {
            branches.push(in_graph(inner, opset, Some(&facts))?);
            Ok::<_, PrepareError>(())
        })?;
        facts.add(&node, &elements, &branches);
        rewrites::add(&mut editor, node, opset, &facts)?;
    }
    graph.node = editor.nodes;
    Ok(facts.outputs(graph))
}

/// Products of 8-bit integers: the operator, and the numbers of its inputs with the second factor.
const PRODUCTS: [(&str, &str, &[usize]); 10] = [
    ("", "ConvInteger", &[1]),
    ("", "MatMulInteger", &[1]),
    ("", "QLinearConv", &[3]),
    ("", "QLinearMatMul", &[3]),
    ("com.microsoft", "DynamicQuantizeLSTM", &[1, 2]),
    ("com.microsoft", "DynamicQuantizeMatMul", &[1]),
    ("com.microsoft", "MatMulIntegerToFloat", &[1]),
    ("com.microsoft", "QAttention", &[1]),
    ("com.microsoft", "QGemm", &[3]),
    ("com.microsoft", "QLinearConv", &[3]),
];

/// Without VNNI a product of unsigned and signed numbers saturates, unless the library makes unsigned ones of
/// the signed (`session.x64quantprecision`). It does so where they are constants of the same graph, and not
/// for all of these operators.
fn check_product(place: &Place<'_>, facts: &Facts, is_inner: bool) -> Result<(), PrepareError> {
    let node = place.node;
    let is = |(domain, op, _): &&(&str, &str, &[usize])| node.op() == *op && node.op_domain() == *domain;
    let Some((domain, op, factors)) = PRODUCTS.iter().find(is) else { return Ok(()) };
    let first = facts.input(node, 0).and_then(|f| f.element);
    for i in *factors {
        let Some(fact) = facts.input(node, *i) else { continue };
        let is_unsigned = fact.element == Some(Element::Uint8);
        // Of two signed factors the products are exact.
        let are_signed = first == Some(Element::Int8) && fact.element == Some(Element::Int8);
        let is_written_anew = fact.constant
            && !is_inner
            && !matches!((*domain, *op), ("", "ConvInteger") | ("com.microsoft", "QLinearConv"));
        if !is_unsigned && !are_signed && !is_written_anew {
            return Err(place.refuse(format!(
                "input {i} may be int8 and is no constant of the graph: such products are not right on every processor"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_names_only_what_there_is() {
        super::table().expect("a table").check_names();
    }
}
