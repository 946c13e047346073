"""Removes nodes that pass a map on unchanged at inference, as exporters write them.

    Dropout(x) = x        AveragePool(x) = x, if its kernel is 1×1, its strides 1 and its pads 0

Refused: batch normalisation in training mode, whose statistics are those of the map itself; a Dropout whose mask is
used.
"""

import onnx_ir as ir

from converter.errors import UnsupportedError
from converter.graph.nodes import bypass, ints
from converter.graph.trace import values_of_pixels


class RemoveIdentitiesPass(ir.passes.InPlacePass):
    """Remove Dropout and pools of one element."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; raises UnsupportedError if the network was exported in training mode."""
        _check_inference(model.graph)
        identities = [node for node in model.graph if node.op_type == "Dropout" or _is_identity_pool(node)]
        for node in identities:
            if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
                raise UnsupportedError(
                    f"node {node.name!r} ({node.op_type}): its mask is used; call eval() and export again"
                )
            bypass(model.graph, node)
        return ir.passes.PassResult(model, bool(identities))


def _check_inference(graph: ir.Graph) -> None:
    """Raise UnsupportedError if batch normalisation in training mode depends on the image.

    On constants, such as weights, its result is constant.
    """
    of_pixels = values_of_pixels(graph)
    for node in graph:
        is_normalisation = node.op_type == "BatchNormalization" and node.outputs[0] in of_pixels
        if is_normalisation and node.attributes.get_int("training_mode"):
            raise UnsupportedError(
                f"node {node.name!r} ({node.op_type}): it was exported in training mode; call eval() and export again"
            )


def _is_identity_pool(node: ir.Node) -> bool:
    if node.op_type != "AveragePool" or set(ints(node, "kernel_shape", [])) != {1}:
        return False
    return set(ints(node, "strides", [1])) == {1} and not any(ints(node, "pads", []))
