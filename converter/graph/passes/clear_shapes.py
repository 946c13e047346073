"""Removes the shapes that a graph states for its nodes' outputs.

A source's shapes hold for its own image size. The shapes for one window are taken from a run (`graph.trace`) instead.
"""

import onnx_ir as ir


class ClearShapesPass(ir.passes.InPlacePass):
    """Clear the shape of every node's outputs; the graph's inputs keep theirs."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass, which changes only shapes."""
        stated = [value for node in model.graph for value in node.outputs if value.shape is not None]
        for value in stated:
            value.shape = None
        return ir.passes.PassResult(model, bool(stated))
