"""Convolutions, pooling, normalisation, recurrence, attention, images."""

import numpy as np

from values import TYPES

from . import Spec, maker


def window(v, spatial, rank, kernel, opset, pool):
    """Strides, dilations and padding of a sliding window."""
    attributes = {}
    if v.chance(0.5):
        attributes["strides"] = [v.int(1, 3) for _ in range(rank)]
    if v.chance(0.3) and (not pool or opset >= 10):
        attributes["dilations"] = [v.int(1, 2) for _ in range(rank)]
    mode = v.pick(["none", "pads", "pads", "SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
    if mode == "pads":
        attributes["pads"] = [v.int(0, max(0, k - 1)) for k in kernel * 2]
    elif mode != "none":
        attributes["auto_pad"] = mode
        if mode.startswith("SAME"):
            attributes.pop("dilations", None)
    return attributes


@maker("Conv", "ConvTranspose", "ConvInteger")
def conv(v, ty, opset, op):
    rank = v.pick([1, 2, 2, 2, 3]) if op == "Conv" else v.pick([1, 2, 2])
    kernel = [v.int(1, 3) for _ in range(rank)]
    spatial = [v.int(4, 7) for _ in range(rank)]
    group = v.pick([1, 1, 2, 3])
    cin, cout = group * v.int(1, 2), group * v.int(1, 2)
    n = v.int(1, 2)
    attributes = window(v, spatial, rank, kernel, opset, False)
    if v.chance(0.6):
        attributes["kernel_shape"] = kernel
    if group > 1 or v.chance(0.2):
        attributes["group"] = group
    if op == "ConvTranspose":
        strides = attributes.get("strides")
        attributes.pop("dilations", None)
        if strides and v.chance(0.3):
            attributes["output_padding"] = [v.int(0, s - 1) for s in strides]
        inputs = [v.plain([n, cin] + spatial, ty), v.plain([cin, cout // group] + kernel, ty)]
    elif op == "ConvInteger":
        other = v.pick(["uint8", "int8"])
        x, w = v.any([n, cin] + spatial, ty), v.any([cout, cin // group] + kernel, other)
        zeros = [None if v.chance(0.4) else v.any([], t) for t in (ty, other)]
        return Spec([x, w] + zeros, attributes, steer=(1, 2, 3))
    else:
        inputs = [v.plain([n, cin] + spatial, ty), v.plain([cout, cin // group] + kernel, ty)]
    if v.chance(0.5):
        inputs.append(v.plain([cout], ty))
    return Spec(inputs, attributes, steer=(1, 2) if v.chance(0.7) else ())


@maker("MaxPool", "AveragePool", "LpPool")
def pool(v, ty, opset, op):
    rank = v.pick([1, 2, 2, 2, 3])
    kernel = [v.int(1, 3) for _ in range(rank)]
    spatial = [v.int(4, 7) for _ in range(rank)]
    dilated = op == "MaxPool" or opset >= 19
    attributes = window(v, spatial, rank, kernel, opset if dilated else 0, True) | {"kernel_shape": kernel}
    if v.chance(0.3) and opset >= 10 and op != "LpPool":
        attributes["ceil_mode"] = v.int(0, 1)
    if op == "AveragePool" and v.chance(0.4):
        attributes["count_include_pad"] = v.int(0, 1)
    if op == "LpPool" and v.chance(0.5):
        attributes["p"] = v.int(1, 3)
    outputs = 1
    if op == "MaxPool" and opset >= 8 and v.chance(0.1):
        outputs = 2
    x = v.any([v.int(1, 2), v.int(1, 3)] + spatial, ty, v.pick(["plain", "ties", None]))
    if op in ("AveragePool", "LpPool"):
        # Whether sums of the largest numbers overflow depends on their order.
        x = v.plain(x.shape, ty)
    if v.chance(0.3) and ty == "float" and op == "MaxPool":
        x = x - np.float32(50)
    return Spec([x], attributes, outputs)


@maker("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(v, ty, opset, op):
    make = v.any if op == "GlobalMaxPool" else v.plain
    return Spec([make([v.int(1, 2), v.int(1, 3)] + [v.int(1, 5) for _ in range(v.int(1, 3))], ty)])


@maker("BatchNormalization")
def batch_normalization(v, ty, opset, op):
    c = v.int(1, 4)
    x = v.plain([v.int(1, 3), c] + v.shape(0, 3, 0), ty)
    each = [v.plain([c], ty), v.plain([c], ty), v.plain([c], ty), np.abs(v.plain([c], ty))]
    return Spec([x, *each], v.pick([{}, {"epsilon": 1e-3}, {"momentum": 0.5}]), steer=(1, 2, 3, 4))


@maker("InstanceNormalization")
def instance_normalization(v, ty, opset, op):
    c = v.int(1, 4)
    x = v.plain([v.int(1, 3), c] + [v.int(2, 4) for _ in range(v.int(1, 3))], ty)
    return Spec([x, v.plain([c], ty), v.plain([c], ty)], v.pick([{}, {"epsilon": 1e-2}]), steer=(1, 2))


@maker("LayerNormalization", "RMSNormalization")
def layer_normalization(v, ty, opset, op):
    x = v.plain(v.shape(1, 4, 0), ty)
    axis = v.axis(x.ndim)
    shape = x.shape[axis:]
    attributes = {"axis": axis} | v.pick([{}, {"epsilon": 1e-3}])
    if axis == -1 and v.chance(0.5):
        attributes.pop("axis")
    inputs = [x, v.plain(shape, ty)]
    if op == "LayerNormalization" and v.chance(0.6):
        inputs.append(v.plain(shape, ty))
    return Spec(inputs, attributes, v.pick([1, 1, 1, 3]) if op == "LayerNormalization" else 1, steer=(1, 2))


@maker("GroupNormalization")
def group_normalization(v, ty, opset, op):
    groups, each = v.int(1, 3), v.int(1, 2)
    size = groups if opset < 21 else groups * each
    x = v.plain([v.int(1, 2), groups * each] + [v.int(1, 4) for _ in range(v.int(1, 3))], ty)
    return Spec([x, v.plain([size], ty), v.plain([size], ty)], {"num_groups": groups}, steer=(1, 2))


@maker("MeanVarianceNormalization")
def mean_variance(v, ty, opset, op):
    return Spec([v.plain([2, 3, 4, 3], ty)], v.pick([{}, {"axes": [0, 1, 2, 3]}, {"axes": [2, 3]}]))


@maker("LRN")
def lrn(v, ty, opset, op):
    return Spec([v.plain([1, v.int(1, 6), 3, 3], ty)], {"size": v.pick([1, 3, 5])} | v.pick([{}, {"alpha": 0.1, "bias": 2.0}]))


@maker("LSTM", "GRU", "RNN")
def recurrent(v, ty, opset, op):
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    direction = v.pick(["forward", "reverse", "bidirectional"])
    d = 2 if direction == "bidirectional" else 1
    s, b, i, h = v.int(1, 4), v.int(1, 3), v.int(1, 4), v.int(1, 4)
    attributes = {"hidden_size": h}
    if direction != "forward" or v.chance(0.3):
        attributes["direction"] = direction
    if op == "GRU" and v.chance(0.6):
        attributes["linear_before_reset"] = v.int(0, 1)
    if v.chance(0.1):
        names = {"LSTM": ["Sigmoid", "Tanh", "Relu"], "GRU": ["Sigmoid", "Relu"], "RNN": ["Relu"]}[op]
        attributes["activations"] = names * d
    if v.chance(0.05):
        attributes["clip"] = 0.5
    if op == "LSTM" and v.chance(0.05):
        attributes["input_forget"] = 1
    optional = lambda p, shape: v.floats(shape, ty, "plain") if v.chance(p) else None
    x = v.floats([s, b, i], ty, "plain")
    w, r = v.floats([d, gates * h, i], ty, "plain"), v.floats([d, gates * h, h], ty, "plain")
    inputs = [x, w, r, optional(0.6, [d, 2 * gates * h])]
    inputs.append(v.ints([b], "int32", 1, s) if v.chance(0.25) else None)
    inputs.append(optional(0.4, [d, b, h]))
    if op == "LSTM":
        inputs.append(optional(0.4, [d, b, h]))
        inputs.append(optional(0.1, [d, 3 * h]))
    while inputs[-1] is None:
        inputs.pop()
    return Spec(inputs, attributes, v.int(1, 3 if op == "LSTM" else 2), steer=(1, 2, 3))


@maker("Resize")
def resize(v, ty, opset, op):
    rank = v.pick([4, 4, 4, 3, 2])
    shape = [v.int(1, 2), v.int(1, 2)] + [v.int(1, 6) for _ in range(rank - 2)]
    if rank == 2:
        shape = [v.int(1, 6), v.int(1, 6)]
    x = v.plain(shape, ty)
    keep = max(0, rank - 2)
    scales = [1.0] * keep + [v.pick([0.5, 1.0, 2.0, 1.5, 3.0, 0.6]) for _ in range(rank - keep)]
    if any(int(np.floor(d * s)) < 1 for d, s in zip(shape, scales)):
        scales = [max(1.0, s) for s in scales]
    mode = v.pick(["nearest", "linear", "linear", "cubic"] if opset >= 11 else ["nearest", "linear"])
    attributes = {"mode": mode}
    if opset == 10:
        return Spec([x, np.array(scales, np.float32)], attributes, steer=(1,))
    if v.chance(0.8):
        modes = ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"]
        modes += ["tf_half_pixel_for_nn"] if opset < 13 else []
        modes += ["half_pixel_symmetric"] if opset >= 19 else []
        attributes["coordinate_transformation_mode"] = v.pick(modes)
    if mode == "nearest" and v.chance(0.7):
        attributes["nearest_mode"] = v.pick(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
    if mode == "cubic":
        attributes |= v.pick([{}, {"cubic_coeff_a": -0.5}, {"exclude_outside": 1}])
    if opset >= 18 and v.chance(0.1) and mode != "nearest":
        attributes["antialias"] = 1
    roi = None if opset >= 13 else np.zeros([0], np.float32)
    if v.chance(0.5):
        return Spec([x, roi, np.array(scales, np.float32)], attributes, steer=(1, 2))
    sizes = np.array([int(np.floor(d * s)) for d, s in zip(shape, scales)], np.int64)
    empty = None if opset >= 13 else np.zeros([0], np.float32)
    return Spec([x, roi, empty, sizes], attributes, steer=(1, 2, 3))


@maker("Upsample")
def upsample(v, ty, opset, op):
    x = v.plain([1, v.int(1, 2), v.int(1, 4), v.int(1, 4)], ty)
    scales = [1.0, 1.0, v.pick([1.0, 2.0, 3.0]), v.pick([1.0, 2.0])]
    attributes = {"mode": v.pick(["nearest", "linear"])}
    if opset < 9:
        return Spec([x], attributes | {"scales": scales})
    return Spec([x, np.array(scales, np.float32)], attributes, steer=(1,))


@maker("GridSample")
def grid_sample(v, ty, opset, op):
    rank = v.pick([2, 2, 2, 3]) if opset >= 20 else 2
    x = v.plain([v.int(1, 2), v.int(1, 2)] + [v.int(1, 4) for _ in range(rank)], ty)
    grid = (v.rng.random([x.shape[0]] + [v.int(1, 3) for _ in range(rank)] + [rank]) * 2.6 - 1.3).astype(TYPES[ty])
    linear, cubic = ("linear", "cubic") if opset >= 20 else ("bilinear", "bicubic")
    attributes = {"mode": v.pick([linear, linear, "nearest", cubic] if rank == 2 else [linear, "nearest"])}
    if v.chance(0.6):
        attributes["padding_mode"] = v.pick(["zeros", "border", "reflection"])
    if v.chance(0.5):
        attributes["align_corners"] = v.int(0, 1)
    return Spec([x, grid], attributes)


@maker("Attention")
def attention(v, ty, opset, op):
    b, q, k, d = v.int(1, 2), v.int(1, 4), v.int(1, 4), v.pick([2, 4])
    kv = v.int(1, 2)
    heads = kv * v.int(1, 2)
    inputs = [v.floats([b, h, s, d], ty, "plain") for h, s in ((heads, q), (kv, k), (kv, k))]
    attributes = {"is_causal": 1} if v.chance(0.3) else {}
    if v.chance(0.3):
        attributes["scale"] = 0.5
    if v.chance(0.1):
        attributes["softcap"] = 2.0
    if v.chance(0.3):
        inputs.append(v.pick([v.floats([q, k], ty, "plain"), v.any([q, k], "bool") | np.eye(q, k, dtype=bool)]))
    return Spec(inputs, attributes)


@maker("RotaryEmbedding")
def rotary(v, ty, opset, op):
    b, h, s, d = v.int(1, 2), v.int(1, 3), v.int(1, 4), v.pick([4, 8])
    x = v.floats([b, h, s, d], ty, "plain")
    angles = v.rng.random([10, d // 2])
    attributes = {"interleaved": v.int(0, 1)} if v.chance(0.5) else {}
    cos, sin = np.cos(angles).astype(TYPES[ty]), np.sin(angles).astype(TYPES[ty])
    if v.chance(0.6):
        return Spec([x, cos, sin, v.ints([b, s], "int64", 0, 9)], attributes)
    return Spec([x, np.resize(cos, [b, s, d // 2]), np.resize(sin, [b, s, d // 2])], attributes)


@maker("DFT")
def dft(v, ty, opset, op):
    x = v.floats([v.int(1, 2), v.int(2, 6), v.int(2, 5), v.int(1, 2)], ty, "plain")
    attributes = {"inverse": v.int(0, 1), "onesided": 0}
    if x.shape[-1] == 1 and v.chance(0.3):
        attributes = {"onesided": 1}
    axis = v.pick([1, 2, -2, -3])
    if opset < 20:
        return Spec([x], attributes | {"axis": axis})
    return Spec([x, None, np.array(axis, np.int64)], attributes, steer=(2,))


@maker("STFT")
def stft(v, ty, opset, op):
    n, step = v.pick([4, 8]), v.pick([2, 4])
    x = v.floats([v.int(1, 2), 16, 1], ty, "plain")
    inputs = [x, np.array(step, np.int64), v.floats([n], ty, "plain"), np.array(n, np.int64)]
    return Spec(inputs, {"onesided": v.int(0, 1)}, steer=(1, 2, 3))
