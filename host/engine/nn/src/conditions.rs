//! Conditions on nodes that the table of operators names and cannot write down: on ranks, constants and
//! stated shapes.

use crate::facts::Facts;
use crate::onnx::*;

/// The names that the table may use.
#[cfg(test)]
pub const NAMES: [&str; 14] = [
    "channel axis",
    "full sequences",
    "indices known",
    "inference",
    "narrow padding",
    "not a scalar",
    "one output",
    "some infinity",
    "reduces",
    "slice",
    "stated target",
    "whole lengths",
    "window",
    "one axis",
];

/// Whether a node meets a condition.
///
/// # Errors
/// Why it does not, as a reason for people.
pub fn check(name: &str, node: &NodeProto, opset: i64, facts: &Facts) -> Result<(), &'static str> {
    let is = Condition { node, opset, facts };
    let (met, reason) = match name {
        "channel axis" => (
            is.channel_axis(),
            "the scale has several elements, and the number of dimensions of the input is not known at deploy",
        ),
        "full sequences" => (!is.given(4), "the engine does not read sequence_lens"),
        "indices known" => (
            is.indices_known(),
            "the number of dimensions of the data or of the indices is not known at deploy",
        ),
        "inference" => (is.inference(), "it is in training mode, or gives a mask before operator set 12"),
        "narrow padding" => {
            (is.narrow_padding(), "with this mode the padding must not be negative, nor wider than the data")
        }
        "not a scalar" => (
            facts.rank(node, 0).is_some_and(|rank| rank > 0),
            "the number of dimensions of the input is 0, or not known at deploy",
        ),
        "one output" => (
            node.output.len() < 2 || facts.rank(node, 0).is_some(),
            "the number of dimensions of the input is not known at deploy, and it gives its mean or deviation",
        ),
        "some infinity" => (
            ["detect_negative", "detect_positive"].iter().any(|name| node.int(name) != Some(0)),
            "it detects nothing",
        ),
        "reduces" => (
            node.int("noop_with_empty_axes").unwrap_or(0) == 0,
            "with noop_with_empty_axes the engine gives the input as it is",
        ),
        "slice" => (
            is.slice(),
            "with a negative step, or one that is no constant, starts have to be constants that lie within the data",
        ),
        "stated target" => (
            facts.input(node, 1).is_some_and(|f| f.element.is_some()),
            "the element type of the second input is not known at deploy",
        ),
        "whole lengths" => (
            is.whole_lengths(),
            "with align_corners the engine is right only with sizes, or with scales that are constant whole numbers",
        ),
        "window" => (is.window(), "auto_pad SAME is not supported where a stride is larger than the kernel"),
        "one axis" => (is.one_axis(), "the list of axes is empty, or its length is not known at deploy"),
        _ => (false, "the table names a condition that does not exist"),
    };
    if met { Ok(()) } else { Err(reason) }
}

struct Condition<'a> {
    node: &'a NodeProto,
    opset: i64,
    facts: &'a Facts,
}

impl Condition<'_> {
    fn given(&self, index: usize) -> bool {
        self.node.input.get(index).is_some_and(|name| !name.is_empty())
    }

    fn list(&self, attribute: &str, input: usize) -> Option<&[i64]> {
        match self.node.attribute(attribute) {
            Some(attribute) => Some(&attribute.ints),
            None => self.facts.ints(self.node, input),
        }
    }

    fn channel_axis(&self) -> bool {
        let Some(scale) = self.facts.input(self.node, 1).and_then(|f| f.dims.as_ref()) else { return false };
        scale.is_empty()
            || (scale.len() == 1 && (scale[0] == Some(1) || self.facts.rank(self.node, 0).is_some()))
    }

    /// Whether indices may be smaller than the data can be seen, or made right.
    fn indices_known(&self) -> bool {
        let (data, indices) = (self.facts.rank(self.node, 0), self.facts.rank(self.node, 1));
        data.is_some() && indices.is_some()
    }

    fn inference(&self) -> bool {
        let training = self.given(2) && self.facts.ints(self.node, 2) != Some(&[0]);
        let mask = self.node.output.len() > 1 && self.opset < 12;
        !training && !mask
    }

    /// Padding whose width is known at run alone is checked there; see `quirks/windows.rs`.
    fn narrow_padding(&self) -> bool {
        let mode = self.node.attribute("mode").and_then(|a| a.s.as_deref()).unwrap_or(b"constant");
        if mode == b"constant" || mode == b"edge" {
            return true;
        }
        let dims = self.facts.input(self.node, 0).and_then(|f| f.dims.as_deref());
        let (Some(pads), Some(dims)) = (self.list("pads", 1), dims) else { return !self.given(3) };
        let spare = u64::from(mode == b"reflect");
        let narrow = |(i, p): (usize, &i64)| {
            *p == 0 || (*p > 0 && dims[i % dims.len()].is_none_or(|d| p.unsigned_abs() + spare <= d))
        };
        pads.len() == dims.len() * 2 && pads.iter().enumerate().all(narrow)
    }

    fn slice(&self) -> bool {
        if !self.given(4) {
            return true;
        }
        let Some(steps) = self.facts.ints(self.node, 4) else { return false };
        if steps.iter().all(|s| *s > 0) {
            return true;
        }
        // The engine takes a start before the data for an empty result, where the first element is meant.
        self.facts
            .ints(self.node, 1)
            .is_some_and(|starts| steps.iter().zip(starts).all(|(step, start)| *step > 0 || *start >= -1))
    }

    fn whole_lengths(&self) -> bool {
        let mode = self.node.attribute("coordinate_transformation_mode").and_then(|a| a.s.as_deref());
        let (scales, sizes) = (if self.opset < 11 { 1 } else { 2 }, 3);
        if mode != Some(b"align_corners") || self.given(sizes) {
            return true;
        }
        let scales = self.facts.input(self.node, scales).and_then(|f| f.floats.as_ref());
        scales.is_some_and(|scales| scales.iter().all(|s| s.fract() == 0.0))
    }

    fn window(&self) -> bool {
        let auto = self.node.attribute("auto_pad").and_then(|a| a.s.as_deref()).unwrap_or_default();
        let Some(strides) = self.node.attribute("strides").filter(|_| auto.starts_with(b"SAME")) else {
            return true;
        };
        let kernel = match self.node.attribute("kernel_shape") {
            Some(kernel) => kernel.ints.iter().map(|k| u64::try_from(*k).ok()).collect(),
            None => {
                let weights = self.facts.input(self.node, 1).and_then(|f| f.dims.clone()).unwrap_or_default();
                weights.into_iter().skip(2).collect::<Vec<_>>()
            }
        };
        strides.ints.len() == kernel.len()
            && strides.ints.iter().zip(kernel).all(|(s, k)| k.is_some_and(|k| s.unsigned_abs() <= k))
    }

    fn one_axis(&self) -> bool {
        if self.node.attribute("axes").is_some() || !self.given(1) {
            return true;
        }
        let dims = self.facts.input(self.node, 1).and_then(|f| f.dims.as_deref());
        matches!(dims, Some([Some(n)]) if *n > 0)
    }
}
