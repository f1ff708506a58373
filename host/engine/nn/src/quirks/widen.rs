//! Operators that the engine does not have for an element type: computed in a wider one that loses nothing,
//! and made narrow again.

use crate::edit::{Editor, int_attribute};
use crate::facts::{Fact, Facts};
use crate::onnx::*;

/// Casts inputs of a node that are too narrow for the engine; gives the name that the output has to get,
/// and its type, where it has
/// to be cast back.
pub fn widen(editor: &mut Editor, node: &mut NodeProto, facts: &mut Facts) -> Option<(String, Element)> {
    if !node.op_domain().is_empty() {
        return None;
    }
    let element = |i: usize| facts.input(node, i).and_then(|f| f.element);
    let is_narrow = |e: Option<Element>| matches!(e, Some(Element::Uint8 | Element::Int8));
    let is_whole = |e: Option<Element>| is_narrow(e) || matches!(e, Some(Element::Int32 | Element::Int64));
    let (from, back) = match node.op() {
        "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" if is_narrow(element(0)) => {
            (0..2, false)
        }
        "NonZero" | "ArgMax" | "ArgMin" if is_narrow(element(0)) => (0..1, false),
        "Max" | "Min" | "Clip" if is_narrow(element(0)) => (0..node.input.len(), true),
        "ReduceMax" | "ReduceMin" | "TopK" | "Abs" | "Sign" | "MaxPool" | "DepthToSpace"
            if is_narrow(element(0)) =>
        {
            (0..1, true)
        }
        "Where" if element(1) == Some(Element::Int8) => (1..3, true),
        "Pow" if !is_whole(element(0)) && is_whole(element(1)) => (1..2, false),
        "OneHot" if !is_whole(element(0)) => (0..1, false),
        _ => return None,
    };
    let narrow = element(from.start)?;
    let to = match node.op() {
        "MaxPool" | "DepthToSpace" | "Pow" => Element::Float,
        _ => Element::Int32,
    };
    let output = node.output.first().cloned().unwrap_or_default();
    for i in from {
        let Some(input) = node.input.get(i).filter(|name| !name.is_empty()).cloned() else { continue };
        let wide = editor.fresh(&output, &format!("wide{i}"));
        editor.add(node, "Cast", &[&input], &[&wide], vec![int_attribute("to", to.number())]);
        let known = facts.get(&input).cloned().unwrap_or_default();
        facts.set(wide.clone(), Fact { element: Some(to), ..known });
        node.input[i] = wide;
    }
    if !back {
        return None;
    }
    node.output[0] = editor.fresh(&output, "wide");
    Some((output, narrow))
}

/// Makes the output of a node narrow again.
pub fn narrow(editor: &mut Editor, of: &NodeProto, output: &str, element: Element) {
    editor.add(of, "Cast", &[&of.output[0]], &[output], vec![int_attribute("to", element.number())]);
}
