"""RNN, GRU and LSTM by their equations, in float64: what `onnx.reference` has for one direction and full sequences alone."""

import numpy as np

KINDS = {
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Tanh": np.tanh,
    "Relu": lambda x: np.maximum(x, 0),
}
USUAL = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}


class Cell:
    """One direction: its weights, and a step of it."""

    def __init__(self, op, n, d):
        part = lambda i: None if n.input(i) is None else n.inputs[i][d]
        names = [a.decode() for a in n.get("activations", [])] or USUAL[op] * 2
        count = len(USUAL[op])
        self.kinds = [KINDS[name] for name in names[d * count : (d + 1) * count]]
        self.op, self.w, self.r, self.b, self.p = op, part(1), part(2), part(3), part(7)
        self.size = self.r.shape[1]
        self.clip = n.get("clip", 0.0)
        self.late_reset = n.get("linear_before_reset", 0)
        self.coupled = n.get("input_forget", 0)

    def gate(self, kind, x):
        return self.kinds[kind](np.clip(x, -self.clip, self.clip) if self.clip else x)

    def sums(self, weights, x, at):
        return x @ weights[at * self.size : (at + 1) * self.size].T

    def bias(self, at, of_state=False):
        gates = self.w.shape[0] // self.size
        at += gates if of_state else 0
        return 0 if self.b is None else self.b[at * self.size : (at + 1) * self.size]

    def both(self, x, h, at):
        return self.sums(self.w, x, at) + self.sums(self.r, h, at) + self.bias(at) + self.bias(at, True)

    def peephole(self, at, c):
        return 0 if self.p is None else self.p[at * self.size : (at + 1) * self.size] * c

    def step(self, x, h, c):
        if self.op == "RNN":
            return self.gate(0, self.both(x, h, 0)), c
        if self.op == "GRU":
            z, r = self.gate(0, self.both(x, h, 0)), self.gate(0, self.both(x, h, 1))
            if self.late_reset:
                state = r * (self.sums(self.r, h, 2) + self.bias(2, True))
            else:
                state = self.sums(self.r, r * h, 2) + self.bias(2, True)
            return (1 - z) * self.gate(1, self.sums(self.w, x, 2) + state + self.bias(2)) + z * h, c
        # The gates lie in the order input, output, forget, cell.
        i = self.gate(0, self.both(x, h, 0) + self.peephole(0, c))
        f = 1 - i if self.coupled else self.gate(0, self.both(x, h, 2) + self.peephole(2, c))
        c = f * c + i * self.gate(1, self.both(x, h, 3))
        o = self.gate(0, self.both(x, h, 1) + self.peephole(1, c))
        return o * self.kinds[2](c), c


def outputs(op, n):
    x = n.inputs[0]
    steps, rows = x.shape[:2]
    way = n.get("direction", "forward")
    lengths = np.full(rows, steps) if n.input(4) is None else n.inputs[4]
    ways = 2 if way == "bidirectional" else 1
    size = n.inputs[2].shape[2]
    y = np.zeros([steps, ways, rows, size])
    last_h, last_c = np.zeros([ways, rows, size]), np.zeros([ways, rows, size])
    for d in range(ways):
        cell = Cell(op, n, d)
        for row in range(rows):
            start = lambda i: np.zeros(size) if n.input(i) is None else n.inputs[i][d, row]
            h, c = start(5), start(6) if op == "LSTM" else np.zeros(size)
            times = range(int(lengths[row]))
            for t in reversed(times) if way == "reverse" or d == 1 else times:
                h, c = cell.step(x[t, row], h, c)
                y[t, d, row] = h
            last_h[d, row], last_c[d, row] = h, c
    return [y, last_h] + ([last_c] if op == "LSTM" else [])
