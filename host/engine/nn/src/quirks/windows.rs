//! Sliding windows and padding.

use super::ints;
use crate::PrepareError;
use crate::edit::{Editor, int_attribute, ints_attribute, set_attribute};
use crate::facts::Facts;
use crate::onnx::*;

/// Windows without strides step by one; the engine fails unless that is written out for as many dimensions
/// as there are. It also
/// pads SAME_LOWER as SAME_UPPER, so the padding is written out too; with larger steps it would depend on
/// the input's size.
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

/// The engine reflects only once. Where only the run tells how wide padding and data are, a number is
/// looked up that is not there if
/// the padding is too wide or negative, so that the run fails.
pub fn pad(editor: &mut Editor, mut node: NodeProto, facts: &Facts) {
    let mode = node.attribute("mode").and_then(|a| a.s.clone()).unwrap_or_default();
    let dims = facts.input(&node, 0).and_then(|f| f.dims.as_deref());
    let is_known = dims.is_some_and(|dims| dims.iter().all(Option::is_some));
    let stated = node.attribute("pads").map(|a| a.ints.clone());
    // The table's condition has judged what is known.
    let is_judged = is_known && (stated.is_some() || facts.ints(&node, 1).is_some());
    if !matches!(&mode[..], b"reflect" | b"wrap") || is_judged {
        editor.nodes.push(node);
        return;
    }
    let (output, input) = (node.output[0].clone(), node.input[0].clone());
    let mut name = |part: &str| editor.fresh(&output, part);
    let [start, last, five, one] = ["start", "last", "five", "one"].map(&mut name);
    let [shape, rank, before, after, wide, least] =
        ["shape", "rank", "before", "after", "wide", "least"].map(&mut name);
    let [narrow, positive, both, good, worst, bad, place, nothing, sum, all] =
        ["narrow", "positive", "both", "good", "worst", "bad", "place", "nothing", "sum", "pads"]
            .map(&mut name);
    let pads = match stated {
        Some(stated) => {
            editor.add(&node, "Constant", &[], &[&all], ints(&stated));
            all
        }
        None => node.input[1].clone(),
    };
    for (part, value) in [(&start, 0), (&last, i64::from(i32::MAX)), (&five, 5), (&one, 1)] {
        editor.add(&node, "Constant", &[], &[part], ints(&[value]));
    }
    editor.add(&node, "Shape", &[&input], &[&shape], vec![]);
    editor.add(&node, "Shape", &[&shape], &[&rank], vec![]);
    editor.add(&node, "Slice", &[&pads, &start, &rank, &start], &[&before], vec![]);
    editor.add(&node, "Slice", &[&pads, &rank, &last, &start], &[&after], vec![]);
    editor.add(&node, "Max", &[&before, &after], &[&wide], vec![]);
    editor.add(&node, "Min", &[&before, &after], &[&least], vec![]);
    let fits = if &mode[..] == b"reflect" { "Less" } else { "LessOrEqual" };
    editor.add(&node, fits, &[&wide, &shape], &[&narrow], vec![]);
    editor.add(&node, "GreaterOrEqual", &[&least, &start], &[&positive], vec![]);
    editor.add(&node, "And", &[&narrow, &positive], &[&both], vec![]);
    editor.add(&node, "CastLike", &[&both, &one], &[&good], vec![]);
    editor.add(&node, "ReduceMin", &[&good], &[&worst], vec![int_attribute("keepdims", 0)]);
    editor.add(&node, "Sub", &[&one, &worst], &[&bad], vec![]);
    editor.add(&node, "Mul", &[&bad, &five], &[&place], vec![]);
    editor.add(&node, "Gather", &[&start, &place], &[&nothing], vec![]);
    editor.add(&node, "Add", &[&pads, &nothing], &[&sum], vec![]);
    node.attribute.retain(|a| a.name.as_deref() != Some("pads"));
    node.input.resize(node.input.len().max(2), String::new());
    node.input[1] = sum;
    editor.nodes.push(node);
}
