"""A classifier's output: its position among a graph's outputs, its number of classes, and its final activation."""

import math

import onnx_ir as ir

from converter.errors import UnsupportedError
from converter.graph.operators import MOVEMENT
from converter.graph.refusals import not_a_classifier

SCORES = "scores"
"""Name of the output of every converted model."""
PASSED_THROUGH = MOVEMENT | {"Cast", "Clip"}
"""Operators that may lie between an activation and the scores."""


def scores_position(graph: ir.Graph) -> int:
    """Return the position of the only output or, of several, of the only output of rank 2.

    Raises UnsupportedError if there is no such output, or more than one.
    """
    rows = [
        position
        for position, value in enumerate(graph.outputs)
        if len(graph.outputs) == 1 or (value.shape is not None and value.shape.rank() == 2)
    ]
    if len(rows) != 1:
        names = ", ".join(str(value.name) for value in graph.outputs)
        raise UnsupportedError(f"outputs: expected one row of scores, got {names}; export the classifier alone")
    return rows[0]


def count_classes(output: ir.Value, shape: tuple[int, ...], batch: int) -> int:
    """Return the number of classes of an output, given its shape for a batch of windows.

    Raises UnsupportedError unless it is one row of scores per window.
    """
    classes = max(shape[1:], default=1)
    if not shape or math.prod(shape) != batch * classes:
        raise not_a_classifier(output, shape)
    return classes


def final_activation(output: ir.Value) -> ir.Node | None:
    """Return the Softmax or Sigmoid that computes a value, apart from casts and reshapes; None for other operators."""
    node = output.producer()
    while node is not None and node.op_type in PASSED_THROUGH and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node if node is not None and node.op_type in ("Softmax", "Sigmoid") else None
