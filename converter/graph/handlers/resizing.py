"""Resize and ConvTranspose by an integer factor are kept; a fixed size becomes a factor, and so do computed pads.

    Resize(x, sizes = f·size of x)                  Resize(x, scales = f)
    ConvTranspose(x, output_shape or auto_pad)      ConvTranspose(x, pads, as for the window)

Refused: other factors, and resizing the summary of a whole map.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converter.graph.affine import AffineView
from converter.graph.convolutionalizer import Convolutionalizer, Handler, keep_node
from converter.graph.nodes import constant_input, ints, set_constant_input
from converter.graph.refusals import MIXED_SUMMARY, refusal
from converter.graph.upsampling import upsampling

FIXED = ("axes", "keep_aspect_ratio_policy")
"""Attributes of a Resize that describe its sizes."""


def resize(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Keep a Resize by integer factors; a Resize to the map's own size is left out."""
    view = state.input_view(node)
    shape, output = view.shape, state.shapes[node.outputs[0]]
    has_sizes = len(node.inputs) > 3 and node.inputs[3] is not None
    factors = [after // before for before, after in zip(shape, output, strict=True)]
    scales = np.divide(output, shape) if has_sizes or len(shape) != 4 else _scales(node)
    if len(shape) != 4 or factors[:2] != [1, 1] or not np.array_equal(scales, factors):
        before, after = (sizes[2:] if shape[:2] == output[:2] else sizes for sizes in (shape, output))
        raise refusal(
            node, f"expected to enlarge rows and columns by integer factors, got {_times(before)} to {_times(after)}"
        )
    if set(factors) == {1}:
        return [view]
    _check_map(node, view, output)
    if has_sizes:
        state.record(node, f"Resize to {_times(output[2:])}", f"Resize by {_times(factors[2:])}")
    for name in FIXED:
        node.attributes.pop(name, None)
    node.resize_inputs(3)
    node.replace_input_with(1, None)
    set_constant_input(state.graph, node, 2, np.array(factors, np.float32))
    return keep_node(state, node)


def _scales(node: ir.Node) -> NDArray[np.float64]:
    """Return the scales of a Resize along the four axes of a map, (4,)."""
    scales = np.ones(4)
    scales[ints(node, "axes", range(4))] = constant_input(node, 2)
    return scales


def transposed_convolution(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Keep a ConvTranspose, with the pads that it has for one window."""
    view = state.input_view(node)
    _check_map(node, view, state.shapes[node.outputs[0]])
    auto = node.attributes.pop("auto_pad", None)
    shape = node.attributes.pop("output_shape", None)
    mode = auto.as_string() if auto is not None else "NOTSET"
    if mode != "NOTSET" or shape is not None:
        _write_out_pads(node, view.shape[2:], state.shapes[node.outputs[0]][2:], is_upper=mode == "SAME_UPPER")
    return keep_node(state, node)


def _write_out_pads(node: ir.Node, sizes: Sequence[int], counts: Sequence[int], *, is_upper: bool) -> None:
    """Give a ConvTranspose that makes `counts` elements of `sizes` the pads that ONNX Runtime computes."""
    node.attributes["pads"] = ir.AttrInt64s("pads", [0] * 4)
    surplus = [
        layer.output_size(size) - count for layer, size, count in zip(upsampling(node), sizes, counts, strict=True)
    ]
    totals = [max(0, each) for each in surplus]
    before = [total // 2 if is_upper else total - total // 2 for total in totals]
    after = [total - first for total, first in zip(totals, before, strict=True)]
    extra = [own + max(0, -each) for own, each in zip(ints(node, "output_padding", [0, 0]), surplus, strict=True)]
    node.attributes["pads"] = ir.AttrInt64s("pads", [*before, *after])
    node.attributes["output_padding"] = ir.AttrInt64s("output_padding", extra)


def _check_map(node: ir.Node, view: AffineView, output: Sequence[int]) -> None:
    """Raise UnsupportedError for a summary of the whole map, such as its average, which has one row or column."""
    if any(before == 1 < after for before, after in zip(view.shape[2:], output[2:], strict=True)):
        raise refusal(node, MIXED_SUMMARY)


def _times(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))


HANDLERS: dict[str, Handler] = {"ConvTranspose": transposed_convolution, "Resize": resize}
