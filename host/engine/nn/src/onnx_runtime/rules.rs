//! Where the library computes something else than ONNX says, and does not tell. What can be written anew is;
//! the rest is refused, by the table `operators.toml` beside this file and by what is written here. Found with
//! the conformance suite against 1.32.

use crate::PrepareError;
use crate::edit::{Editor, each_inner_graph, int_attribute};
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
        let is_whole = !node.input.is_empty() && node.output.len() == 1 && !node.output[0].is_empty();
        match node.op() {
            "NonZero" if is_whole && node.is("NonZero") => places(&mut editor, node, opset, &facts)?,
            "ReduceSum" if is_whole && node.is("ReduceSum") => sum(&mut editor, node, &facts),
            _ => editor.nodes.push(node),
        }
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

/// Of a scalar the library gives a row of places, where ONNX says none: as many rows as there are dimensions
/// are kept.
fn places(
    editor: &mut Editor,
    mut node: NodeProto,
    opset: i64,
    facts: &Facts,
) -> Result<(), PrepareError> {
    if facts.rank(&node, 0).is_some_and(|rank| rank > 0) {
        editor.nodes.push(node);
        return Ok(());
    }
    if opset < 10 {
        let place = Place { node: &node, label: node.label().to_owned() };
        return Err(place.refuse("the number of dimensions of the input is 0, or not known at deploy"));
    }
    let (input, output) = (node.input[0].clone(), node.output[0].clone());
    let [all, shape, rank, zero] = ["all", "shape", "rank", "zero"].map(|part| editor.fresh(&output, part));
    editor.add(&node, "Shape", &[&input], &[&shape], vec![]);
    editor.add(&node, "Shape", &[&shape], &[&rank], vec![]);
    constant(editor, &node, &zero, &[1], 0);
    node.output[0] = all.clone();
    editor.nodes.push(node.clone());
    editor.add(&node, "Slice", &[&all, &zero, &rank, &zero], &[&output], vec![]);
    Ok(())
}

/// The library sums integers of 64 bits as doubles. The sums of their halves are exact, as long as there are
/// fewer than two million.
fn sum(editor: &mut Editor, mut node: NodeProto, facts: &Facts) {
    if facts.input(&node, 0).is_none_or(|f| f.element != Some(Element::Int64)) {
        editor.nodes.push(node);
        return;
    }
    let (input, output) = (node.input[0].clone(), node.output[0].clone());
    let mut name = |part: &str| editor.fresh(&output, part);
    let [base, high, without, low] = ["base", "high", "without", "low"].map(&mut name);
    let [high_sum, low_sum, scaled] = ["high_sum", "low_sum", "scaled"].map(&mut name);
    constant(editor, &node, &base, &[], 1 << 32);
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

/// A node with a constant of one int64, in a form that all operator sets have.
fn constant(editor: &mut Editor, of: &NodeProto, name: &str, dims: &[i64], value: i64) {
    let tensor = TensorProto {
        dims: dims.to_vec(),
        data_type: Some(7),
        raw_data: Some(value.to_le_bytes().to_vec().into()),
        ..TensorProto::default()
    };
    let value = AttributeProto { t: Some(tensor), r#type: Some(ATTRIBUTE_TENSOR), ..int_attribute("value", 0) };
    editor.add(of, "Constant", &[], &[name], vec![AttributeProto { i: None, ..value }]);
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_names_only_what_there_is() {
        super::table().expect("a table").check_names();
    }
}
