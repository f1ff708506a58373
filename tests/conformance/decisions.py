"""Where the two judges differ: whose outputs count, by the operator's specification or by exact arithmetic.

An answer may also be the outputs themselves. `runtime` and `reference` are one of them; `either` where the specification leaves it open; `none` where neither is right.
"""

import numpy as np


def has_nan(case):
    return any(np.isnan(a).any() for a in case.inputs.values() if a.dtype.kind == "f") or any(
        t.name and b"nan" in str(t.float_data).encode() for t in case.model.graph.initializer
    )


def is_empty(case):
    return any(a.size == 0 for a in case.inputs.values())


def decide(case, runtime, reference):
    op = case.about["op"]
    if op == "GlobalMaxPool":
        # ONNX Runtime finds what is not a number or not by its position, and `onnx.reference` gives a dimension too many.
        x = case.inputs.get("x0")
        return [np.max(x, axis=tuple(range(2, x.ndim)), keepdims=True)]
    if op == "Swish":
        # ONNX Runtime's sigmoid is rough far from 0.
        x = case.inputs["x0"].astype(np.float64)
        return [(x / (1 + np.exp(-case.about["attributes"].get("alpha", 1.0) * x))).astype(case.inputs["x0"].dtype)]
    if runtime is None or reference is None:
        return "either"
    if op == "Sign" and has_nan(case):
        return "either"
    if op in ("ReduceMax", "ReduceMin", "ArgMax", "ArgMin", "Hardmax", "ReduceLogSumExp") and has_nan(case):
        # ONNX gives what is not a number no place in the order of numbers, and ONNX Runtime finds it or not by its position.
        return "either"
    if op.startswith("Reduce") and runtime[0].dtype.kind in "iu":
        # What a sum beyond its integers is, ONNX does not say; exact arithmetic has judged all others.
        return "exact or either"
    if op == "ReduceMean" and is_empty(case):
        # "Reduction over an empty set of values yields undefined."
        return "either"
    if op == "DynamicQuantizeLinear":
        # Where all is 0 the scale is 0 / 255, by which nothing can be divided.
        return "either"
    if op == "Squeeze":
        # A list of axes that is empty: none is squeezed, or all are, as if there were no list.
        return "either"
    return "runtime"
