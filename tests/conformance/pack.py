"""Cases in one file: for each a line of JSON, then the bytes of the model, of the inputs, and of the outputs."""

import json

import numpy as np

from values import NAMES


def describe(name, array):
    array = np.asarray(array)
    return {"name": name, "type": NAMES[array.dtype], "shape": list(array.shape), "bytes": array.nbytes}


def write(out, case):
    model = case.model.SerializeToString()
    names = [y.name for y in case.model.graph.output]
    header = {
        "name": case.name,
        "about": case.about,
        "model": len(model),
        "inputs": [describe(name, a) for name, a in case.inputs.items()],
        "expected": [[describe(n, a) for n, a in zip(names, y)] for y in case.expected],
        "own": [[describe(n, a) for n, a in zip(names, y)] for y in case.own],
    }
    out.write(json.dumps(header, default=lambda x: x.item() if hasattr(x, "item") else str(x)).encode() + b"\n")
    out.write(model)
    for array in case.inputs.values():
        out.write(np.asarray(array).tobytes())
    for outputs in case.expected + case.own:
        for array in outputs:
            out.write(np.asarray(array).tobytes())
