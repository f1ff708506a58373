//! ONNX files written by hand: the few messages of its protobuf that the tests need (onnx.proto3).

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub struct Model {
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    #[prost(message, optional, tag = "7")]
    pub graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<Opset>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Opset {
    #[prost(string, tag = "1")]
    pub domain: String,
    #[prost(int64, tag = "2")]
    pub version: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<Node>,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<Value>,
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Node {
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, tag = "4")]
    pub op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<Attribute>,
}

/// An attribute that is an integer or a graph.
#[derive(Clone, PartialEq, Message)]
pub struct Attribute {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(int64, tag = "3")]
    pub i: i64,
    #[prost(message, optional, tag = "6")]
    pub g: Option<Graph>,
    /// 2 is an integer, 5 a graph.
    #[prost(int32, tag = "20")]
    pub r#type: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Tensor {
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    /// 1 is f32.
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    #[prost(string, tag = "8")]
    pub name: String,
    #[prost(bytes = "vec", tag = "9")]
    pub raw_data: Vec<u8>,
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<Entry>,
    /// 1 is external.
    #[prost(int32, tag = "14")]
    pub data_location: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Value {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<Type>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Type {
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TensorType {
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Shape {
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<Dim>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Dim {
    #[prost(int64, tag = "1")]
    pub dim_value: i64,
}

/// Element types, as ONNX numbers them.
pub const F32: i32 = 1;
pub const I64: i32 = 7;

/// A port of f32.
pub fn value(name: &str, dims: &[i64]) -> Value {
    port(name, F32, dims)
}

/// A port of any element type; a dimension of 0 is open.
pub fn port(name: &str, elem_type: i32, dims: &[i64]) -> Value {
    let dim = dims.iter().map(|d| Dim { dim_value: *d }).collect();
    let tensor_type = Some(TensorType { elem_type, shape: Some(Shape { dim }) });
    Value { name: name.into(), r#type: Some(Type { tensor_type }) }
}

/// A model without weights.
pub fn model(node: Vec<Node>, input: Vec<Value>, output: Vec<Value>) -> Vec<u8> {
    let graph = Graph { node, name: "g".into(), initializer: Vec::new(), input, output };
    let opset = Opset { domain: String::new(), version: 17 };
    Model { ir_version: 8, graph: Some(graph), opset_import: vec![opset] }.encode_to_vec()
}

/// Floats of this rank; every dimension is open.
pub fn open(name: &str, rank: usize) -> Value {
    // The engine's reader takes 0, as some exporters write it, for an open dimension.
    value(name, &vec![0; rank])
}

pub fn node(op_type: &str, input: &[&str], output: &str) -> Node {
    let input = input.iter().map(ToString::to_string).collect();
    let (name, op_type, output) = (format!("the-{op_type}"), op_type.into(), vec![output.into()]);
    Node { input, output, name, op_type, attribute: Vec::new() }
}

/// `y = x · w`, with `x` of 1 by 4 and `w` of 4 by 2.
pub fn sound() -> Model {
    let raw_data = (0..8u8).flat_map(|n| f32::from(n).to_le_bytes()).collect();
    let weights = Tensor { dims: vec![4, 2], data_type: 1, name: "w".into(), raw_data, ..Tensor::default() };
    let graph = Graph {
        node: vec![node("MatMul", &["x", "w"], "y")],
        name: "g".into(),
        initializer: vec![weights],
        input: vec![value("x", &[1, 4])],
        output: vec![value("y", &[1, 2])],
    };
    let opset = Opset { domain: String::new(), version: 17 };
    Model { ir_version: 8, graph: Some(graph), opset_import: vec![opset] }
}

/// A model whose run takes some 26 million multiplications for each row of `x`, which has 256 columns.
pub fn slow() -> Vec<u8> {
    const COLUMNS: usize = 256;
    let nodes = 400;
    changed(|g| {
        g.initializer[0].dims = vec![COLUMNS as i64; 2];
        g.initializer[0].raw_data = vec![0; 4 * COLUMNS * COLUMNS];
        // The number of rows is open.
        g.input = vec![value("x", &[0, COLUMNS as i64])];
        g.output = vec![value("y", &[0, COLUMNS as i64])];
        let name = |n: usize| {
            if n == 0 {
                "x".to_string()
            } else if n == nodes {
                "y".into()
            } else {
                format!("h{n}")
            }
        };
        g.node = (0..nodes).map(|n| node("MatMul", &[&name(n), "w"], &name(n + 1))).collect();
    })
}

/// A model whose run takes 4 bytes for the square of the number of rows of `x`, which has 1 column.
pub fn square() -> Vec<u8> {
    changed(|g| {
        g.initializer.clear();
        g.input = vec![value("x", &[0, 1])];
        g.output = vec![value("y", &[1, 1])];
        g.node = vec![
            node("Transpose", &["x"], "t"),
            node("MatMul", &["x", "t"], "all"),
            node("ReduceSum", &["all"], "y"),
        ];
    })
}

/// The sound model after a change.
pub fn changed(change: impl FnOnce(&mut Graph)) -> Vec<u8> {
    let mut model = sound();
    change(model.graph.as_mut().expect("a graph"));
    model.encode_to_vec()
}

/// Of two graphs without inputs the one that is computed if `condition` holds, or the other.
pub fn branch(condition: &str, then: Vec<Node>, otherwise: Vec<Node>, output: &str) -> Node {
    let attribute = |name: &str, node: Vec<Node>| {
        let outputs = node.last().map_or(Vec::new(), |last| last.output.clone());
        let output = outputs.iter().map(|name| value(name, &[0])).collect();
        let g = Graph { node, name: name.into(), initializer: Vec::new(), input: Vec::new(), output };
        Attribute { name: name.into(), g: Some(g), r#type: 5, ..Attribute::default() }
    };
    let attributes = vec![attribute("then_branch", then), attribute("else_branch", otherwise)];
    Node { attribute: attributes, ..node("If", &[condition], output) }
}
