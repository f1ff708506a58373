#!/usr/bin/env python3
"""Runs a model with ONNX Runtime again and again, on one thread.

    onnx-runtime-loop.py model.onnx inputs.json

`inputs.json` names each input with its element type and shape, and a file with its elements. For each line of standard
input, a number of runs, prints their CPU nanoseconds.
"""

import json
import sys
import time

import numpy as np
import onnxruntime

TYPES = {"bool": bool, "i8": np.int8, "u8": np.uint8, "i32": np.int32, "i64": np.int64, "f32": np.float32, "f64": np.float64}

path, described = sys.argv[1:]
with open(described, encoding="utf-8") as file:
    described = json.load(file)
inputs = {i["name"]: np.fromfile(i["file"], dtype=TYPES[i["type"]]).reshape(i["shape"]) for i in described}
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.log_severity_level = 4
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

for line in sys.stdin:
    begun = time.thread_time_ns()
    for _ in range(int(line)):
        session.run(None, inputs)
    print(time.thread_time_ns() - begun, flush=True)
