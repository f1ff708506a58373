"""Where the two judges differ: which one is right by the operator's specification or by exact arithmetic."""

import numpy as np

# Operator: (who is right, why).
BY_OPERATOR = {}


def decide(case, runtime, reference):
    op = case.about["op"]
    if op in BY_OPERATOR:
        return BY_OPERATOR[op][0]
    return "runtime" if runtime is not None else "either"
