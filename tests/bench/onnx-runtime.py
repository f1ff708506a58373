#!/usr/bin/env python3
"""Reads a MiniLM with ONNX Runtime and runs it once, on one thread.

    onnx-runtime.py minilm.onnx 101,7592,102

Prints the nanoseconds from before reading the file until the answer.
"""

import sys
import time

import numpy as np
import onnxruntime

path, tokens = sys.argv[1:]
ids = np.array([[int(token) for token in tokens.split(",")]], dtype=np.int64)
inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1

begun = time.perf_counter_ns()
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
(hidden,) = session.run(["last_hidden_state"], inputs)
took = time.perf_counter_ns() - begun

assert hidden.shape == (1, ids.shape[1], 384) and np.isfinite(hidden).all(), hidden.shape
print(took)
