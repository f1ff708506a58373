"""Makers of cases, one function for each kind of operator."""

from dataclasses import dataclass, field

from onnx import defs

MAKERS = {}


@dataclass
class Spec:
    """One node: its inputs (None where absent), attributes, and the number of its outputs.

    `steer` are the inputs that steer the computation, as a shape does: often constants of the model.
    """

    inputs: list
    attributes: dict = field(default_factory=dict)
    outputs: int = 1
    steer: tuple = ()
    graphs: bool = False


def maker(*names, domain=""):
    """Registers a function (values, type, opset, operator) -> Spec for operators."""

    def register(make):
        for name in names:
            MAKERS[domain, name] = make
        return make

    return register


def schema(domain, name, opset):
    return defs.get_schema(name, max_inclusive_version=opset, domain=domain)


def first_types(domain, name, opset):
    """Element types that the first input may have."""
    found = schema(domain, name, opset)
    if not found.inputs:
        return ["float"]
    named = found.inputs[0].type_str
    types = {c.type_param_str: c.allowed_type_strs for c in found.type_constraints}
    return [t.removeprefix("tensor(").removesuffix(")") for t in types.get(named, [named]) if t.startswith("tensor(")]


def versions(domain, name):
    """Operator sets at which an operator changed."""
    found = [s for s in defs.get_all_schemas_with_history() if (s.domain, s.name) == (domain, name)]
    return sorted(s.since_version for s in found if not s.deprecated)



def last_opset(domain, name):
    """The newest operator set that has the operator: some were withdrawn."""
    gone = [s.since_version for s in defs.get_all_schemas_with_history() if (s.domain, s.name) == (domain, name) and s.deprecated]
    return min(gone) - 1 if gone else defs.onnx_opset_version()

NUMBERS_OF = {"float": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "double": 11}

from . import contrib, elementwise, layout, nets, reduce, select  # noqa: E402,F401
