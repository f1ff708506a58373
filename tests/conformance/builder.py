"""A model of one node from a `Spec`, and what it has to give."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from values import NAMES

ELEMENT = {
    "float": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "double": TensorProto.DOUBLE,
    "bfloat16": TensorProto.BFLOAT16,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "bool": TensorProto.BOOL,
}
# The oldest operator set of today's domains; older ones are of no use to anyone.
IR_VERSION = 10


def type_name(array):
    return NAMES[array.dtype]


class Case:
    def __init__(self, name, model, inputs, about):
        self.name = name
        self.model = model
        self.inputs = inputs  # name to array
        self.about = about  # operator, opset, types, attributes: for people and for the summary
        self.expected = []  # sets of outputs of which one has to come
        self.own = []  # further ones that are right of ONNX Runtime, where ONNX leaves it open


def attributes_of(spec):
    made = []
    for name, value in spec.attributes.items():
        if name.startswith("_"):
            continue
        if isinstance(value, np.ndarray):
            value = numpy_helper.from_array(value, name)
        made.append(helper.make_attribute(name, value))
    return made


def branch(name, op, value):
    inner = [helper.make_node(op, [value], [name + "_y"])]
    return helper.make_graph(inner, name, [], [helper.make_value_info(name + "_y", onnx.TypeProto())])


def build(v, domain, op, opset, spec):
    """A case without expectations, or None where ONNX's own inference refuses it."""
    nodes, inputs, initializers, names, graph_inputs = [], {}, [], [], []
    hide = v.chance(0.06)
    open_dims = v.chance(0.4)
    for i, array in enumerate(spec.inputs):
        if array is None:
            names.append("")
            continue
        name = f"x{i}"
        array = np.asarray(array)
        if i in spec.steer and v.chance(0.6):
            initializers.append(numpy_helper.from_array(array, name))
            names.append(name)
            continue
        inputs[name] = array
        shape = [None if d == 0 or (open_dims and v.chance(0.7)) else d for d in array.shape]
        element = ELEMENT[type_name(array)]
        if hide and array.size and i not in spec.steer and not spec.graphs:
            # Its shape is known at run alone: not even the number of dimensions is stated.
            graph_inputs.append(helper.make_tensor_value_info(name, element, [None] * array.ndim))
            inputs[f"s{i}"] = np.array(array.shape, np.int64)
            graph_inputs.append(helper.make_tensor_value_info(f"s{i}", TensorProto.INT64, [None]))
            nodes.append(helper.make_node("Reshape", [name, f"s{i}"], [f"h{i}"]))
            name = f"h{i}"
        else:
            graph_inputs.append(helper.make_tensor_value_info(name, element, shape))
        names.append(name)
    while names and names[-1] == "":
        names.pop()
    outputs = [f"y{i}" for i in range(spec.outputs)]
    if spec.graphs:
        node = helper.make_node("If", [names[0]], outputs, name="choice")
        node.attribute.extend(
            helper.make_attribute(n, branch(n, op, names[1])) for n, op in (("then_branch", "Neg"), ("else_branch", "Abs"))
        )
        nodes.append(node)
    elif op == "SequenceConstruct":
        nodes.append(helper.make_node(op, names, ["seq"]))
        then = spec.attributes["_then"]
        if then == "at":
            initializers.append(numpy_helper.from_array(np.array(spec.attributes["_place"], np.int64), "place"))
            nodes.append(helper.make_node("SequenceAt", ["seq", "place"], outputs))
        elif then == "concat":
            nodes.append(helper.make_node("ConcatFromSequence", ["seq"], outputs, axis=0))
        else:
            nodes.append(helper.make_node("SequenceLength", ["seq"], outputs))
    else:
        node = helper.make_node(op, names, outputs, name="n", domain=domain)
        node.attribute.extend(attributes_of(spec))
        nodes.append(node)
    graph_outputs = [helper.make_value_info(y, onnx.TypeProto()) for y in outputs]
    graph = helper.make_graph(nodes, "g", graph_inputs, graph_outputs, initializers)
    imports = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
    shown = {k: value for k, value in spec.attributes.items() if not isinstance(value, np.ndarray)}
    about = {
        "op": f"{domain}.{op}" if domain else op,
        "opset": opset,
        "types": ["" if a is None else type_name(np.asarray(a)) for a in spec.inputs],
        "attributes": shown,
        "shapes": [None if a is None else list(np.asarray(a).shape) for a in spec.inputs],
        "constant": [t.name for t in initializers],
        "hidden": hide,
    }
    return Case("", model, inputs, about)


def state_outputs(case, outputs, v):
    """Writes the types of the outputs, and sometimes their shapes, into the model."""
    for info, array in zip(case.model.graph.output, outputs):
        element = ELEMENT[type_name(array)]
        shape = [None if d == 0 or v.chance(0.5) else d for d in array.shape]
        stated = helper.make_tensor_value_info(info.name, element, shape)
        info.CopyFrom(stated)
