"""Replaces auto_pad and ceil_mode, whose padding depends on the image's size, by the explicit pads of one window.

    SAME_UPPER, SAME_LOWER    the output has ⌈size / stride⌉ elements
    ceil_mode                 the output has one element more where the last stride is not complete

For n elements, kernel k, dilation d, stride s and m outputs, both pad by (m − 1)s + (k − 1)d + 1 − n in total. On the
lattice of larger images n / s has the same remainder as for the window, so that the pads are the same.

Refused: ceil_mode of an average that counts its padding, since it would count the added padding too.
"""

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from converter.graph.nodes import first_input, ints, kernel_shape
from converter.graph.operators import WINDOWED
from converter.graph.refusals import refusal
from converter.graph.rewrites import Rewrite, RewriteResult

SIZE_DEPENDENT = ("auto_pad", "ceil_mode")
"""Attributes that the pass removes."""


def write_out_padding(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> RewriteResult:
    """Apply WriteOutPaddingPass; returns its result with the layers that were rewritten."""
    result = WriteOutPaddingPass(shapes)(model)
    assert isinstance(result, RewriteResult)  # noqa: S101 (`call` returns one)
    return result


class WriteOutPaddingPass(ir.passes.InPlacePass):
    """Make every convolution's and pool's pads explicit; `shapes` holds the values' shapes for one window, by name."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self._shapes = shapes

    def call(self, model: ir.Model) -> RewriteResult:
        """Apply the pass; raises UnsupportedError for padding that explicit pads cannot express."""
        nodes = [
            node
            for node in model.graph
            if node.op_type in WINDOWED and any(name in node.attributes for name in SIZE_DEPENDENT)
        ]
        rewrites = [rewrite for node in nodes for rewrite in self._write_out(node)]
        return RewriteResult(model, bool(nodes), rewrites)

    def ensures(self, model: ir.Model) -> None:
        """Raise PostconditionError if padding still depends on the image's size."""
        left = [node.name for node in model.graph if node.op_type in WINDOWED and "auto_pad" in node.attributes]
        if left:
            raise ir.passes.PostconditionError(f"expected explicit pads, got auto_pad in {left}")

    def _write_out(self, node: ir.Node) -> list[Rewrite]:
        auto = node.attributes.pop("auto_pad", None)
        ceil = node.attributes.pop("ceil_mode", None)
        mode = auto.as_string() if auto is not None else "NOTSET"
        if mode == "NOTSET" and (ceil is None or not ceil.as_int()):
            return []
        sizes = self._shapes[str(first_input(node).name)][2:]
        given = ints(node, "pads", [0] * 2 * len(sizes)) if mode == "NOTSET" else [0] * 2 * len(sizes)
        pads = _window_pads(node, sizes, self._shapes[str(node.outputs[0].name)][2:], given, mode)
        if pads == given and mode in ("NOTSET", "VALID"):
            return []
        if mode == "NOTSET":
            _exclude_padding(node, given)
        node.attributes["pads"] = ir.AttrInt64s("pads", pads)
        what = f"auto_pad {mode}" if mode != "NOTSET" else "ceil_mode"
        return [Rewrite(str(node.name), f"{node.op_type} with {what}", f"pads {pads}, as for the window")]


def _window_pads(
    node: ir.Node, sizes: Sequence[int], counts: Sequence[int], given: Sequence[int], mode: str
) -> list[int]:
    """Return the pads of a node that computes `counts` elements from `sizes` elements along each axis."""
    kernel = kernel_shape(node)
    strides, dilations = (ints(node, name, [1] * len(sizes)) for name in ("strides", "dilations"))
    before, after = list(given[: len(sizes)]), list(given[len(sizes) :])
    for axis, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        reach = (count - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        missing = max(0, reach - size - before[axis] - after[axis])
        first = {"SAME_LOWER": missing - missing // 2, "SAME_UPPER": missing // 2}.get(mode, 0)
        before[axis] += first
        after[axis] += missing - first
    return before + after


def _exclude_padding(pool: ir.Node, given: Sequence[int]) -> None:
    """Exclude the added padding from an average, as ceil_mode does; raises UnsupportedError if it cannot be."""
    counts = bool(pool.attributes.get_int("count_include_pad", 0))
    if pool.op_type != "MaxPool" and counts and any(given):
        raise refusal(pool, "expected ceil_mode = 0, because the average counts its padding")
    if pool.op_type == "AveragePool":
        pool.attributes.pop("count_include_pad", None)
