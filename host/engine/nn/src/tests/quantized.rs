//! Given operators on 8-bit integers, when a model is prepared, then sums are exact on any processor.

use super::build::*;
use super::rewrites::run;
use crate::onnx::*;
use crate::*;

fn bytes(name: &str, element: i32, dims: &[i64], values: &[i32]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(element),
        int32_data: values.to_vec(),
        ..TensorProto::default()
    }
}

fn as_i32s(tensor: &Tensor) -> Vec<i32> {
    assert_eq!(tensor.ty, TensorType::I32);
    tensor.data.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect()
}

const UINT8: i32 = 2;
const INT8: i32 = 3;
const INT32: i32 = 6;

fn one(node: NodeProto, dims: &[i64], constants: Vec<TensorProto>, output: ValueInfoProto) -> ModelProto {
    let graph = GraphProto {
        node: vec![node],
        input: vec![port("x", UINT8, dims)],
        output: vec![output],
        initializer: constants,
        ..GraphProto::default()
    };
    model(13, graph)
}

/// Random numbers within bounds, or always one of the bounds.
fn numbers(count: usize, low: i32, high: i32, extreme: bool, seed: u64) -> Vec<i32> {
    let mut random = seed * 2 + 1;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 40) as i32
    };
    (0..count)
        .map(|_| if extreme { [low, high][(next() & 1) as usize] } else { low + next() % (high - low + 1) })
        .collect()
}

#[test]
fn products_of_extremes_over_long_rows_for_each_number_of_rows() {
    for (place, rows) in (1..=16).enumerate() {
        for (element, low, high) in [(INT8, -128, 127), (UINT8, 0, 255)] {
            for inner in [1, 2, 67, 600] {
                let extreme = place % 2 == 0;
                let columns = 17;
                let x = numbers(rows * inner, 0, 255, extreme, place as u64);
                let w = numbers(inner * columns, low, high, extreme, 99 + place as u64);
                let zeros = numbers(columns, low, high, false, 7);
                let per_column = place % 3 == 0;
                let zero_dims: &[i64] = if per_column { &[columns as i64] } else { &[] };
                let constants = vec![
                    bytes("w", element, &[inner as i64, columns as i64], &w),
                    bytes("xz", UINT8, &[], &[200]),
                    bytes("wz", element, zero_dims, if per_column { &zeros } else { &zeros[..1] }),
                ];
                let node = node("MatMulInteger", &["x", "w", "xz", "wz"], "y");
                let output = port("y", INT32, &[0, columns as i64]);
                let model = one(node, &[0, inner as i64], constants, output);
                let data = x.iter().map(|v| *v as u8).collect();
                let shape = vec![rows as u32, inner as u32];
                let got = as_i32s(&run(&model, Tensor { ty: TensorType::U8, shape, data })[0]);
                let expected = |row: usize, column: usize| -> i32 {
                    let zero = zeros[if per_column { column } else { 0 }];
                    (0..inner).map(|k| (x[row * inner + k] - 200) * (w[k * columns + column] - zero)).sum()
                };
                for (index, got) in got.iter().enumerate() {
                    let (row, column) = (index / columns, index % columns);
                    assert_eq!(*got, expected(row, column), "{rows} rows of {inner}, at {row}, {column}");
                }
            }
        }
    }
}

#[test]
fn padding_of_a_convolution_is_the_zero_point() {
    // Strides, groups and dilations are left out: 1.
    let mut conv = node("ConvInteger", &["x", "w", "xz"], "y");
    conv.attribute.push(AttributeProto {
        name: Some("pads".into()),
        ints: vec![1; 4],
        r#type: Some(7),
        ..AttributeProto::default()
    });
    let constants =
        vec![bytes("w", INT8, &[1, 1, 3, 3], &[1, 1, 1, 1, -128, 1, 1, 1, 1]), bytes("xz", UINT8, &[], &[5])];
    let model = one(conv.clone(), &[1, 1, 2, 2], constants, port("y", INT32, &[1, 1, 2, 2]));
    let x = Tensor { ty: TensorType::U8, shape: vec![1, 1, 2, 2], data: vec![5, 6, 7, 255] };
    // 0, 1, 2 and 250 above the zero point; around, there is nothing.
    assert_eq!(as_i32s(&run(&model, x)[0]), [253, 252 - 128, 251 - 256, 3 - 128 * 250]);

    conv.input[1] = "x".into();
    let model =
        one(conv, &[1, 1, 2, 2], vec![bytes("xz", UINT8, &[], &[5])], port("y", INT32, &[1, 1, 2, 2]));
    let error = refused(&model).to_string();
    assert!(error.contains("ConvInteger") && error.contains("not constant"), "{error}");
}

#[test]
fn a_convolution_whose_sums_exceed_what_floats_hold_is_taken_in_parts() {
    let channels = 600i64;
    let w = vec![-127; channels as usize];
    let model = one(
        node("ConvInteger", &["x", "w"], "y"),
        &[1, channels, 1, 1],
        vec![bytes("w", INT8, &[1, channels, 1, 1], &w)],
        port("y", INT32, &[1, 1, 1, 1]),
    );
    let mut data = vec![255; channels as usize];
    data[0] = 254;
    let got = run(&model, Tensor { ty: TensorType::U8, shape: vec![1, channels as u32, 1, 1], data });
    // An odd number over 2^24: no float.
    assert_eq!(as_i32s(&got[0]), [-127 * (255 * 599 + 254)]);
}

#[test]
fn numbers_are_quantised_by_a_division_and_held_within_bounds() {
    let quantize = |zero: bool| {
        let inputs = if zero { &["x", "s", "z"][..] } else { &["x", "s"] };
        let graph = GraphProto {
            node: vec![node("QuantizeLinear", inputs, "y")],
            input: vec![port("x", 1, &[0])],
            output: vec![port("y", if zero { INT8 } else { UINT8 }, &[0])],
            initializer: vec![floats("s", &[], &[0.019_607_844]), bytes("z", INT8, &[], &[-3])],
            ..GraphProto::default()
        };
        model(13, graph)
    };
    // The third over the scale is 127.49999, times its inverse 127.5. A tensor of one number is another
    // case of the engine.
    let x = [0.0, f32::INFINITY, 2.5, -1.0, 1e30, -1e30];
    let got = run(&quantize(false), f32s(&[6], &x));
    assert_eq!(got[0].data, [0, 255, 127, 0, 255, 0]);
    assert_eq!(run(&quantize(false), f32s(&[1], &x[2..3]))[0].data, [127]);
    let got = run(&quantize(true), f32s(&[6], &x));
    assert_eq!(got[0].data.iter().map(|b| *b as i8).collect::<Vec<_>>(), [-3, 127, 124, -54, 127, -128]);
}

#[test]
fn weights_that_are_computed_are_split() {
    let graph = GraphProto {
        node: vec![node("MatMulInteger", &["x", "x"], "y")],
        input: vec![port("x", UINT8, &[40, 40])],
        output: vec![port("y", INT32, &[40, 40])],
        ..GraphProto::default()
    };
    let x = Tensor { ty: TensorType::U8, shape: vec![40, 40], data: vec![255; 1600] };
    assert_eq!(as_i32s(&run(&model(13, graph), x)[0]), [255 * 255 * 40; 1600]);
}

#[test]
fn weights_of_no_elements_and_of_any_dimensions_are_no_panic() {
    for dims in [[0, 1 << 40, 1 << 40], [1 << 40, 0, 1 << 40]] {
        let output = port("y", INT32, &[0]);
        let inputs = ["x", "w"];
        let product =
            one(node("MatMulInteger", &inputs, "y"), &[0, 2], vec![bytes("w", INT8, &dims, &[])], output);
        let floats = floats("s", &[2], &[1.0; 2]);
        let mut scaled = product.clone();
        let graph = scaled.graph.as_mut().expect("a graph");
        graph.node[0] = node("DequantizeLinear", &["w", "s"], "y");
        graph.output = vec![port("y", 1, &[0])];
        graph.initializer.push(floats);
        let limits = ModelLimits::default();
        for mut model in [product, scaled] {
            let texts = rewrite::begin(&mut model, &limits).expect("begun");
            rewrite::rewrite(&mut model, texts, 13, 1, &limits).expect("rewritten");
        }
    }
}

#[test]
fn an_axis_that_is_none_is_refused() {
    let mut hardmax = node("Hardmax", &["x"], "y");
    hardmax.attribute.push(int("axis", i64::MAX));
    let error = refused(&unary(13, hardmax, 1, &[0, 3])).to_string();
    assert!(error.contains("there is no axis"), "{error}");
}
