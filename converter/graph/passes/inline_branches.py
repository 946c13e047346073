"""Replaces each If whose condition is constant by the branch that it takes.

Exporters write such an If where a shape is open; for windows of one size it always takes the same branch.

Refused: an If whose condition depends on the pixels, and loops. The later passes would not see the values of the map
that the subgraphs read.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from converter.errors import UnsupportedError

SUBGRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


class InlineBranchesPass(ir.passes.InPlacePass):
    """Inline the branches that are taken; `constants` are the values that do not depend on the pixels, by name."""

    def __init__(self, constants: Mapping[str, NDArray[np.generic]]) -> None:
        super().__init__()
        self._constants = constants

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; raises UnsupportedError if a condition is not among the constants, or for a loop."""
        nodes = [node for node in model.graph if _has_subgraph(node)]
        for node in nodes:
            taken = self._condition(node)
            if taken is None:
                raise UnsupportedError(
                    f"node {node.name!r} ({node.op_type}): expected no branches or loops that depend on the pixels; "
                    "export it by tracing"
                )
            _inline(model.graph, node, "then_branch" if taken.all() else "else_branch")
        if nodes:
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
            common.TopologicalSortPass()(model)
            common.NameFixPass()(model)
        return ir.passes.PassResult(model, bool(nodes))

    def _condition(self, node: ir.Node) -> NDArray[np.generic] | None:
        """Return the condition of an If; None if the condition is not constant, or the node is not an If."""
        value = node.inputs[0] if node.op_type == "If" else None
        if value is None:
            return None
        return self._constants.get(str(value.name)) if value.const_value is None else value.const_value.numpy()


def _has_subgraph(node: ir.Node) -> bool:
    return any(attribute.type in SUBGRAPHS for attribute in node.attributes.values())


def _inline(graph: ir.Graph, node: ir.Node, name: str) -> None:
    """Replace an If by the nodes and initializers of one of its branches."""
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
    """Empty a branch that is not taken: its nodes would still count as users of outer values."""
    branch.outputs.clear()
    branch.remove(list(branch), safe=True)
