"""Operators of ONNX Runtime's own domain, which optimised files use."""

import numpy as np

from values import TYPES

from . import Spec, maker

MICROSOFT = "com.microsoft"


@maker("FastGelu", "QuickGelu", "Gelu", domain=MICROSOFT)
def gelu(v, ty, opset, op):
    inputs = [v.floats(v.shape(1, empty=0), "float", v.pick(["plain", "wide", "small"]))]
    if op == "FastGelu" and v.chance(0.5):
        inputs.append(v.plain([inputs[0].shape[-1]], "float"))
    return Spec(inputs, {"alpha": v.pick([1.702, 1.0])} if op == "QuickGelu" and v.chance(0.5) else {}, steer=(1,))


@maker("BiasGelu", domain=MICROSOFT)
def bias_gelu(v, ty, opset, op):
    x = v.floats(v.shape(1, empty=0), "float", "plain")
    return Spec([x, v.plain([x.shape[-1]], "float")], steer=(1,))


@maker("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip(v, ty, opset, op):
    shape = [v.int(1, 3), v.int(1, 3), v.int(2, 6)]
    x, y = v.floats(shape, "float", "plain"), v.floats(shape, "float", "plain")
    each = lambda p: v.plain(shape[2:], "float") if v.chance(p) else None
    inputs = [x, y, each(1)]
    if op == "SkipLayerNormalization":
        inputs.append(each(0.7))
    inputs.append(each(0.5))
    return Spec(inputs, v.pick([{}, {"epsilon": 1e-3}]), steer=(2, 3, 4))


@maker("RotaryEmbedding", domain=MICROSOFT)
def rotary(v, ty, opset, op):
    b, h, s, d = v.int(1, 2), v.int(1, 3), v.int(1, 4), v.pick([4, 8])
    angles = v.rng.random([10, d // 2])
    x = v.floats([b, h, s, d], "float", "plain")
    start = v.int(0, 4)
    places = np.tile(np.arange(start, start + s, dtype=np.int64), (b, 1))
    inputs = [x, places, np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)]
    return Spec(inputs, {"interleaved": v.int(0, 1)} if v.chance(0.5) else {}, steer=(2, 3))


@maker("MultiHeadAttention", domain=MICROSOFT)
def attention(v, ty, opset, op):
    b, q, k, heads = v.int(1, 2), v.int(1, 4), v.int(1, 4), v.int(1, 3)
    d = heads * v.pick([2, 4])
    inputs = [v.floats([b, s, d], "float", "plain") for s in (q, k, k)]
    return Spec(inputs, {"num_heads": heads} | v.pick([{}, {"scale": 0.5}]))
