"""Prepends the preprocessing, which converts pixels (N, H, W, C) to the network's own input.

    x · factor + offset, each (channels,),    factor = scale / std,    offset = −mean / std

Before these come a Transpose for a network that takes (N, C, H, W), a swap of the channels for BGR, and a Cast to
float32.
"""

import numpy as np
import onnx_ir as ir

from converter.graph.nodes import add_constant, rename
from converter.preprocessing import Preprocessing

IMAGE = "image"
"""Name of the new input."""
TYPES = {"uint8": ir.DataType.UINT8, "uint16": ir.DataType.UINT16, "float32": ir.DataType.FLOAT}
PREFIX = "preprocess."
"""Prefix of the name of every node, value and constant that the pass adds."""


class PrependPreprocessingPass(ir.passes.InPlacePass):
    """Prepend preprocessing for a number of channels; `layout` is that of the network's input, "NCHW" or "NHWC"."""

    def __init__(self, preprocessing: Preprocessing, channels: int, layout: str) -> None:
        super().__init__()
        self._preprocessing, self._channels, self._layout = preprocessing, channels, layout

    def requires(self, model: ir.Model) -> None:
        """Raise PreconditionError unless the first input, the image, is float32 and states its four axes."""
        image = model.graph.inputs[0]
        if image.dtype != ir.DataType.FLOAT or image.shape is None or image.shape.rank() != 4:
            raise ir.passes.PreconditionError(f"expected a float32 image of rank 4, got {image}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass, which replaces the graph's input by "image" of the preprocessing's type."""
        graph, old = model.graph, model.graph.inputs[0]
        assert old.shape is not None  # noqa: S101 (a precondition)
        sizes = dict(zip(self._layout, old.shape, strict=True))
        new = ir.val(None, TYPES[self._preprocessing.dtype], ir.Shape([sizes[axis] for axis in "NHWC"]))
        nodes = self._nodes(graph, new)
        for node in nodes:
            node.name = f"{PREFIX}{node.op_type}"
            node.outputs[0].name = f"{PREFIX}{node.op_type}.output"
        old.replace_all_uses_with(nodes[-1].outputs[0])
        graph.inputs[:] = [new]
        rename(graph, new, IMAGE)
        graph.insert_before(graph[0], nodes)
        return ir.passes.PassResult(model, modified=True)

    def _nodes(self, graph: ir.Graph, image: ir.Value) -> list[ir.Node]:
        """Return the nodes of the preprocessing in order; only their constants are in the graph already."""
        channel_axis = self._layout.index("C")
        factor, offset = (
            part.reshape(-1, 1, 1) if channel_axis == 1 else part for part in self._preprocessing.affine(self._channels)
        )
        steps = list[tuple[str, ir.Value | None, dict[str, int | list[int]]]]()
        if self._layout == "NCHW":
            steps.append(("Transpose", None, {"perm": [0, 3, 1, 2]}))
        if self._preprocessing.order == "BGR":
            swap = add_constant(graph, f"{PREFIX}order", np.array([2, 1, 0]))
            steps.append(("Gather", swap, {"axis": channel_axis}))
        if self._preprocessing.dtype != "float32":
            steps.append(("Cast", None, {"to": int(ir.DataType.FLOAT)}))
        steps.append(("Mul", add_constant(graph, f"{PREFIX}factor", factor), {}))
        if offset.any():
            steps.append(("Add", add_constant(graph, f"{PREFIX}offset", offset), {}))
        nodes = list[ir.Node]()
        for op_type, constant, attributes in steps:
            source = nodes[-1].outputs[0] if nodes else image
            nodes.append(ir.node(op_type, [source] if constant is None else [source, constant], attributes))
        return nodes
