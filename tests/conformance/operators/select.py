"""Operators that choose elements by index or condition."""

import numpy as np

from values import FLOATS, TYPES

from . import Spec, maker


def indices(v, shape, size, ty=None):
    """Indices into a dimension, some of them counted from its end."""
    ty = ty or v.pick(["int64", "int64", "int32"])
    low = -size if v.chance(0.4) else 0
    return np.asarray(v.rng.integers(low, size, shape), TYPES[ty])


@maker("Gather")
def gather(v, ty, opset, op):
    x = v.any(v.shape(1, 4, empty=0), ty)
    axis = v.axis(x.ndim)
    attributes = {"axis": axis} if v.chance(0.8) or axis % x.ndim else {}
    i = indices(v, v.shape(0, 2), x.shape[axis])
    return Spec([x, i if opset >= 11 else np.abs(i) % x.shape[axis]], attributes, steer=(1,))


@maker("GatherElements")
def gather_elements(v, ty, opset, op):
    x = v.any(v.shape(1, 4, empty=0), ty)
    axis = v.axis(x.ndim)
    shape = [d if v.chance(0.5) else v.int(1, d) for d in x.shape]
    shape[axis] = v.int(1, 4)
    return Spec([x, indices(v, shape, x.shape[axis])], {"axis": axis} if v.chance(0.8) or axis % x.ndim else {}, steer=(1,))


def nd_indices(v, shape, depth, lead):
    return np.stack([indices(v, lead, shape[i], "int64") for i in range(depth)], axis=-1)


@maker("GatherND")
def gather_nd(v, ty, opset, op):
    x = v.any(v.shape(1, 4, empty=0), ty)
    batch = v.int(0, x.ndim - 1) if opset >= 12 and v.chance(0.4) else 0
    depth = v.int(1, x.ndim - batch)
    lead = list(x.shape[:batch]) + v.shape(0 if batch else 1, 2, 0)
    i = nd_indices(v, x.shape[batch:], depth, lead)
    return Spec([x, i], {"batch_dims": batch} if batch else {}, steer=(1,))


REDUCTIONS = {11: [None], 13: [None], 16: [None, "none", "add", "mul"], 18: [None, "none", "add", "mul", "max", "min"]}


def reduction(v, opset):
    known = REDUCTIONS[max(k for k in REDUCTIONS if k <= max(opset, 11))]
    chosen = v.pick(known)
    return ({} if chosen is None else {"reduction": chosen}), chosen not in (None, "none")


@maker("ScatterElements", "Scatter")
def scatter_elements(v, ty, opset, op):
    x = v.any(v.shape(1, 4, empty=0), ty)
    axis = v.axis(x.ndim)
    attributes, many = reduction(v, opset) if op != "Scatter" else ({}, False)
    if ty == "bool" and many:
        attributes = {}
    smaller = v.chance(0.5)
    shape = [v.int(1, d) if smaller else d for d in x.shape]
    size = x.shape[axis]
    if attributes.get("reduction") in (None, "none"):
        # The order of writes to one place is open: none is written twice.
        shape[axis] = v.int(1, size)
        i = np.argsort(v.rng.random([size if a == axis % x.ndim else d for a, d in enumerate(shape)]), axis=axis)
        i = np.take(i, range(shape[axis]), axis=axis).astype(np.int64)
        i = np.where(v.rng.random(i.shape) < 0.3, i - size, i)
    else:
        i = indices(v, shape, size)
    if opset < 11:
        i = np.where(i < 0, i + size, i)
    updates = v.any(shape, ty, "ties" if attributes else None)
    if many and ty in FLOATS:
        x = np.where(np.isnan(x), TYPES[ty](1), x)
    return Spec([x, i, updates], attributes | ({"axis": axis} if v.chance(0.8) or axis % x.ndim else {}), steer=(1,))


@maker("ScatterND")
def scatter_nd(v, ty, opset, op):
    x = v.any(v.shape(1, 4, empty=0), ty)
    depth = v.int(1, x.ndim)
    attributes, many = reduction(v, opset)
    if ty == "bool":
        attributes, many = {}, False
    places = [tuple(p) for p in np.ndindex(*x.shape[:depth])]
    count = v.int(1, min(4, len(places)))
    chosen = v.rng.permutation(len(places))[:count] if not many else v.rng.integers(0, len(places), count)
    i = np.array([places[int(c)] for c in chosen], np.int64)
    if v.chance(0.3):
        i = np.where(v.rng.random(i.shape) < 0.5, i - np.array(x.shape[:depth]), i)
    return Spec([x, i, v.any([count] + list(x.shape[depth:]), ty, "ties")], attributes, steer=(1,))


@maker("OneHot")
def one_hot(v, ty, opset, op):
    i = v.any(v.shape(0, 3), v.pick(["int64", "int32", "float"]), "ties")
    depth = v.int(1, 5)
    values = v.plain([2], v.pick(["float", "int32", "int64", "uint8", "bool"]))
    form = v.pick([[], [1]])
    attributes = {"axis": v.int(-i.ndim - 1, i.ndim)} if v.chance(0.6) else {}
    return Spec([i, np.full(form, depth, np.int64), values], attributes, steer=(1, 2))


@maker("Compress")
def compress(v, ty, opset, op):
    x = v.any(v.shape(1, 4, empty=0), ty)
    if v.chance(0.3):
        return Spec([x, v.any([v.int(1, x.size)], "bool")])
    axis = v.axis(x.ndim)
    return Spec([x, v.any([v.int(1, x.shape[axis])], "bool")], {"axis": axis})


@maker("Unique")
def unique(v, ty, opset, op):
    x = v.plain(v.shape(1, 3, empty=0), ty)
    attributes = {"sorted": v.int(0, 1)} if v.chance(0.5) else {}
    return Spec([x], attributes | ({"axis": v.axis(x.ndim)} if v.chance(0.4) else {}), v.int(1, 4))


@maker("NonMaxSuppression")
def non_max_suppression(v, ty, opset, op):
    images, classes, boxes = v.pick([1, 1, 2]), v.pick([1, 1, 3]), v.int(1, 8)
    corner = v.rng.random([images, boxes, 2]) * 10
    other = corner + v.rng.random([images, boxes, 2]) * 6
    if v.chance(0.3):
        flip = v.rng.random([images, boxes, 2]) < 0.5
        corner, other = np.where(flip, other, corner), np.where(flip, corner, other)
    center = {"center_point_box": v.int(0, 1)} if v.chance(0.4) else {}
    if center.get("center_point_box"):
        other = np.abs(other - corner)
    boxes_in = np.concatenate([corner, other], -1).astype(np.float32)
    scores = v.rng.permutation(images * classes * boxes).reshape(images, classes, boxes).astype(np.float32) / 64
    scalar = v.pick([[], [1]])
    inputs = [boxes_in, scores]
    inputs.append(None if v.chance(0.15) else np.full(scalar, v.int(0, 5), np.int64))
    inputs.append(None if v.chance(0.3) else np.full(scalar, v.pick([0.0, 0.3, 0.5, 1.0]), np.float32))
    inputs.append(None if v.chance(0.4) else np.full(scalar, v.pick([0.0, 0.2, 0.4, -1.0]), np.float32))
    return Spec(inputs, center, steer=(2, 3, 4))


@maker("If")
def if_(v, ty, opset, op):
    """A choice between two values from outside, one of them negated or doubled."""
    shape = v.shape()
    return Spec([np.array(v.chance(0.5)), v.any(shape, v.pick(["float", "int32", "int64"]), "plain")], graphs=True)
