//! Given a model that is not sound, or not to be run, when it is prepared, then the error names what is
//! wrong.

use super::build::*;
use crate::onnx::*;
use crate::{ModelLimits, PrepareError};
use prost::Message;

fn changed(change: impl FnOnce(&mut ModelProto, &mut GraphProto)) -> PrepareError {
    let mut model = linear();
    let mut graph = model.graph.take().expect("graph");
    change(&mut model, &mut graph);
    model.graph = Some(graph);
    refused(&model)
}

fn assert_says(error: &PrepareError, code: &str, parts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.code(), code, "{text}");
    assert!(error.is_bad_model());
    for part in parts {
        assert!(text.contains(part), "{text:?} does not contain {part:?}");
    }
}

#[test]
fn files_that_are_no_models() {
    for bytes in
        [&b"hello, world"[..], b"{\"a\": 1}", b"PK\x03\x04rest", b"GGUF\x03\0\0\0", &[0xff; 40], &[0; 9]]
    {
        let error = prepare_bytes(bytes).result.expect_err("refused");
        assert_says(&error, "not-onnx", &["not an ONNX model"]);
    }
    assert_says(&prepare_bytes(b"").result.expect_err("refused"), "model-truncated", &["empty"]);
    let no_graph = ModelProto { graph: None, ..linear() };
    assert_says(&refused(&no_graph), "not-onnx", &["no graph"]);
}

#[test]
fn a_truncated_file() {
    let bytes = linear().encode_to_vec();
    let error = prepare_bytes(&bytes[..bytes.len() - 20]).result.expect_err("refused");
    assert_says(&error, "model-truncated", &["bytes, but"]);
}

#[test]
fn a_file_that_is_too_large_or_too_complex() {
    let bytes = linear().encode_to_vec();
    let with = |limits: ModelLimits| prepare_with(&bytes, &limits).result.expect_err("refused");
    let limits = ModelLimits::default;
    assert_says(&with(ModelLimits { model_bytes_max: 99, ..limits() }), "model-too-large", &["99"]);
    assert_says(
        &with(ModelLimits { nodes_max: 1, ..limits() }),
        "model-too-complex",
        &["2 operators", "at most 1"],
    );
    assert_says(&with(ModelLimits { tensors_max: 1, ..limits() }), "model-too-complex", &["2 tensors"]);
    assert_says(
        &with(ModelLimits { weights_bytes_max: 1599, ..limits() }),
        "model-too-complex",
        &["1600 bytes"],
    );
    assert_says(&with(ModelLimits { messages_max: 10, ..limits() }), "model-too-complex", &["messages"]);
    assert_says(
        &with(ModelLimits { ports_max: 0, ..limits() }),
        "model-too-complex",
        &["1 inputs or outputs"],
    );
}

#[test]
fn operators_that_the_engine_does_not_know_are_all_named() {
    let error = changed(|_, g| {
        g.node[0].op_type = Some("Foo".into());
        g.node[1].domain = Some("my.domain".into());
    });
    assert_says(
        &error,
        "operator-not-supported",
        &["Foo (domain ai.onnx, node \"the MatMul\")", "Add (domain my.domain, node \"the Add\")"],
    );
}

#[test]
fn operators_in_graphs_within_are_found_and_loops_are_refused() {
    let inner = GraphProto {
        node: vec![node("Foo", &["x"], "foo")],
        output: vec![port("foo", 1, &[])],
        ..GraphProto::default()
    };
    let attribute = |name: &str| AttributeProto {
        name: Some(name.into()),
        g: Some(inner.clone()),
        ..AttributeProto::default()
    };
    let error = changed(|_, g| {
        let mut choice = node("If", &["x"], "z");
        choice.attribute = vec![attribute("then_branch"), attribute("else_branch")];
        g.node.push(choice);
    });
    assert_says(&error, "operator-not-supported", &["Foo", "the Foo"]);
    let error = changed(|_, g| g.node.push(node("Loop", &["x"], "z")));
    assert_says(&error, "operator-unbounded", &["Loop", "the Loop"]);
}

#[test]
fn operators_that_the_engine_computes_wrongly() {
    let error = changed(|_, g| g.node.push(node("NonMaxSuppression", &["x", "x"], "z")));
    assert_says(&error, "operator-not-supported", &["NonMaxSuppression", "the NonMaxSuppression", "classes"]);
    let text = |name: &str, value: &'static [u8]| AttributeProto {
        name: Some(name.into()),
        s: Some(value.into()),
        r#type: Some(3),
        ..AttributeProto::default()
    };
    let error = changed(|_, g| {
        let mut resize = node("Resize", &["x", "", "w"], "z");
        resize.attribute.push(text("mode", b"cubic"));
        g.node.push(resize);
    });
    assert_says(&error, "operator-not-supported", &["cubic"]);
    let error = changed(|_, g| {
        let mut conv = node("Conv", &["x", "w"], "z");
        conv.attribute.push(text("auto_pad", b"SAME_LOWER"));
        g.node.push(conv);
    });
    assert_says(&error, "operator-not-supported", &["SAME_LOWER"]);
}

#[test]
fn tensors_that_lie() {
    let error = changed(|_, g| g.initializer[0].dims = vec![3, 101]);
    assert_says(&error, "tensor-lies", &["\"w\"", "[3, 101] = 1212 bytes", "has 1200"]);
    let error = changed(|_, g| g.initializer[0].raw_data = None);
    assert_says(&error, "tensor-lies", &["has 0"]);
    let error = changed(|_, g| g.initializer[0].dims = vec![-3, 100]);
    assert_says(&error, "tensor-shape", &["\"w\"", "negative"]);
    let error = changed(|_, g| g.initializer[0].dims = vec![i64::MAX, i64::MAX]);
    assert_says(&error, "tensor-shape", &["64 bits"]);
    let error = changed(|_, g| g.initializer[0].dims = vec![i64::MAX]);
    assert_says(&error, "tensor-shape", &["bytes"]);
    let error = changed(|_, g| g.initializer[0].dims = vec![1; 17]);
    assert_says(&error, "tensor-shape", &["16 dimensions"]);
    let error = changed(|_, g| g.initializer[0].data_type = Some(8));
    assert_says(&error, "element-type-not-supported", &["string"]);
}

#[test]
fn data_elsewhere() {
    let error = changed(|_, g| g.initializer[1].data_location = Some(EXTERNAL));
    assert_says(&error, "external-data", &["\"b\"", "another file"]);
    let error = changed(|_, g| g.sparse_initializer.push(SparseTensorProto::default()));
    assert_says(&error, "sparse-tensor", &[]);
}

#[test]
fn opsets_out_of_range() {
    assert_says(&changed(|m, _| m.opset_import[0].version = Some(6)), "opset-not-supported", &["opset 6"]);
    assert_says(&changed(|m, _| m.opset_import[0].version = Some(99)), "opset-not-supported", &["7 to 28"]);
    let error = changed(|m, g| {
        m.opset_import.clear();
        g.node.push(node("Softmax", &["x"], "z"));
    });
    assert_says(&error, "opset-not-supported", &["no opset", "Softmax", "the Softmax"]);
}

#[test]
fn graphs_that_do_not_hold_together() {
    assert_says(&changed(|_, g| g.node.swap(0, 1)), "graph-unsound", &["the Add", "\"xw\""]);
    assert_says(&changed(|_, g| g.output[0] = port("z", 1, &[1])), "graph-unsound", &["the output \"z\""]);
    assert_says(&changed(|_, g| g.node.push(node("Neg", &["x"], "y"))), "graph-unsound", &["twice"]);
    assert_says(
        &changed(|_, g| g.initializer.push(floats("w", &[0], &[]))),
        "graph-unsound",
        &["two weights"],
    );
    assert_says(&changed(|_, g| g.input.push(g.input[0].clone())), "graph-unsound", &["two inputs"]);
    assert_says(&changed(|_, g| g.output.clear()), "graph-unsound", &["no outputs"]);
}

#[test]
fn ports_that_cannot_cross() {
    assert_says(&changed(|_, g| g.input[0] = port("x", 8, &[1])), "port-not-supported", &["\"x\"", "string"]);
    assert_says(&changed(|_, g| g.input[0] = port("x", 1, &[1 << 40])), "port-not-supported", &["too large"]);
    assert_says(&changed(|_, g| g.output[0].r#type = None), "port-not-supported", &["\"y\"", "not a tensor"]);
}

#[test]
fn a_trial_run_that_fails() {
    // The weights have 3 rows, the input 4 columns: nothing but a run shows it.
    let error = changed(|_, g| g.input[0] = port("x", 1, &[1, 4]));
    assert_says(&error, "trial-run-failed", &["x [1, 4]"]);
}

#[test]
fn an_input_whose_name_no_run_could_give_is_refused() {
    let long = "x".repeat(513);
    let error = changed(|_, g| g.input.push(port(&long, 1, &[1])));
    assert_says(&error, "port-not-supported", &["its name has 513 bytes; at most 512"]);
}

#[test]
fn damaged_bytes_never_panic() {
    let bytes = linear().encode_to_vec();
    let limits = ModelLimits { trial_bytes_max: 1 << 16, ..ModelLimits::default() };
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let (mut accepted, rounds) = (0, 400);
    for _ in 0..rounds {
        let mut damaged = bytes.clone();
        for _ in 0..=next(3) {
            match next(4) {
                0 => damaged.truncate(next(damaged.len()).max(1)),
                1 => drop(damaged.remove(next(damaged.len()))),
                _ => {
                    // Most bytes are weights, where a change does no harm: aim at the structure.
                    let at = if next(2) == 0 { next(120) } else { next(damaged.len()) };
                    let at = at.min(damaged.len() - 1);
                    damaged[at] ^= 1 << next(8);
                }
            }
            if damaged.len() < 2 {
                break;
            }
        }
        match prepare_with(&damaged, &limits).result {
            Ok(_) => accepted += 1,
            Err(e) => assert!(e.is_bad_model(), "{e}"),
        }
    }
    assert!(accepted > 0 && accepted < rounds, "{accepted}");
}
