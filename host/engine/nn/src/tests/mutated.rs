//! Files of models and messages of workers, changed at random.

use super::build;
use crate::onnx::ModelProto;
use crate::tests::mutate;
use crate::worker::wire::{
    Answer, Control, MESSAGE_BYTES_MAX, Place, Reply, Request, Spent, lay_out, receive,
};
use crate::{ModelLimits, TensorType, check, depth, quirks, rewrite, softmax, wire};
use prost::Message;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, send as send_bytes, socketpair,
};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::Path;

#[test]
fn a_model_that_was_changed_at_random_is_read_or_refused() {
    let limits = ModelLimits::default();
    let scalar = build::unary(11, build::node("Softmax", &["x"], "y"), 1, &[1, 4]);
    let (linear, softmaxed) = (build::linear().encode_to_vec(), scalar.encode_to_vec());
    mutate::each(&[&linear, &softmaxed], |bytes| {
        if wire::check(bytes, limits.messages_max).is_err() {
            return;
        }
        let Ok(model) = ModelProto::decode(bytes) else { return };
        read(model, &limits);
    });
}

#[test]
fn models_of_operators_that_are_rewritten_changed_at_random_are_read_or_refused() {
    let limits = ModelLimits { weights_bytes_max: 1 << 24, ..ModelLimits::default() };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/conformance");
    let files = [
        "classic/tree-names",
        "classic/xgboost-multi",
        "classic/lightgbm-binary",
        "classic/imputer-logistic-names",
        "classic/gaussian-nb",
        "classic/knn-regressor",
        "classic/svr",
        "quantized/dynamic-QInt8-True",
        "quantized/static-QDQ-QUInt8-QInt8-True",
        "quantized/static-QOperator-QInt8-QInt8-True",
    ];
    let models = files.map(|name| std::fs::read(folder.join(name).join("model.onnx")).expect("a model"));
    let models: Vec<&[u8]> = models.iter().map(Vec::as_slice).collect();
    mutate::each(&models, |bytes| {
        if wire::check(bytes, limits.messages_max).is_ok()
            && let Ok(model) = ModelProto::decode(bytes)
        {
            read(model, &limits);
        }
    });
}

/// Judges and rewrites a model, as far as it is sound.
fn read(mut model: ModelProto, limits: &ModelLimits) {
    let Ok(texts) = rewrite::begin(&mut model, limits) else { return };
    let Ok(given) = check::model(&model, limits) else { return };
    if rewrite::rewrite(&mut model, texts, given.opset, given.nodes, limits).is_err() {
        return;
    }
    let Ok(checked) = check::model(&model, limits) else { return };
    let graph = model.graph.get_or_insert_default();
    if quirks::rewrite(graph, checked.opset).is_ok() {
        softmax::rewrite(graph, checked.opset);
        depth::of(graph);
    }
}

#[test]
fn a_message_that_was_changed_at_random_is_read_or_is_no_message() {
    let place = Place {
        name: "input".into(),
        ty: TensorType::F32,
        shape: vec![1, 4],
        offset: u64::MAX - 60,
        bytes: 1 << 40,
    };
    let spent = Spent { cpu_ns: 1, clock_ns: 2, memory_bytes: 3 };
    let sample = |message: Result<Vec<u8>, postcard::Error>| message.expect("encoded");
    let samples = [
        sample(postcard::to_allocvec(&Reply::Done { outputs: vec![place.clone(), place.clone()], spent })),
        sample(postcard::to_allocvec(&Reply::Space { bytes: u64::MAX })),
        sample(postcard::to_allocvec(&Request::Run { inputs: vec![place] })),
        sample(postcard::to_allocvec(&Answer::Refused { reason: "no".into() })),
        sample(postcard::to_allocvec(&Control::Load { threads: 2, form: crate::Form::Packed })),
    ];
    let samples: Vec<&[u8]> = samples.iter().map(Vec::as_slice).collect();
    let (from, to) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("sockets");
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    mutate::each(&samples, |bytes| {
        let mut took = |kind: usize| {
            // An empty packet is the end of the other side.
            send_bytes(&from, bytes, SendFlags::NOSIGNAL).expect("sent");
            let flags = RecvFlags::DONTWAIT;
            let failed = match kind {
                0 => receive::<Reply>(to.as_fd(), &mut buffer, flags).map(|(reply, _)| look_at(&reply)).err(),
                1 => receive::<Request>(to.as_fd(), &mut buffer, flags).err(),
                2 => receive::<Answer>(to.as_fd(), &mut buffer, flags).err(),
                _ => receive::<Control>(to.as_fd(), &mut buffer, flags).err(),
            };
            let kind = failed.map(|e| e.kind());
            assert!(
                matches!(kind, None | Some(ErrorKind::InvalidData | ErrorKind::UnexpectedEof)),
                "{kind:?}"
            );
        };
        (0..4).for_each(&mut took);
    });
}

fn look_at(reply: &Reply) {
    if let Reply::Done { outputs, .. } = reply {
        let end = lay_out(outputs.iter().map(|place| place.bytes));
        assert!(end.is_none_or(|(offsets, _)| offsets.len() == outputs.len()));
    }
}
