"""Small convolutional networks, quantised by ONNX Runtime's tools in each usual way, with its answers.

Usage: `python tests/conformance/quantized.py DIRECTORY` in an environment with `classic.txt` installed; folders as those of
`classic.py`. ONNX Runtime saturates sums of 8-bit products on processors without VNNI: run it where /proc/cpuinfo has `vnni`.
"""

import json
import pathlib
import shutil
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

RANDOM = np.random.default_rng(5)


class Network:
    """A small network: strides, a depthwise and a pointwise convolution, a residual, both poolings, a dense layer."""

    def __init__(self):
        self.nodes, self.weights = [], {}
        x = self.conv("x", 3, 8, 3, stride=2)
        x = self.conv(x, 8, 8, 3, group=8)
        x = start = self.conv(x, 8, 12, 1)
        x = self.conv(x, 12, 12, 3, relu=False)
        x = self.add("Relu", [self.add("Add", [start, x])])
        x = self.add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
        x = self.add("Flatten", [self.add("GlobalAveragePool", [x])])
        self.weights["dense"] = RANDOM.normal(size=(12, 5)).astype(np.float32)
        self.weights["bias"] = np.zeros(5, np.float32)
        self.add("Gemm", [x, "dense", "bias"], output="y")

    def add(self, op, inputs, output=None, **attributes):
        output = output or f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def conv(self, x, channels, outputs, size, stride=1, group=1, relu=True):
        name = f"conv{len(self.nodes)}"
        shape = (outputs, channels // group, size, size)
        weights = RANDOM.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        self.weights[name + "w"] = weights.astype(np.float32)
        self.weights[name + "b"] = (RANDOM.normal(size=outputs) * 0.1).astype(np.float32)
        attributes = {"pads": [size // 2] * 4, "strides": [stride] * 2, "group": group, "kernel_shape": [size] * 2}
        x = self.add("Conv", [x, name + "w", name + "b"], **attributes)
        return self.add("Relu", [x]) if relu else x

    def model(self):
        x = helper.make_tensor_value_info("x", 1, ["n", 3, 16, 16])
        y = helper.make_tensor_value_info("y", 1, ["n", 5])
        weights = [numpy_helper.from_array(value, name) for name, value in self.weights.items()]
        graph = helper.make_graph(self.nodes, "small", [x], [y], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Samples(CalibrationDataReader):
    def __init__(self):
        self.left = iter([{"x": RANDOM.normal(size=(8, 3, 16, 16)).astype(np.float32)} for _ in range(4)])

    def get_next(self):
        return next(self.left, None)


def ways(source, target):
    """name -> what writes a quantised model to `target`."""
    for kind in ("QInt8", "QUInt8"):
        for per_channel in (False, True):
            options = {"weight_type": QuantType[kind], "per_channel": per_channel}
            yield f"dynamic-{kind}-{per_channel}", lambda o=options: quantize_dynamic(source, target, **o)
    for form in ("QDQ", "QOperator"):
        for activations, weights, per_channel in (
            ("QUInt8", "QInt8", False),
            ("QUInt8", "QInt8", True),
            ("QInt8", "QInt8", True),
            ("QUInt8", "QUInt8", False),
        ):
            options = {
                "quant_format": QuantFormat[form],
                "activation_type": QuantType[activations],
                "weight_type": QuantType[weights],
                "per_channel": per_channel,
            }
            name = f"static-{form}-{activations}-{weights}-{per_channel}"
            yield name, lambda o=options: quantize_static(source, target, Samples(), **o)


def entry(array):
    return {"type": "f32", "shape": list(array.shape), "data": [float(v) for v in array.ravel()]}


def main():
    out = pathlib.Path(sys.argv[1])
    given = RANDOM.normal(size=(2, 3, 16, 16)).astype(np.float32).round(2)
    with tempfile.TemporaryDirectory() as temporary:
        source, target = f"{temporary}/source.onnx", f"{temporary}/target.onnx"
        onnx.save(Network().model(), source)
        quant_pre_process(source, source, skip_symbolic_shape=True)
        for name, quantise in ways(source, target):
            quantise()
            answer = onnxruntime.InferenceSession(target).run(None, {"x": given})[0]
            folder = out / name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(target, folder / "model.onnx")
            case = {"source": name, "inputs": {"x": entry(given)}, "expected": {"y": entry(answer)}}
            (folder / "case.json").write_text(json.dumps(case) + "\n")
            print(name, flush=True)


main()
