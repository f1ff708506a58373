//! Sliding windows and padding.

use super::ints;
use crate::PrepareError;
use crate::edit::{Editor, int_attribute, ints_attribute, set_attribute};
use crate::facts::Facts;
use crate::onnx::*;

/// Windows without strides step by one; the engine fails unless that is written out for as many dimensions as there are. It also
/// pads SAME_LOWER as SAME_UPPER, so the padding is written out too; with larger steps it would depend on the input's size.
pub fn fill(node: &mut NodeProto, weights_rank: Option<usize>) -> Result<(), PrepareError> {
    let auto = node.attribute("auto_pad").and_then(|a| a.s.clone()).unwrap_or_default();
    let lower = &auto[..] == b"SAME_LOWER";
    let ints = |name: &str| node.attribute(name).map(|a| a.ints.clone());
    let kernel = ints("kernel_shape");
    let rank = kernel.as_ref().map(Vec::len).or(weights_rank.and_then(|rank| rank.checked_sub(2)));
    let Some(rank) = rank.filter(|_| !lower || kernel.is_some()) else {
        return if lower { Err(same_lower(node)) } else { Ok(()) };
    };
    let strides = ints("strides").unwrap_or_else(|| vec![1; rank]);
    let dilations = ints("dilations").unwrap_or_else(|| vec![1; rank]);
    let mut pads = ints("pads");
    if lower {
        if node.op() == "ConvTranspose" || strides.iter().any(|s| *s != 1) {
            return Err(same_lower(node));
        }
        let total = |(k, d): (i64, i64)| k.saturating_sub(1).saturating_mul(d);
        let totals: Vec<i64> =
            kernel.into_iter().flatten().zip(dilations.iter().copied()).map(total).collect();
        let begin = totals.iter().map(|t| t - t / 2);
        pads = Some(begin.chain(totals.iter().map(|t| t / 2)).collect());
        node.attribute.retain(|a| a.name.as_deref() != Some("auto_pad"));
    } else if pads.is_none() && matches!(&auto[..], b"" | b"NOTSET") {
        pads = Some(vec![0; rank * 2]);
    }
    set_attribute(node, ints_attribute("strides", strides));
    if node.op().starts_with("Conv") {
        set_attribute(node, ints_attribute("dilations", dilations));
    }
    if let Some(pads) = pads {
        set_attribute(node, ints_attribute("pads", pads));
    }
    Ok(())
}

fn same_lower(node: &NodeProto) -> PrepareError {
    let why = "auto_pad SAME_LOWER is supported with a kernel_shape and strides of 1 only";
    PrepareError::Operator(format!("{} (node {:?}): {why}", node.op(), node.label()))
}

/// The engine reflects only once. Where padding may be wider than the data, which is known at run alone, an element as far within
/// the data as the padding is wide is looked up, so that the run fails if there is none.
pub fn pad(editor: &mut Editor, mut node: NodeProto, facts: &Facts) {
    let mode = node.attribute("mode").and_then(|a| a.s.clone()).unwrap_or_default();
    let pads = match node.attribute("pads") {
        Some(attribute) => attribute.ints.clone(),
        None => facts.ints(&node, 1).map(<[i64]>::to_vec).unwrap_or_default(),
    };
    let dims = facts.input(&node, 0).and_then(|f| f.dims.clone()).unwrap_or_default();
    if !matches!(&mode[..], b"reflect" | b"wrap") || dims.len() * 2 != pads.len() {
        editor.nodes.push(node);
        return;
    }
    let spare = i64::from(&mode[..] == b"reflect");
    let (output, input) = (node.output[0].clone(), node.input[0].clone());
    let mut width = None;
    for (axis, _) in dims.iter().enumerate().filter(|(_, d)| d.is_none()) {
        let widest = pads[axis].max(pads[axis + dims.len()]);
        if widest == 0 {
            continue;
        }
        let name = |editor: &mut Editor, part: &str| editor.fresh(&output, &format!("{part}{axis}"));
        let [shape, number, size, zero, one, range, place, found, nothing, sum] =
            ["shape", "number", "size", "zero", "one", "range", "place", "found", "nothing", "sum"]
                .map(|part| name(editor, part));
        let constant = |value: i64| vec![int_attribute("value_int", value)];
        editor.add(&node, "Shape", &[&input], &[&shape], vec![]);
        editor.add(&node, "Constant", &[], &[&number], constant(axis as i64));
        editor.add(&node, "Gather", &[&shape, &number], &[&size], vec![]);
        editor.add(&node, "Constant", &[], &[&zero], constant(0));
        editor.add(&node, "Constant", &[], &[&one], constant(1));
        editor.add(&node, "Range", &[&zero, &size, &one], &[&range], vec![]);
        editor.add(&node, "Constant", &[], &[&place], constant(widest - 1 + spare));
        editor.add(&node, "Gather", &[&range, &place], &[&found], vec![]);
        editor.add(&node, "Sub", &[&found, &found], &[&nothing], vec![]);
        let before = width.take().unwrap_or_else(|| {
            let all = name(editor, "pads");
            editor.add(&node, "Constant", &[], &[&all], ints(&pads));
            all
        });
        editor.add(&node, "Add", &[&before, &nothing], &[&sum], vec![]);
        width = Some(sum);
    }
    if let Some(width) = width {
        node.attribute.retain(|a| a.name.as_deref() != Some("pads"));
        node.input.resize(node.input.len().max(2), String::new());
        node.input[1] = width;
    }
    editor.nodes.push(node);
}
