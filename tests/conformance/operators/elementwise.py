"""Operators that compute each element by itself."""

import numpy as np

from values import FLOATS, TYPES

from . import NUMBERS_OF, Spec, maker

UNARY = (
    "Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor HardSwish Identity IsNaN Log Mish Neg Not "
    "Reciprocal Relu Round Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Tan Tanh BitwiseNot"
).split()


@maker(*UNARY)
def unary(v, ty, opset, op):
    return Spec([v.any(v.shape(), ty)])


@maker("Elu", "LeakyRelu", "Celu", "ThresholdedRelu", "Swish")
def alpha(v, ty, opset, op):
    alpha = {} if v.chance(0.4) else {"alpha": v.pick([1.0, 0.5, 2.0, 0.01])}
    return Spec([v.any(v.shape(), ty)], alpha)


@maker("Selu", "HardSigmoid", "Shrink")
def two_factors(v, ty, opset, op):
    names = {"Selu": ("alpha", "gamma"), "HardSigmoid": ("alpha", "beta"), "Shrink": ("lambd", "bias")}[op]
    return Spec([v.any(v.shape(), ty)], {n: v.pick([0.5, 1.0, 0.2]) for n in names if v.chance(0.6)})


@maker("Gelu")
def gelu(v, ty, opset, op):
    return Spec([v.any(v.shape(), ty)], v.pick([{}, {"approximate": "none"}, {"approximate": "tanh"}]))


@maker("IsInf")
def is_inf(v, ty, opset, op):
    return Spec([v.any(v.shape(), ty)], {n: v.int(0, 1) for n in ("detect_negative", "detect_positive") if v.chance(0.5)})


@maker("Clip")
def clip(v, ty, opset, op):
    x = v.any(v.shape(), ty)
    if opset < 11:
        return Spec([x], {n: b for n, b in (("min", -0.5), ("max", 1.0)) if v.chance(0.7)})
    bound = lambda: None if v.chance(0.3) else np.array(v.int(-3, 3) if ty not in ("uint8",) else v.int(0, 9), TYPES[ty])
    return Spec([x, bound(), bound()], steer=(1, 2))


BINARY = "Add Sub Mul Div Pow Mod PRelu".split()
COMPARE = "Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor BitwiseAnd BitwiseOr BitwiseXor".split()


def pair(v, ty):
    """Two tensors of which each may be broadcast."""
    shape = v.shape()
    left, right = shape, v.broadcast(shape)
    if v.chance(0.3):
        left, right = right, left
    elif v.chance(0.1):
        left = v.broadcast(shape)
    return v.any(left, ty), v.any(right, ty)


@maker(*BINARY, *COMPARE)
def binary(v, ty, opset, op):
    a, b = pair(v, ty)
    attributes = {}
    if op == "PRelu":
        a = v.any(v.shape(1), ty)
        b = v.any(v.broadcast(a.shape), ty)
    if op == "Mod":
        attributes = {"fmod": 1} if ty in FLOATS else v.pick([{}, {"fmod": 0}, {"fmod": 1}])
    if op in ("Div", "Mod") and ty not in FLOATS:
        # A whole number over 0 has no value, nor has the least over -1.
        b = np.where((b == 0) | (b == -1 if ty != "uint8" else b == 0), 3, b).astype(TYPES[ty])
    if op == "Pow":
        other = v.pick([ty, ty, "float", "int32", "int64"]) if opset >= 12 else ty
        b = v.plain(b.shape, other)
        if other not in FLOATS:
            b = np.abs(b).astype(TYPES[other]) % 5
        if ty not in FLOATS:
            a = v.ints(a.shape, ty, 0, 6)
            b = np.abs(b) if other in FLOATS else b
    return Spec([a, b], attributes, steer=(1,) if v.chance(0.3) else ())


@maker("BitShift")
def bit_shift(v, ty, opset, op):
    a, b = pair(v, ty)
    return Spec([a, b % 8], {"direction": v.pick(["LEFT", "RIGHT"])})


@maker("Max", "Min", "Mean", "Sum")
def variadic(v, ty, opset, op):
    shape = v.shape()
    if v.chance(0.2):
        return Spec([v.any(shape, ty)])
    inputs = [v.any(v.broadcast(shape), ty) for _ in range(v.int(1, 3))] + [v.any(shape, ty)]
    if v.chance(0.5):
        inputs.reverse()
    return Spec(inputs)


@maker("Where")
def where(v, ty, opset, op):
    shape = v.shape()
    shapes = [shape, v.broadcast(shape), v.broadcast(shape)]
    order = v.rng.permutation(3)
    a, b, c = (shapes[i] for i in order)
    # The value type is drawn here: the first input is a boolean.
    ty = v.pick(["float", "float16", "double", "int32", "int64", "uint8", "bool", "int8"])
    return Spec([v.any(a, "bool"), v.any(b, ty), v.any(c, ty)])


CAST_TYPES = "float float16 double int32 int64 uint8 int8 bool".split()


def castable(v, ty, to):
    """Numbers whose cast is defined: those of floats that are whole within the target's bounds."""
    x = v.any(v.shape(), ty)
    if ty in FLOATS and to not in FLOATS + ["bool"]:
        x = np.nan_to_num(x, nan=1.5, posinf=2.5, neginf=-3.5)
        if v.chance(0.3):
            x = np.clip(x.astype(np.float64), -4e9, 4e9)
        else:
            info = np.iinfo(TYPES[to])
            x = np.clip(x.astype(np.float64), max(info.min, -(2**31) + 200), min(info.max, 2**31 - 200))
        bounds = np.finfo(TYPES[ty])
        x = np.clip(x, bounds.min, bounds.max).astype(TYPES[ty])
        if to in ("uint8", "int8"):
            info = np.iinfo(TYPES[to])
            x = np.clip(x, info.min, info.max).astype(TYPES[ty])
    return x


@maker("Cast")
def cast(v, ty, opset, op):
    to = v.pick(CAST_TYPES)
    return Spec([castable(v, ty, to)], {"to": NUMBERS_OF[to]})


@maker("CastLike")
def cast_like(v, ty, opset, op):
    to = v.pick(CAST_TYPES)
    return Spec([castable(v, ty, to), v.any([1], to)])


@maker("QuantizeLinear")
def quantize(v, ty, opset, op):
    x = v.plain(v.shape(1, 4), "float")
    if v.chance(0.2):
        x = v.floats(x.shape, "float", "wide")
    ty = v.pick(["uint8", "int8"])
    attributes = {}
    shape = []
    if opset >= 13 and v.chance(0.5):
        axis = v.axis(x.ndim)
        attributes["axis"] = axis
        shape = [x.shape[axis]]
    scale = np.asarray(v.pick([0.5, 0.1, 0.02]) * (1 + v.rng.random(shape)), np.float32)
    zero = None if v.chance(0.3) else v.ints(shape, ty, 0, 100)
    if zero is None and ty == "int8":
        ty = "uint8"
    return Spec([x, scale, zero], attributes, steer=(1, 2))


@maker("DequantizeLinear")
def dequantize(v, ty, opset, op):
    x = v.any(v.shape(1, 4), ty)
    attributes = {}
    shape = []
    if opset >= 13 and v.chance(0.5):
        axis = v.axis(x.ndim)
        attributes["axis"] = axis
        shape = [x.shape[axis]]
    scale = np.asarray(v.pick([0.5, 0.1, 0.02]) * (1 + v.rng.random(shape)), np.float32)
    zero = None if v.chance(0.3) else v.plain(shape, ty)
    if ty == "int32" and zero is not None:
        zero = np.zeros(shape, np.int32)
    return Spec([x, scale, zero], attributes, steer=(1, 2))


@maker("DynamicQuantizeLinear")
def dynamic_quantize(v, ty, opset, op):
    return Spec([v.plain(v.shape(0, 4, empty=0), "float")], outputs=3)


@maker("Dropout")
def dropout(v, ty, opset, op):
    x = v.any(v.shape(), ty)
    outputs = v.int(1, 2)
    if opset < 12:
        return Spec([x], v.pick([{}, {"ratio": 0.3}]), outputs)
    ratio = None if v.chance(0.5) else np.array(0.5, np.float32)
    training = None if v.chance(0.7) else np.array(False)
    return Spec([x, ratio, training], {}, outputs, steer=(1, 2))


@maker("BitCast")
def bit_cast(v, ty, opset, op):
    to = {"float": "int32", "int32": "float", "uint8": "int8", "int8": "uint8"}.get(ty, ty)
    return Spec([v.any(v.shape(), ty)], {"to": NUMBERS_OF.get(to, 1)})
