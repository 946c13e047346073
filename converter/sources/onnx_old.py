"""Operator sets 1 to 6 as operator set 7, the oldest that ONNX Runtime runs.

What differs: memory hints (consumed_inputs), arithmetic that states how it broadcasts, shapes and types as attributes,
and flags that say whether a network is being trained.
"""

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from converter.graph.constants import constant

OLDEST = 7
IR_VERSION = 4  # the first whose initializers need be no inputs
BROADCASTING = ("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor")
DROPPED = ("broadcast", "consumed_inputs", "is_test", "spatial")
RENAMED = {"Pad": {"paddings": "pads"}}


def modernise(model: ir.Model) -> None:
    """Rewrite a model of an older operator set in place; raises ValueError for what has no newer form."""
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for node in list(model.graph):
        _check_spatial(node)
        if node.op_type in BROADCASTING and "axis" in node.attributes:
            _align(model.graph, node)
        elif node.op_type == "Reshape" and "shape" in node.attributes:
            sizes = np.array(node.attributes.pop("shape").as_ints(), np.int64)
            shape = constant(model.graph, f"{node.outputs[0].name}.shape", sizes)
            _set_inputs(node, [node.inputs[0], shape])
        elif node.op_type == "Cast" and node.attributes["to"].type == ir.AttributeType.STRING:
            to = onnx.TensorProto.DataType.Value(node.attributes["to"].as_string())
            node.attributes["to"] = ir.AttrInt64("to", to)
        for old, new in RENAMED.get(node.op_type, {}).items():
            if old in node.attributes:
                node.attributes[new] = ir.AttrInt64s(new, node.attributes.pop(old).as_ints())
        for name in DROPPED:
            node.attributes.pop(name, None)
    model.opset_imports[""] = OLDEST
    model.ir_version = max(model.ir_version, IR_VERSION)


def _check_spatial(node: ir.Node) -> None:
    """Batch normalisation could have statistics for every element of a map."""
    spatial = node.attributes.get("spatial")
    if node.op_type == "BatchNormalization" and spatial is not None and not spatial.as_int():
        raise ValueError(f"node {node.name!r} (BatchNormalization): expected statistics per channel, got per element")


def _align(graph: ir.Graph, node: ir.Node) -> None:
    """The second operand's first axis lies at `axis` of the first one's: trailing axes of 1 follow."""
    first, second = node.inputs[0], node.inputs[1]
    axis = node.attributes.pop("axis").as_int()
    value = second.const_value if second is not None else None
    if first is None or second is None or value is None:
        raise ValueError(f"node {node.name!r} ({node.op_type}): expected constants to be broadcast along axis {axis}")
    rank = 4 if first.shape is None else first.shape.rank()
    shape = [*value.shape.numpy(), *[1] * (rank - axis % rank - len(value.shape))]
    aligned = value.numpy().reshape(shape)
    node.replace_input_with(1, constant(graph, f"{second.name}.{node.outputs[0].name}", aligned))


def _set_inputs(node: ir.Node, inputs: list[ir.Value | None]) -> None:
    node.resize_inputs(len(inputs))
    for position, value in enumerate(inputs):
        node.replace_input_with(position, value)
