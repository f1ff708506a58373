"""Makes cases: ONNX's node tests, or cases drawn by seed.

    generate.py nodes OUT
    generate.py seeded OUT --seed N --cases N
"""

import argparse
import collections
import json
import multiprocessing
import os
import pathlib

import numpy as np
import onnx
from onnx import helper, numpy_helper

import builder
import judges
import pack
from operators import MAKERS, first_types, last_opset, versions
from values import TYPES, Values

OPSET_MIN, OPSET_MAX = 7, 26


def seeded(seed, index):
    """The case of this number, or None where the draw gave no model."""
    v = Values(np.random.default_rng([seed, index]))
    keys = sorted(MAKERS)
    domain, op = keys[index % len(keys)]
    if domain:
        opset, types = 17, ["float"]
    else:
        # The operator sets in which it changed, and the newest: elsewhere it is the same as before.
        found = versions(domain, op)
        sets = [s for s in found if OPSET_MIN <= s <= OPSET_MAX] + [min(last_opset(domain, op), OPSET_MAX)]
        if found[0] < OPSET_MIN:
            sets.append(OPSET_MIN)
        opset = v.pick(sets)
        if opset not in (found + [OPSET_MIN]) and opset < found[0]:
            return None
        types = [t for t in first_types(domain, op, opset) if t in TYPES] or ["float"]
    usual = [t for t in types if t in ("float", "float16", "int32", "int64", "uint8", "int8", "bool")]
    ty = v.pick(usual) if usual and v.chance(0.9) else v.pick(types)
    if "float" in types and v.chance(0.35):
        ty = "float"
    try:
        spec = MAKERS[domain, op](v, ty, opset, op)
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as e:
        if os.environ.get("CONFORMANCE_DEBUG"):
            print(f"maker of {op} ({ty}, {opset}): {type(e).__name__}: {e}")
        return None
    case = builder.build(v, domain, op, opset, spec)
    case.name = f"{op}-{seed}-{index}"
    first, error = judges.attempt(judges.onnx_runtime, case.model, case.inputs)
    if first is None:
        first, _ = judges.attempt(judges.reference, case.model, case.inputs)
    if first is None:
        if os.environ.get("CONFORMANCE_DEBUG"):
            print(f"no judge for {op} {case.about}: {error}")
        return None
    if any(y.dtype not in pack.NAMES for y in first):
        return None
    builder.state_outputs(case, first, v)
    case.verdict = judges.expect(case)
    return case if case.expected else None


def run_seeded(seed, indices, path, lines):
    with open(path, "wb") as out:
        for index in indices:
            case = seeded(seed, index)
            if case is not None:
                pack.write(out, case)
                out.flush()
                if case.verdict:
                    lines.append({"name": case.name, "verdict": case.verdict, **case.about})
            with open(f"{path}.at", "w") as at:
                at.write(str(index))


def worker(seed, start, stop, step, path):
    """Goes on in another process after a judge took its process down."""
    part, first = 0, start
    while first < stop:
        file = f"{path}.{part}"
        child = multiprocessing.Process(target=whole, args=(seed, range(first, stop, step), file))
        child.start()
        child.join()
        if child.exitcode == 0:
            break
        at = pathlib.Path(f"{file}.at")
        first = (int(at.read_text()) if at.exists() else first - step) + 2 * step
        part += 1


def whole(seed, indices, file):
    lines = []
    run_seeded(seed, indices, file, lines)
    with open(f"{file}.differ", "w") as out:
        out.writelines(json.dumps(line, default=str) + "\n" for line in lines)


def node_tests(path):
    from onnx.backend.test.case.node import collect_testcases

    counts = collections.Counter()
    with open(path, "wb") as out:
        for test in collect_testcases(None):
            if test.model is None:
                continue
            for data in test.data_sets:
                if "bernoulli" in test.name:
                    counts["random"] += 1  # Nothing is to be expected of random numbers.
                    continue
                counts["all"] += 1
                case = node_case(test, data)
                if case is None:
                    counts["not tensors"] += 1
                else:
                    pack.write(out, case)
    print(json.dumps(counts))


def node_case(test, data):
    inputs, outputs = data
    ops = [n.op_type for n in test.model.graph.node]
    about = {"op": ops[0] if ops else "", "opset": test.model.opset_import[0].version, "types": [], "attributes": {}}
    names = [i.name for i in test.model.graph.input]
    arrays = []
    for value in list(inputs) + list(outputs):
        if isinstance(value, onnx.TensorProto):
            value = numpy_helper.to_array(value)
        if not isinstance(value, np.ndarray) and not np.isscalar(value):
            value = None
        arrays.append(None if value is None else np.asarray(value))
    case = builder.Case(test.name, test.model, {}, about)
    if any(a is None or a.dtype not in pack.NAMES for a in arrays):
        # Sequences, strings and numbers of 4 bits: to be refused at deploy.
        case.expected = []
        return case
    case.inputs = dict(zip(names, arrays[: len(inputs)]))
    case.expected = [arrays[len(inputs) :]]
    return case


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["nodes", "seeded", "one"])
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--index", type=int, default=0)
    args = parser.parse_args()
    if args.what == "nodes":
        return node_tests(args.out)
    if args.what == "one":
        case = seeded(args.seed, args.index)
        print(case.about)
        for n, a in case.inputs.items():
            print(n, a.dtype, a.shape, a.tolist())
        for y in case.expected:
            print([(a.dtype.name, a.shape, a.tolist()) for a in y])
        onnx.save(case.model, args.out)
        return
    jobs = [
        multiprocessing.Process(target=worker, args=(args.seed, j, args.cases, args.jobs, f"{args.out}.{j}"))
        for j in range(args.jobs)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()


if __name__ == "__main__":
    main()
