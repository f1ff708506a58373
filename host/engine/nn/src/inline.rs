//! A model's own functions: each call is replaced by the function's body, so that all that is checked of a
//! graph is checked of it.

use crate::onnx::*;
use crate::{ModelLimits, PrepareError};
use std::collections::{HashMap, HashSet};

/// Calls and graphs within one another; each is one call of a Rust function here.
const WITHIN_MAX: usize = 100;

/// Replaces all calls of functions of the model, and drops the functions.
///
/// # Errors
/// A function that calls itself or is written for another operator set, and a model that becomes too large.
pub fn functions(model: &mut ModelProto, limits: &ModelLimits) -> Result<(), PrepareError> {
    let functions = std::mem::take(&mut model.functions);
    if functions.is_empty() {
        return Ok(());
    }
    let Some(mut graph) = model.graph.take() else { return Ok(()) };
    let by_key = functions.iter().enumerate().map(|(i, f)| (f.key(), i)).collect();
    let mut inliner = Inliner {
        functions: &functions,
        by_key,
        imports: &mut model.opset_import,
        under_way: Vec::new(),
        mark: unused_mark(&graph),
        calls: 0,
        nodes_left: limits.nodes_max,
        nodes_max: limits.nodes_max,
    };
    let done = inliner.graph(&mut graph, 0);
    model.graph = Some(graph);
    done
}

/// The beginning of all new names: no name of the graph begins with it.
fn unused_mark(graph: &GraphProto) -> String {
    let mut mark = "inlined".to_owned();
    while graph_has(graph, &mark) {
        mark.push('\'');
    }
    mark
}

/// Whether a name in a graph, or in those in it, begins with this. A name that a graph reads and that nothing
/// gives is found by the check of the graph.
fn graph_has(graph: &GraphProto, mark: &str) -> bool {
    let is = |name: &Option<String>| name.as_ref().is_some_and(|name| name.starts_with(mark));
    graph.input.iter().any(|v| is(&v.name))
        || graph.initializer.iter().any(|t| is(&t.name))
        || graph.node.iter().any(|node| {
            let inner = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
            node.output.iter().any(|name| name.starts_with(mark)) || { inner }.any(|g| graph_has(g, mark))
        })
}

type Key = (String, String, String);

impl FunctionProto {
    fn key(&self) -> Key {
        let text = |s: &Option<String>| s.clone().unwrap_or_default();
        (default_domain(self.domain.as_deref()).to_owned(), text(&self.name), text(&self.overload))
    }
}

fn default_domain(domain: Option<&str>) -> &str {
    domain.filter(|domain| *domain != "ai.onnx").unwrap_or_default()
}

struct Inliner<'m> {
    functions: &'m [FunctionProto],
    by_key: HashMap<Key, usize>,
    imports: &'m mut Vec<OperatorSetIdProto>,
    /// Functions whose bodies lie around what is being written.
    under_way: Vec<usize>,
    mark: String,
    calls: u64,
    /// Nodes that may still be written; a call counts as one.
    nodes_left: u64,
    nodes_max: u64,
}

impl Inliner<'_> {
    /// Replaces the calls in a graph. `within` is how many calls and graphs lie around it.
    fn graph(&mut self, graph: &mut GraphProto, within: usize) -> Result<(), PrepareError> {
        let nodes = std::mem::take(&mut graph.node);
        graph.node = self.nodes(nodes, within)?;
        Ok(())
    }

    fn nodes(&mut self, nodes: Vec<NodeProto>, within: usize) -> Result<Vec<NodeProto>, PrepareError> {
        if within > WITHIN_MAX {
            let what = "graphs and calls of functions within one another";
            return Err(PrepareError::TooMany { what, got: within as u64, max: WITHIN_MAX as u64 });
        }
        let mut written = Vec::with_capacity(nodes.len());
        for mut node in nodes {
            for attribute in &mut node.attribute {
                for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                    self.graph(graph, within + 1)?;
                }
            }
            let (got, max) = (self.nodes_max.saturating_add(1), self.nodes_max);
            let left = self.nodes_left.checked_sub(1);
            self.nodes_left = left.ok_or(PrepareError::TooMany { what: "operators", got, max })?;
            let key = (
                node.op_domain().to_owned(),
                node.op().to_owned(),
                node.overload.clone().unwrap_or_default(),
            );
            match self.by_key.get(&key) {
                Some(&function) => written.extend(self.call(function, &node, within)?),
                None => written.push(node),
            }
        }
        Ok(written)
    }

    /// The body of a function in the place of a call.
    fn call(
        &mut self,
        index: usize,
        call: &NodeProto,
        within: usize,
    ) -> Result<Vec<NodeProto>, PrepareError> {
        let function = &self.functions[index];
        let refuse = |reason: &str| {
            let (op, node) = (call.op(), call.label());
            Err(PrepareError::Operator(format!("{op} (node {node:?}), a function of the model: {reason}")))
        };
        if self.under_way.contains(&index) {
            return refuse("it calls itself");
        }
        if call.input.len() > function.input.len() || call.output.len() > function.output.len() {
            return refuse("the call has more inputs or outputs than the function");
        }
        if let Err(reason) = self.import(function) {
            return refuse(&reason);
        }
        self.calls += 1;
        let prefix = format!("{}{}", self.mark, self.calls);
        let mut names = Names { prefix: &prefix, known: HashMap::new() };
        for (i, formal) in function.input.iter().enumerate() {
            let given = call.input.get(i).cloned().unwrap_or_default();
            names.known.insert(formal.clone(), given);
        }
        // An output that is an input as it is, or another output, too, is handed on by a node of its own.
        let mut handed_on = Vec::new();
        let mut taken: HashSet<&str> = HashSet::new();
        for (i, formal) in function.output.iter().enumerate() {
            let Some(wanted) = call.output.get(i).filter(|name| !name.is_empty()) else { continue };
            if function.input.contains(formal) || !taken.insert(formal) {
                handed_on.push((formal, wanted));
            } else {
                names.known.insert(formal.clone(), wanted.clone());
            }
        }
        let mut body = function.node.clone();
        names.nodes(&mut body, &|reference| attribute_of(call, function, reference));
        for (from, to) in handed_on {
            body.push(NodeProto {
                op_type: Some("Identity".into()),
                input: vec![names.of(from)],
                output: vec![to.clone()],
                ..NodeProto::default()
            });
        }
        for node in &mut body {
            let own = node.name.take().filter(|name| !name.is_empty());
            node.name = own.map(|own| format!("{}/{own}", call.label()));
        }
        self.under_way.push(index);
        let written = self.nodes(body, within + 1);
        self.under_way.pop();
        written
    }

    /// The operator sets that a function imports are those of the model.
    fn import(&mut self, function: &FunctionProto) -> Result<(), String> {
        for import in &function.opset_import {
            let domain = default_domain(import.domain.as_deref());
            let found = self.imports.iter().find(|i| default_domain(i.domain.as_deref()) == domain);
            match found {
                Some(found) if found.version != import.version => {
                    let version = |i: &OperatorSetIdProto| i.version.unwrap_or_default();
                    return Err(format!(
                        "it is written for operator set {} of domain {domain:?}, and the model for {}",
                        version(import),
                        version(found)
                    ));
                }
                Some(_) => {}
                None => self.imports.push(import.clone()),
            }
        }
        Ok(())
    }
}

/// The attribute that a body refers to: that of the call, or the function's default.
fn attribute_of(call: &NodeProto, function: &FunctionProto, reference: &str) -> Option<AttributeProto> {
    let is = |a: &&AttributeProto| a.name.as_deref() == Some(reference);
    call.attribute.iter().find(is).or_else(|| function.attribute_proto.iter().find(is)).cloned()
}

/// New names for those of a body.
struct Names<'p> {
    prefix: &'p str,
    known: HashMap<String, String>,
}

impl Names<'_> {
    fn of(&mut self, name: &str) -> String {
        if name.is_empty() {
            return String::new();
        }
        let new = || format!("{}/{name}", self.prefix);
        self.known.entry(name.to_owned()).or_insert_with(new).clone()
    }

    fn nodes(&mut self, nodes: &mut [NodeProto], attribute_of: &dyn Fn(&str) -> Option<AttributeProto>) {
        for node in nodes {
            for name in node.input.iter_mut().chain(&mut node.output) {
                *name = self.of(name);
            }
            for mut attribute in std::mem::take(&mut node.attribute) {
                if let Some(reference) = attribute.ref_attr_name.take().filter(|name| !name.is_empty()) {
                    // Graphs of the call keep their names: they are of the graph around it.
                    node.attribute.extend(
                        attribute_of(&reference).map(|a| AttributeProto { name: attribute.name, ..a }),
                    );
                    continue;
                }
                for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                    self.graph(graph, attribute_of);
                }
                node.attribute.push(attribute);
            }
        }
    }

    fn graph(&mut self, graph: &mut GraphProto, attribute_of: &dyn Fn(&str) -> Option<AttributeProto>) {
        graph.value_info.clear();
        let tensors = graph.initializer.iter_mut().map(|tensor| &mut tensor.name);
        let values = graph.input.iter_mut().chain(&mut graph.output).map(|value| &mut value.name);
        for name in tensors.chain(values) {
            *name = name.as_deref().map(|name| self.of(name));
        }
        self.nodes(&mut graph.node, attribute_of);
    }
}
