#!/usr/bin/env python3
"""Builds all-MiniLM-L6-v2 as one ONNX file from its safetensors.

    build-model.py model.safetensors minilm.onnx

Needs the packages of examples/models.toml. The same input always gives the same bytes.

    input_ids, attention_mask, token_type_ids  i64[batch, sequence]
    last_hidden_state                          f32[batch, sequence, 384]

It is BERT (6 layers, 12 heads of 32, exact GELU) with three changes that alter no result beyond rounding: the three projections of
an attention are one matrix, the scale of its scores lies in that matrix, and the half in GELU lies in the matrix after it.
"""

import json
import math
import sys

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

LAYERS, WIDTH, HEADS = 6, 384, 12
HEAD = WIDTH // HEADS
OPSET, IR_VERSION = 17, 8


def read_safetensors(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] == "F32":
            start, end = entry["data_offsets"]
            tensors[name] = np.frombuffer(data[start:end], "<f4").reshape(entry["shape"])
    return tensors


class Builder:
    def __init__(self):
        self.nodes, self.weights, self.count = [], [], 0

    def weight(self, name, array, dtype=np.float32):
        array = np.ascontiguousarray(array, dtype=dtype)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op, *inputs, name=None, outputs=1, **attributes):
        self.count += 1
        names = [name] if name else [f"{op.lower()}_{self.count}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"{op}_{self.count}", **attributes))
        return names[0] if outputs == 1 else names

    def linear(self, x, name, matrix, bias):
        product = self.node("MatMul", x, self.weight(f"{name}.weight", matrix))
        return self.node("Add", product, self.weight(f"{name}.bias", bias))


def build(w):
    b = Builder()
    shape = {  # 0 keeps the dimension of the input
        "heads": b.weight("shape.heads", [0, 0, HEADS, HEAD], np.int64),
        "hidden": b.weight("shape.hidden", [0, 0, WIDTH], np.int64),
    }

    def norm(x, prefix, **more):
        scale = b.weight(f"{prefix}.weight", w[f"{prefix}.weight"])
        bias = b.weight(f"{prefix}.bias", w[f"{prefix}.bias"])
        return b.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-12, **more)

    # Positions 0 .. sequence: the first rows of their table.
    words = b.node("Gather", b.weight("words", w["embeddings.word_embeddings.weight"]), "input_ids")
    types = b.node("Gather", b.weight("types", w["embeddings.token_type_embeddings.weight"]), "token_type_ids")
    length = b.node("Slice", b.node("Shape", "input_ids"), b.weight("one", [1], np.int64), b.weight("two", [2], np.int64))
    table = b.weight("positions", w["embeddings.position_embeddings.weight"])
    positions = b.node("Slice", table, b.weight("zero", [0], np.int64), length, "zero")
    x = norm(b.node("Add", b.node("Add", words, types), positions), "embeddings.LayerNorm")

    # 0 where a token counts, a large negative number where it is padding: [batch, 1, 1, sequence].
    mask = b.node("Cast", "attention_mask", to=TensorProto.FLOAT)
    mask = b.node("Mul", b.node("Sub", mask, b.weight("one.f", 1.0)), b.weight("large", 1e9))
    mask = b.node("Unsqueeze", mask, b.weight("axes", [1, 2], np.int64))

    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        part = {p: w[f"{name}.attention.self.{p}.weight"].T for p in ("query", "key", "value")}
        bias = {p: w[f"{name}.attention.self.{p}.bias"] for p in part}
        scale = np.float32(1 / math.sqrt(HEAD))
        matrix = np.concatenate([part["query"] * scale, part["key"], part["value"]], axis=1)
        joint = b.linear(x, f"{name}.qkv", matrix, np.concatenate([bias["query"] * scale, bias["key"], bias["value"]]))
        split = b.node("Split", joint, outputs=3, axis=2)
        q, k, v = (b.node("Reshape", s, shape["heads"]) for s in split)
        q = b.node("Transpose", q, perm=[0, 2, 1, 3])
        k = b.node("Transpose", k, perm=[0, 2, 3, 1])
        v = b.node("Transpose", v, perm=[0, 2, 1, 3])
        weights = b.node("Softmax", b.node("Add", b.node("MatMul", q, k), mask), axis=-1)
        context = b.node("Transpose", b.node("MatMul", weights, v), perm=[0, 2, 1, 3])
        context = b.node("Reshape", context, shape["hidden"])

        out = f"{name}.attention.output"
        attended = b.linear(context, f"{out}.dense", w[f"{out}.dense.weight"].T, w[f"{out}.dense.bias"])
        x = norm(b.node("Add", attended, x), f"{out}.LayerNorm")

        mid, out = f"{name}.intermediate.dense", f"{name}.output"
        h = b.linear(x, mid, w[f"{mid}.weight"].T, w[f"{mid}.bias"])
        if layer == 0:
            b.weight("half.root", math.sqrt(0.5))
        erf = b.node("Erf", b.node("Mul", h, "half.root"))
        h = b.node("Mul", h, b.node("Add", erf, "one.f"))
        h = b.linear(h, f"{out}.dense", w[f"{out}.dense.weight"].T * np.float32(0.5), w[f"{out}.dense.bias"])
        last = {"name": "last_hidden_state"} if layer == LAYERS - 1 else {}
        x = norm(b.node("Add", h, x), f"{out}.LayerNorm", **last)

    def port(name, dtype, *dims):
        return helper.make_tensor_value_info(name, dtype, ["batch", "sequence", *dims])

    inputs = [port(n, TensorProto.INT64) for n in ("input_ids", "attention_mask", "token_type_ids")]
    outputs = [port("last_hidden_state", TensorProto.FLOAT, WIDTH)]
    graph = helper.make_graph(b.nodes, "all-MiniLM-L6-v2", inputs, outputs, b.weights)
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="vesta-examples",
        producer_version="1",
    )


def main():
    source, target = sys.argv[1:]
    model = build(read_safetensors(source))
    checker.check_model(model)
    with open(target, "wb") as file:
        file.write(model.SerializeToString(deterministic=True))


main()
