"""One way to write each thing, so that later passes see few forms.

Constants become initializers and are no graph inputs, functions are inlined, Dropout is gone, and so is every
value's stated shape: shapes are read off a run (`trace`); the source's hold for one size only.
"""

import onnx_ir as ir
from onnx_ir.passes import common

from converter.errors import UnsupportedError

IR_VERSION = 9
"""The oldest that lets initializers be no inputs and knows the operator set that is delivered."""


def canonicalise(model: ir.Model) -> None:
    """Rewrite the model in place; its scores stay the same."""
    passes = ir.passes.Sequential(
        common.InlinePass(),
        common.RemoveInitializersFromInputsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveUnusedNodesPass(),
        common.TopologicalSortPass(),
        common.NameFixPass(),
        common.ClearMetadataAndDocStringPass(),
    )
    passes(model)
    model.ir_version = max(model.ir_version, IR_VERSION)
    canonicalise_nodes(model.graph)


def canonicalise_nodes(graph: ir.Graph) -> None:
    """Drop what does nothing, refuse what is training, forget shapes: also of nodes that have come out of a branch."""
    for node in list(graph):
        if node.op_type == "BatchNormalization":
            _check_inference(node)
        if node.op_type == "Dropout" or _is_identity_pool(node):
            _drop(node, graph)
    for node in graph:
        for value in node.outputs:
            value.shape = None


def only_scores(graph: ir.Graph) -> int:
    """Position of the only output, or of the only one of rank 2; raises UnsupportedError if there is no such thing."""
    rows = [
        position
        for position, value in enumerate(graph.outputs)
        if len(graph.outputs) == 1 or (value.shape is not None and value.shape.rank() == 2)
    ]
    if len(rows) != 1:
        names = ", ".join(str(value.name) for value in graph.outputs)
        raise UnsupportedError(f"outputs: expected one row of scores, got {names}; export the classifier alone")
    return rows[0]


def _check_inference(node: ir.Node) -> None:
    """Batch normalisation by the statistics of the map itself belongs to training."""
    if "training_mode" in node.attributes and node.attributes["training_mode"].as_int():
        raise UnsupportedError(
            f"node {node.name!r} ({node.op_type}): exported in training mode; call eval() and export anew"
        )


def _is_identity_pool(node: ir.Node) -> bool:
    """An adaptive pool to the size that the map has already, as exporters write it."""
    if node.op_type != "AveragePool" or any(size != 1 for size in node.attributes["kernel_shape"].as_ints()):
        return False
    ones, zeros = ("strides", 1), ("pads", 0)
    return all(
        all(size == plain for size in node.attributes[name].as_ints())
        for name, plain in (ones, zeros)
        if name in node.attributes
    )


def _drop(node: ir.Node, graph: ir.Graph) -> None:
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        raise UnsupportedError(f"node {node.name!r} ({node.op_type}): its mask is used; export the network in eval()")
    source = node.inputs[0]
    assert source is not None  # noqa: S101 (neither operator's first input is optional)
    node.outputs[0].replace_all_uses_with(source, replace_graph_outputs=True)
    graph.remove(node, safe=True)
