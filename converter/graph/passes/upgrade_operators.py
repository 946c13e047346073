"""Brings operator sets 1 to 6 to operator set 7, the oldest that ONNX Runtime runs.

    before operator set 7                              from operator set 7 on
    Add(a, b, broadcast=1, axis=1)                     Add(a, b reshaped so that trailing axes align)
    Reshape(x, shape=[...])                            Reshape(x, constant)
    Cast(x, to="FLOAT")                                Cast(x, to=1)
    Pad(x, paddings=[...])                             Pad(x, pads=[...])
    consumed_inputs, is_test, spatial                  removed: memory hints, and flags of training

Refused: batch normalisation with statistics per element, and broadcasts of computed values along an inner axis.
"""

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from converter.graph.nodes import add_constant

OPSET = 7
IR_VERSION = 4
"""The first version whose initializers need not be inputs."""
BROADCASTING = ("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor")
DROPPED = ("broadcast", "consumed_inputs", "is_test", "spatial")
RENAMED = {"Pad": {"paddings": "pads"}}


class UpgradeOperatorsPass(ir.passes.InPlacePass):
    """Upgrade a model of an older operator set; other models stay unchanged."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; raises ValueError for an operator that has no newer form."""
        if opset(model) >= OPSET:
            return ir.passes.PassResult(model, modified=False)
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        for node in list(model.graph):
            _check_statistics(node)
            _upgrade(model.graph, node)
        model.opset_imports[""] = OPSET
        model.ir_version = max(model.ir_version, IR_VERSION)
        return ir.passes.PassResult(model, modified=True)


def opset(model: ir.Model) -> int:
    """Return the version of the default operator set that a model imports; 0 if it imports none."""
    return model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))


def _upgrade(graph: ir.Graph, node: ir.Node) -> None:
    if node.op_type in BROADCASTING and "axis" in node.attributes:
        _align_axes(graph, node)
    elif node.op_type == "Reshape" and "shape" in node.attributes:
        sizes = np.array(node.attributes.pop("shape").as_ints(), np.int64)
        shape = add_constant(graph, f"{node.outputs[0].name}.shape", sizes)
        _set_inputs(node, [node.inputs[0], shape])
    elif node.op_type == "Cast" and node.attributes["to"].type == ir.AttributeType.STRING:
        to = onnx.TensorProto.DataType.Value(node.attributes["to"].as_string())
        node.attributes["to"] = ir.AttrInt64("to", to)
    for old, new in RENAMED.get(node.op_type, {}).items():
        if old in node.attributes:
            node.attributes[new] = ir.AttrInt64s(new, node.attributes.pop(old).as_ints())
    for name in DROPPED:
        node.attributes.pop(name, None)


def _check_statistics(node: ir.Node) -> None:
    """Raise ValueError for batch normalisation that has statistics for every element of a map."""
    if node.op_type == "BatchNormalization" and not node.attributes.get_int("spatial", 1):
        raise ValueError(f"node {node.name!r} (BatchNormalization): expected statistics per channel, got per element")


def _align_axes(graph: ir.Graph, node: ir.Node) -> None:
    """Append axes of 1 to the second operand, whose first axis lies at `axis` of the first operand."""
    first, second = node.inputs[0], node.inputs[1]
    axis = node.attributes.pop("axis").as_int()
    value = second.const_value if second is not None else None
    if first is None or second is None or value is None:
        raise ValueError(f"node {node.name!r} ({node.op_type}): expected constants to be broadcast along axis {axis}")
    rank = 4 if first.shape is None else first.shape.rank()
    shape = [*value.shape.numpy(), *[1] * (rank - axis % rank - len(value.shape))]
    aligned = value.numpy().reshape(shape)
    node.replace_input_with(1, add_constant(graph, f"{second.name}.{node.outputs[0].name}", aligned))


def _set_inputs(node: ir.Node, inputs: Sequence[ir.Value | None]) -> None:
    node.resize_inputs(len(inputs))
    for position, value in enumerate(inputs):
        node.replace_input_with(position, value)
