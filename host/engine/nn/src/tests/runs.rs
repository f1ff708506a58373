//! Given a model that is sound, when it is prepared, loaded and run.

use super::build::*;
use crate::onnx::*;
use crate::*;
use std::sync::Arc;

pub(super) fn loaded(prepared: &Prepared) -> Arc<dyn Graph> {
    prepared.result.as_ref().expect("prepared");
    load(prepared.dir.path()).expect("loaded")
}

fn run_one(graph: &dyn Graph, input: Tensor) -> Tensor {
    let mut output = graph.run(vec![("x".into(), input)]).expect("a run");
    output.outputs.remove(0).1
}

#[test]
fn the_cpu_time_of_a_run_is_that_of_the_thread_that_computes() {
    let square = || port("x", 1, &[600, 600]);
    let product = GraphProto {
        node: vec![node("MatMul", &["x", "x"], "y")],
        input: vec![square()],
        output: vec![port("y", 1, &[600, 600])],
        ..GraphProto::default()
    };
    let prepared = prepare_model(&model(17, product));
    let graph = loaded(&prepared);
    let run = graph.run(vec![("x".into(), f32s(&[600, 600], &[1.0; 360_000]))]).expect("a run");
    // 432 million multiplications and additions: a core that does 800 in a nanosecond would take as long.
    assert!(run.cpu_ns > 500_000, "{} ns", run.cpu_ns);
}

#[test]
fn a_linear_layer_gives_its_sums_and_says_what_it_cost() {
    let prepared = prepare_model(&linear());
    let graph = loaded(&prepared);
    let output =
        graph.run(vec![("x".into(), f32s(&[2, 3], &[1.0, 2.0, 3.0, 0.0, 0.0, 0.5]))]).expect("a run");
    assert!(output.cpu_ns > 0);
    let (name, tensor) = &output.outputs[0];
    assert_eq!((name.as_str(), tensor.shape.as_slice()), ("y", &[2, 100][..]));
    let y = as_f32s(tensor);
    assert_eq!((y[0], y[7], y[100], y[199]), (12.0, 19.0, 1.0, 100.0));

    let info = prepared.result.expect("info");
    assert_eq!((info.parameters, info.nodes, info.opset, info.producer.as_str()), (400, 2, 17, "test"));
    assert_eq!(info.signature.inputs[0].shape, vec![None, Some(3)]);
    let trial = info.dry_run.expect("a trial run");
    assert!(!trial.guessed && trial.inputs == "x [1, 3]", "{trial:?}");
    let info_file = std::fs::File::open(prepared.dir.path().join(INFO_FILE)).expect("there");
    assert_eq!(crate::prepare::read_info(&info_file).expect("info").signature, info.signature);
}

#[test]
fn weights_lie_outside_of_the_graph_are_mapped_and_unmapped() {
    let prepared = prepare_model(&linear());
    let weights = prepared.dir.path().join(WEIGHTS_FILE);
    let bytes = std::fs::read(&weights).expect("weights");
    // 300 floats, padding to a multiple of 64, 100 floats.
    assert_eq!(bytes.len(), 1216 + 400);
    assert_eq!(bytes[1216 + 4..1216 + 8], 1f32.to_le_bytes());
    let mapped = || {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
        maps.lines().filter(|l| l.ends_with(weights.to_str().expect("a path"))).count()
    };
    assert_eq!(mapped(), 0, "the trial run left its mapping behind");
    let graph = loaded(&prepared);
    let again = Arc::clone(&graph);
    run_one(graph.as_ref(), f32s(&[1, 3], &[1.0; 3]));
    assert_eq!(mapped(), 1);
    drop(graph);
    assert_eq!(mapped(), 1);
    drop(again);
    assert_eq!(mapped(), 0);
}

#[test]
fn softmax_of_old_opsets_keeps_its_meaning() {
    // Without an axis, before opset 13: each of the 2 rows of 3 x 2 numbers sums to one as a whole.
    for (op, axis, is_matrix) in
        [("Softmax", None, true), ("Softmax", Some(1), true), ("Softmax", Some(2), false)]
    {
        let mut softmax = node(op, &["x"], "y");
        softmax.attribute.extend(axis.map(|a| int("axis", a)));
        let prepared = prepare_model(&unary(11, softmax, 1, &[2, 3, 2]));
        let y = as_f32s(&run_one(loaded(&prepared).as_ref(), f32s(&[2, 3, 2], &[1.0; 12])));
        let expected = if is_matrix { 1.0 / 6.0 } else { 0.5 };
        assert!(y.iter().all(|v| (v - expected).abs() < 1e-6), "{axis:?}: {y:?}");
    }
    let prepared = prepare_model(&unary(11, node("LogSoftmax", &["x"], "y"), 1, &[0, 3, 2]));
    let y = as_f32s(&run_one(loaded(&prepared).as_ref(), f32s(&[4, 3, 2], &[1.0; 24])));
    assert!(y.iter().all(|v| (v - (1f32 / 6.0).ln()).abs() < 1e-6), "{y:?}");
}

#[test]
fn softmax_of_new_opsets_and_of_matrices_is_left_alone() {
    let prepared = prepare_model(&unary(13, node("Softmax", &["x"], "y"), 1, &[2, 3, 2]));
    let y = as_f32s(&run_one(loaded(&prepared).as_ref(), f32s(&[2, 3, 2], &[1.0; 12])));
    assert!(y.iter().all(|v| *v == 0.5), "{y:?}");
    let info = prepare_model(&unary(9, node("Softmax", &["x"], "y"), 1, &[0, 4])).result.expect("info");
    assert!(info.notes.is_empty(), "{:?}", info.notes);
}

#[test]
fn operators_that_the_engine_knows_otherwise_are_computed_as_onnx_says() {
    let run = |model: &ModelProto, input: Tensor| run_one(loaded(&prepare_model(model)).as_ref(), input);
    let given = |op: &str, attributes: Vec<AttributeProto>| NodeProto {
        attribute: attributes,
        ..node(op, &["x"], "y")
    };
    let x = f32s(&[4], &[-2.5, 0.0, 0.5, f32::INFINITY]);
    assert_eq!(as_f32s(&run(&unary(17, given("Sign", vec![]), 1, &[4]), x.clone())), [-1.0, 0.0, 1.0, 1.0]);

    let mut to_bool = unary(17, given("Cast", vec![int("to", 9)]), 1, &[4]);
    to_bool.graph.as_mut().expect("graph").output[0] = port("y", 9, &[4]);
    assert_eq!(run(&to_bool, x).data, [1, 0, 1, 1]);

    for (keep, shape) in [(1, vec![2, 1]), (0, vec![2])] {
        let mut arg_max = unary(17, given("ArgMax", vec![int("axis", 1), int("keepdims", keep)]), 1, &[2, 3]);
        let dims: Vec<i64> = shape.iter().map(|d| i64::from(*d)).collect();
        arg_max.graph.as_mut().expect("graph").output[0] = port("y", 7, &dims);
        let y = run(&arg_max, f32s(&[2, 3], &[1.0, 5.0, 5.0, 9.0, 9.0, 9.0]));
        assert_eq!(y, i64s(&shape, &[1, 0]));
    }

    // An even window that steps by one: with SAME_LOWER the padding comes first, and zeros do not count.
    let ints = |name: &str, values: &[i64]| crate::edit::ints_attribute(name, values.to_vec());
    let same_lower = AttributeProto {
        name: Some("auto_pad".into()),
        s: Some((&b"SAME_LOWER"[..]).into()),
        r#type: Some(3),
        ..AttributeProto::default()
    };
    let pool = given("MaxPool", vec![ints("kernel_shape", &[2, 2]), same_lower]);
    let y = run(&unary(17, pool, 1, &[1, 1, 2, 2]), f32s(&[1, 1, 2, 2], &[-1.0, -2.0, -3.0, -0.5]));
    assert_eq!(as_f32s(&y), [-1.0, -1.0, -1.0, -0.5]);

    let mut product = unary(17, node("MatMul", &["x", "v"], "y"), 1, &[2, 2, 2]);
    let graph = product.graph.as_mut().expect("graph");
    graph.initializer.push(floats("v", &[2], &[1.0, 10.0]));
    graph.output[0] = port("y", 1, &[2, 2]);
    let y = run(&product, f32s(&[2, 2, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]));
    assert_eq!((y.shape.as_slice(), as_f32s(&y)), (&[2, 2][..], vec![21.0, 43.0, 65.0, 87.0]));
}

#[test]
fn integers_and_booleans_cross_in_the_types_that_the_model_states() {
    let i64_graph = loaded(&prepare_model(&unary(17, node("Neg", &["x"], "y"), 7, &[0])));
    assert_eq!(run_one(i64_graph.as_ref(), i64s(&[2], &[5, -7])), i64s(&[2], &[-5, 7]));
    let too_large = i64_graph.run(vec![("x".into(), i64s(&[2], &[1, 1 << 40]))]).expect_err("out of range");
    assert!(matches!(too_large, RunError::OutOfRange { index: 1, .. }), "{too_large}");

    let not = loaded(&prepare_model(&unary(17, node("Not", &["x"], "y"), 9, &[3])));
    // A guest of wasi:nn has bytes only.
    for ty in [TensorType::Bool, TensorType::U8] {
        let input = Tensor { ty, shape: vec![3], data: vec![0, 1, 200] };
        let output = run_one(not.as_ref(), input);
        assert_eq!((output.ty, &output.data[..]), (TensorType::Bool, &[1, 0, 0][..]));
    }

    let same = loaded(&prepare_model(&unary(17, node("Identity", &["x"], "y"), 3, &[2])));
    for ty in [TensorType::I8, TensorType::U8] {
        let input = Tensor { ty, shape: vec![2], data: vec![0x80, 0x7f] };
        let output = run_one(same.as_ref(), input);
        assert_eq!((output.ty, &output.data[..]), (TensorType::I8, &[0x80, 0x7f][..]));
    }
    let input = Tensor { ty: TensorType::Bool, shape: vec![2], data: vec![0, 1] };
    let error = same.run(vec![("x".into(), input)]).expect_err("a boolean is no number");
    assert_eq!(error.to_string(), "input \"x\" must be i8, not bool");
}

#[test]
fn floats_of_other_widths_are_widened_and_given_back() {
    let f64_graph = loaded(&prepare_model(&unary(17, node("Neg", &["x"], "y"), 11, &[1])));
    let input = Tensor { ty: TensorType::F64, shape: vec![1], data: 1.5f64.to_le_bytes().to_vec() };
    assert_eq!(run_one(f64_graph.as_ref(), input).data, (-1.5f64).to_le_bytes());

    let f32_graph = loaded(&prepare_model(&unary(17, node("Neg", &["x"], "y"), 1, &[1])));
    let half = half::f16::from_f32(0.25).to_le_bytes().to_vec();
    let input = Tensor { ty: TensorType::F16, shape: vec![1], data: half };
    assert_eq!(as_f32s(&run_one(f32_graph.as_ref(), input)), [-0.25]);
    let double = Tensor { ty: TensorType::F64, shape: vec![1], data: vec![0; 8] };
    let error = f32_graph.run(vec![("x".into(), double)]).expect_err("narrowing");
    assert_eq!(error.to_string(), "input \"x\" must be f32, not f64");
}

#[test]
fn wrong_inputs_are_named() {
    let graph = loaded(&prepare_model(&linear()));
    let error = |inputs: Vec<(&str, Tensor)>| {
        let inputs = inputs.into_iter().map(|(n, t)| (n.to_owned(), t)).collect();
        let error = graph.run(inputs).expect_err("refused");
        assert!(error.is_bad_input());
        (error.code(), error.to_string())
    };
    let good = f32s(&[1, 3], &[0.0; 3]);
    assert_eq!(error(vec![]), ("missing-input", "input \"x\" is missing".into()));
    assert_eq!(
        error(vec![("z", good.clone())]),
        ("unknown-input", "there is no input \"z\"; the model's inputs are \"x\"".into())
    );
    assert_eq!(error(vec![("x", good.clone()), ("x", good)]).0, "input-twice");
    assert_eq!(
        error(vec![("x", f32s(&[1, 4], &[0.0; 4]))]),
        ("wrong-shape", "input \"x\" must be [?, 3], not [1, 4]".into())
    );
    assert_eq!(error(vec![("x", i64s(&[1, 3], &[0; 3]))]).0, "wrong-type");
    let lies = Tensor { ty: TensorType::F32, shape: vec![1, 3], data: vec![0; 11] };
    assert_eq!(
        error(vec![("x", lies)]),
        ("wrong-length", "input \"x\": f32[1, 3] takes 12 bytes, but there are 11".into())
    );
}

#[test]
fn nan_and_no_rows_at_all_are_computed_too() {
    let graph = loaded(&prepare_model(&linear()));
    let y = as_f32s(&run_one(graph.as_ref(), f32s(&[1, 3], &[f32::NAN, 0.0, 0.0])));
    assert!(y.iter().all(|v| v.is_nan()));
    let none = graph.run(vec![("x".into(), f32s(&[0, 3], &[]))]);
    assert!(none.is_err() || none.is_ok_and(|o| o.outputs[0].1.data.is_empty()));
}

#[test]
fn weights_in_every_form_come_out_the_same() {
    // 100 times 2, as typed and as raw data of every float type, and as integers of every width.
    let half = half::f16::from_f32(2.0).to_bits();
    let typed = |data_type, change: &dyn Fn(&mut TensorProto)| {
        let mut t = TensorProto { name: Some("w".into()), dims: vec![100], ..TensorProto::default() };
        t.data_type = Some(data_type);
        change(&mut t);
        t
    };
    let forms = [
        typed(1, &|t| t.float_data = vec![2.0; 100]),
        typed(11, &|t| t.double_data = vec![2.0; 100]),
        typed(11, &|t| t.raw_data = Some(2f64.to_le_bytes().repeat(100).into())),
        typed(10, &|t| t.int32_data = vec![i32::from(half); 100]),
        typed(10, &|t| t.raw_data = Some(half.to_le_bytes().repeat(100).into())),
    ];
    for weights in forms {
        let mut model = unary(17, node("Mul", &["x", "w"], "y"), 1, &[100]);
        model.graph.as_mut().expect("graph").initializer.push(weights);
        let y = as_f32s(&run_one(loaded(&prepare_model(&model)).as_ref(), f32s(&[100], &[1.5; 100])));
        assert_eq!(y, vec![3.0; 100]);
    }
    let forms = [
        typed(6, &|t| t.int32_data = vec![2; 100]),
        typed(7, &|t| t.int64_data = vec![2; 100]),
        typed(7, &|t| t.raw_data = Some(2i64.to_le_bytes().repeat(100).into())),
    ];
    for weights in forms {
        let mut model = unary(17, node("Mul", &["x", "w"], "y"), 7, &[100]);
        model.graph.as_mut().expect("graph").initializer.push(weights);
        let y = run_one(loaded(&prepare_model(&model)).as_ref(), i64s(&[100], &[3; 100]));
        assert_eq!(y, i64s(&[100], &[6; 100]));
    }
}

#[test]
fn a_graph_within_a_graph_is_prepared_too() {
    // y = if c then x + 1 else x, with the 1 a large Constant of the branch.
    let one = AttributeProto {
        name: Some("value".into()),
        t: Some(floats("", &[100], &[1.0; 100])),
        r#type: Some(4),
        ..AttributeProto::default()
    };
    let mut constant = node("Constant", &[], "one");
    constant.attribute.push(one);
    let branch = |nodes: Vec<NodeProto>, output: &str| GraphProto {
        node: nodes,
        output: vec![port(output, 1, &[100])],
        ..GraphProto::default()
    };
    let mut choice = node("If", &["c"], "y");
    for (name, graph) in [
        ("then_branch", branch(vec![constant, node("Add", &["x", "one"], "more")], "more")),
        ("else_branch", branch(vec![node("Identity", &["x"], "same")], "same")),
    ] {
        let name = Some(name.into());
        choice.attribute.push(AttributeProto {
            name,
            g: Some(graph),
            r#type: Some(5),
            ..AttributeProto::default()
        });
    }
    let mut model = unary(17, choice, 1, &[100]);
    model.graph.as_mut().expect("graph").input.push(port("c", 9, &[]));
    let prepared = prepare_model(&model);
    let graph = loaded(&prepared);
    assert_eq!(prepared.result.as_ref().expect("info").weights_bytes, 400);
    for c in [0, 1] {
        let condition = Tensor { ty: TensorType::U8, shape: vec![], data: vec![c] };
        let inputs = vec![("c".into(), condition), ("x".into(), f32s(&[100], &[5.0; 100]))];
        let y = as_f32s(&graph.run(inputs).expect("a run").outputs[0].1);
        assert_eq!(y[99], 5.0 + f32::from(c));
    }
}

#[test]
fn runs_from_many_threads_agree_and_leave_no_thread_behind() {
    let threads = || std::fs::read_dir("/proc/self/task").expect("tasks").count();
    let graph = loaded(&prepare_model(&linear()));
    run_one(graph.as_ref(), f32s(&[1, 3], &[1.0; 3]));
    for _ in 0..20 {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        assert_eq!(as_f32s(&run_one(graph.as_ref(), f32s(&[1, 3], &[1.0; 3])))[0], 6.0);
                    }
                });
            }
        });
    }
    // Other tests run beside this one; 80 pools that stayed would show all the same.
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(threads() < 60, "{} threads", threads());
}

/// In a process of its own: what the weights take is what the whole process takes more, and other tests free
/// memory meanwhile.
#[test]
fn packed_weights_give_the_same_numbers_and_are_measured() {
    const NAME: &str = "tests::runs::packed_weights_give_the_same_numbers_and_are_measured";
    const CHILD: &str = "VESTA_TEST_PACKED_CHILD";
    const SIDE: usize = 512;
    if std::env::var_os(CHILD).is_none() {
        let mut child = std::process::Command::new(std::env::current_exe().expect("this program"));
        let status = child.args([NAME, "--exact", "--nocapture"]).env(CHILD, "1").status();
        assert!(status.expect("runs").success());
        return;
    }
    let names = ["x", "a", "b", "c", "y"];
    let mut graph = GraphProto::default();
    for (n, pair) in names.windows(2).enumerate() {
        let weight = |i: usize| ((i * 7 + n * 13) % 31) as f32 / 3e3 - 4e-3;
        let weights: Vec<f32> = (0..SIDE * SIDE).map(weight).collect();
        let name = format!("w{n}");
        graph.initializer.push(floats(&name, &[SIDE as i64, SIDE as i64], &weights));
        graph.node.push(node("MatMul", &[pair[0], &name], pair[1]));
    }
    graph.input = vec![port("x", 1, &[4, SIDE as i64])];
    graph.output = vec![port("y", 1, &[4, SIDE as i64])];
    let prepared = prepare_model(&model(17, graph));
    let packed = prepared
        .result
        .as_ref()
        .expect("prepared")
        .packed
        .expect("packing four rows' weights is most of a run");
    assert!(packed.saved_cpu_ms > 0.0 && packed.load_cpu_ms > 0.0, "{packed:?}");
    let weights = (4 * SIDE * SIDE * 4) as u64;
    assert!(packed.bytes >= weights, "{packed:?} for {weights} bytes of weights");

    let inputs: Vec<f32> = (0..4 * SIDE).map(|i| (i % 17) as f32 - 8.0).collect();
    let input = || vec![("x".to_string(), f32s(&[4, SIDE as u32], &inputs))];
    let run = |form| {
        let graph = Rten.load(PreparedFiles::open(prepared.dir.path()).expect("files"), form).expect("loads");
        graph.run(input()).expect("runs").outputs
    };
    assert_eq!(run(Form::Packed), run(Form::Mapped));
}

/// A chain of square matrices over rows of eight times 256 numbers, and a node at its end.
fn rows_and(last: NodeProto, extra: Vec<TensorProto>) -> ModelInfo {
    const SIDE: usize = 256;
    let mut graph = GraphProto { initializer: extra, ..GraphProto::default() };
    for n in 0..6 {
        let weight = |i: usize| ((i * 7 + n * 13) % 31) as f32 / 3e3 - 4e-3;
        let weights: Vec<f32> = (0..SIDE * SIDE).map(weight).collect();
        graph.initializer.push(floats(&format!("w{n}"), &[SIDE as i64, SIDE as i64], &weights));
        let name = |n: usize| if n == 0 { "x".to_string() } else { format!("h{n}") };
        graph.node.push(node("MatMul", &[&name(n), &format!("w{n}")], &name(n + 1)));
    }
    graph.node.push(last);
    graph.input = vec![port("x", 1, &[0, 8, SIDE as i64])];
    graph.output = vec![port("y", 1, &[0, 0, 0])];
    let prepared = prepare_model(&model(17, graph));
    prepared.result.expect("prepared")
}

#[test]
fn runs_are_merged_where_each_row_is_computed_by_itself_and_nowhere_else() {
    let of_all_rows =
        |op: &str, axis: i64| NodeProto { attribute: vec![int("axis", axis)], ..node(op, &["h6"], "y") };
    assert!(rows_and(node("Tanh", &["h6"], "y"), vec![]).batching.expect("merged").saved > 0.1);
    assert!(rows_and(of_all_rows("Softmax", 1), vec![]).batching.is_some());
    assert_eq!(rows_and(of_all_rows("Softmax", 0), vec![]).batching, None);
}

/// Rows that are divided by the largest number of them all, which were whole numbers before.
#[test]
fn runs_are_not_merged_where_rows_are_divided_by_the_largest_of_them_all() {
    for (element, axes) in [(1, None), (2, None), (7, Some(vec![0, 1])), (2, Some(vec![-2, -1]))] {
        let mut largest = NodeProto { attribute: vec![int("keepdims", 1)], ..node("ReduceMax", &["f"], "m") };
        if let Some(axes) = &axes {
            largest.attribute.push(AttributeProto { ints: axes.clone(), r#type: Some(7), ..int("axes", 0) });
        }
        let weights: Vec<f32> = (0..256 * 256).map(|i| (i % 31) as f32 / 3e3).collect();
        let graph = GraphProto {
            initializer: vec![floats("w", &[256, 256], &weights)],
            node: vec![
                NodeProto { attribute: vec![int("to", 1)], ..node("Cast", &["x"], "f") },
                largest,
                node("Div", &["f", "m"], "d"),
                node("MatMul", &["d", "w"], "y"),
            ],
            input: vec![port("x", element, &[0, 256])],
            output: vec![port("y", 1, &[0, 256])],
            ..GraphProto::default()
        };
        let info = prepare_model(&model(13, graph)).result.expect("prepared");
        assert_eq!(info.batching, None, "{element} {axes:?}");
    }
}

#[test]
fn a_description_that_is_larger_than_any_is_not_read() {
    let prepared = prepare_model(&linear());
    let path = prepared.dir.path().join(INFO_FILE);
    let file = std::fs::OpenOptions::new().append(true).open(&path).expect("a description");
    file.set_len(4 << 20).expect("its end");
    // Not JSON, but read.
    assert!(matches!(load(prepared.dir.path()), Err(LoadError::Info(_))));
    file.set_len((4 << 20) + 1).expect("its end");
    let Err(error) = load(prepared.dir.path()) else { panic!("it was read") };
    assert!(error.to_string().contains("it has 4194305 bytes; at most 4194304 are read"), "{error}");
}
