#!/usr/bin/env python3
"""Trains a small classifier of handwritten digits, on scikit-learn's bundled images, and writes it as ONNX.

    pip install numpy==2.4.6 onnx==1.23.2 scikit-learn==1.9.1
    python3 train.py

Writes models/digits.onnx, models/accuracy.json, and test-images.json with the images that training never saw. Seeded: the same
packages on the same kind of processor give the same files.

    image           f32[batch, 64]   8 x 8 pixels, row by row, 0 (paper) to 1 (ink); the images' 0 to 16 divided by 16
    probabilities   f32[batch, 10]   of the digits 0 to 9
"""

import json
from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

SEED = 7
HERE = Path(__file__).parent


def to_onnx(network):
    nodes, weights, x = [], [], "image"
    last = len(network.coefs_) - 1
    for i, (matrix, bias) in enumerate(zip(network.coefs_, network.intercepts_)):
        weights.append(numpy_helper.from_array(matrix.astype(np.float32), f"layer{i}.weight"))
        weights.append(numpy_helper.from_array(bias.astype(np.float32), f"layer{i}.bias"))
        nodes.append(helper.make_node("MatMul", [x, f"layer{i}.weight"], [f"layer{i}.product"], name=f"matmul{i}"))
        nodes.append(helper.make_node("Add", [f"layer{i}.product", f"layer{i}.bias"], [f"layer{i}.sum"], name=f"add{i}"))
        if i == last:
            nodes.append(helper.make_node("Softmax", [f"layer{i}.sum"], ["probabilities"], name="softmax", axis=-1))
        else:
            x = f"layer{i}.active"
            nodes.append(helper.make_node("Relu", [f"layer{i}.sum"], [x], name=f"relu{i}"))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="vesta-examples", producer_version="1"
    )


def main():
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=SEED)
    train_x, test_x, train_y, test_y = split
    network = MLPClassifier(hidden_layer_sizes=(96,), alpha=1e-3, max_iter=400, random_state=SEED)
    network.fit(train_x / 16, train_y)
    accuracy = network.score(test_x / 16, test_y)

    model = to_onnx(network)
    checker.check_model(model)
    (HERE / "models").mkdir(exist_ok=True)
    (HERE / "models" / "digits.onnx").write_bytes(model.SerializeToString(deterministic=True))
    summary = {"test_images": len(test_y), "train_images": len(train_y), "test_accuracy": round(accuracy, 4), "seed": SEED}
    (HERE / "models" / "accuracy.json").write_text(json.dumps(summary) + "\n")
    rows = ",\n".join(json.dumps([int(v) for v in image]) for image in test_x)
    (HERE / "test-images.json").write_text(f'{{"images": [\n{rows}\n],\n"labels": {json.dumps(test_y.tolist())}}}\n')
    print(summary)


main()
