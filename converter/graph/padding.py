"""Padding as it is meant: auto_pad and ceil_mode, which depend on the image's size, as the pads that a window gets.

SAME pads so that the output has ⌈size / stride⌉ elements; ceil_mode adds an element where the last stride does not
come out even, which padding at the far edge does as well. Both are fixed for windows of the training size: on the
lattice of larger images the remainders are the same. A Pad before a pool is kept apart from it.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from converter.graph.constants import constant
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


def keep_pads_apart(graph: ir.Graph) -> None:
    """Keep every Pad apart from the MaxPool behind it, in place."""
    for node in list(graph):
        if node.op_type == "MaxPool":
            keep_apart(graph, node)


def keep_apart(graph: ir.Graph, pool: ir.Node) -> None:
    """Put a Clip that clips nothing before a pool that ONNX Runtime would make one operator with what is before it.

    A Pad's zeros would become a MaxPool's −∞, its padding be too wide for a kernel, and an average of integers has no
    dilations there.
    """
    source = pool.inputs[0]
    producer = source.producer() if source is not None else None
    if source is None or producer is None or producer.op_type not in ("DequantizeLinear", "Pad"):
        return
    lowest = constant(graph, f"{pool.name}.lowest", np.array(np.finfo(float_of(source)).min))
    clip = ir.node("Clip", [source, lowest], name=f"{pool.name}.apart")
    clip.outputs[0].name, clip.outputs[0].type = f"{pool.name}.unclipped", source.type
    graph.insert_before(pool, clip)
    pool.replace_input_with(0, clip.outputs[0])


def float_of(value: ir.Value) -> type[np.floating[Any]]:
    """The element type of a map."""
    return np.float16 if value.dtype == ir.DataType.FLOAT16 else np.float32
