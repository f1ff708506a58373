//! What ONNX Runtime alone would compute otherwise than ONNX says, or not at all: it is right, or refused.

use super::build::*;
use super::onnx_runtime::{engine, load, prepare, run};
use crate::onnx::*;
use crate::onnx_runtime::apply_rules as apply;
use crate::{OnnxRuntime, Tensor, TensorType};

fn graph(node: Vec<NodeProto>, input: Vec<ValueInfoProto>, output: ValueInfoProto) -> GraphProto {
    GraphProto { node, input, output: vec![output], ..GraphProto::default() }
}

fn ints(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(7),
        raw_data: Some(values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into()),
        ..TensorProto::default()
    }
}

fn answer(engine: &OnnxRuntime, opset: i64, graph: GraphProto, inputs: Vec<(&str, Tensor)>) -> Tensor {
    run(&*load(engine, &model(opset, graph)).graph, inputs).expect("a run").remove(0)
}

fn inner(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { name: Some(name.into()), g: Some(graph), r#type: Some(5), ..AttributeProto::default() }
}

#[test]
fn loops_run() {
    let Some(engine) = engine() else { return };
    // Doubles x as often as it is told.
    let body = GraphProto {
        name: Some("body".into()),
        node: vec![node("Add", &["a", "a"], "b"), node("Identity", &["go"], "on")],
        input: vec![port("i", 7, &[]), port("go", 9, &[]), port("a", 1, &[2])],
        output: vec![port("on", 9, &[]), port("b", 1, &[2])],
        ..GraphProto::default()
    };
    let mut loops = node("Loop", &["n", "", "x"], "y");
    loops.attribute.push(inner("body", body));
    let all = graph(vec![loops], vec![port("n", 7, &[]), port("x", 1, &[2])], port("y", 1, &[2]));
    let y = answer(engine, 17, all, vec![("n", i64s(&[], &[5])), ("x", f32s(&[2], &[1.0, 3.0]))]);
    assert_eq!(as_f32s(&y), [32.0, 96.0]);
    // Sums of all rows so far.
    let body = GraphProto {
        name: Some("body".into()),
        node: vec![node("Add", &["sum", "row"], "next"), node("Identity", &["next"], "out")],
        input: vec![port("sum", 1, &[2]), port("row", 1, &[2])],
        output: vec![port("next", 1, &[2]), port("out", 1, &[2])],
        ..GraphProto::default()
    };
    let mut scan = node("Scan", &["start", "x"], "last");
    scan.output.push("y".into());
    scan.attribute = vec![inner("body", body), int("num_scan_inputs", 1)];
    let mut all = graph(vec![scan], vec![port("x", 1, &[0, 2])], port("y", 1, &[0, 2]));
    all.initializer.push(floats("start", &[2], &[10.0, 20.0]));
    let y = answer(engine, 17, all, vec![("x", f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0]))]);
    assert_eq!(as_f32s(&y), [11.0, 22.0, 14.0, 26.0]);
}

/// A constant of this type, over 300 elements of `bits` bits each.
fn weights(element: i32, data: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some("w".into()),
        dims: vec![300],
        data_type: Some(element),
        raw_data: Some(data.into()),
        ..TensorProto::default()
    }
}

#[test]
fn weights_of_types_that_the_default_engine_lacks_are_mapped_as_they_are() {
    let Some(engine) = engine() else { return };
    let cast = NodeProto { attribute: vec![int("to", 1)], ..node("Cast", &["w"], "f") };
    for (element, data, value) in [
        (16, half::bf16::from_f32(1.5).to_le_bytes().repeat(300), 1.5),
        (4, 65_535u16.to_le_bytes().repeat(300), 65_535.0),
        (13, (1u64 << 40).to_le_bytes().repeat(300), (1u64 << 40) as f32),
        (22, vec![0xDD; 150], -3.0),
    ] {
        let nodes = vec![cast.clone(), node("Add", &["f", "x"], "y")];
        let mut all = graph(nodes, vec![port("x", 1, &[1])], port("y", 1, &[300]));
        all.initializer.push(weights(element, data));
        let model = model(21, all);
        let outputs = run(&*load(engine, &model).graph, vec![("x", f32s(&[1], &[0.0]))]).expect("a run");
        assert_eq!(as_f32s(&outputs[0]), vec![value; 300], "{element}");
        let mut lies = model;
        let tensor = &mut lies.graph.as_mut().expect("a graph").initializer[0];
        tensor.dims = vec![302];
        assert_eq!(prepare(engine, &lies, &[]).1.expect_err("refused").code(), "tensor-lies", "{element}");
        assert_eq!(prepare_model(&lies).result.expect_err("refused").code(), "element-type-not-supported");
    }
}

#[test]
fn bfloat16_goes_in_and_comes_out() {
    let Some(engine) = engine() else { return };
    let identity = unary(17, node("Identity", &["x"], "y"), BFLOAT16, &[2]);
    let data = [1.5f32, -0.25].iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
    let x = Tensor { ty: TensorType::Bf16, shape: vec![2], data };
    let outputs = run(&*load(engine, &identity).graph, vec![("x", x.clone())]).expect("a run");
    assert_eq!(outputs, [x]);
}

#[test]
fn places_in_a_scalar_have_no_row() {
    let Some(engine) = engine() else { return };
    let places = |shape: &[u32], values: &[f32]| {
        // What has which shape is known at run alone.
        let nodes = vec![node("Reshape", &["x", "s"], "r"), node("NonZero", &["r"], "y")];
        let all = graph(nodes, vec![port("x", 1, &[0]), port("s", 7, &[0])], port("y", 7, &[0, 0]));
        let dims: Vec<i64> = shape.iter().map(|d| i64::from(*d)).collect();
        let inputs =
            vec![("x", f32s(&[values.len() as u32], values)), ("s", i64s(&[shape.len() as u32], &dims))];
        answer(engine, 13, all, inputs)
    };
    assert_eq!(places(&[], &[3.0]), i64s(&[0, 1], &[]));
    assert_eq!(places(&[], &[0.0]), i64s(&[0, 0], &[]));
    assert_eq!(places(&[2, 2], &[0.0, 1.0, 1.0, 0.0]), i64s(&[2, 2], &[0, 1, 1, 0]));
}

#[test]
fn sums_of_long_integers_are_exact() {
    let Some(engine) = engine() else { return };
    let mut sum = node("ReduceSum", &["x", "axes"], "y");
    sum.attribute.push(int("keepdims", 0));
    let mut all = graph(vec![sum], vec![port("x", 7, &[2, 3])], port("y", 7, &[2]));
    all.initializer.push(ints("axes", &[1], &[1]));
    let large = (1i64 << 55) + 1;
    let x = i64s(&[2, 3], &[large, large, -3, i64::MIN + 7, i64::MAX, -1]);
    assert_eq!(answer(engine, 17, all, vec![("x", x)]), i64s(&[2], &[2 * large - 3, 5]));
}

#[test]
fn slices_backwards_end_where_onnx_says() {
    let Some(engine) = engine() else { return };
    let slice = |end: i64, step: i64| {
        let mut all = graph(
            vec![node("Slice", &["x", "start", "end", "axis", "step"], "y")],
            vec![port("x", 1, &[4]), port("step", 7, &[1])],
            port("y", 1, &[0]),
        );
        all.initializer =
            vec![ints("start", &[1], &[3]), ints("end", &[1], &[end]), ints("axis", &[1], &[0])];
        let inputs = vec![("x", f32s(&[4], &[0.0, 1.0, 2.0, 3.0])), ("step", i64s(&[1], &[step]))];
        as_f32s(&answer(engine, 17, all, inputs))
    };
    assert_eq!(slice(i64::MAX, -1), [0f32; 0]);
    assert_eq!(slice(i64::from(i32::MAX), -1), [0f32; 0]);
    assert_eq!(slice(i64::MAX, 1), [3.0]);
    assert_eq!(slice(0, -2), [3.0, 1.0]);
}

#[test]
fn recurrent_layers_are_read_with_the_rows_first() {
    let Some(engine) = engine() else { return };
    let mut layer = node("RNN", &["x", "w", "r"], "y");
    layer.output.push("last".into());
    layer.attribute = vec![int("hidden_size", 1), int("layout", 1)];
    let mut all = graph(vec![layer], vec![port("x", 1, &[2, 3, 1])], port("y", 1, &[2, 3, 1, 1]));
    all.output.push(port("last", 1, &[2, 1, 1]));
    all.initializer = vec![floats("w", &[1, 1, 1], &[1.0]), floats("r", &[1, 1, 1], &[0.0])];
    let given = [0.1f32, 0.2, 0.3, -0.4, -0.5, -0.6];
    let loaded = load(engine, &model(17, all));
    let outputs = run(&*loaded.graph, vec![("x", f32s(&[2, 3, 1], &given))]).expect("a run");
    let near = |got: &[f32], want: &[f32]| got.iter().zip(want).all(|(g, w)| (g - w.tanh()).abs() < 1e-5);
    assert_eq!(
        (outputs[0].shape.as_slice(), outputs[1].shape.as_slice()),
        (&[2, 3, 1, 1][..], &[2, 1, 1][..])
    );
    assert!(near(&as_f32s(&outputs[0]), &given), "{outputs:?}");
    assert!(near(&as_f32s(&outputs[1]), &[0.3, -0.6]), "{outputs:?}");
}

/// A product of unsigned rows and signed columns; the columns are a weight or an input.
fn product(columns: Option<Vec<u8>>) -> ModelProto {
    let nodes = vec![node("MatMulInteger", &["x", "w"], "y")];
    let mut all = graph(nodes, vec![port("x", 2, &[1, 64])], port("y", 6, &[1, 1]));
    match columns {
        Some(data) => all.initializer.push(TensorProto { dims: vec![64, 1], ..weights(3, data) }),
        None => all.input.push(port("w", 3, &[64, 1])),
    }
    model(17, all)
}

#[test]
fn products_of_8_bits_are_exact() {
    let Some(engine) = engine() else { return };
    for (column, value) in [(127u8, 127), (128, -128)] {
        let x = || Tensor { ty: TensorType::U8, shape: vec![1, 64], data: vec![255; 64] };
        let w = Tensor { ty: TensorType::I8, shape: vec![64, 1], data: vec![column; 64] };
        let constant = load(engine, &product(Some(w.data.clone())));
        let given = load(engine, &product(None));
        let outputs = [
            run(&*constant.graph, vec![("x", x())]).expect("a run"),
            run(&*given.graph, vec![("x", x()), ("w", w)]).expect("a run"),
        ];
        assert!(outputs.iter().all(|y| y[0].data == (255 * value * 64i32).to_le_bytes()), "{outputs:?}");
    }
}

#[test]
fn no_product_of_unsigned_and_signed_numbers_reaches_the_library() {
    let written = |mut model: ModelProto| {
        let graph = model.graph.as_mut().expect("a graph");
        apply(graph, 17).map(|()| graph.clone())
    };
    let constant = written(product(Some(vec![200; 64]))).expect("written anew");
    let added = constant.initializer.iter().find(|t| t.data_type == Some(2)).expect("unsigned weights");
    assert_eq!(added.raw_data.as_deref(), Some(&[200 ^ 128; 64][..]));
    let last = constant.node.last().expect("a product");
    assert_eq!((last.op(), Some(&last.input[1])), ("MatMulInteger", added.name.as_ref()));
    assert_eq!(last.input.len(), 4);
    let given = written(product(None)).expect("written anew");
    let ops: Vec<_> = given.node.iter().map(NodeProto::op).collect();
    assert_eq!(ops, ["Cast", "Constant", "Add", "Cast", "Constant", "MatMulInteger"]);
    let mut unknown = product(None);
    unknown.graph.as_mut().expect("a graph").node[0].input[1] = "elsewhere".into();
    let error = written(unknown).expect_err("refused");
    assert!(error.to_string().contains("not right on every processor"), "{error}");
}

#[test]
fn what_cannot_be_written_anew_is_refused_with_its_reason() {
    let Some(engine) = engine() else { return };
    let refused = |node: NodeProto, element: i32, text: &str| {
        let error = prepare(engine, &unary(17, node, element, &[2, 2]), &[]).1.expect_err("refused");
        assert_eq!(error.code(), "operator-not-supported", "{error}");
        assert!(error.to_string().contains(text), "{error}");
    };
    refused(node("ReduceMean", &["x"], "y"), 7, "rounded to 53 bits");
    refused(node("MaxUnpool", &["x", "x", "x"], "y"), 1, "input 2");
    refused(node("Dropout", &["x", "x", "x"], "y"), 1, "training");
    let align = AttributeProto {
        name: Some("coordinate_transformation_mode".into()),
        s: Some("align_corners".into()),
        r#type: Some(3),
        ..AttributeProto::default()
    };
    refused(NodeProto { attribute: vec![align], ..node("Resize", &["x", "", "x"], "y") }, 1, "align_corners");
}
