//! One case: a model that grows by operators, and the inputs of its first run.

use crate::values::{ALL, Data, Ty, WRAPPING, odd_float, odd_int, one_of};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::mem::{replace, take};
use std::ops::RangeInclusive;
use vesta_nn::onnx::*;

/// Elements of a tensor that carries its data, at most.
const ELEMENTS_MAX: i64 = 1 << 14;

/// A value of the graph, with the shape that it should have.
#[derive(Debug, Clone)]
pub struct Value {
    pub name: String,
    pub ty: Ty,
    pub shape: Vec<i64>,
}

impl Value {
    pub fn rank(&self) -> i64 {
        self.shape.len() as i64
    }
}

/// An input of the model, with what the first run gives it.
#[derive(Debug, Clone)]
pub struct Input {
    pub value: Value,
    pub data: Data,
}

pub struct Case {
    pub rng: SmallRng,
    pub opset: i64,
    pub inputs: Vec<Input>,
    /// Operators of the outermost graph.
    pub operators: Vec<String>,
    /// How often something plain is replaced by something odd.
    hostility: f64,
    nodes: Vec<NodeProto>,
    weights: Vec<TensorProto>,
    /// What nodes gave so far.
    values: Vec<Value>,
    stated: Vec<ValueInfoProto>,
    used: Vec<String>,
    count: usize,
    depth: usize,
}

impl Case {
    pub fn new(seed: u64) -> Case {
        let mut rng = SmallRng::seed_from_u64(seed);
        let hostility = one_of(&mut rng, &[0.0, 0.02, 0.05, 0.1, 0.3]);
        let opset = if rng.random_bool(0.7) { 21 } else { rng.random_range(7..=28) };
        Case {
            rng,
            opset,
            inputs: Vec::new(),
            operators: Vec::new(),
            hostility,
            nodes: Vec::new(),
            weights: Vec::new(),
            values: Vec::new(),
            stated: Vec::new(),
            used: Vec::new(),
            count: 0,
            depth: 0,
        }
    }

    pub fn chance(&mut self, p: f64) -> bool {
        self.rng.random_bool(p)
    }

    pub fn below(&mut self, end: i64) -> i64 {
        if end <= 1 { 0 } else { self.rng.random_range(0..end) }
    }

    pub fn within(&mut self, range: RangeInclusive<i64>) -> i64 {
        if range.is_empty() { *range.start() } else { self.rng.random_range(range) }
    }

    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        one_of(&mut self.rng, list)
    }

    pub fn hurt(&mut self) -> bool {
        let hostility = self.hostility;
        self.chance(hostility)
    }

    /// How deep in graphs of nodes.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// An integer; perhaps an odd one in its place.
    pub fn n(&mut self, v: i64) -> i64 {
        if self.hurt() { odd_int(&mut self.rng, v) } else { v }
    }

    pub fn f(&mut self, v: f32) -> f32 {
        if self.hurt() { odd_float(&mut self.rng) } else { v }
    }

    pub fn s<'a>(&mut self, list: &[&'a str]) -> &'a str {
        if self.hurt() { "nonsense" } else { self.pick(list) }
    }

    pub fn ty(&mut self, list: &[Ty]) -> Ty {
        if self.hurt() { self.pick(&ALL) } else { self.pick(list) }
    }

    /// An axis of a tensor of this rank, from either end.
    pub fn axis(&mut self, rank: i64) -> i64 {
        let axis = self.below(rank);
        if self.chance(0.3) { axis - rank } else { axis }
    }

    pub fn dim(&mut self) -> i64 {
        match self.below(20) {
            0 => self.pick(&[8, 9, 15, 16, 17]),
            1 => self.pick(&[31, 32, 33, 64, 65]),
            2 if self.hostility > 0.0 => 0,
            3..=6 => 1,
            _ => self.within(2..=6),
        }
    }

    pub fn dims(&mut self, rank: i64) -> Vec<i64> {
        let mut shape: Vec<i64> = (0..rank).map(|_| self.dim()).collect();
        shrink(&mut shape);
        shape
    }

    /// A shape that broadcasts to this one.
    pub fn broadcast(&mut self, shape: &[i64]) -> Vec<i64> {
        let skip = if self.chance(0.3) { self.below(shape.len() as i64 + 1) as usize } else { 0 };
        shape[skip..].iter().map(|d| if self.chance(0.25) { 1 } else { *d }).collect()
    }

    /// An earlier value of one of these types and ranks, or a new one.
    pub fn any(&mut self, types: &[Ty], ranks: RangeInclusive<i64>) -> Value {
        let hurt = self.hurt();
        let fits = |v: &&Value| hurt || (types.contains(&v.ty) && ranks.contains(&v.rank()));
        let found = self.values.iter().rev().find(fits).cloned();
        if let Some(value) = found.filter(|_| self.chance(0.85)) {
            return value;
        }
        let rank = self.within(ranks);
        let (ty, shape) = (self.ty(types), self.dims(rank));
        self.of(ty, &shape)
    }

    /// A new value of this type and shape, filled plainly.
    pub fn of(&mut self, ty: Ty, shape: &[i64]) -> Value {
        let count = self.elements(shape);
        let data = self.fill(ty, count);
        self.given(ty, shape, data)
    }

    /// A vector of integers that steers an operator: axes, sizes, pads.
    pub fn ints(&mut self, list: &[i64]) -> Value {
        let list = list.iter().map(|v| self.n(*v)).collect::<Vec<_>>();
        let ty = if self.hurt() { Ty::I32 } else { Ty::I64 };
        self.given(ty, &[list.len() as i64], Data::Ints(list))
    }

    /// A vector of integers that is a shape.
    pub fn shape(&mut self, list: &[i64]) -> Value {
        if self.hurt() {
            let wrapping = self.pick(&WRAPPING);
            return self.given(Ty::I64, &[wrapping.len() as i64], Data::Ints(wrapping.to_vec()));
        }
        self.ints(list)
    }

    pub fn int(&mut self, v: i64) -> Value {
        let v = self.n(v);
        let shape: &[i64] = if self.chance(0.1) { &[1] } else { &[] };
        self.given(Ty::I64, shape, Data::Ints(vec![v]))
    }

    pub fn float(&mut self, v: f32) -> Value {
        let v = self.f(v);
        self.given(Ty::F32, &[], Data::Floats(vec![v]))
    }

    /// Numbers below `end`, some from behind.
    pub fn indices(&mut self, shape: &[i64], end: i64) -> Value {
        let count = self.elements(shape);
        let data = (0..count).map(|_| if self.chance(0.1) { -1 } else { self.below(end) }).collect();
        let ty = self.pick(&[Ty::I64, Ty::I32]);
        self.given(ty, shape, Data::Ints(data))
    }

    fn elements(&self, shape: &[i64]) -> i64 {
        shape.iter().fold(1i64, |n, d| n.saturating_mul(*d)).clamp(0, ELEMENTS_MAX)
    }

    fn fill(&mut self, ty: Ty, count: i64) -> Data {
        if ty.is_float() {
            return Data::Floats((0..count).map(|_| self.rng.random_range(-2.0..2.0)).collect());
        }
        let range = match ty {
            Ty::Bool => 0..=1,
            Ty::U8 => 0..=255,
            Ty::I8 => -128..=127,
            _ => -3..=5,
        };
        Data::Ints((0..count).map(|_| self.rng.random_range(range.clone())).collect())
    }

    /// A source with these elements: an input, a weight, or the output of a Constant; perhaps of another
    /// shape, perhaps seen through a view of other strides.
    pub fn given(&mut self, ty: Ty, shape: &[i64], data: Data) -> Value {
        let mut shape = shape.to_vec();
        shrink(&mut shape);
        if self.hurt() {
            hurt_shape(&mut self.rng, &mut shape);
        }
        let mut data = data.cycled(self.elements(&shape) as usize);
        if self.hurt() {
            data.hurt(&mut self.rng, 0.3);
        }
        if shape.len() >= 2 && self.chance(0.15) {
            let reversed: Vec<i64> = shape.iter().rev().copied().collect();
            let source = self.source(ty, &reversed, data);
            return self.node("Transpose", &[Some(&source)], vec![], &[(ty, shape)]).remove(0);
        }
        self.source(ty, &shape, data)
    }

    /// An input of the model whose shape is stated as it is.
    pub fn stated(&mut self, ty: Ty, shape: &[i64]) -> Value {
        let count = self.elements(shape);
        let data = self.fill(ty, count);
        let value = Value { name: self.name(), ty, shape: shape.to_vec() };
        self.stated.push(info(&value, Some(shape.iter().map(|d| Some(*d)).collect())));
        self.inputs.push(Input { value: value.clone(), data });
        value
    }

    fn source(&mut self, ty: Ty, shape: &[i64], data: Data) -> Value {
        let value = Value { name: self.name(), ty, shape: shape.to_vec() };
        if self.chance(0.6) && shape.iter().all(|d| u32::try_from(*d).is_ok()) {
            let open = match self.below(4) {
                0 => None,
                1 => Some(shape.iter().map(|_| None).collect()),
                2 => Some(shape.iter().map(|d| self.chance(0.5).then_some(*d)).collect()),
                _ => Some(shape.iter().map(|d| Some(self.n(*d))).collect()),
            };
            self.stated.push(info(&value, open));
            self.inputs.push(Input { value: value.clone(), data });
            return value;
        }
        let name = value.name.clone();
        let raw = data.bytes(ty).into();
        let tensor = TensorProto {
            dims: shape.to_vec(),
            data_type: Some(ty.number()),
            raw_data: Some(raw),
            ..TensorProto::default()
        };
        if self.chance(0.3) {
            let attribute = AttributeProto { t: Some(tensor), ..attribute("value", 4) };
            self.push("Constant", &[], vec![attribute], vec![name]);
        } else {
            self.weights.push(TensorProto { name: Some(name), ..tensor });
        }
        value
    }

    fn name(&mut self) -> String {
        self.count += 1;
        format!("v{}", self.count)
    }

    /// Adds a node (`domain.Operator` where the domain is not the usual one) with outputs of these types and
    /// shapes.
    pub fn node(
        &mut self,
        op: &str,
        inputs: &[Option<&Value>],
        mut attributes: Vec<AttributeProto>,
        outputs: &[(Ty, Vec<i64>)],
    ) -> Vec<Value> {
        let mut names: Vec<String> =
            inputs.iter().map(|v| v.map_or_else(String::new, |v| v.name.clone())).collect();
        while names.last().is_some_and(String::is_empty) {
            names.pop();
        }
        if self.hurt() && !names.is_empty() {
            let place = self.below(names.len() as i64) as usize;
            match self.below(4) {
                0 => drop(names.pop()),
                1 => names.swap(0, place),
                2 => names[place] = names[0].clone(),
                _ => names.push(names[place].clone()),
            }
        }
        if self.hurt() && !attributes.is_empty() {
            let place = self.below(attributes.len() as i64) as usize;
            attributes.remove(place);
        }
        self.used.extend(names.iter().cloned());
        let values: Vec<Value> = outputs
            .iter()
            .map(|(ty, shape)| Value { name: self.name(), ty: *ty, shape: shape.clone() })
            .collect();
        self.push(op, &names, attributes, values.iter().map(|v| v.name.clone()).collect());
        self.values.extend(values.iter().cloned());
        values
    }

    fn push(&mut self, op: &str, inputs: &[String], attribute: Vec<AttributeProto>, output: Vec<String>) {
        if self.depth == 0 {
            self.operators.push(op.to_owned());
        }
        let (domain, op_type) = match op.rsplit_once('.') {
            Some((domain, op)) => (Some(domain.to_owned()), op),
            None => (None, op),
        };
        self.nodes.push(NodeProto {
            domain,
            op_type: Some(op_type.to_owned()),
            input: inputs.to_vec(),
            output,
            attribute,
            ..NodeProto::default()
        });
    }

    /// A value that is no tensor: it is never an output of the model.
    pub fn forget(&mut self, value: &Value) {
        self.values.retain(|v| v.name != value.name);
    }

    /// A graph for an attribute. `build` gives its outputs.
    pub fn graph(&mut self, inputs: &[Value], build: impl FnOnce(&mut Case) -> Vec<Value>) -> GraphProto {
        let nodes = take(&mut self.nodes);
        let weights = take(&mut self.weights);
        let values = self.values.clone();
        self.values.extend(inputs.iter().skip(2).cloned());
        self.depth += 1;
        let outputs = build(self);
        self.depth -= 1;
        self.values = values;
        GraphProto {
            name: Some("inner".into()),
            node: replace(&mut self.nodes, nodes),
            initializer: replace(&mut self.weights, weights),
            input: inputs.iter().map(|v| info(v, None)).collect(),
            output: outputs.iter().map(|v| info(v, None)).collect(),
            ..GraphProto::default()
        }
    }

    /// The model, whose outputs are all that nothing reads and some of the rest.
    pub fn model(&mut self) -> ModelProto {
        let mut output = Vec::new();
        for mut value in self.values.clone() {
            if self.used.contains(&value.name) && !self.chance(0.3) {
                continue;
            }
            if self.hurt() {
                value.ty = self.pick(&ALL);
            }
            output.push(info(&value, None));
        }
        let graph = GraphProto {
            name: Some("fuzz".into()),
            node: take(&mut self.nodes),
            initializer: take(&mut self.weights),
            input: take(&mut self.stated),
            output,
            ..GraphProto::default()
        };
        let default = OperatorSetIdProto { domain: None, version: Some(self.opset) };
        let more = OperatorSetIdProto { domain: Some("com.microsoft".into()), version: Some(1) };
        ModelProto {
            ir_version: Some(8),
            graph: Some(graph),
            opset_import: vec![default, more],
            ..ModelProto::default()
        }
    }
}

/// `dims` of `None` is a value whose shape the model does not state.
fn info(value: &Value, dims: Option<Vec<Option<i64>>>) -> ValueInfoProto {
    let dim = |d: Option<i64>| Dimension {
        value: Some(d.map_or_else(|| DimensionValue::Param("n".into()), DimensionValue::Value)),
        ..Dimension::default()
    };
    let shape = dims.map(|dims| TensorShapeProto { dim: dims.into_iter().map(dim).collect() });
    let tensor = TypeTensor { elem_type: Some(value.ty.number()), shape };
    ValueInfoProto {
        name: Some(value.name.clone()),
        r#type: Some(TypeProto { value: Some(TypeValue::Tensor(tensor)), denotation: None }),
    }
}

/// Makes a shape small enough to carry its elements; one that has none may be as large as it likes.
fn shrink(shape: &mut [i64]) {
    while shape.iter().fold(1i64, |n, d| n.saturating_mul(*d)) > ELEMENTS_MAX {
        match shape.iter_mut().max() {
            Some(largest) if *largest > 1 => *largest /= 2,
            _ => break,
        }
    }
}

/// Changes a shape by a bit, or to one of no elements.
pub fn hurt_shape(rng: &mut SmallRng, shape: &mut Vec<i64>) {
    let place = if shape.is_empty() { 0 } else { rng.random_range(0..shape.len()) };
    let kind = if shape.is_empty() { 0 } else { rng.random_range(0..9) };
    match kind {
        0 => shape.insert(place, 1),
        1 => drop(shape.remove(place)),
        2 => shape[place] = 0,
        3 => shape[place] = 1,
        4 => shape[place] += 1,
        5 => shape[place] = (shape[place] - 1).max(0),
        6 => shape[place] = one_of(rng, &[2, 7, 8, 9, 16, 17, 31, 33, 64, 65, 255, 257, 1000]),
        7 => shape.swap(0, place),
        _ => {
            *shape = WRAPPING[rng.random_range(0..WRAPPING.len())].to_vec();
            let zero = rng.random_range(0..shape.len());
            shape[zero] = 0;
        }
    }
    shrink(shape);
}

fn attribute(name: &str, kind: i32) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(kind), ..AttributeProto::default() }
}

pub fn float(name: &str, v: f32) -> AttributeProto {
    AttributeProto { f: Some(v), ..attribute(name, 1) }
}

pub fn int(name: &str, v: i64) -> AttributeProto {
    AttributeProto { i: Some(v), ..attribute(name, ATTRIBUTE_INT) }
}

pub fn string(name: &str, v: &str) -> AttributeProto {
    AttributeProto { s: Some(v.as_bytes().to_vec().into()), ..attribute(name, 3) }
}

pub fn tensor(name: &str, ty: Ty, dims: &[i64], data: &Data) -> AttributeProto {
    let tensor = TensorProto {
        dims: dims.to_vec(),
        data_type: Some(ty.number()),
        raw_data: Some(data.bytes(ty).into()),
        ..TensorProto::default()
    };
    AttributeProto { t: Some(tensor), ..attribute(name, 4) }
}

pub fn graph(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(graph), ..attribute(name, 5) }
}

pub fn floats(name: &str, v: &[f32]) -> AttributeProto {
    AttributeProto { floats: v.to_vec(), ..attribute(name, 6) }
}

pub fn ints(name: &str, v: &[i64]) -> AttributeProto {
    AttributeProto { ints: v.to_vec(), ..attribute(name, ATTRIBUTE_INTS) }
}
