//! A walk over the bytes of a model before they are parsed: tells a truncated file from one that is no ONNX
//! model, and counts the messages, as each costs a hundred bytes of memory while two bytes may stand for it.

use crate::PrepareError;

/// Messages whose fields are walked into; of all others only the size matters.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Model,
    Function,
    Graph,
    Node,
    Attribute,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Function => "function",
            Self::Graph => "graph",
            Self::Node => "node",
            Self::Attribute => "attribute",
        }
    }

    /// The kind of the message in a field.
    fn child(self, field: u64) -> Option<Self> {
        match (self, field) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Some(Self::Graph),
            (Self::Model, 25) => Some(Self::Function),
            (Self::Graph, 1) | (Self::Function, 7) => Some(Self::Node),
            (Self::Node, 5) | (Self::Function, 11) => Some(Self::Attribute),
            _ => None,
        }
    }
}

/// What a message counts as.
const MESSAGE: u64 = 16;

/// What a field counts as. Elements of an attribute's lists (7 floats, 8 integers, 9 strings) take the
/// memory of a number or of a
/// string, where a message takes that of its structure: tree ensembles have millions.
fn cost(kind: Kind, field: u64) -> u64 {
    match (kind, field) {
        (Kind::Attribute, 7 | 8) => 2,
        (Kind::Attribute, 9) => 6,
        _ => MESSAGE,
    }
}

/// Prost refuses deeper nesting too; the walk must not recurse further than it.
const DEPTH_MAX: u32 = 100;

/// Walks all of `data`, with at most `max` fields; elements of lists count as a part of one.
pub fn check(data: &[u8], max: u64) -> Result<(), PrepareError> {
    if data.is_empty() {
        return Err(PrepareError::Truncated("it is empty".into()));
    }
    let mut walk = Walk { left: max.saturating_mul(MESSAGE), max };
    walk.message(data, Kind::Model, 0)
}

struct Walk {
    left: u64,
    max: u64,
}

impl Walk {
    fn message(&mut self, mut data: &[u8], kind: Kind, depth: u32) -> Result<(), PrepareError> {
        if depth > DEPTH_MAX {
            return Err(PrepareError::NotOnnx(format!("graphs are nested deeper than {DEPTH_MAX} messages")));
        }
        let mut seen_version = false;
        while !data.is_empty() {
            let damaged = |what: &str| damaged(kind, seen_version, what);
            let tag = varint(&mut data).ok_or_else(|| damaged("a field's number is cut off"))?;
            let (field, wire_type) = (tag >> 3, tag & 7);
            self.left = self.left.checked_sub(cost(kind, field)).ok_or(PrepareError::TooMany {
                what: "messages",
                got: self.max.saturating_add(1),
                max: self.max,
            })?;
            if kind == Kind::Model && !matches!(field, 1..=8 | 14 | 20 | 25 | 26) {
                return Err(PrepareError::NotOnnx(format!("a model has no field {field}")));
            }
            let length = match wire_type {
                0 => {
                    varint(&mut data).ok_or_else(|| damaged(&format!("field {field} is cut off")))?;
                    0
                }
                1 => 8,
                5 => 4,
                2 => varint(&mut data).ok_or_else(|| damaged(&format!("field {field} is cut off")))?,
                _ => {
                    return Err(PrepareError::NotOnnx(format!(
                        "field {field} of a {} is not protobuf",
                        kind.name()
                    )));
                }
            };
            let available = data.len() as u64;
            let Some((content, rest)) =
                usize::try_from(length).ok().and_then(|length| data.split_at_checked(length))
            else {
                return Err(damaged(&format!(
                    "field {field} of the {} says {length} bytes, but {available} are left",
                    kind.name()
                )));
            };
            if let (2, Some(child)) = (wire_type, kind.child(field)) {
                self.message(content, child, depth + 1)?;
            }
            seen_version |= kind == Kind::Model && field == 1;
            data = rest;
        }
        Ok(())
    }
}

/// Only the end of the outermost message can be missing through truncation, and only a file that began like a
/// model is one.
fn damaged(kind: Kind, seen_version: bool, what: &str) -> PrepareError {
    if kind == Kind::Model && seen_version {
        PrepareError::Truncated(what.into())
    } else {
        PrepareError::NotOnnx(what.into())
    }
}

fn varint(data: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = data.split_first()?;
        *data = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
