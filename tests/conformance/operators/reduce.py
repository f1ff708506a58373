"""Operators that make one element of many, and those along one dimension."""

import numpy as np

from values import FLOATS, TYPES

from . import Spec, maker

REDUCE = "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare".split()


@maker(*REDUCE)
def reduce(v, ty, opset, op):
    x = v.any(v.shape(empty=0.08), ty)
    if op in ("ReduceSum", "ReduceMean", "ReduceL1", "ReduceLogSum") and ty in FLOATS:
        # Sums of the largest numbers depend on the order of the sum: whether they overflow between.
        big = np.abs(np.where(np.isfinite(x), x, 0).astype(np.float64)) > 1e4
        x = np.where(big, TYPES[ty](1), x).astype(TYPES[ty])
    if op in ("ReduceLogSum",) and ty in FLOATS:
        x = np.abs(v.plain(x.shape, ty))
    if op == "ReduceProd" and ty not in FLOATS and ty != "bool":
        x = v.ints(x.shape, ty, 0 if ty == "uint8" else -2, 2)
    count = v.int(0, x.ndim)
    axes = [int(a) - (x.ndim if v.chance(0.4) else 0) for a in v.rng.permutation(x.ndim)[:count]]
    attributes = {"keepdims": v.int(0, 1)} if v.chance(0.7) else {}
    as_input = opset >= (13 if op == "ReduceSum" else 18)
    absent = v.chance(0.2)
    if not as_input:
        return Spec([x], attributes | ({} if absent or not axes else {"axes": axes}))
    if v.chance(0.3):
        attributes["noop_with_empty_axes"] = v.int(0, 1)
    return Spec([x, None if absent else np.array(axes, np.int64)], attributes, steer=(1,))


@maker("ArgMax", "ArgMin")
def arg(v, ty, opset, op):
    x = v.any(v.shape(1, empty=0.03), ty, v.pick(["ties", "ties", "plain", None]))
    if ty in FLOATS:
        # ONNX gives what is not a number no place in the order of numbers.
        x = np.where(np.isnan(x), TYPES[ty](1), x)
    attributes = {"keepdims": v.int(0, 1)} if v.chance(0.6) else {}
    if v.chance(0.8):
        attributes["axis"] = v.axis(x.ndim) if opset >= 11 else v.int(0, x.ndim - 1)
    if opset >= 12 and v.chance(0.3):
        attributes["select_last_index"] = v.int(0, 1)
    return Spec([x], attributes)


@maker("Softmax", "LogSoftmax", "Hardmax")
def softmax(v, ty, opset, op):
    x = v.any(v.shape(1 if opset >= 13 else 2), ty)
    axis = {"axis": v.axis(x.ndim) if opset >= 11 else v.int(0, x.ndim - 1)} if v.chance(0.7) else {}
    return Spec([x], axis)


@maker("LpNormalization")
def lp(v, ty, opset, op):
    x = v.plain(v.shape(1), ty)
    attributes = {"p": v.int(1, 2)} if v.chance(0.5) else {}
    return Spec([x], attributes | ({"axis": v.axis(x.ndim)} if v.chance(0.6) else {}))


@maker("CumSum", "CumProd")
def cumulative(v, ty, opset, op):
    x = v.any(v.shape(1), ty)
    if op == "CumProd" and ty not in FLOATS:
        x = v.ints(x.shape, ty, 0, 2)
    axis = np.array(v.axis(x.ndim), v.pick([np.int32, np.int64]))
    return Spec([x, axis], {n: v.int(0, 1) for n in ("exclusive", "reverse") if v.chance(0.4)}, steer=(1,))


@maker("TopK")
def top_k(v, ty, opset, op):
    x = v.any(v.shape(1, empty=0), ty, v.pick(["ties", "plain", None]))
    if ty in FLOATS:
        x = np.nan_to_num(x, nan=1.0).astype(TYPES[ty])
    axis = v.axis(x.ndim) if opset >= 11 else v.int(0, x.ndim - 1)
    k = v.int(0, x.shape[axis]) if v.chance(0.2) else v.int(1, x.shape[axis])
    attributes = {"axis": axis}
    if opset >= 11:
        attributes |= {"largest": v.int(0, 1)} if v.chance(0.5) else {}
    if opset < 10:
        return Spec([x], attributes | {"k": k}, 2)
    return Spec([x, np.array([k], np.int64)], attributes, 2, steer=(1,))


@maker("NonZero")
def non_zero(v, ty, opset, op):
    return Spec([v.any(v.shape(), ty, v.pick(["ties", "edges"]))])


@maker("MatMul")
def matmul(v, ty, opset, op):
    k, m, n = v.int(1, 6), v.int(1, 5), v.int(1, 5)
    if v.chance(0.03):
        k = 0
    if v.chance(0.05):
        m = 0
    batch = v.shape(0, 3)
    kind = v.pick(["mm", "mm", "mm", "vm", "mv", "vv"])
    left = [k] if kind[0] == "v" else v.broadcast(batch) + [m, k]
    right = [k] if kind[1] == "v" else v.broadcast(batch) + [k, n]
    return Spec([v.plain(left, ty), v.plain(right, ty)], steer=(1,) if v.chance(0.4) else ())


@maker("Gemm")
def gemm(v, ty, opset, op):
    m, k, n = (v.int(1, 6) for _ in range(3))
    a, b = v.int(0, 1), v.int(0, 1)
    attributes = {}
    if a or v.chance(0.3):
        attributes["transA"] = a
    if b or v.chance(0.3):
        attributes["transB"] = b
    for name in ("alpha", "beta"):
        if v.chance(0.4):
            attributes[name] = v.pick([1.0, 0.5, 2.0, 0.0]) if ty in FLOATS else v.pick([1.0, 2.0])
    c = v.plain(v.broadcast([m, n]), ty)
    if opset >= 11 and v.chance(0.3):
        c = None
    return Spec([v.plain([k, m] if a else [m, k], ty), v.plain([n, k] if b else [k, n], ty), c], attributes)


@maker("MatMulInteger")
def matmul_integer(v, ty, opset, op):
    k, m, n = v.int(1, 40), v.int(1, 9), v.int(1, 9)
    other = v.pick(["uint8", "int8"])
    kind = v.pick(["edges", "plain", None])
    left, right = v.any(v.shape(0, 1) + [m, k], ty, kind), v.any([k, n], other, kind)
    zero = lambda t, s: None if v.chance(0.5) else v.any(v.pick([[], s]), t)
    return Spec([left, right, zero(ty, []), zero(other, [n])], steer=(1, 2, 3))


@maker("Einsum")
def einsum(v, ty, opset, op):
    text, *shapes = v.pick(
        [
            ("ij,jk->ik", [2, 3], [3, 4]),
            ("bij,bjk->bik", [2, 2, 3], [2, 3, 4]),
            ("ij->ji", [2, 3]),
            ("ij->i", [2, 3]),
            ("ii->i", [3, 3]),
            ("i,i->", [4], [4]),
            ("...ij,...jk->...ik", [2, 2, 3], [2, 3, 4]),
            ("bhqd,bhkd->bhqk", [1, 2, 3, 4], [1, 2, 5, 4]),
            ("ij,jk", [2, 3], [3, 4]),
            ("i,j->ij", [3], [4]),
            ("ij,ij->ij", [2, 3], [2, 3]),
            ("ijk,ij->k", [2, 3, 4], [2, 3]),
            ("...->...", [2, 3]),
            ("i->", [5]),
            ("ij,jk,kl->il", [2, 3], [3, 4], [4, 2]),
        ]
    )
    return Spec([v.plain(s, ty) for s in shapes], {"equation": text})


@maker("Det")
def det(v, ty, opset, op):
    n = v.int(1, 4)
    return Spec([v.plain(v.shape(0, 2) + [n, n], ty)])
