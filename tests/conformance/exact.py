"""A third judge, for operators that one of the two others does not have or computes wrongly: their definitions, in float64.

`outputs(case, first)` gives a case's outputs, or None where it has no opinion. `first` are another judge's: their element types count,
and how many there are.
"""

import math

import numpy as np
from onnx import helper, numpy_helper

import recurrent

FUNCTIONS = {}


def of(*names):
    def register(function):
        for name in names:
            FUNCTIONS[name] = function
        return function

    return register


class Node:
    """A node with its inputs as float64, or as integers of 64 bits, and its attributes."""

    def __init__(self, case):
        node = case.model.graph.node[-1]
        known = dict(case.inputs)
        known |= {t.name: numpy_helper.to_array(t) for t in case.model.graph.initializer}
        # Shapes that are hidden at deploy are those of other names.
        find = lambda name: None if name == "" else known[name if name in known else "x" + name[1:]]
        self.given = [find(name) for name in node.input]
        self.inputs = [None if a is None else wide(a) for a in self.given]
        self.attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.op = node.op_type
        self.opset = case.about["opset"]
        self.outputs = len(node.output)

    def get(self, name, default=None):
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def input(self, i):
        return self.inputs[i] if i < len(self.inputs) else None


def wide(a):
    if a.dtype == bool or a.dtype.kind in "iu":
        return a.astype(np.int64) if a.dtype != np.uint64 else a.astype(object)
    return a.astype(np.float64)


def outputs(case, first):
    function = FUNCTIONS.get(case.about["op"])
    if function is None:
        return None
    found = function(Node(case))
    if found is None:
        return None
    found = found if isinstance(found, list) else [found]
    if len(found) < len(first):
        return None
    with np.errstate(all="ignore"):
        return [np.asarray(a).astype(b.dtype) for a, b in zip(found, first)]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


erf = np.vectorize(math.erf, otypes=[float])


def softmax(kind):
    def function(n):
        x, axis = n.inputs[0], n.get("axis", -1 if n.opset >= 13 else 1)
        if x.size == 0:
            return x
        shape = x.shape
        if n.opset < 13:
            # Of all dimensions from the axis on at once.
            x, axis = x.reshape(int(np.prod(shape[: axis % x.ndim])), -1), 1
        apart = x - x.max(axis=axis, keepdims=True)
        total = np.exp(apart).sum(axis=axis, keepdims=True)
        if kind == "Hardmax":
            y = np.zeros(x.shape)
            np.put_along_axis(y, np.argmax(x, axis=axis, keepdims=True), 1.0, axis)
        else:
            y = np.exp(apart) / total if kind == "Softmax" else apart - np.log(total)
        return None if kind == "Hardmax" and np.isnan(x).any() else y.reshape(shape)

    return function


FUNCTIONS |= {kind: softmax(kind) for kind in ("Softmax", "LogSoftmax", "Hardmax")}


@of("LRN")
def lrn(n):
    x, size = n.inputs[0], n.get("size")
    alpha, beta, bias = n.get("alpha", 1e-4), n.get("beta", 0.75), n.get("bias", 1.0)
    sums = np.zeros_like(x)
    for c in range(x.shape[1]):
        low, high = max(0, c - (size - 1) // 2), min(x.shape[1] - 1, c + math.ceil((size - 1) / 2))
        sums[:, c] = (x[:, low : high + 1] ** 2).sum(axis=1)
    return x / (bias + alpha / size * sums) ** beta


@of("LpNormalization")
def lp_normalization(n):
    x, p, axis = n.inputs[0], n.get("p", 2), n.get("axis", -1)
    norm = (np.abs(x) ** p).sum(axis=axis, keepdims=True) ** (1 / p)
    return np.where(norm == 0, 0, x / np.where(norm == 0, 1, norm))


@of("BatchNormalization")
def batch_normalization(n):
    x, scale, bias, mean, variance = n.inputs
    shape = [1, -1] + [1] * (x.ndim - 2)
    scale, bias, mean, variance = (a.reshape(shape) for a in (scale, bias, mean, variance))
    return (x - mean) / np.sqrt(variance + n.get("epsilon", 1e-5)) * scale + bias


@of("LayerNormalization")
def layer_normalization(n):
    x, axis = n.inputs[0], n.get("axis", -1)
    axes = tuple(range(axis % x.ndim, x.ndim))
    mean = x.mean(axis=axes, keepdims=True)
    inverse = 1 / np.sqrt(((x - mean) ** 2).mean(axis=axes, keepdims=True) + n.get("epsilon", 1e-5))
    y = (x - mean) * inverse * n.inputs[1] + (0 if n.input(2) is None else n.inputs[2])
    return [y, mean, inverse]


@of("MeanVarianceNormalization")
def mean_variance(n):
    x, axes = n.inputs[0], tuple(n.get("axes", [0, 2, 3]))
    apart = x - x.mean(axis=axes, keepdims=True)
    return apart / (np.sqrt((apart**2).mean(axis=axes, keepdims=True)) + 1e-9)


@of("GlobalLpPool")
def global_lp_pool(n):
    x, p = n.inputs[0], n.get("p", 2)
    return (np.abs(x) ** p).sum(axis=tuple(range(2, x.ndim)), keepdims=True) ** (1 / p)


def log_sum_exp(x, axes):
    top = x.max(axis=axes, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    return top + np.log(np.exp(x - top).sum(axis=axes, keepdims=True))


REDUCTIONS = {
    "ReduceSum": lambda x, a: x.sum(axis=a, keepdims=True),
    "ReduceMean": lambda x, a: x.sum(axis=a, keepdims=True) / np.prod([x.shape[i] for i in a]),
    "ReduceL1": lambda x, a: np.abs(x).sum(axis=a, keepdims=True),
    "ReduceL2": lambda x, a: np.sqrt((x.astype(np.float64) ** 2).sum(axis=a, keepdims=True)),
    "ReduceSumSquare": lambda x, a: (x * x).sum(axis=a, keepdims=True),
    "ReduceLogSum": lambda x, a: np.log(x.sum(axis=a, keepdims=True).astype(np.float64)),
    "ReduceLogSumExp": lambda x, a: log_sum_exp(x.astype(np.float64), a),
    "ReduceProd": lambda x, a: x.prod(axis=a, keepdims=True),
}


def reduction(op):
    def function(n):
        x, axes = n.inputs[0], n.get("axes")
        if axes is None and n.input(1) is not None:
            axes = [int(a) for a in n.inputs[1]]
        if x.size == 0:
            return None
        if not axes and n.get("noop_with_empty_axes", 0):
            return None
        axes = tuple(a % x.ndim for a in axes) if axes else tuple(range(x.ndim))
        if x.ndim == 0:
            x, axes = x.reshape(1), (0,)
        y = np.asarray(REDUCTIONS[op](x.astype(object) if x.dtype.kind == "i" else x, axes))
        if n.given[0].dtype.kind in "iu":
            if y.dtype != object and not np.isfinite(y).all():
                return None
            y = np.asarray([math.trunc(v) for v in y.ravel()], dtype=object).reshape(y.shape)
            info = np.iinfo(n.given[0].dtype)
            if any(not info.min <= v <= info.max for v in y.ravel()):
                return None  # ONNX does not say what comes of it.
            y = y.astype(np.int64)
        if n.given[0].ndim == 0:
            return y.reshape(())
        return y if n.get("keepdims", 1) else np.squeeze(y, axes)

    return function


FUNCTIONS |= {op: reduction(op) for op in [*REDUCTIONS]}


@of("NonZero")
def non_zero(n):
    x = n.given[0]
    # "For scalar input, NonZero produces output shape (0, N) instead of (1, N)."
    return np.zeros([0, int(x != 0)]) if x.ndim == 0 else np.stack(np.nonzero(x))


@of("Shape")
def shape(n):
    x = n.given[0]
    place = lambda at: min(max(at + x.ndim if at < 0 else at, 0), x.ndim)
    return np.array(x.shape, np.int64)[place(n.get("start", 0)) : place(n.get("end", x.ndim))]


@of("GatherElements")
def gather_elements(n):
    x, at, axis = n.given[0], n.inputs[1], n.get("axis", 0) % n.given[0].ndim
    y = np.zeros(at.shape, x.dtype)
    for place in np.ndindex(at.shape):
        y[place] = x[(*place[:axis], at[place] % x.shape[axis], *place[axis + 1 :])]
    return y


@of("Scatter", "ScatterElements")
def scatter(n):
    if n.get("reduction", "none") != "none":
        return None
    x, at, axis = n.given[0].copy(), n.inputs[1], n.get("axis", 0) % n.given[0].ndim
    for place in np.ndindex(at.shape):
        target = list(place)
        target[axis] = at[place] % x.shape[axis]
        x[tuple(target)] = n.given[2][place]
    return x


@of("Upsample")
def upsample(n):
    x = n.inputs[0]
    scales = n.get("scales") if n.input(1) is None else n.inputs[1]
    for axis, scale in enumerate(scales):
        at = np.arange(int(x.shape[axis] * scale)) / scale
        low = np.floor(at + 1e-6).astype(int)
        if n.get("mode", "nearest") == "nearest":
            x = np.take(x, low, axis)
            continue
        part = (at - low).reshape([-1] + [1] * (x.ndim - axis - 1))
        high = np.minimum(low + 1, x.shape[axis] - 1)
        x = np.take(x, low, axis) * (1 - part) + np.take(x, high, axis) * part
    return x


@of("Resize")
def resize(n):
    # Before operator set 11 it is what Upsample is.
    up = n.input(1) is not None and (n.inputs[1] >= 1).all()
    return upsample(n) if n.opset < 11 and up and n.given[0].dtype.kind == "f" else None


@of("Slice")
def slice_of(n):
    x = n.given[0]
    starts, ends = (n.get("starts"), n.get("ends")) if n.input(1) is None else (n.inputs[1], n.inputs[2])
    axes = n.get("axes") if n.input(3) is None else n.inputs[3]
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if n.input(4) is None else n.inputs[4]
    for start, end, axis, step in zip(starts, ends, axes, steps):
        start, end, axis, step = int(start), int(end), int(axis) % x.ndim, int(step)
        length = x.shape[axis]
        start, end = (at + length if at < 0 else at for at in (start, end))
        # "Clamped to the valid range": going backwards, from the last to one before the first.
        low, high, least = (0, length, 0) if step > 0 else (0, length - 1, -1)
        start, end = min(max(start, low), high), min(max(end, least), high)
        x = np.take(x, range(start, end, step), axis)
    return x


@of("Pad")
def pad(n):
    x, pads = n.given[0], n.get("pads") if n.input(1) is None else n.inputs[1]
    axes = range(x.ndim) if n.input(3) is None else [int(a) % x.ndim for a in n.inputs[3]]
    if n.get("mode", "constant") != "constant":
        return None
    value = n.get("value", 0) if n.input(2) is None else n.given[2].ravel()[0]
    for i, axis in enumerate(axes):
        begin, end = int(pads[i]), int(pads[i + len(axes)])
        x = np.take(x, range(max(0, -begin), x.shape[axis] - max(0, -end)), axis)
        width = [(0, 0)] * x.ndim
        width[axis] = (max(0, begin), max(0, end))
        x = np.pad(x, width, constant_values=value)
    return x


@of("Unique")
def unique(n):
    x, axis = n.given[0], n.get("axis")
    parts = [v for v in x.ravel()] if axis is None else [np.take(x, i, axis) for i in range(x.shape[axis])]
    keys = [tuple(np.ravel(p).tolist()) for p in parts]
    order = sorted(set(keys)) if n.get("sorted", 1) else list(dict.fromkeys(keys))
    first = [keys.index(k) for k in order]
    y = np.array([parts[i] for i in first]) if axis is None else np.take(x, first, axis)
    return [y, np.array(first), np.array([order.index(k) for k in keys]), np.array([keys.count(k) for k in order])]


def windows(n):
    """Sizes of a pool's output, and of each place in it the places in the data that are not padding, and its window's size."""
    x, kernel = n.inputs[0], n.get("kernel_shape")
    rank = len(kernel)
    strides, dilations = n.get("strides", [1] * rank), n.get("dilations", [1] * rank)
    pads, auto = list(n.get("pads", [0] * rank * 2)), n.get("auto_pad", "NOTSET")
    size, padded = [], []
    for i in range(rank):
        length, reach = x.shape[2 + i], (kernel[i] - 1) * dilations[i] + 1
        if auto.startswith("SAME"):
            size.append(-(-length // strides[i]))
            total = max(0, (size[i] - 1) * strides[i] + reach - length)
            pads[i] = total // 2 if auto == "SAME_UPPER" else total - total // 2
            pads[i + rank] = total - pads[i]
        else:
            steps = (length + pads[i] + pads[i + rank] - reach) / strides[i]
            size.append(int(math.ceil(steps) if n.get("ceil_mode", 0) else math.floor(steps)) + 1)
            if (size[i] - 1) * strides[i] >= length + pads[i]:
                size[i] -= 1  # A window does not begin in the padding at the end.
        padded.append(length + pads[i] + pads[i + rank])
    found = {}
    for place in np.ndindex(*size):
        begin = [place[i] * strides[i] for i in range(rank)]
        taps = [[begin[i] + tap[i] * dilations[i] for i in range(rank)] for tap in np.ndindex(*kernel)]
        within = [tap for tap in taps if all(tap[i] < padded[i] for i in range(rank))]
        data = [tuple(tap[i] - pads[i] for i in range(rank)) for tap in within]
        data = [d for d in data if all(0 <= d[i] < x.shape[2 + i] for i in range(rank))]
        found[place] = data, len(within)
    return x, size, found


@of("MaxPool")
def max_pool(n):
    x, size, found = windows(n)
    if x.dtype.kind == "f" and not np.isfinite(x).all() or 0 in size:
        return None
    y = np.zeros([*x.shape[:2], *size])
    at = np.zeros(y.shape, np.int64)
    order = "F" if n.get("storage_order", 0) else "C"
    for place, (data, _) in found.items():
        if not data:
            return None
        flat = [int(np.ravel_multi_index(d, x.shape[2:], order=order)) for d in data]
        each = int(np.prod(x.shape[2:]))
        for b, c in np.ndindex(*x.shape[:2]):
            values = [x[(b, c, *d)] for d in data]
            best = int(np.argmax(values))
            y[(b, c, *place)] = values[best]
            at[(b, c, *place)] = (b * x.shape[1] + c) * each + flat[best]
    return [y, at]


@of("AveragePool", "LpPool")
def mean_pool(n):
    x, size, found = windows(n)
    y = np.zeros([*x.shape[:2], *size])
    p, is_norm = n.get("p", 2), n.op == "LpPool"
    for place, (data, whole) in found.items():
        values = np.stack([x[(slice(None), slice(None), *d)] for d in data]) if data else np.zeros([1, *x.shape[:2]])
        if is_norm:
            y[(slice(None), slice(None), *place)] = (np.abs(values) ** p).sum(0) ** (1 / p)
        else:
            count = whole if n.get("count_include_pad", 0) else len(data)
            y[(slice(None), slice(None), *place)] = values.sum(0) / max(count, 1)
    return y


def reflected(at, low, high):
    """A place that is reflected at both ends until it lies between them."""
    if high == low:
        return low
    span = high - low
    part = abs(at - low) % (2 * span)
    return low + (part if part <= span else 2 * span - part)


@of("GridSample")
def grid_sample(n):
    x, grid = n.inputs[0], n.inputs[1]
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(n.get("mode", "linear"), n.get("mode", "linear"))
    border, corners = n.get("padding_mode", "zeros"), n.get("align_corners", 0)
    rank, lengths = x.ndim - 2, x.shape[2:]
    y = np.zeros([*x.shape[:2], *grid.shape[1:-1]])

    def inside(at, length):
        if border == "border":
            return min(max(at, 0), length - 1)
        if border == "reflection":
            ends = (0, length - 1) if corners else (-0.5, length - 0.5)
            return min(max(reflected(at, *ends), 0), length - 1)
        return at

    def value(image, taps):
        taps = [int(inside(t, length)) for t, length in zip(taps, lengths)]
        return x[(image, slice(None), *taps)] if all(0 <= t < s for t, s in zip(taps, lengths)) else np.zeros(x.shape[1])

    def weights(part):
        a = -0.75
        near = lambda t: (a + 2) * t**3 - (a + 3) * t**2 + 1
        far = lambda t: a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
        return [far(1 + part), near(part), near(1 - part), far(2 - part)]

    for image, *place in np.ndindex(*grid.shape[:-1]):
        # The last coordinate is that of the first spatial dimension.
        given = grid[(image, *place)][::-1]
        scaled = lambda g, s: (g + 1) / 2 * (s - 1) if corners else ((g + 1) * s - 1) / 2
        at = [scaled(g, s) for g, s in zip(given, lengths)]
        if mode != "cubic":
            at = [inside(a, s) for a, s in zip(at, lengths)]
        if mode == "nearest":
            total = value(image, [round(a) for a in at])
        else:
            low, total = [math.floor(a) for a in at], 0
            for tap in np.ndindex(*[4 if mode == "cubic" else 2] * rank):
                each = [weights(a - b)[t] if mode == "cubic" else (a - b if t else 1 - (a - b)) for a, b, t in zip(at, low, tap)]
                first = 1 if mode == "cubic" else 0
                total = total + np.prod(each) * value(image, [b + t - first for b, t in zip(low, tap)])
        y[(image, slice(None), *place)] = total
    return y


@of("ConvTranspose")
def conv_transpose(n):
    x, w = n.inputs[0], n.inputs[1]
    group, rank = n.get("group", 1), x.ndim - 2
    strides = n.get("strides", [1] * rank)
    extra, pads = n.get("output_padding", [0] * rank), n.get("pads", [0] * rank * 2)
    kernel, auto = w.shape[2:], n.get("auto_pad", "NOTSET")
    full = [(x.shape[2 + i] - 1) * strides[i] + kernel[i] for i in range(rank)]
    begin = list(pads[:rank])
    size = [full[i] + extra[i] - pads[i] - pads[i + rank] for i in range(rank)]
    if auto.startswith("SAME"):
        size = [x.shape[2 + i] * strides[i] for i in range(rank)]
        total = [full[i] + extra[i] - size[i] for i in range(rank)]
        begin = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
    elif auto == "VALID":
        begin, size = [0] * rank, [full[i] + extra[i] for i in range(rank)]
    each_in, each_out = x.shape[1] // group, w.shape[1]
    y = np.zeros([x.shape[0], each_out * group] + size)
    for place in np.ndindex(*x.shape[2:]):
        for tap in np.ndindex(*kernel):
            at = tuple(place[i] * strides[i] + tap[i] - begin[i] for i in range(rank))
            if any(not 0 <= a < s for a, s in zip(at, size)):
                continue
            for g in range(group):
                part = x[(slice(None), slice(g * each_in, (g + 1) * each_in), *place)]
                y[(slice(None), slice(g * each_out, (g + 1) * each_out), *at)] += part @ w[(slice(g * each_in, (g + 1) * each_in), slice(None), *tap)]
    return y if n.input(2) is None else y + n.inputs[2].reshape([1, -1] + [1] * rank)


@of("Det")
def det(n):
    return np.linalg.det(n.inputs[0])


@of("Softsign")
def softsign(n):
    return n.inputs[0] / (1 + np.abs(n.inputs[0]))


@of("PRelu")
def prelu(n):
    x, slope = n.inputs
    return np.where(x < 0, x * slope, x) if not np.isnan(x).any() else None


@of("Mean")
def mean(n):
    return sum(a / len(n.inputs) for a in n.inputs)


@of("DequantizeLinear")
def dequantize(n):
    x, scale, zero = n.inputs[0], n.inputs[1], n.input(2)
    if n.get("block_size", 0):
        return None
    if scale.size > 1:
        places = [1] * x.ndim
        places[n.get("axis", 1)] = -1
        scale, zero = scale.reshape(places), zero if zero is None else zero.reshape(places)
    return (x - (0 if zero is None else zero)) * scale


@of("com.microsoft.Gelu", "com.microsoft.BiasGelu")
def gelu(n):
    x = n.inputs[0] + (n.inputs[1] if n.input(1) is not None else 0)
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


@of("com.microsoft.FastGelu")
def fast_gelu(n):
    x = n.inputs[0] + (n.inputs[1] if n.input(1) is not None else 0)
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@of("com.microsoft.QuickGelu")
def quick_gelu(n):
    return n.inputs[0] * sigmoid(n.get("alpha", 1.702) * n.inputs[0])


def skip_of(simplified):
    def function(n):
        x = n.inputs[0] + n.inputs[1]
        gamma, beta = n.inputs[2], None if simplified else n.input(3)
        bias = n.input(3 if simplified else 4)
        x = x if bias is None else x + bias
        apart = x if simplified else x - x.mean(axis=-1, keepdims=True)
        y = apart / np.sqrt((apart**2).mean(axis=-1, keepdims=True) + n.get("epsilon", 1e-12)) * gamma
        return y if beta is None else y + beta

    return function


FUNCTIONS["com.microsoft.SkipLayerNormalization"] = skip_of(False)
FUNCTIONS["com.microsoft.SkipSimplifiedLayerNormalization"] = skip_of(True)


@of("com.microsoft.RotaryEmbedding")
def rotary(n):
    x, places, cos, sin = n.inputs
    cos, sin = cos[places][:, None], sin[places][:, None]
    half = x.shape[-1] // 2
    if n.get("interleaved", 0):
        a, b = x[..., 0::2], x[..., 1::2]
        return np.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(x.shape)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


@of("com.microsoft.MultiHeadAttention")
def attention(n):
    heads = n.get("num_heads")
    split = lambda a: a.reshape(a.shape[0], a.shape[1], heads, -1).transpose(0, 2, 1, 3)
    q, k, v = (split(a) for a in n.inputs)
    scores = q @ k.transpose(0, 1, 3, 2) * (n.get("scale") or 1 / math.sqrt(q.shape[-1]))
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    y = scores / scores.sum(axis=-1, keepdims=True) @ v
    return y.transpose(0, 2, 1, 3).reshape(n.inputs[0].shape)


@of("NonMaxSuppression")
def non_max_suppression(n):
    boxes, scores = n.inputs[0], n.inputs[1]
    number = lambda i, default: default if n.input(i) is None or n.inputs[i].size == 0 else float(n.inputs[i].ravel()[0])
    most, overlap, least = int(number(2, 0)), number(3, 0.0), number(4, -np.inf)
    a, b = boxes[..., :2], boxes[..., 2:]
    if n.get("center_point_box", 0):
        a, b = a - b / 2, a + b / 2
    low, high = np.minimum(a, b), np.maximum(a, b)

    def part(image, i, j):
        sides = np.maximum(0, np.minimum(high[image, i], high[image, j]) - np.maximum(low[image, i], low[image, j]))
        area = lambda k: np.prod(high[image, k] - low[image, k])
        common = np.prod(sides)
        return common / (area(i) + area(j) - common) if common > 0 else 0.0

    chosen = []
    for image in range(scores.shape[0]):
        for group in range(scores.shape[1]):
            kept = []
            for i in sorted(range(scores.shape[2]), key=lambda i: -scores[image, group, i]):
                near = any(part(image, i, j) > overlap for j in kept)
                if len(kept) < most and scores[image, group, i] > least and not near:
                    kept.append(i)
            chosen += [[image, group, i] for i in kept]
    return np.array(chosen, np.int64).reshape(-1, 3)


FUNCTIONS |= {op: lambda n, op=op: recurrent.outputs(op, n) for op in ("LSTM", "GRU", "RNN")}
