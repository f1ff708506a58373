"""Operators that move elements and compute none."""

import numpy as np

from values import TYPES

from . import NUMBERS_OF, Spec, maker


@maker("Reshape")
def reshape(v, ty, opset, op):
    x = v.any(v.shape(), ty)
    attributes = {}
    factors = [d for d in x.shape] or [1]
    if 0 in factors:
        if opset >= 14 and v.chance(0.4):
            return Spec([x, np.array([0, 3, v.int(0, 4)], np.int64)], {"allowzero": 1}, steer=(1,))
        shape = [0 if d == 0 else d for d in factors] if x.ndim and opset >= 5 else []
        return Spec([x, np.array(shape, np.int64)], attributes, steer=(1,))
    shape = []
    for d in factors:
        shape += v.pick([[d], [1, d], [d, 1], [d]])
    if v.chance(0.3):
        shape = [int(np.prod(shape))]
    if v.chance(0.5) and shape:
        shape[v.int(0, len(shape) - 1)] = -1
    elif v.chance(0.3) and x.ndim and len(shape) >= x.ndim and shape[0] == x.shape[0]:
        shape[0] = 0
    if x.ndim == 0 and v.chance(0.4):
        shape = []
    return Spec([x, np.array(shape, np.int64)], attributes, steer=(1,))


@maker("Transpose")
def transpose(v, ty, opset, op):
    x = v.any(v.shape(), ty)
    perm = {"perm": [int(i) for i in v.rng.permutation(x.ndim)]} if x.ndim and v.chance(0.8) else {}
    return Spec([x], perm)


@maker("Flatten")
def flatten(v, ty, opset, op):
    x = v.any(v.shape(1), ty)
    low = -x.ndim if opset >= 11 else 0
    return Spec([x], {"axis": v.int(low, x.ndim)} if v.chance(0.7) else {})


@maker("Squeeze")
def squeeze(v, ty, opset, op):
    x = v.any([1 if v.chance(0.5) else d for d in v.shape()], ty)
    ones = [i for i, d in enumerate(x.shape) if d == 1]
    axes = [i - (x.ndim if v.chance(0.4) and opset >= 11 else 0) for i in ones if v.chance(0.6)]
    absent = v.chance(0.3)
    if opset < 13:
        return Spec([x], {} if absent or not axes else {"axes": axes})
    return Spec([x, None if absent else np.array(axes, np.int64)], steer=(1,))


@maker("Unsqueeze")
def unsqueeze(v, ty, opset, op):
    x = v.any(v.shape(0, 3), ty)
    count = v.int(1, 2)
    rank = x.ndim + count
    axes = [int(i) - (rank if v.chance(0.4) and opset >= 11 else 0) for i in v.rng.permutation(rank)[:count]]
    if opset < 13:
        return Spec([x], {"axes": sorted(axes)})
    return Spec([x, np.array(axes, np.int64)], steer=(1,))


@maker("Concat")
def concat(v, ty, opset, op):
    shape = v.shape(1)
    axis = v.axis(len(shape)) if opset >= 11 else v.int(0, len(shape) - 1)
    inputs = []
    for _ in range(v.int(1, 4)):
        own = list(shape)
        own[axis] = v.int(0, 3)
        inputs.append(v.any(own, ty))
    return Spec(inputs, {"axis": axis})


@maker("Split")
def split(v, ty, opset, op):
    x = v.any(v.shape(1, empty=0), ty)
    axis = v.axis(x.ndim) if opset >= 11 else v.int(0, x.ndim - 1)
    attributes = {"axis": axis} if v.chance(0.8) or axis % x.ndim else {}
    size = x.shape[axis]
    parts = v.int(1, min(size, 3))
    sizes = [size // parts] * parts
    sizes[-1] += size - sum(sizes)
    if v.chance(0.3) and parts > 1:
        sizes[0], sizes[-1] = sizes[-1], sizes[0]
    if opset >= 18 and v.chance(0.3):
        chunk = -(-size // parts)
        if chunk * (parts - 1) < size:
            return Spec([x], attributes | {"num_outputs": parts}, parts)
    equal = size % parts == 0 and v.chance(0.4) and opset < 18
    if opset < 13:
        return Spec([x], attributes | ({} if equal else {"split": sizes}), parts)
    return Spec([x, None if equal else np.array(sizes, np.int64)], attributes, parts, steer=(1,))


@maker("Slice")
def slice_(v, ty, opset, op):
    x = v.any(v.shape(1), ty)
    axes = [int(i) for i in v.rng.permutation(x.ndim)[: v.int(1, x.ndim)]]
    starts, ends, steps = [], [], []
    for axis in axes:
        d = x.shape[axis]
        edge = v.pick([[-d, d], [-d - 3, d + 3], [0, d]])
        starts.append(v.int(*edge))
        ends.append(v.int(*edge) if v.chance(0.7) else v.pick([2**63 - 1, -(2**63), 2**31 - 1, d, -(2**31), 1000]))
        steps.append(v.pick([1, 1, 1, 2, 3]) if v.chance(0.6) or opset < 10 else v.pick([-1, -2, -3]))
    ax = [a - (x.ndim if v.chance(0.3) and opset >= 11 else 0) for a in axes]
    if opset < 10:
        return Spec([x], {"starts": starts, "ends": ends} | ({"axes": axes}))
    whole = v.pick(["int64", "int64", "int32"])
    if whole == "int32":
        bound = np.iinfo(np.int32)
        starts, ends = ([max(bound.min, min(bound.max, e)) for e in l] for l in (starts, ends))
    make = lambda l: np.array(l, TYPES[whole])
    if v.chance(0.2):
        count = v.int(1, x.ndim)
        bounds = [(v.int(-d, d), v.int(-d, d + 2)) for d in x.shape[:count]]
        return Spec([x, make([b[0] for b in bounds]), make([b[1] for b in bounds])], steer=(1, 2))
    inputs = [x, make(starts), make(ends), make(ax), make(steps)]
    if all(s == 1 for s in steps) and v.chance(0.5):
        inputs.pop()
    return Spec(inputs, steer=(1, 2, 3, 4))


@maker("Expand")
def expand(v, ty, opset, op):
    shape = v.shape()
    x = v.any(v.broadcast(shape), ty)
    target = v.broadcast(shape) if v.chance(0.3) else shape
    return Spec([x, np.array(target, np.int64)], steer=(1,))


@maker("Tile")
def tile(v, ty, opset, op):
    x = v.any(v.shape(1, 4), ty)
    repeats = np.array([v.pick([1, 1, 2, 3, 0]) for _ in range(x.ndim)], np.int64)
    return Spec([x, repeats], steer=(1,))


@maker("Pad")
def pad(v, ty, opset, op):
    mode = v.pick(["constant", "reflect", "edge"] + (["wrap"] if opset >= 19 else []))
    x = v.any(v.shape(1, 4, empty=0.03 if mode == "constant" else 0), ty)
    axes = list(range(x.ndim))
    use_axes = opset >= 18 and v.chance(0.3)
    if use_axes:
        axes = [int(i) for i in v.rng.permutation(x.ndim)[: v.int(1, x.ndim)]]

    def one(d):
        if mode == "reflect":
            return v.int(0, min(d - 1, 3)) if v.chance(0.9) else v.int(0, 5) if d > 1 else 0
        if mode == "wrap":
            return v.int(0, min(d, 3))
        return v.int(0, 3) if v.chance(0.85) or mode != "constant" or d < 3 else -1

    pads = [one(x.shape[a]) for a in axes] + [one(x.shape[a]) for a in axes]
    attributes = {} if mode == "constant" and v.chance(0.5) else {"mode": mode}
    if opset < 11:
        return Spec([x], attributes | {"pads": pads} | ({"value": 1.5} if v.chance(0.5) else {}))
    value = v.any([], ty, "plain") if v.chance(0.5) and mode == "constant" else None
    signed = [a - (x.ndim if v.chance(0.3) else 0) for a in axes]
    inputs = [x, np.array(pads, np.int64), value]
    if use_axes:
        inputs.append(np.array(signed, v.pick([np.int64, np.int32])))
    return Spec(inputs, attributes, steer=(1, 2, 3))


@maker("Shape")
def shape_of(v, ty, opset, op):
    x = v.any(v.shape(), ty)
    attributes = {}
    if opset >= 15:
        for name in ("start", "end"):
            if v.chance(0.4):
                attributes[name] = v.int(-x.ndim - 1, x.ndim + 1)
    return Spec([x], attributes)


@maker("Size")
def size(v, ty, opset, op):
    return Spec([v.any(v.shape(), ty)])


@maker("ConstantOfShape")
def constant_of_shape(v, ty, opset, op):
    shape = np.array(v.shape(), np.int64)
    if v.chance(0.3):
        return Spec([shape], steer=(0,))
    value = v.plain([1], v.pick("float float16 double int32 int64 uint8 int8 bool".split()))
    return Spec([shape], {"value": value}, steer=(0,))


@maker("Constant")
def constant(v, ty, opset, op):
    kind = v.pick(["value", "value"] + (["value_int", "value_ints", "value_float", "value_floats"] if opset >= 12 else []))
    ty = v.pick("float float16 double int32 int64 uint8 int8 bool".split())
    return Spec(
        [],
        {
            "value": {"value": v.any(v.shape(), ty)},
            "value_int": {"value_int": v.int(-9, 9)},
            "value_ints": {"value_ints": [v.int(-9, 9) for _ in range(3)]},
            "value_float": {"value_float": 0.5},
            "value_floats": {"value_floats": [0.5, -2.0]},
        }[kind],
    )


@maker("Range")
def range_(v, ty, opset, op):
    start, delta = v.int(-9, 9), v.pick([1, 2, 3, -1, -2])
    limit = start + delta * v.int(-1, 9) + v.int(0, 1)
    if ty in ("float", "double") and v.chance(0.5):
        delta *= 0.5
    return Spec([np.array(n, TYPES[ty]) for n in (start, limit, delta)], steer=(0, 1, 2))


@maker("EyeLike")
def eye(v, ty, opset, op):
    attributes = {"k": v.int(-3, 3)} if v.chance(0.6) else {}
    if v.chance(0.5):
        attributes["dtype"] = NUMBERS_OF[v.pick(["float", "int32", "int64", "double", "uint8", "bool"])]
    return Spec([v.plain(v.shape(2, 2), ty)], attributes)


@maker("Trilu")
def trilu(v, ty, opset, op):
    x = v.any(v.shape(2), ty)
    attributes = {"upper": v.int(0, 1)} if v.chance(0.6) else {}
    return Spec([x, None if v.chance(0.4) else np.array(v.int(-8, 8), np.int64)], attributes, steer=(1,))


@maker("DepthToSpace", "SpaceToDepth")
def depth_to_space(v, ty, opset, op):
    b = v.int(1, 3)
    n, c, h, w = v.int(1, 2), v.int(1, 2), v.int(1, 3), v.int(1, 3)
    if op == "SpaceToDepth":
        return Spec([v.any([n, c, h * b, w * b], ty)], {"blocksize": b})
    mode = {"mode": v.pick(["DCR", "CRD"])} if opset >= 11 and v.chance(0.7) else {}
    return Spec([v.any([n, c * b * b, h, w], ty)], {"blocksize": b} | mode)


@maker("ReverseSequence")
def reverse_sequence(v, ty, opset, op):
    t, b = v.int(1, 5), v.int(1, 4)
    swap = v.chance(0.5)
    x = v.any(([b, t] if swap else [t, b]) + v.shape(0, 2, 0), ty)
    attributes = {"batch_axis": 0, "time_axis": 1} if swap else v.pick([{}, {"batch_axis": 1, "time_axis": 0}])
    return Spec([x, v.ints([b], "int64", 1, t)], attributes, steer=(1,))


@maker("SequenceConstruct")
def sequence_at(v, ty, opset, op):
    """A sequence and one of its elements, or all of them in one tensor: no port of a model is a sequence."""
    shape = v.shape(1, 3)
    inputs = [v.any(shape, ty) for _ in range(v.int(1, 4))]
    return Spec(inputs, {"_then": v.pick(["at", "concat", "length"]), "_place": v.int(-len(inputs), len(inputs) - 1)})
