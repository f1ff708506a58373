//! The nodes of a tree ensemble, read from attributes that nobody vouches for.

use crate::PrepareError;
use crate::onnx::NodeProto;
use crate::rewrite::attributes::{floats, ints, refusal};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// How a node compares a column with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Leaf,
    LessOrEqual,
    Less,
    GreaterOrEqual,
    Greater,
    Equal,
    NotEqual,
}

impl Mode {
    fn of(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"LEAF" => Self::Leaf,
            b"BRANCH_LEQ" => Self::LessOrEqual,
            b"BRANCH_LT" => Self::Less,
            b"BRANCH_GTE" => Self::GreaterOrEqual,
            b"BRANCH_GT" => Self::Greater,
            b"BRANCH_EQ" => Self::Equal,
            b"BRANCH_NEQ" => Self::NotEqual,
            _ => return None,
        })
    }
}

/// One node; children are places in [`Trees::nodes`].
#[derive(Debug, Clone)]
pub struct Node {
    pub mode: Mode,
    pub feature: usize,
    pub value: f32,
    pub yes: usize,
    pub no: usize,
    /// Where a value that is missing (NaN) goes on.
    pub missing_is_yes: bool,
    /// For a leaf: targets and their weights.
    pub weights: Vec<(usize, f32)>,
}

/// An ensemble: each tree is a tree, and every node belongs to one.
#[derive(Debug)]
pub struct Trees {
    pub nodes: Vec<Node>,
    /// The root of each tree, in the order of the file.
    pub roots: Vec<usize>,
    /// Leaves of each tree.
    pub leaves: Vec<Vec<usize>>,
}

/// Names of the attributes with weights: those of targets or of classes.
pub struct WeightNames {
    pub trees: &'static str,
    pub nodes: &'static str,
    pub ids: &'static str,
    pub weights: &'static str,
}

impl Trees {
    /// Takes time and memory in proportion to the number of nodes and weights.
    pub fn read(node: &NodeProto, names: &WeightNames, targets: usize) -> Result<Self, PrepareError> {
        let wrong = |why: String| refusal(node, &why);
        let (trees, ids) = (ints(node, "nodes_treeids"), ints(node, "nodes_nodeids"));
        let (features, values) = (ints(node, "nodes_featureids"), floats(node, "nodes_values"));
        let (yes, no) = (ints(node, "nodes_truenodeids"), ints(node, "nodes_falsenodeids"));
        let modes = node.attribute("nodes_modes").map_or(&[][..], |a| &a.strings);
        let tracks = ints(node, "nodes_missing_value_tracks_true");
        let count = ids.len();
        let lengths = [trees.len(), features.len(), values.len(), yes.len(), no.len(), modes.len()];
        if count == 0 || lengths.iter().any(|l| *l != count) || !(tracks.is_empty() || tracks.len() == count)
        {
            return Err(wrong(format!("its lists of nodes differ in length ({count}, {lengths:?})")));
        }
        let mut places = HashMap::with_capacity(count);
        for (place, key) in trees.iter().copied().zip(ids.iter().copied()).enumerate() {
            if places.insert(key, place).is_some() {
                return Err(wrong(format!("tree {} has two nodes {}", key.0, key.1)));
            }
        }
        let child = |place: usize, id: i64| {
            let key = (trees[place], id);
            let found = places.get(&key).copied();
            found.ok_or_else(|| wrong(format!("node {} of tree {} has no child {id}", ids[place], key.0)))
        };
        let mut nodes = Vec::with_capacity(count);
        for place in 0..count {
            let mode = Mode::of(&modes[place]).ok_or_else(|| {
                wrong(format!("mode {:?} is not supported", String::from_utf8_lossy(&modes[place])))
            })?;
            let leaf = mode == Mode::Leaf;
            let feature = if leaf { 0 } else { features[place] };
            if values[place].is_nan() && !leaf {
                return Err(wrong(format!("the value of node {} is not a number (NaN)", ids[place])));
            }
            nodes.push(Node {
                mode,
                feature: usize::try_from(feature)
                    .ok()
                    .filter(|f| *f < (1 << 30))
                    .ok_or_else(|| wrong(format!("there is no column {feature}")))?,
                value: values[place],
                yes: if leaf { place } else { child(place, yes[place])? },
                no: if leaf { place } else { child(place, no[place])? },
                missing_is_yes: tracks.get(place).is_some_and(|t| *t != 0),
                weights: Vec::new(),
            });
        }
        add_weights(node, &mut nodes, &places, names, targets)?;
        let (roots, leaves) = roots(node, &nodes, trees)?;
        Ok(Self { nodes, roots, leaves })
    }
}

fn add_weights(
    node: &NodeProto,
    nodes: &mut [Node],
    places: &HashMap<(i64, i64), usize>,
    names: &WeightNames,
    targets: usize,
) -> Result<(), PrepareError> {
    let (trees, of, ids) = (ints(node, names.trees), ints(node, names.nodes), ints(node, names.ids));
    let weights = floats(node, names.weights);
    let count = weights.len();
    if [trees.len(), of.len(), ids.len()].iter().any(|l| *l != count) {
        return Err(refusal(node, "its lists of weights differ in length"));
    }
    for index in 0..count {
        let Some(place) = places.get(&(trees[index], of[index])) else {
            let why =
                format!("a weight is of node {} of tree {}, which there is not", of[index], trees[index]);
            return Err(refusal(node, &why));
        };
        let target = usize::try_from(ids[index]).ok().filter(|t| *t < targets);
        let target = target
            .ok_or_else(|| refusal(node, &format!("a weight is of target {}, of {targets}", ids[index])))?;
        // Runtimes ignore weights of inner nodes.
        if nodes[*place].mode == Mode::Leaf {
            nodes[*place].weights.push((target, weights[index]));
        }
    }
    Ok(())
}

/// The root and the leaves of each tree; refuses what is not a tree.
#[allow(clippy::type_complexity)]
fn roots(
    node: &NodeProto,
    nodes: &[Node],
    trees: &[i64],
) -> Result<(Vec<usize>, Vec<Vec<usize>>), PrepareError> {
    let mut is_child = vec![false; nodes.len()];
    for inner in nodes.iter().filter(|n| n.mode != Mode::Leaf) {
        for child in [inner.yes, inner.no] {
            if std::mem::replace(&mut is_child[child], true) {
                let why = format!("a node of tree {} is the child of two", trees[child]);
                return Err(refusal(node, &why));
            }
        }
    }
    let mut numbers = HashMap::new();
    let mut roots = Vec::new();
    for place in (0..nodes.len()).filter(|place| !is_child[*place]) {
        match numbers.entry(trees[place]) {
            Entry::Vacant(entry) => entry.insert(roots.len()),
            Entry::Occupied(_) => {
                return Err(refusal(node, &format!("tree {} has two roots", trees[place])));
            }
        };
        roots.push(place);
    }
    // Each node is the child of at most one: what no root reaches is a cycle.
    let mut leaves = vec![Vec::new(); roots.len()];
    let mut reached = 0;
    for (root, leaves) in roots.iter().zip(&mut leaves) {
        let mut open = vec![*root];
        while let Some(place) = open.pop() {
            reached += 1;
            match nodes[place].mode {
                Mode::Leaf => leaves.push(place),
                _ => open.extend([nodes[place].no, nodes[place].yes]),
            }
        }
    }
    if reached != nodes.len() {
        return Err(refusal(node, "a tree has a cycle"));
    }
    Ok((roots, leaves))
}
