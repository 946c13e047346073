"""Replaces computed values that do not depend on the pixels by constants, and removes casts that change no type.

The values are taken from a run on one window (`graph.trace`): a head's reshapes are often computed from the map's
shape, and in old files the weights are the output of a Reshape. The nodes that computed them remain, without users.
"""

import onnx_ir as ir

from converter.graph.nodes import add_constant, first_input
from converter.graph.trace import Trace


class FoldConstantsPass(ir.passes.InPlacePass):
    """Fold the values that are constant in a trace of the same model."""

    def __init__(self, traced: Trace) -> None:
        super().__init__()
        self._traced = traced

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; adds initializers named "VALUE.folded"."""
        modified = False
        for node in list(model.graph):
            if self._is_idle_cast(node):
                source, cast = first_input(node), node.outputs[0]
                modified |= bool(cast.uses()) or cast.is_graph_output()
                cast.replace_all_uses_with(source, replace_graph_outputs=True)
                continue
            for value in node.outputs:
                array = None if _is_quantized_kernel(node) else self._traced.constants.get(str(value.name))
                if array is not None and any(value.uses()):
                    folded = add_constant(model.graph, f"{value.name}.folded", array)
                    value.replace_all_uses_with(folded, replace_graph_outputs=True)
                    modified = True
        return ir.passes.PassResult(model, modified)

    def _is_idle_cast(self, node: ir.Node) -> bool:
        types = self._traced.types
        if node.op_type != "Cast" or str(first_input(node).name) not in types:
            return False
        return types[str(first_input(node).name)] == types[str(node.outputs[0].name)]


def _is_quantized_kernel(node: ir.Node) -> bool:
    """Return whether a node dequantizes constant weights that only convolutions use; these weights stay integers."""
    uses = node.outputs[0].uses()
    is_constant = node.op_type == "DequantizeLinear" and all(value.const_value for value in node.inputs if value)
    return is_constant and bool(uses) and all(use.node.op_type == "Conv" and use.idx == 1 for use in uses)
