//! A walk down all trees at once, a level at a time, as tensors.
//!
//! Every inner node becomes a test "a column is at most a value" whose two successors are neighbours: where
//! it holds, the walk
//! goes on at `next + 1`, else, and where the column is NaN, at `next`. Columns may be negated (-x <= -v is
//! x >= v), so any
//! comparison has this form, with NaN on either side. A leaf is a test that never holds (its value is NaN)
//! and whose successor
//! is itself. So a step for all rows and trees is: look up column, value and `next` by place; compare; add.

use super::nodes::{Mode, Node, Trees};
use crate::PrepareError;
use crate::edit::int_attribute;
use crate::onnx::NodeProto;
use crate::rewrite::attributes::refusal;
use crate::rewrite::build::{Build, INT32};

/// Operators of a step on the longest path.
const STEP_DEPTH: u64 = 5;

/// Tests of all trees: a table by place.
#[derive(Debug, Default)]
pub struct Walk {
    columns: Vec<i32>,
    values: Vec<f32>,
    next: Vec<i32>,
    /// The leaf of the file's that is at a place.
    pub leaf: Vec<Option<usize>>,
    roots: Vec<i32>,
    steps: u64,
    negates: bool,
}

/// What is to be put at a place.
enum Item {
    Node(usize),
    /// A test: column, whether negated, value, and what comes where it does not and where it does hold.
    Test(usize, bool, f32, Box<Item>, Box<Item>),
    /// The place of a node that is elsewhere.
    Jump(usize),
}

impl Walk {
    /// The walk through trees whose roots are in this order; `None` is a tree with no weight.
    pub fn new(trees: &Trees, order: &[Option<usize>]) -> Self {
        let mut walk = Self { steps: steps(trees), ..Self::default() };
        let mut open: Vec<(Item, usize)> = Vec::new();
        let mut nothing = None;
        for root in order {
            let place = match (root, nothing) {
                (None, Some(place)) => place,
                _ => walk.place(),
            };
            match root {
                Some(root) => open.push((Item::Node(*root), place)),
                None => nothing = Some(place),
            }
            walk.roots.push(place as i32);
        }
        let mut found = vec![0; trees.nodes.len()];
        let mut jumps = Vec::new();
        // A level at a time, so that the tests of a level lie together.
        while !open.is_empty() {
            let mut below = Vec::new();
            for (item, place) in open {
                let test = match item {
                    Item::Node(index) => {
                        found[index] = place;
                        let node = &trees.nodes[index];
                        if node.mode == Mode::Leaf {
                            walk.leaf[place] = Some(index);
                            continue;
                        }
                        walk.test(node, &mut below)
                    }
                    Item::Jump(index) => {
                        jumps.push((place, index));
                        continue;
                    }
                    test => test,
                };
                if let Item::Test(column, negated, value, zero, one) = test {
                    walk.negates |= negated;
                    walk.columns[place] = 2 * column as i32 + i32::from(negated);
                    walk.values[place] = value;
                    let next = walk.place();
                    walk.place();
                    walk.next[place] = next as i32;
                    below.push((*zero, next));
                    below.push((*one, next + 1));
                }
            }
            open = below;
        }
        for (place, index) in jumps {
            walk.next[place] = found[index] as i32;
        }
        if !walk.negates {
            walk.columns.iter_mut().for_each(|c| *c /= 2);
        }
        walk
    }

    /// A new place, that of a leaf without weights.
    fn place(&mut self) -> usize {
        let place = self.next.len();
        self.columns.push(0);
        self.values.push(f32::NAN);
        self.next.push(place as i32);
        self.leaf.push(None);
        place
    }

    /// The test of an inner node. Nodes that are to be put elsewhere are added to `below`.
    fn test(&mut self, node: &Node, below: &mut Vec<(Item, usize)>) -> Item {
        let (column, v) = (node.feature, node.value);
        let (yes, no) = (Item::Node(node.yes), Item::Node(node.no));
        let at_most = |v: f32, one: Item, zero: Item| Item::Test(column, false, v, zero.into(), one.into());
        let at_least = |v: f32, one: Item, zero: Item| Item::Test(column, true, -v, zero.into(), one.into());
        let below_v = |one: Item, zero: Item| Item::Test(column, false, under(v), zero.into(), one.into());
        let above_v = |one: Item, zero: Item| Item::Test(column, true, under(-v), zero.into(), one.into());
        match (node.mode, node.missing_is_yes) {
            (Mode::LessOrEqual, false) => at_most(v, yes, no),
            (Mode::LessOrEqual, true) => above_v(no, yes),
            (Mode::Less, false) => below_v(yes, no),
            (Mode::Less, true) => at_least(v, no, yes),
            (Mode::GreaterOrEqual, false) => at_least(v, yes, no),
            (Mode::GreaterOrEqual, true) => below_v(no, yes),
            (Mode::Greater, false) => above_v(yes, no),
            (Mode::Greater, true) => at_most(v, no, yes),
            // NaN is not equal to anything.
            (Mode::Equal, false) => {
                let second = at_least(v, yes, Item::Jump(node.no));
                below.push((no, self.place()));
                at_most(v, second, Item::Jump(node.no))
            }
            (Mode::NotEqual, _) => {
                let second = at_least(v, no, Item::Jump(node.yes));
                below.push((yes, self.place()));
                at_most(v, second, Item::Jump(node.yes))
            }
            (Mode::Equal, true) => {
                let place = [self.place(), self.place()];
                below.extend([yes, no].into_iter().zip(place));
                let second = at_least(v, Item::Jump(node.yes), Item::Jump(node.no));
                let third = above_v(Item::Jump(node.no), Item::Jump(node.yes));
                at_most(v, second, third)
            }
            (Mode::Leaf, _) => Item::Node(node.yes),
        }
    }

    pub fn places(&self) -> usize {
        self.next.len()
    }

    /// Adds the steps. Returns the place of the leaf that each row ends in, [rows, trees].
    pub fn put(&self, build: &mut Build<'_>, of: &NodeProto, rows: &str) -> Result<String, PrepareError> {
        let known = build.known(rows);
        if known.rank().is_some_and(|rank| rank != 2) {
            return Err(refusal(of, "its input is not rows of columns"));
        }
        if let Some(width) = known.dim(1) {
            let column = self.columns.iter().max().map_or(0, |c| c / if self.negates { 2 } else { 1 });
            if column as u64 >= width {
                return Err(refusal(of, &format!("it reads column {column} of {width}")));
            }
        }
        let steps = self.steps;
        if steps * STEP_DEPTH > build.limits().depth_max {
            let why =
                format!("a tree has {steps} levels, of at most {}", build.limits().depth_max / STEP_DEPTH);
            return Err(refusal(of, &why));
        }
        let mut rows = build.as_float(of, rows)?;
        if self.negates {
            // x0, -x0, x1, -x1, ...
            let negative = build.op(of, "Neg", &[&rows], vec![])?;
            let pair = [build.unsqueeze(of, &rows, &[2])?, build.unsqueeze(of, &negative, &[2])?];
            let pairs = build.op(of, "Concat", &[&pair[0], &pair[1]], vec![int_attribute("axis", 2)])?;
            rows = build.op(of, "Flatten", &[&pairs], vec![int_attribute("axis", 1)])?;
        }
        let count = self.places() as i64;
        let columns = build.ints32(of, &[count], &self.columns)?;
        let values = build.floats(of, &[count], &self.values)?;
        let next = build.ints32(of, &[count], &self.next)?;
        let at = |list: &[i32]| self.roots.iter().map(|r| list[*r as usize]).collect::<Vec<_>>();
        let roots = [self.roots.len() as i64];
        // The first step is the same for all rows.
        let column = build.ints32(of, &roots, &at(&self.columns))?;
        let first: Vec<f32> = self.roots.iter().map(|r| self.values[*r as usize]).collect();
        let value = build.floats(of, &roots, &first)?;
        let from = build.ints32(of, &roots, &at(&self.next))?;
        let x = build.op(of, "Gather", &[&rows, &column], vec![int_attribute("axis", 1)])?;
        let holds = build.op(of, "LessOrEqual", &[&x, &value], vec![])?;
        let holds = build.cast(of, &holds, INT32)?;
        let mut place = build.op(of, "Add", &[&from, &holds], vec![])?;
        for _ in 1..steps {
            let look_up = |build: &mut Build<'_>, table: &str| {
                build.op(of, "Gather", &[table, &place], vec![int_attribute("axis", 0)])
            };
            let column = look_up(build, &columns)?;
            let value = look_up(build, &values)?;
            let from = look_up(build, &next)?;
            let x = build.op(of, "GatherElements", &[&rows, &column], vec![int_attribute("axis", 1)])?;
            let holds = build.op(of, "LessOrEqual", &[&x, &value], vec![])?;
            let holds = build.cast(of, &holds, INT32)?;
            place = build.op(of, "Add", &[&from, &holds], vec![])?;
        }
        Ok(place)
    }
}

/// Steps that are enough to get from any root to any leaf: one for each comparison, three where that is of
/// equality.
fn steps(trees: &Trees) -> u64 {
    let mut longest = 1;
    let mut open: Vec<(usize, u64)> = trees.roots.iter().map(|root| (*root, 0)).collect();
    while let Some((place, depth)) = open.pop() {
        let node = &trees.nodes[place];
        longest = longest.max(depth);
        let step = match node.mode {
            Mode::Leaf => continue,
            Mode::Equal | Mode::NotEqual => 3,
            _ => 1,
        };
        open.extend([(node.yes, depth + step), (node.no, depth + step)]);
    }
    longest
}

/// The largest float below a value; NaN, to which nothing is less or equal, where there is none.
fn under(value: f32) -> f32 {
    if value == f32::NEG_INFINITY { f32::NAN } else { value.next_down() }
}
