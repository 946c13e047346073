"""Padding written out: auto_pad and ceil_mode, which depend on the image's size, as the pads that a window gets.

SAME pads so that the output has ⌈size / stride⌉ elements; ceil_mode adds an element where the last stride does not
come out even, which padding at the far edge does as well. Both are fixed for windows of the training size: on the
lattice of larger images the remainders are the same.
"""

import math
from collections.abc import Mapping

import onnx_ir as ir

from converter.graph.geometry import ints, kernel_of
from converter.graph.lift import Rewrite, refusal
from converter.graph.operators import WINDOWED


def write_out_padding(graph: ir.Graph, shapes: Mapping[str, tuple[int, ...]]) -> list[Rewrite]:
    """Make pads explicit, in place; `shapes` are those for one window. Returns what was written out."""
    return [rewrite for node in graph if node.op_type in WINDOWED for rewrite in _written_out(node, shapes)]


def _written_out(node: ir.Node, shapes: Mapping[str, tuple[int, ...]]) -> list[Rewrite]:
    auto = node.attributes.pop("auto_pad", None)
    mode = auto.as_string() if auto is not None else "NOTSET"
    ceil = node.attributes.pop("ceil_mode", None)
    if mode == "NOTSET" and (ceil is None or not ceil.as_int()):
        return []
    source = node.inputs[0]
    assert source is not None  # noqa: S101 (not optional)
    extents, outputs = shapes[str(source.name)][2:], shapes[str(node.outputs[0].name)][2:]
    kernel = kernel_of(node)
    strides, dilations = (ints(node, name, [1] * len(extents)) for name in ("strides", "dilations"))
    given = ints(node, "pads", [0] * 2 * len(extents)) if mode == "NOTSET" else [0] * 2 * len(extents)
    before, after = list(given[: len(extents)]), list(given[len(extents) :])
    for axis, (size, count) in enumerate(zip(extents, outputs, strict=True)):
        reach = (count - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        missing = max(0, reach - size - before[axis] - after[axis])
        first = math.ceil(missing / 2) if mode == "SAME_LOWER" else missing // 2 if mode == "SAME_UPPER" else 0
        before[axis] += first
        after[axis] += missing - first
    if before + after == given and mode in ("NOTSET", "VALID"):
        return []
    if node.op_type != "MaxPool" and mode == "NOTSET" and _counts_padding(node) and any(given):
        raise refusal(node, "expected ceil_mode = 0 where an average counts its padding")
    if node.op_type == "AveragePool" and mode == "NOTSET":
        node.attributes.pop("count_include_pad", None)
    node.attributes["pads"] = ir.AttrInt64s("pads", before + after)
    what = f"auto_pad {mode}" if mode != "NOTSET" else "ceil_mode"
    return [Rewrite(str(node.name), f"{node.op_type} with {what}", f"pads {before + after}, as for the window")]


def _counts_padding(node: ir.Node) -> bool:
    return "count_include_pad" in node.attributes and bool(node.attributes["count_include_pad"].as_int())
