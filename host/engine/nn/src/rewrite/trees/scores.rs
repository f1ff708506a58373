//! Scores of an ensemble: the weights of the leaves that each row ends in, aggregated over the trees.

use super::nodes::Trees;
use super::walk::Walk;
use crate::PrepareError;
use crate::edit::int_attribute;
use crate::onnx::NodeProto;
use crate::rewrite::attributes::{input, refusal};
use crate::rewrite::build::Build;

/// `aggregate_function`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregate {
    Sum,
    Average,
    Min,
    Max,
}

/// Elements of a table of weights by leaf and target, at most.
const TABLE_MAX: usize = 1 << 26;

/// How weights are laid out.
enum Layout {
    /// A tree has weights of one target: as many trees for each target, one target after another. Their
    /// number for each.
    ByTarget(usize),
    /// Weights of all targets at each leaf.
    Table,
}

/// What is to be added to a graph.
pub struct Scores<'t> {
    trees: &'t Trees,
    walk: Walk,
    layout: Layout,
    targets: usize,
    aggregate: Aggregate,
}

/// Names of values.
pub struct Put {
    /// [rows, targets]
    pub total: String,
    /// [rows, targets]: over 0 where a leaf gave a score; absent where one always does.
    pub scored: Option<String>,
}

impl<'t> Scores<'t> {
    pub fn new(
        node: &NodeProto,
        trees: &'t Trees,
        targets: usize,
        aggregate: Aggregate,
    ) -> Result<Self, PrepareError> {
        let sums = matches!(aggregate, Aggregate::Sum | Aggregate::Average);
        let (layout, order) = by_target(trees, targets, sums)
            .unwrap_or_else(|| (Layout::Table, trees.roots.iter().map(|root| Some(*root)).collect()));
        let walk = Walk::new(trees, &order);
        let size = walk.places().saturating_mul(targets);
        if matches!(layout, Layout::Table) && size > TABLE_MAX {
            let why = format!("{} nodes with {targets} targets are too many", walk.places());
            return Err(refusal(node, &why));
        }
        let all_have_all = || {
            trees.leaves.iter().flatten().all(|leaf| {
                let weights = &trees.nodes[*leaf].weights;
                weights.len() == targets && has_all(weights.iter().map(|w| w.0), targets)
            })
        };
        if !sums && !all_have_all() {
            return Err(refusal(node, "a leaf has no weight for a target, of which MIN or MAX is asked"));
        }
        Ok(Self { trees, walk, layout, targets, aggregate })
    }

    pub fn put(&self, build: &mut Build<'_>, of: &NodeProto, base: &[f32]) -> Result<Put, PrepareError> {
        let place = self.walk.put(build, of, input(of, 0)?)?;
        let (op, targets) = (
            match self.aggregate {
                Aggregate::Sum | Aggregate::Average => "ReduceSum",
                Aggregate::Min => "ReduceMin",
                Aggregate::Max => "ReduceMax",
            },
            self.targets as i64,
        );
        let by_place = vec![int_attribute("axis", 0)];
        let (mut total, scored) = match self.layout {
            Layout::ByTarget(count) => {
                let table = build.floats(of, &[self.walk.places() as i64], &self.table(1, |w| w))?;
                let mut weights = build.op(of, "Gather", &[&table, &place], by_place)?;
                if self.targets > 1 {
                    weights = build.reshape(of, &weights, &[-1, targets, count as i64])?;
                    (build.reduce(of, op, &weights, &[2], false)?, None)
                } else {
                    (build.reduce(of, op, &weights, &[1], true)?, None)
                }
            }
            Layout::Table => {
                let dims = [self.walk.places() as i64, targets];
                let table = build.floats(of, &dims, &self.table(self.targets, |w| w))?;
                let weights = build.op(of, "Gather", &[&table, &place], by_place.clone())?;
                let total = build.reduce(of, op, &weights, &[1], false)?;
                let scored = if self.always_scores() {
                    None
                } else {
                    let table = build.floats(of, &dims, &self.table(self.targets, |_| 1.0))?;
                    let scored = build.op(of, "Gather", &[&table, &place], by_place)?;
                    Some(build.reduce(of, "ReduceMax", &scored, &[1], false)?)
                };
                (total, scored)
            }
        };
        if self.aggregate == Aggregate::Average {
            let count = build.floats(of, &[], &[self.trees.roots.len() as f32])?;
            total = build.op(of, "Div", &[&total, &count], vec![])?;
        }
        if !base.is_empty() {
            let base = build.floats(of, &[base.len() as i64], base)?;
            total = build.op(of, "Add", &[&total, &base], vec![])?;
        }
        Ok(Put { total, scored })
    }

    /// Weights by place, each as `value` has it; of one target or of all.
    fn table(&self, targets: usize, value: impl Fn(f32) -> f32) -> Vec<f32> {
        let mut table = vec![0.0; self.walk.places() * targets];
        for (place, leaf) in self.walk.leaf.iter().enumerate() {
            for (target, weight) in leaf.iter().flat_map(|leaf| &self.trees.nodes[*leaf].weights) {
                let target = if targets == 1 { 0 } else { *target };
                table[place * targets + target] += value(*weight);
            }
        }
        table
    }

    /// Whether each target has a tree all of whose leaves have a weight for it.
    fn always_scores(&self) -> bool {
        let mut scored = vec![false; self.targets];
        for leaves in &self.trees.leaves {
            // Only targets of the first leaf can be those of all.
            let Some(first) = leaves.first() else { continue };
            let mut candidates: Vec<usize> = self.trees.nodes[*first].weights.iter().map(|w| w.0).collect();
            for leaf in leaves {
                let mut here: Vec<usize> = self.trees.nodes[*leaf].weights.iter().map(|w| w.0).collect();
                here.sort_unstable();
                candidates.retain(|c| here.binary_search(c).is_ok());
            }
            candidates.into_iter().for_each(|target| scored[target] = true);
        }
        scored.into_iter().all(|s| s)
    }
}

fn has_all(found: impl Iterator<Item = usize>, targets: usize) -> bool {
    let mut has = vec![false; targets];
    found.for_each(|target| has[target] = true);
    has.into_iter().all(|h| h)
}

/// The order of trees for [`Layout::ByTarget`], where each leaf has one weight, and those of a tree are of
/// one target. Targets
/// with fewer trees than others get trees without weights, if that adds no more than there are, and they
/// are summed.
fn by_target(trees: &Trees, targets: usize, sums: bool) -> Option<(Layout, Vec<Option<usize>>)> {
    let mut of = vec![Vec::new(); targets.min(trees.roots.len())];
    for (root, leaves) in trees.roots.iter().zip(&trees.leaves) {
        let one = |leaf: &usize| match trees.nodes[*leaf].weights[..] {
            [(target, _)] => Some(target),
            _ => None,
        };
        let target = one(leaves.first()?)?;
        if leaves.iter().any(|leaf| one(leaf) != Some(target)) {
            return None;
        }
        of.get_mut(target)?.push(*root);
    }
    let most = of.iter().map(Vec::len).max()?;
    let even = of.iter().all(|list| list.len() == most);
    let all = of.len() == targets && of.iter().all(|list| !list.is_empty());
    if !all || !(even || sums) || most.checked_mul(targets)? > 2 * trees.roots.len() {
        return None;
    }
    let padded = |list: Vec<usize>| {
        let given = list.into_iter().map(Some);
        given.chain(std::iter::repeat(None)).take(most).collect::<Vec<_>>()
    };
    Some((Layout::ByTarget(most), of.into_iter().flat_map(padded).collect()))
}
