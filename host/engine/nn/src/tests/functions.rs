//! Given operators that ONNX defines by others, when a model is prepared, then it computes what ONNX says.

use super::build::*;
use super::rewrites::{as_i64s, run};
use crate::onnx::*;
use crate::*;

fn real(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: Some(name.into()), f: Some(value), r#type: Some(1), ..AttributeProto::default() }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        ints: values.to_vec(),
        r#type: Some(7),
        ..AttributeProto::default()
    }
}

fn integers(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: vec![values.len() as i64],
        data_type: Some(7),
        int64_data: values.to_vec(),
        ..TensorProto::default()
    }
}

/// A node of x and constants.
fn with(opset: i64, node: NodeProto, dims: &[i64], constants: Vec<TensorProto>) -> ModelProto {
    let output = ValueInfoProto { name: Some("y".into()), ..port("y", 1, &[]) };
    let output = ValueInfoProto {
        r#type: output.r#type.map(|mut t| {
            if let Some(TypeValue::Tensor(tensor)) = &mut t.value {
                tensor.shape = None;
            }
            t
        }),
        ..output
    };
    let graph = GraphProto {
        node: vec![node],
        input: vec![port("x", 1, dims)],
        output: vec![output],
        initializer: constants,
        ..GraphProto::default()
    };
    model(opset, graph)
}

fn close(got: &Tensor, expected: &[f32]) {
    let got = as_f32s(got);
    assert_eq!(got.len(), expected.len(), "{got:?}");
    for (got, expected) in got.iter().zip(expected) {
        let same = got == expected || got.is_nan() && expected.is_nan();
        assert!(same || (got - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{got} is not {expected}");
    }
}

#[test]
fn activations_at_their_corners_and_beyond() {
    let x = [f32::NEG_INFINITY, -100.0, -1.0, 0.0, 0.75, 1.0, 100.0, f32::INFINITY, f32::NAN];
    let given = |op: &str, attributes| NodeProto { attribute: attributes, ..node(op, &["x"], "y") };
    let alpha = 1.673_263_2_f32;
    let gamma = 1.050_701_f32;
    let selu = |v: f32| if v > 0.0 { gamma * v } else { gamma * alpha * (v.exp() - 1.0) };
    let celu = |v: f32| if v > 0.0 { v } else { 2.0 * ((v / 2.0).exp() - 1.0) };
    let mish = |v: f32| if v > 20.0 { v } else { v * v.exp().ln_1p().tanh() };
    let shrink = |v: f32| match v {
        v if v < -0.5 => v + 0.25,
        v if v > 0.5 => v - 0.25,
        _ => 0.0,
    };
    let relu = |v: f32| if v > 0.8 { v } else { 0.0 };
    for (node, expected) in [
        (given("Selu", vec![]), x.map(selu)),
        (given("Celu", vec![real("alpha", 2.0)]), x.map(celu)),
        (given("Mish", vec![]), x.map(mish)),
        (given("Shrink", vec![real("bias", 0.25)]), x.map(shrink)),
        (given("ThresholdedRelu", vec![real("alpha", 0.8)]), x.map(relu)),
    ] {
        close(&run(&with(22, node, &[9], vec![]), f32s(&[9], &x))[0], &expected);
    }
}

#[test]
fn hardmax_takes_the_first_of_the_largest() {
    let hardmax = |axis| NodeProto { attribute: vec![int("axis", axis)], ..node("Hardmax", &["x"], "y") };
    let x = f32s(&[2, 3], &[1.0, 3.0, 3.0, 2.0, 0.0, 3.0]);
    close(&run(&with(13, hardmax(-1), &[0, 3], vec![]), x.clone())[0], &[0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    close(&run(&with(13, hardmax(0), &[0, 3], vec![]), x)[0], &[0.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
    let error = refused(&with(11, hardmax(0), &[0, 3], vec![])).to_string();
    assert!(error.contains("before opset 13"), "{error}");
}

#[test]
fn groups_of_channels_are_normalised_and_scaled_by_group_or_channel() {
    let x = f32s(&[1, 4, 2], &[0.0, 2.0, 4.0, 6.0, 1.0, 1.0, 1.0, 5.0]);
    let groups = |eps| {
        let attribute = vec![int("num_groups", 2), real("epsilon", eps)];
        NodeProto { attribute, ..node("GroupNormalization", &["x", "scale", "bias"], "y") }
    };
    // Means 3 and 2, deviations sqrt 5 and sqrt 3.
    let normal = |v: f32, group: usize| [(v - 3.0) / 5f32.sqrt(), (v - 2.0) / 3f32.sqrt()][group];
    let values = as_f32s(&x);
    let expected = |scale: &[f32]| -> Vec<f32> {
        let each = values.iter().enumerate();
        each.map(|(i, v)| normal(*v, i / 4) * scale[i * scale.len() / 8] + 1.0).collect()
    };
    for (opset, scale) in [(18, vec![2.0, 3.0]), (21, vec![2.0, 3.0, 4.0, 5.0])] {
        let dims = [scale.len() as i64];
        let constants = vec![floats("scale", &dims, &scale), floats("bias", &dims, &vec![1.0; scale.len()])];
        let got = run(&with(opset, groups(0.0), &[0, 4, 2], constants), x.clone());
        close(&got[0], &expected(&scale));
    }
    let mut none = groups(0.0);
    none.attribute.remove(0);
    let constants = vec![floats("scale", &[1], &[1.0]), floats("bias", &[1], &[1.0])];
    assert!(refused(&with(21, none, &[0, 4, 2], constants)).to_string().contains("num_groups is 0"));
}

#[test]
fn padding_of_some_axes() {
    let pad = node("Pad", &["x", "pads", "", "axes"], "y");
    let constants = vec![integers("pads", &[1, 0, 0, 2]), integers("axes", &[-1, 0])];
    let got = run(&with(18, pad, &[1, 2], constants), f32s(&[1, 2], &[7.0, 8.0]));
    // One before on the last axis, two after on the first.
    assert_eq!(got[0].shape, [3, 3]);
    close(&got[0], &[0.0, 7.0, 8.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
}

#[test]
fn blocks_of_pixels_become_channels() {
    let x: Vec<f32> = (0..16u8).map(f32::from).collect();
    let node = NodeProto { attribute: vec![int("blocksize", 2)], ..node("SpaceToDepth", &["x"], "y") };
    let got = run(&with(13, node, &[0, 1, 4, 4], vec![]), f32s(&[1, 1, 4, 4], &x));
    assert_eq!(got[0].shape, [1, 4, 2, 2]);
    let expected = [0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15].map(|v: u8| f32::from(v));
    close(&got[0], &expected);
}

#[test]
fn norms_of_windows_and_of_channels_near_by() {
    let pool = NodeProto {
        attribute: vec![ints("kernel_shape", &[2, 2]), ints("strides", &[1, 1])],
        ..node("LpPool", &["x"], "y")
    };
    let got = run(&with(18, pool, &[0, 1, 2, 2], vec![]), f32s(&[1, 1, 2, 2], &[1.0, -1.0, 1.0, -1.0]));
    close(&got[0], &[2.0]);
    let lrn = NodeProto {
        attribute: vec![int("size", 3), real("alpha", 3.0), real("beta", 0.5), real("bias", 0.0)],
        ..node("LRN", &["x"], "y")
    };
    let got = run(&with(13, lrn, &[0, 4, 1], vec![]), f32s(&[1, 4, 1], &[3.0, 4.0, 0.0, 5.0]));
    close(&got[0], &[0.6, 0.8, 0.0, 1.0]);
    let mean =
        NodeProto { attribute: vec![ints("axes", &[1])], ..node("MeanVarianceNormalization", &["x"], "y") };
    let got = run(&with(13, mean, &[0, 2], vec![]), f32s(&[1, 2], &[1.0, 5.0]));
    close(&got[0], &[-1.0, 1.0]);
}

#[test]
fn elements_for_which_a_condition_holds() {
    let condition = TensorProto {
        name: Some("c".into()),
        dims: vec![2],
        data_type: Some(9),
        int32_data: vec![0, 1],
        ..TensorProto::default()
    };
    let mut compress = node("Compress", &["x", "c"], "y");
    let x = f32s(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    close(&run(&with(13, compress.clone(), &[3, 2], vec![condition.clone()]), x.clone())[0], &[2.0]);
    compress.attribute.push(int("axis", 1));
    close(&run(&with(13, compress, &[3, 2], vec![condition]), x)[0], &[2.0, 4.0, 6.0]);
}

#[test]
fn a_gru_that_resets_before_its_product_is_unrolled() {
    // One hidden number; gates z, r, h of weights 0.5, -0.5, 1 for x and 1, 2, 3 for the state.
    let gru = |length| {
        let attribute = vec![int("hidden_size", 1)];
        let node = NodeProto { attribute, ..node("GRU", &["x", "w", "r"], "y") };
        let weights = [floats("w", &[1, 3, 1], &[0.5, -0.5, 1.0]), floats("r", &[1, 3, 1], &[1.0, 2.0, 3.0])];
        with(14, node, &[length, 1, 1], weights.to_vec())
    };
    let sigmoid = |v: f32| 1.0 / (1.0 + (-v).exp());
    let (mut state, mut expected) = (0f32, Vec::new());
    for x in [1.0f32, -2.0] {
        let (z, r) = (sigmoid(0.5 * x + state), sigmoid(-0.5 * x + 2.0 * state));
        let h = (x + 3.0 * r * state).tanh();
        state = (1.0 - z) * h + z * state;
        expected.push(state);
    }
    let got = run(&gru(2), f32s(&[2, 1, 1], &[1.0, -2.0]));
    assert_eq!(got[0].shape, [2, 1, 1, 1]);
    close(&got[0], &expected);
    let error = refused(&gru(0)).to_string();
    assert!(error.contains("GRU") && error.contains("the length of its sequences"), "{error}");
    let error = refused(&gru(100_000)).to_string();
    assert!(error.contains("100000 steps"), "{error}");
}

#[test]
fn columns_of_a_list_are_a_row() {
    let mut extract = node("ArrayFeatureExtractor", &["list", "places"], "z");
    extract.domain = Some("ai.onnx.ml".into());
    let mut model = with(18, node("Identity", &["x"], "y"), &[1], vec![]);
    let graph = model.graph.as_mut().expect("a graph");
    graph.node.push(extract);
    graph.initializer = vec![integers("list", &[7, 8, 9]), integers("places", &[2, 0])];
    graph.output.push(port("z", 7, &[1, 2]));
    let got = run(&model, f32s(&[1], &[0.0]));
    assert_eq!((got[1].shape.as_slice(), as_i64s(&got[1])), (&[1, 2][..], vec![9, 7]));
}
