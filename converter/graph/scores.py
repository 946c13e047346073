"""A classifier's outputs: which of a graph's outputs are kept, their sizes, and the scores' final activation."""

import math
from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from converter.errors import UnsupportedError
from converter.graph.nodes import first_input
from converter.graph.operators import MOVEMENT
from converter.graph.refusals import not_a_classifier

SCORES = "scores"
"""Name of the first output of every converted model. Further outputs keep the names that they have in the source."""
TAKEN = frozenset((SCORES, "average", "image", "stride"))
"""Names that a further output cannot have: inputs and outputs of converted models and of the server have them."""
ONE_AXIS = 13
"""The operator set in which Softmax began to compute over one axis only."""
PASSED_THROUGH = MOVEMENT | {"Cast", "Clip"}
"""Operators that may lie between an activation and the scores."""


def keep_outputs(model: ir.Model, name: str | None, also: Sequence[str] = ()) -> None:
    """Keep the scores and then the outputs named by `also`; remove all other outputs and the nodes for them, in place.

    The scores are the output called `name`; without a name the only other output or, of several, the only one of rank
    2. Raises UnsupportedError if there is no such output, or more than one, and if an output of `also` cannot be kept.
    """
    further = [_further(model.graph, each, name) for each in also]
    outputs = [output for output in model.graph.outputs if output not in further]
    if not outputs:
        raise UnsupportedError("also: expected an output that remains for the scores, got all outputs; leave one out")
    if name is not None:
        chosen = [output for output in outputs if output.name == name]
    else:
        rows = [output for output in outputs if output.shape is not None and output.shape.rank() == 2]
        chosen = _without_copies(outputs if len(outputs) == 1 else rows or _of_unknown_shape(outputs))
    if len(chosen) != 1:
        raise _ambiguous(outputs, chosen, name)
    model.graph.outputs[:] = [*chosen, *further]
    RemoveUnusedNodesPass()(model)


def _further(graph: ir.Graph, name: str, scores: str | None) -> ir.Value:
    """Return an output to keep beside the scores, whose name is given or None; raises UnsupportedError."""
    if name in TAKEN:
        raise UnsupportedError(
            f"also: expected another name than {', '.join(sorted(TAKEN))}, which converted models use, got {name!r}; "
            "rename the output in the source"
        )
    outputs = {str(output.name): output for output in graph.outputs if output.name not in TAKEN | {scores}}
    if len(graph.outputs) == 1 or name not in outputs:
        others = ", ".join(outputs) if len(graph.outputs) > 1 else ""
        expected = (
            f"the name of a further output, one of {others}" if others else "none, since no other output can be kept"
        )
        raise UnsupportedError(f"also: expected {expected}; got {name!r}")
    return outputs[name]


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
    """Return the error that lists the outputs, and recommends one of the candidates.

    It is one from which others are computed or, among unrelated outputs, one of probabilities.
    """
    listed = ", ".join(f"{value.name} {value.shape or ''}".strip() for value in outputs)
    if name is not None:
        return UnsupportedError(f"scores: expected the name of an output, one of {listed}; got {name!r}")
    if not candidates:
        return UnsupportedError(
            f"outputs: expected one row of scores, got {listed}; name the scores with --scores NAME, or export the "
            "classifier alone"
        )
    firsts = [value for value in candidates if not any(_depends(value, other) for other in candidates)]
    best = next((value for value in firsts if final_activation(value)), firsts[0])
    return UnsupportedError(
        f"outputs: expected one row of scores, got several: {listed}; choose with --scores NAME, for example --scores "
        f"{best.name}; --also NAME keeps further outputs"
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


def count_values(output: ir.Value, shape: tuple[int, ...], batch: int) -> int:
    """Return the number of classes of the scores, or of values of a further output, given its shape for some windows.

    Raises UnsupportedError unless it is one row of values per window.
    """
    classes = max(shape[1:], default=1)
    if not shape or math.prod(shape) != batch * classes:
        raise not_a_classifier(output, shape)
    return classes


def check_distinct(outputs: Sequence[ir.Value]) -> None:
    """Raise UnsupportedError if two outputs of a converted graph are one value."""
    if len(set(outputs)) < len(outputs):
        raise UnsupportedError(
            "also: expected outputs with other values than the scores and each other, got two with equal values; leave "
            "one out"
        )


def final_activation(output: ir.Value) -> ir.Node | None:
    """Return the Softmax or Sigmoid that computes a value, apart from casts and reshapes; None for other operators.

    A Softmax over the batch axis does not count, since it compares windows instead of classes.
    """
    node = output.producer()
    while node is not None and node.op_type in PASSED_THROUGH and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    is_activation = node is not None and node.op_type in ("Softmax", "Sigmoid") and not _is_over_batch(node)
    return node if is_activation else None


def _is_over_batch(node: ir.Node) -> bool:
    """Return whether a node computes over axis 0; before operator set 13, its axis is the first of several."""
    graph, axis = node.graph, node.attributes.get("axis")
    return graph is not None and graph.opset_imports.get("", 0) >= ONE_AXIS and axis is not None and not axis.as_int()
