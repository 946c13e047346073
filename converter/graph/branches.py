"""Branches that windows of one size always take, written into the graph: exporters leave them for open shapes."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from converter.errors import UnsupportedError

SUBGRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def take_branches(model: ir.Model, constants: Mapping[str, NDArray[np.generic]]) -> bool:
    """Replace every If whose condition is among the constants by the branch taken, in place; whether there was one.

    Raises UnsupportedError for other branches, and for loops: what they read of the map would escape the passes.
    """
    nodes = [node for node in model.graph if any(part.type in SUBGRAPHS for part in node.attributes.values())]
    for node in nodes:
        condition = node.inputs[0] if node.op_type == "If" else None
        taken = constants.get(str(condition.name)) if condition is not None else None
        if condition is not None and condition.const_value is not None:
            taken = condition.const_value.numpy()
        if taken is None:
            raise UnsupportedError(
                f"node {node.name!r} ({node.op_type}): expected no branches or loops that depend on the pixels; "
                "export it traced"
            )
        _take(model.graph, node, "then_branch" if taken.all() else "else_branch")
    if nodes:
        ir.passes.Sequential(
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            common.TopologicalSortPass(),
            common.NameFixPass(),
        )(model)
    return bool(nodes)


def _take(graph: ir.Graph, node: ir.Node, name: str) -> None:
    branch = node.attributes[name].as_graph()
    outputs = list(branch.outputs)
    branch.outputs.clear()
    for value in list(branch.initializers.values()):
        branch.initializers.pop(str(value.name))
        value.name = f"{node.name}.{value.name}"
        graph.register_initializer(value)
    inner = list(branch)
    branch.remove(inner)
    graph.insert_before(node, inner)
    for old, new in zip(node.outputs, outputs, strict=True):
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    for attribute in node.attributes.values():
        _discard(attribute.as_graph())
    graph.remove(node, safe=True)


def _discard(branch: ir.Graph) -> None:
    """Let go of what a branch reads from outside, or its nodes would count as users."""
    branch.outputs.clear()
    branch.remove(list(branch), safe=True)
