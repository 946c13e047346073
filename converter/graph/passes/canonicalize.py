"""Brings a graph into one standard form, so that later passes find each construct in one form only.

Functions are inlined; constants become initializers, which are not graph inputs; nodes that do nothing at inference are
removed; values state no shapes, because the source's shapes hold for one image size only.
"""

import onnx_ir as ir
from onnx_ir.passes import common

from converter.graph.passes.clear_shapes import ClearShapesPass
from converter.graph.passes.remove_identities import RemoveIdentitiesPass

IR_VERSION = 9
"""The oldest ir_version whose initializers need not be inputs, and that allows the operator set of converted models."""


class CanonicalizePass(ir.passes.InPlacePass):
    """Canonicalize a model; its scores stay the same."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; raises UnsupportedError if the network was exported in training mode."""
        version = model.ir_version
        model.ir_version = max(version, IR_VERSION)
        passes = (
            common.InlinePass(),
            common.RemoveInitializersFromInputsPass(),
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            common.RemoveUnusedNodesPass(),
            common.TopologicalSortPass(),
            common.NameFixPass(),
            common.ClearMetadataAndDocStringPass(),
            RemoveIdentitiesPass(),
            ClearShapesPass(),
        )
        results = [each(model) for each in passes]
        return ir.passes.PassResult(model, version < IR_VERSION or any(result.modified for result in results))

    def ensures(self, model: ir.Model) -> None:
        """Raise PostconditionError if a function call or a constant input remains."""
        constant_inputs = [value.name for value in model.graph.inputs if value.name in model.graph.initializers]
        if model.functions or constant_inputs:
            raise ir.passes.PostconditionError(
                f"expected no functions and no constant inputs, got {len(model.functions)} and {constant_inputs}"
            )
