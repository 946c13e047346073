"""Preprocessing as nodes in front of the network: pixels N,H,W,C in, what the network was trained on out."""

import numpy as np
import onnx_ir as ir

from converter.graph.constants import constant
from converter.graph.converted import claim_name
from converter.preprocessing import Preprocessing

IMAGE = "image"
TYPES = {"uint8": ir.DataType.UINT8, "uint16": ir.DataType.UINT16, "float32": ir.DataType.FLOAT}
PREFIX = "preprocess."
"""Of the names of what is added."""


def prepend(graph: ir.Graph, preprocessing: Preprocessing, channels: int, layout: str) -> None:
    """Put the channel swap if there is one, Cast, Mul and Add before the graph's input, in place.

    `layout` is that of the graph's input: a Transpose comes first if it is "NCHW".
    """
    old = graph.inputs[0]
    assert old.shape is not None  # noqa: S101 (`finish` states it)
    sizes = dict(zip(layout, old.shape, strict=True))
    new = ir.val(None, TYPES[preprocessing.dtype], ir.Shape([sizes[axis] for axis in "NHWC"]))
    nodes = [ir.node("Transpose", [new], {"perm": [0, 3, 1, 2]})] if layout == "NCHW" else []
    if preprocessing.order == "BGR":
        swap = constant(graph, f"{PREFIX}order", np.array([2, 1, 0]))
        nodes.append(ir.node("Gather", [nodes[-1].outputs[0] if nodes else new, swap], {"axis": layout.index("C")}))
    if preprocessing.dtype != "float32":
        nodes.append(ir.node("Cast", [nodes[-1].outputs[0] if nodes else new], {"to": int(ir.DataType.FLOAT)}))
    factor, offset = (part.reshape((-1, 1, 1) if layout == "NCHW" else -1) for part in preprocessing.affine(channels))
    nodes.append(ir.node("Mul", [nodes[-1].outputs[0] if nodes else new, constant(graph, f"{PREFIX}factor", factor)]))
    if offset.any():
        nodes.append(ir.node("Add", [nodes[-1].outputs[0], constant(graph, f"{PREFIX}offset", offset)]))
    for node in nodes:
        node.name = f"{PREFIX}{node.op_type}"
        node.outputs[0].name = f"{PREFIX}{node.op_type}.output"
    old.replace_all_uses_with(nodes[-1].outputs[0])
    graph.inputs[:] = [new]
    claim_name(graph, new, IMAGE)
    first = graph[0]
    graph.insert_before(first, nodes)
