"""The expected outputs: ONNX Runtime's, `onnx.reference`'s, and which of them counts where they differ."""

import warnings

import ml_dtypes
import numpy as np
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

import exact
from decisions import decide, has_nan

ort.set_default_logger_severity(4)
warnings.filterwarnings("ignore")
np.seterr(all="ignore")


def onnx_runtime(model, inputs):
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(y) for y in session.run(None, inputs)]


def reference(model, inputs):
    return [np.asarray(y) for y in ReferenceEvaluator(model).run(None, inputs)]


def attempt(judge, model, inputs):
    try:
        return judge(model, inputs), None
    except Exception as e:  # Whatever a judge raises, it has no opinion.
        return None, f"{type(e).__name__}: {str(e)[:200]}"


def tolerance(array):
    """Relative difference that rounding explains, by element type."""
    name = array.dtype.name
    return {"float16": 4e-3, "bfloat16": 3e-2, "float32": 1e-4, "float64": 1e-4}.get(name, 0)


def alike(a, b):
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if tolerance(a) == 0:
        return bool(np.array_equal(a, b))
    x, y = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        both_nan = np.isnan(x) & np.isnan(y)
        finite = np.abs(y[np.isfinite(y)])
        scale = min(float(np.median(finite)) if finite.size else 0.0, 1e3)
        near = np.abs(x - y) <= tolerance(a) * (np.abs(y) + scale) + 1e-6
    return bool(np.all(both_nan | (x == y) | near))


def max_pool(case):
    """The largest of each window, of ONNX Runtime's for finite numbers: others it finds or not by their position."""
    (name, x), *more = case.inputs.items()
    pooled = lambda y: onnx_runtime(case.model, {name: np.asarray(y, x.dtype)} | dict(more))[0]
    has = lambda mask: pooled(mask) > 0
    finite = pooled(np.nan_to_num(x, nan=np.finfo(x.dtype).min))
    out = np.where(has(np.isposinf(x)), np.inf, finite)
    out = np.where(has(~np.isneginf(x)), out, -np.inf)
    return [np.where(has(np.isnan(x)), np.nan, out).astype(x.dtype)]


def all_alike(a, b):
    return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b))


def expect(case):
    """Fills `case.expected`; returns a note where the judges differ, and None where they do not.

    Nothing is expected where neither judge can run the model: it is no model.
    """
    first, _ = attempt(onnx_runtime, case.model, case.inputs)
    second, _ = attempt(reference, case.model, case.inputs)
    if first is None and second is None:
        return None
    third = lambda: attempt(lambda *_: exact.outputs(case, first or second), case.model, case.inputs)[0]
    case.about["judges"] = "runtime" if second is None else "reference" if first is None else "both"
    if case.about["op"] in ("MaxPool", "GlobalMaxPool") and first and has_nan(case):
        # ONNX gives what is not a number no place in the order of numbers.
        case.own = [first]
    strange = lambda a: a.dtype.kind == "f" and not np.isfinite(a).all()
    if case.about["op"] == "MaxPool" and first and len(first) == 1 and strange(next(iter(case.inputs.values()))):
        case.expected = [max_pool(case)]
        return "exact"
    if case.about["op"] in ("GlobalMaxPool", "Swish") and "x0" in case.inputs:
        case.expected = [decide(case, first, second)]
        return None
    if first is None or second is None:
        verdict = decide(case, first, second)
        given = [y for y in (first, second) if y is not None]
        settled = third()
        if settled is not None:
            case.about["judges"] += ", exact"
        case.expected = [verdict] if isinstance(verdict, list) else given if settled is None else [settled]
        return None if settled is None or all_alike(given[0], settled) else "alone"
    if all_alike(first, second):
        case.expected = [first]
        return None
    verdict = decide(case, first, second)
    if verdict in ("runtime", "exact or either"):
        settled = third()
        if settled is not None:
            case.about["judges"] += ", exact"
            case.expected = [settled]
            return "exact: " + ("runtime" if all_alike(first, settled) else "reference" if all_alike(second, settled) else "neither")
        if verdict == "runtime":
            case.about["judges"] = "runtime"
        else:
            verdict = "either"
    if isinstance(verdict, list):
        case.expected = [verdict]
        return "exact"
    case.expected = {"runtime": [first], "reference": [second], "either": [first, second], "none": []}[verdict]
    return verdict
