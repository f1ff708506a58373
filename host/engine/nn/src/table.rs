//! Tables of operators: which of them are right on an engine, in which element types, operator sets and
//! attributes. That of the embedded engine is the file `operators.toml` beside this one, which people read as
//! well. It names all that is right; ONNX Runtime's names what is not (`onnx_runtime/rules.rs`).

use crate::PrepareError;
use crate::conditions;
use crate::facts::Facts;
use crate::onnx::*;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::OnceLock;

const TEXT: &str = include_str!("operators.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The engine's name in messages.
    engine: String,
    /// Names for lists of element types.
    types: BTreeMap<String, Vec<String>>,
    /// By operator; one of another domain is written `domain.Operator`.
    operators: BTreeMap<String, Operator>,
}

/// What of an operator is right.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Operator {
    /// Why nothing of it is.
    refused: Option<String>,
    /// For each input its element types, as names of lists or of types; the last holds for all further
    /// inputs.
    #[serde(default)]
    inputs: Vec<String>,
    /// The element type of each output: a type, the number of the input that it is taken from, or the
    /// attribute that tells it.
    #[serde(default)]
    outputs: Vec<String>,
    /// First and last operator set, where not all are right.
    opsets: Option<[i64; 2]>,
    /// Values of attributes that are right. An attribute that is not listed may have any.
    #[serde(default)]
    attributes: BTreeMap<String, Vec<String>>,
    /// Attributes that have to be there, since their default is not right.
    #[serde(default)]
    required: Vec<String>,
    /// Attributes that have to be absent, each with the reason.
    #[serde(default)]
    without: BTreeMap<String, String>,
    /// Inputs that have to be absent, by number, each with the reason.
    #[serde(default)]
    without_inputs: BTreeMap<String, String>,
    /// Element types of the first input that are not right, each with the reason.
    #[serde(default)]
    refused_types: BTreeMap<String, String>,
    /// Conditions that are written in Rust; see `conditions.rs`.
    #[serde(default)]
    conditions: Vec<String>,
    /// For people.
    #[serde(default)]
    #[allow(dead_code)]
    note: String,
}

fn table() -> Result<&'static Table, PrepareError> {
    static TABLE: OnceLock<Result<Table, String>> = OnceLock::new();
    Table::once(&TABLE, TEXT)
}

/// Where a node stands, for messages: its name, or its operator and its number among those.
pub struct Place<'a> {
    pub node: &'a NodeProto,
    pub label: String,
}

impl Place<'_> {
    pub fn refuse(&self, reason: impl std::fmt::Display) -> PrepareError {
        PrepareError::Operator(format!("{} (node {:?}): {reason}", self.node.op(), self.label))
    }
}

/// Whether the table has an operator, and does not refuse all of it.
pub fn has(domain: &str, op: &str) -> Result<bool, PrepareError> {
    Ok(table()?.operators.get(&key(domain, op)).is_some_and(|o| o.refused.is_none()))
}

/// Why the table refuses all of an operator.
pub fn refusal(domain: &str, op: &str) -> Result<Option<&'static str>, PrepareError> {
    Ok(table()?.operators.get(&key(domain, op)).and_then(|o| o.refused.as_deref()))
}

fn key(domain: &str, op: &str) -> String {
    if domain.is_empty() { op.to_owned() } else { format!("{domain}.{op}") }
}

/// Checks a node, and gives the element types of its outputs.
///
/// # Errors
/// What the table does not have, with the reason.
pub fn check(place: &Place<'_>, opset: i64, facts: &Facts) -> Result<Vec<Option<Element>>, PrepareError> {
    let (table, node) = (table()?, place.node);
    if !table.operators.contains_key(&key(node.op_domain(), node.op())) {
        return Err(place.refuse("the embedded engine does not have it"));
    }
    table.check_listed(place, opset, facts)?;
    outputs(node, facts)
}

/// The element types of a node's outputs, where they are known; nothing is checked.
pub fn outputs(node: &NodeProto, facts: &Facts) -> Result<Vec<Option<Element>>, PrepareError> {
    let Some(operator) = table()?.operators.get(&key(node.op_domain(), node.op())) else {
        return Ok(Vec::new());
    };
    Ok((0..node.output.len()).map(|i| operator.output(i, node, facts)).collect())
}

impl Table {
    /// The table of a text, which is read once.
    pub fn once(
        cell: &'static OnceLock<Result<Table, String>>,
        text: &str,
    ) -> Result<&'static Table, PrepareError> {
        let table = cell.get_or_init(|| toml::from_str(text).map_err(|e| e.to_string()));
        table
            .as_ref()
            .map_err(|e| PrepareError::Engine(format!("the table of operators cannot be read: {e}")))
    }

    /// Checks a node that the table has, and says nothing of others.
    pub fn check_listed(&self, place: &Place<'_>, opset: i64, facts: &Facts) -> Result<(), PrepareError> {
        let node = place.node;
        let Some(operator) = self.operators.get(&key(node.op_domain(), node.op())) else { return Ok(()) };
        if let Some(reason) = &operator.refused {
            return Err(place.refuse(reason));
        }
        if let Some([first, last]) = operator.opsets
            && !(first..=last).contains(&opset)
        {
            return Err(place.refuse(format!("operator set {opset} is not supported; {first} to {last} are")));
        }
        self.inputs(operator, place, facts)?;
        self.attributes(operator, place)?;
        operator.refusals(place, facts)?;
        for name in &operator.conditions {
            conditions::check(name, node, opset, facts).map_err(|reason| place.refuse(reason))?;
        }
        Ok(())
    }

    fn allows(&self, names: &str, element: Element) -> bool {
        names.split(' ').any(|name| match self.types.get(name) {
            Some(list) => list.iter().any(|t| t == element.name()),
            None => name == element.name(),
        })
    }

    fn inputs(&self, operator: &Operator, place: &Place<'_>, facts: &Facts) -> Result<(), PrepareError> {
        for i in 0..place.node.input.len() {
            let Some(fact) = facts.input(place.node, i) else { continue };
            let Some(names) = operator.inputs.get(i).or(operator.inputs.last()) else { continue };
            let Some(element) = fact.element else {
                return Err(place.refuse(format!("the element type of input {i} is not known at deploy")));
            };
            if !self.allows(names, element) {
                let name = element.name();
                let engine = &self.engine;
                return Err(place.refuse(format!("{engine} does not compute it with {name} as input {i}")));
            }
        }
        Ok(())
    }

    fn attributes(&self, operator: &Operator, place: &Place<'_>) -> Result<(), PrepareError> {
        let engine = &self.engine;
        for (name, reason) in &operator.without {
            if place.node.attribute(name).is_some() {
                return Err(place.refuse(format!("attribute {name}: {reason}")));
            }
        }
        for name in &operator.required {
            if place.node.attribute(name).is_none() {
                let allowed = operator.attributes.get(name).map_or_else(String::new, |a| a.join(", "));
                let why = format!("attribute {name} has its default; {engine} is right with {allowed} alone");
                return Err(place.refuse(why));
            }
        }
        for (name, allowed) in &operator.attributes {
            let Some(attribute) = place.node.attribute(name) else { continue };
            let got = match (&attribute.s, attribute.i) {
                (Some(text), _) => String::from_utf8_lossy(text).into_owned(),
                (None, Some(i)) => i.to_string(),
                (None, None) => attribute.f.map(|f| f.to_string()).unwrap_or_default(),
            };
            if !allowed.contains(&got) {
                let allowed = allowed.join(", ");
                let why = format!("attribute {name} is {got:?}; {engine} is right with {allowed} alone");
                return Err(place.refuse(why));
            }
        }
        Ok(())
    }
}

impl Operator {
    fn refusals(&self, place: &Place<'_>, facts: &Facts) -> Result<(), PrepareError> {
        for (number, reason) in &self.without_inputs {
            let given = number.parse().ok().and_then(|i: usize| place.node.input.get(i));
            if given.is_some_and(|name| !name.is_empty()) {
                return Err(place.refuse(format!("input {number}: {reason}")));
            }
        }
        let element = facts.input(place.node, 0).and_then(|f| f.element);
        match element.and_then(|element| self.refused_types.get(element.name())) {
            Some(reason) => Err(place.refuse(reason)),
            None => Ok(()),
        }
    }

    fn output(&self, index: usize, node: &NodeProto, facts: &Facts) -> Option<Element> {
        let input = |i: usize| facts.input(node, i).and_then(|f| f.element);
        match self.outputs.get(index).or(self.outputs.last()).map(String::as_str) {
            None => input(0),
            Some("to") => Element::from_number(i32::try_from(node.int("to")?).ok()?),
            Some("dtype") => match node.int("dtype") {
                Some(number) => Element::from_number(i32::try_from(number).ok()?),
                None => input(0),
            },
            Some("value") => match node.attribute("value").and_then(|a| a.t.as_ref()) {
                Some(tensor) => Element::from_number(tensor.data_type?),
                None => Some(Element::Float),
            },
            Some("zero point") => Some(input(2).unwrap_or(Element::Uint8)),
            Some("constant" | "branches") => None,
            Some(rule) => match rule.parse::<usize>() {
                Ok(i) => input(i),
                Err(_) => Element::from_name(rule),
            },
        }
    }
}

#[cfg(test)]
impl Table {
    /// Whether all that it names exists.
    pub fn check_names(&self) {
        let known = |name: &str| self.types.contains_key(name) || Element::from_name(name).is_some();
        for (list, types) in &self.types {
            assert!(types.iter().all(|t| Element::from_name(t).is_some()), "{list}");
        }
        for (op, operator) in &self.operators {
            assert!(operator.inputs.iter().all(|i| i.split(' ').all(known)), "{op}");
            assert!(operator.refused_types.keys().all(|t| Element::from_name(t).is_some()), "{op}");
            assert!(operator.without_inputs.keys().all(|i| i.parse::<usize>().is_ok()), "{op}");
            assert!(operator.conditions.iter().all(|c| conditions::NAMES.contains(&c.as_str())), "{op}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_only_what_there_is() {
        let table = table().expect("a table");
        table.check_names();
        for (op, operator) in &table.operators {
            assert!(
                operator.refused.is_some() || !operator.inputs.is_empty() || op.contains("Constant"),
                "{op}"
            );
        }
    }
}
