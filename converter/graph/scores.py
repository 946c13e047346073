"""A classifier's output: its position among a graph's outputs, its number of classes, and its final activation."""

import math
from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from converter.errors import UnsupportedError
from converter.graph.nodes import first_input
from converter.graph.operators import MOVEMENT
from converter.graph.refusals import not_a_classifier

SCORES = "scores"
"""Name of the output of every converted model."""
PASSED_THROUGH = MOVEMENT | {"Cast", "Clip"}
"""Operators that may lie between an activation and the scores."""


def keep_scores(model: ir.Model, name: str | None) -> None:
    """Remove all outputs but the scores, and the nodes for them, in place.

    The scores are the output called `name`; without a name the only output or, of several, the only one of rank 2.
    Raises UnsupportedError if there is no such output, or more than one.
    """
    outputs = list(model.graph.outputs)
    if name is not None:
        chosen = [output for output in outputs if output.name == name]
    else:
        rows = [output for output in outputs if output.shape is not None and output.shape.rank() == 2]
        chosen = _without_copies(outputs if len(outputs) == 1 else rows or _of_unknown_shape(outputs))
    if len(chosen) != 1:
        raise _ambiguous(outputs, chosen, name)
    model.graph.outputs[:] = chosen
    RemoveUnusedNodesPass()(model)


def _of_unknown_shape(outputs: Sequence[ir.Value]) -> list[ir.Value]:
    """Return the outputs that may be scores: of floating-point numbers, or of no stated type, without a shape."""
    return [value for value in outputs if value.shape is None and value.dtype in (None, ir.DataType.FLOAT)]


def _without_copies(outputs: Sequence[ir.Value]) -> list[ir.Value]:
    """Return the outputs without those that an Identity makes of the same value as another output."""
    return list({_copied(output): output for output in reversed(outputs)}.values())[::-1]


def _copied(value: ir.Value) -> ir.Value:
    node = value.producer()
    return value if node is None or node.op_type != "Identity" else _copied(first_input(node))


def _ambiguous(outputs: Sequence[ir.Value], candidates: Sequence[ir.Value], name: str | None) -> UnsupportedError:
    """Return the error that lists the outputs, and recommends the candidate from which the others are computed."""
    listed = ", ".join(f"{value.name} {value.shape or ''}".strip() for value in outputs)
    if name is not None:
        return UnsupportedError(f"scores: expected the name of an output, one of {listed}; got {name!r}")
    if not candidates:
        return UnsupportedError(
            f"outputs: expected one row of scores, got {listed}; name the scores with --scores NAME, or export the "
            "classifier alone"
        )
    first = next(value for value in candidates if not any(_depends(value, other) for other in candidates))
    return UnsupportedError(
        f"outputs: expected one row of scores, got several: {listed}; choose with --scores NAME, for example --scores "
        f"{first.name}"
    )


def _depends(value: ir.Value, other: ir.Value) -> bool:
    """Return whether a value is computed from another one."""
    pending, seen = [value], set[ir.Value]()
    while pending:
        node = pending.pop().producer()
        sources = {source for source in node.inputs if source is not None} - seen if node else set()
        if other in sources:
            return True
        seen |= sources
        pending += sources
    return False


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
