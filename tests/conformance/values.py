"""Random tensors: ordinary numbers, and those at the edges of their types."""

import ml_dtypes
import numpy as np

FLOATS = ["float", "float16", "double"]
INTS = ["int32", "int64", "uint8", "int8"]
TYPES = {
    "float": np.float32,
    "float16": np.float16,
    "double": np.float64,
    "bfloat16": ml_dtypes.bfloat16,
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
}
NAMES = {np.dtype(v): k for k, v in TYPES.items()}
DIMS = [1, 2, 3, 4, 5, 7]


class Values:
    """Makes shapes and tensors from one seeded source."""

    def __init__(self, rng):
        self.rng = rng

    def chance(self, p):
        return self.rng.random() < p

    def pick(self, items):
        return items[int(self.rng.integers(len(items)))]

    def int(self, low, high):
        """A whole number from `low` to `high`, both included."""
        return int(self.rng.integers(low, high + 1))

    def shape(self, low=0, high=5, empty=0.04):
        """A shape of `low` to `high` dimensions; now and then one of them is empty."""
        shape = [self.pick(DIMS) for _ in range(self.int(low, high))]
        while np.prod(shape, dtype=np.int64) > 2000:
            shape[self.int(0, len(shape) - 1)] = 1
        if shape and self.chance(empty):
            shape[self.int(0, len(shape) - 1)] = 0
        return shape

    def broadcast(self, shape):
        """A shape that is broadcast to `shape`."""
        out = [1 if self.chance(0.25) else d for d in shape]
        return out[self.int(0, len(out)) :] if self.chance(0.4) else out

    def axis(self, rank):
        """A dimension of a tensor of this rank, counted from either end."""
        return self.int(-rank, rank - 1)

    def floats(self, shape, ty, kind=None):
        kind = kind or self.pick(["plain", "plain", "plain", "ties", "wide", "edges", "small"])
        x = self.rng.standard_normal(shape)
        if kind == "ties":
            x = self.rng.integers(-2, 3, shape).astype(np.float64)
        elif kind == "wide":
            x = x * 10.0 ** self.rng.integers(-3, 4, shape)
        elif kind == "small":
            x = x * 0.1
        dtype = TYPES[ty]
        x = np.asarray(x).astype(dtype)
        if kind == "edges" and x.size:
            top = ml_dtypes.finfo(dtype).max
            tiny = ml_dtypes.finfo(dtype).smallest_normal
            edges = [np.nan, np.inf, -np.inf, 0.0, -0.0, top, -top, tiny, 1.0, 0.5, -0.5, 1.5, 2.5, 88.8, -100.0]
            edges = np.array(edges).astype(dtype)
            chosen = self.rng.random(shape) < 0.4
            x = np.where(chosen, edges[self.rng.integers(0, len(edges), shape)], x)
        return np.asarray(x, dtype=dtype)

    def ints(self, shape, ty, low=None, high=None, kind=None):
        dtype = TYPES[ty]
        info = np.iinfo(dtype)
        kind = kind or self.pick(["plain", "plain", "ties", "edges", "middle"])
        if low is not None:
            return np.asarray(self.rng.integers(low, high + 1, shape), dtype=dtype)
        low = max(info.min, -1000 if kind == "middle" else -3 if kind == "ties" else -20)
        high = min(info.max, 1000 if kind == "middle" else 3 if kind == "ties" else 20)
        x = np.asarray(self.rng.integers(low, high + 1, shape), dtype=dtype)
        if kind == "edges" and x.size:
            edges = np.array([info.min, info.max, info.max - 1, info.min + 1, 0, 1], dtype=dtype)
            x = np.where(self.rng.random(shape) < 0.3, edges[self.rng.integers(0, len(edges), shape)], x)
        return np.asarray(x, dtype=dtype)

    def any(self, shape, ty, kind=None):
        """A tensor of any type."""
        if ty == "bool":
            return np.asarray(self.rng.integers(0, 2, shape), dtype=np.bool_)
        return self.floats(shape, ty, kind) if ty in FLOATS + ["bfloat16"] else self.ints(shape, ty, kind=kind)

    def plain(self, shape, ty):
        """A tensor of numbers of ordinary size."""
        if ty in FLOATS:
            return self.floats(shape, ty, self.pick(["plain", "ties", "small"]))
        return self.any(shape, ty, "plain")
