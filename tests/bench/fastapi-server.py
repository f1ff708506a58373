#!/usr/bin/env python3
"""Models behind FastAPI, as a user would serve them: uvicorn with uvloop and httptools, orjson, ONNX Runtime on one thread.

    fastapi-server.py NAME=model.onnx …

`POST /NAME` takes a JSON object of the model's inputs as nested lists, and answers its outputs in the same way. Prints its
port. A model runs on the event loop's own thread: with one core for everything, threads would only add switches.
"""

import socket
import sys

import numpy as np
import onnxruntime
import orjson
import uvicorn
from fastapi import FastAPI, Request, Response

TYPES = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(int64)": np.int64}


def load(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


models = {name: load(path) for name, path in (argument.split("=", 1) for argument in sys.argv[1:])}
types = {name: {i.name: TYPES[i.type] for i in model.get_inputs()} for name, model in models.items()}
outputs = {name: [o.name for o in model.get_outputs()] for name, model in models.items()}
app = FastAPI()


@app.post("/{name}")
async def infer(name: str, request: Request):
    body = orjson.loads(await request.body())
    inputs = {key: np.array(body[key], dtype=dtype) for key, dtype in types[name].items()}
    answer = dict(zip(outputs[name], models[name].run(None, inputs)))
    return Response(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", 0))
listener.listen(128)
print(listener.getsockname()[1], flush=True)
config = uvicorn.Config(app, loop="uvloop", http="httptools", log_level="warning", access_log=False)
uvicorn.Server(config).run(sockets=[listener])
