//! OneHotEncoder, LabelEncoder, ArrayFeatureExtractor and FeatureVectorizer.

use super::attributes::*;
use super::build::{Build, FLOAT, INT64};
use super::labels::{Texts, computes};
use crate::PrepareError;
use crate::edit::int_attribute;
use crate::onnx::NodeProto;
use std::collections::{BTreeMap, HashMap};

/// One column for each category: 1 where the element is the category.
pub fn one_hot(build: &mut Build<'_>, node: &NodeProto) -> Result<(), PrepareError> {
    let categories = ints(node, "cats_int64s");
    if categories.is_empty() || !strings(node, "cats_strings").is_empty() {
        return Err(refusal(node, "its categories are not integers"));
    }
    if node.int("zeros").unwrap_or(1) == 0 {
        return Err(refusal(node, "it fails on categories that it does not know (zeros is 0)"));
    }
    let x = input(node, 0)?;
    let rank = build.known(x).rank();
    // Floats are truncated, as ONNX Runtime does.
    let whole = build.cast(node, x, INT64)?;
    let column = build.unsqueeze(node, &whole, &[-1])?;
    let categories = build.ints(node, &[categories.len() as i64], categories)?;
    let same = build.op(node, "Equal", &[&column, &categories], vec![])?;
    let output = only_output(node)?;
    if let Some(rank) = rank {
        build.state(output, FLOAT, rank + 1);
    }
    build.put(node, "Cast", &[&same], output, vec![int_attribute("to", FLOAT)])
}

/// Columns of the last dimension, by number.
pub fn extractor(build: &mut Build<'_>, texts: &mut Texts, node: &NodeProto) -> Result<(), PrepareError> {
    let (data, indices) = (input(node, 0)?, input(node, 1)?);
    if texts.get(indices).is_some() {
        return Err(computes(node));
    }
    let known = build.known(data);
    let output = only_output(node)?;
    if let Some(strings) = texts.get(data) {
        texts.add(output, strings);
    }
    let flat = build.reshape(node, indices, &[-1])?;
    let gather = vec![int_attribute("axis", -1)];
    match known.rank() {
        Some(1) => {
            let columns = build.op(node, "Gather", &[data, &flat], gather)?;
            let shape = build.ints(node, &[2], &[1, -1])?;
            build.put(node, "Reshape", &[&columns, &shape], output, vec![])?;
        }
        Some(_) => build.put(node, "Gather", &[data, &flat], output, gather)?,
        None => {
            let columns = build.op(node, "Gather", &[data, &flat], gather)?;
            // A list becomes a row: the shape has a 1 before it where there is one dimension.
            let shape = build.op(node, "Shape", &[&columns], vec![])?;
            let rank = build.op(node, "Size", &[&shape], vec![])?;
            let one = build.ints(node, &[1], &[1])?;
            let from = build.op(node, "Greater", &[&rank, &one], vec![])?;
            let from = build.cast(node, &from, INT64)?;
            let from = build.reshape(node, &from, &[1])?;
            let longer = build.op(node, "Concat", &[&one, &shape], vec![int_attribute("axis", 0)])?;
            let end = build.ints(node, &[1], &[i64::from(i32::MAX)])?;
            let shape = build.op(node, "Slice", &[&longer, &from, &end], vec![])?;
            build.put(node, "Reshape", &[&columns, &shape], output, vec![])?;
        }
    }
    if let Some(element) = known.element {
        build.state(output, element, known.rank().unwrap_or(2).max(2));
    }
    Ok(())
}

/// Several inputs side by side.
pub fn vectorizer(build: &mut Build<'_>, node: &NodeProto) -> Result<(), PrepareError> {
    let widths = ints(node, "inputdimensions");
    if widths.len() != node.input.len() || widths.is_empty() {
        return Err(refusal(node, "inputdimensions does not have an element for each input"));
    }
    let mut parts = Vec::new();
    for (name, width) in node.input.iter().zip(widths) {
        let known = build.known(name);
        if known.rank() != Some(2) || known.dim(1).is_some_and(|d| i64::try_from(d) != Ok(*width)) {
            return Err(refusal(node, &format!("its input {name:?} is not stated as rows of {width}")));
        }
        parts.push(build.as_float(node, name)?);
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let output = only_output(node)?;
    build.state(output, FLOAT, 2);
    build.put(node, "Concat", &parts, output, vec![int_attribute("axis", 1)])
}

/// Keys or values of a LabelEncoder.
enum List {
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Strings(Vec<String>),
}

impl List {
    fn of(node: &NodeProto, part: &str) -> Result<Self, PrepareError> {
        let name = |kind: &str| format!("{part}_{kind}");
        let tensor = node.attribute(&name("tensor")).and_then(|a| a.t.as_ref());
        if let Some(tensor) = tensor {
            return match (ints_of(tensor), tensor.data_type) {
                (Some(list), _) => Ok(Self::Ints(list)),
                (None, Some(1)) => Ok(Self::Floats(floats_of(tensor).unwrap_or_default())),
                _ => Err(refusal(node, &format!("{part}_tensor is neither integers nor floats"))),
            };
        }
        let texts = strings(node, &name("strings"));
        let (whole, real) = (ints(node, &name("int64s")), floats(node, &name("floats")));
        match (whole.is_empty(), real.is_empty(), texts.is_empty()) {
            (false, true, true) => Ok(Self::Ints(whole.to_vec())),
            (true, false, true) => Ok(Self::Floats(real.to_vec())),
            (true, true, false) => Ok(Self::Strings(texts)),
            _ => Err(refusal(node, &format!("it must have {part} of one type"))),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Ints(list) => list.len(),
            Self::Floats(list) => list.len(),
            Self::Strings(list) => list.len(),
        }
    }
}

/// What a LabelEncoder gives for what is not among its keys: an element of `default_tensor`, or one of the
/// older attributes.
fn default_of<T>(
    node: &NodeProto,
    read: impl Fn(&crate::onnx::TensorProto) -> Option<Vec<T>>,
    old: Option<T>,
    default: T,
) -> T {
    let tensor = node.attribute("default_tensor").and_then(|a| a.t.as_ref());
    tensor.and_then(read).and_then(|list| list.into_iter().next()).or(old).unwrap_or(default)
}

/// Values for keys: a table of the values after the default, and the number of each element's key in it.
pub fn labels(build: &mut Build<'_>, texts: &mut Texts, node: &NodeProto) -> Result<(), PrepareError> {
    let (x, output) = (input(node, 0)?, only_output(node)?);
    let (keys, values) = (List::of(node, "keys")?, List::of(node, "values")?);
    if keys.len() != values.len() {
        return Err(refusal(node, &format!("it has {} keys and {} values", keys.len(), values.len())));
    }
    let count = values.len() as i64 + 1;
    let (table, element) = match &values {
        List::Ints(list) => {
            let default = default_of(node, ints_of, node.int("default_int64"), -1);
            let table: Vec<i64> = [default].into_iter().chain(list.iter().copied()).collect();
            (build.ints(node, &[count], &table)?, INT64)
        }
        List::Floats(list) => {
            let old = node.attribute("default_float").and_then(|a| a.f);
            let default = default_of(node, floats_of, old, -0.0);
            let table: Vec<f32> = [default].into_iter().chain(list.iter().copied()).collect();
            (build.floats(node, &[count], &table)?, FLOAT)
        }
        List::Strings(list) => {
            let new = node.attribute("default_strings").map(|_| text(node, "default_strings", ""));
            let default = new.unwrap_or_else(|| text(node, "default_string", "_Unused"));
            let all: Vec<String> = [default.to_owned()].into_iter().chain(list.iter().cloned()).collect();
            texts.add(output, all);
            let numbers: Vec<i64> = (0..count).collect();
            (build.ints(node, &[count], &numbers)?, INT64)
        }
    };
    let place = match (&keys, texts.get(x)) {
        (List::Strings(keys), Some(strings)) => {
            // The input is the numbers of known strings: so is its place in the table.
            let mut places = HashMap::new();
            for (key, place) in keys.iter().zip(1i64..) {
                places.entry(key.as_str()).or_insert(place);
            }
            let of: Vec<i64> = strings.iter().map(|s| places.get(s.as_str()).copied().unwrap_or(0)).collect();
            let of = build.ints(node, &[of.len() as i64], &of)?;
            build.op(node, "Gather", &[&of, x], vec![int_attribute("axis", 0)])?
        }
        (List::Ints(keys), None) => {
            let first = firsts(keys.iter().copied());
            let keys: Vec<i64> = first.keys().copied().collect();
            let keys = build.ints(node, &[keys.len() as i64], &keys)?;
            let places: Vec<i32> = first.values().copied().collect();
            place_of(build, node, x, &keys, &places)?
        }
        (List::Floats(keys), None) => {
            if keys.iter().any(|k| k.is_nan()) {
                return Err(refusal(node, "a key is not a number (NaN)"));
            }
            // By bits, where both zeros are one key.
            let first = firsts(keys.iter().map(|k| (k + 0.0).to_bits()));
            let keys: Vec<f32> = first.keys().map(|bits| f32::from_bits(*bits)).collect();
            let keys = build.floats(node, &[keys.len() as i64], &keys)?;
            let places: Vec<i32> = first.values().copied().collect();
            place_of(build, node, x, &keys, &places)?
        }
        _ => return Err(computes(node)),
    };
    if let Some(rank) = build.known(x).rank() {
        build.state(output, element, rank);
    }
    build.put(node, "Gather", &[&table, &place], output, vec![int_attribute("axis", 0)])
}

/// The place of each key in the table; of keys that are equal, that of the first.
fn firsts<K: Ord>(keys: impl Iterator<Item = K>) -> BTreeMap<K, i32> {
    let mut first = BTreeMap::new();
    for (key, place) in keys.zip(1..) {
        first.entry(key).or_insert(place);
    }
    first
}

/// For each element its key's place, or 0: no two keys are equal, so at most one place is in the sum.
fn place_of(
    build: &mut Build<'_>,
    node: &NodeProto,
    x: &str,
    keys: &str,
    places: &[i32],
) -> Result<String, PrepareError> {
    let column = build.unsqueeze(node, x, &[-1])?;
    let same = build.op(node, "Equal", &[&column, keys], vec![])?;
    let same = build.cast(node, &same, super::build::INT32)?;
    let places = build.ints32(node, &[places.len() as i64], places)?;
    let place = build.op(node, "Mul", &[&same, &places], vec![])?;
    build.sum(node, &place, -1, false)
}
