//! Replacing nodes of a graph by others that compute the same.

use crate::onnx::*;
use std::collections::HashSet;

/// The nodes of a graph that is being written anew.
pub struct Editor {
    pub nodes: Vec<NodeProto>,
    taken: HashSet<String>,
}

impl Editor {
    pub fn new(graph: &GraphProto) -> Self {
        Self::of(graph, &graph.node)
    }

    /// For a graph whose nodes, taken out of it, are these.
    pub fn of(graph: &GraphProto, nodes: &[NodeProto]) -> Self {
        let mut taken: HashSet<String> = nodes.iter().flat_map(|n| n.output.iter().cloned()).collect();
        taken.extend(graph.initializer.iter().filter_map(|t| t.name.clone()));
        taken.extend(graph.input.iter().filter_map(|i| i.name.clone()));
        Self { nodes: Vec::with_capacity(nodes.len()), taken }
    }

    /// A name that the graph does not use, made from that of a value.
    pub fn fresh(&mut self, value: &str, part: &str) -> String {
        let mut name = format!("{value}/{part}");
        while !self.taken.insert(name.clone()) {
            name.push('\'');
        }
        name
    }

    /// Adds a node that stands for (a part of) `of`.
    pub fn add(
        &mut self,
        of: &NodeProto,
        op: &str,
        input: &[&str],
        output: &[&str],
        attribute: Vec<AttributeProto>,
    ) {
        let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        self.nodes.push(NodeProto {
            name: Some(format!("{} ({op})", of.label())),
            op_type: Some(op.to_owned()),
            input: strings(input),
            output: strings(output),
            attribute,
            ..NodeProto::default()
        });
    }
}

pub fn int_attribute(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        i: Some(value),
        r#type: Some(ATTRIBUTE_INT),
        ..AttributeProto::default()
    }
}

pub fn float_attribute(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        f: Some(value),
        r#type: Some(ATTRIBUTE_FLOAT),
        ..AttributeProto::default()
    }
}

pub fn ints_attribute(name: &str, values: Vec<i64>) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        ints: values,
        r#type: Some(ATTRIBUTE_INTS),
        ..AttributeProto::default()
    }
}

/// Puts an attribute in the place of one of the same name.
pub fn set_attribute(node: &mut NodeProto, attribute: AttributeProto) {
    node.attribute.retain(|a| a.name != attribute.name);
    node.attribute.push(attribute);
}

/// Calls `f` for each graph that the attributes of a node hold.
pub fn each_inner_graph<E>(
    node: &mut NodeProto,
    mut f: impl FnMut(&mut GraphProto) -> Result<(), E>,
) -> Result<(), E> {
    for attribute in &mut node.attribute {
        for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            f(graph)?;
        }
    }
    Ok(())
}
