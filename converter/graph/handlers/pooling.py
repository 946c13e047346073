"""Pools and reductions: those over the whole map become sliding pools, those over channels are kept.

A pool whose kernel covers the whole map (N, C, h, w) of a window, or that partitions the map before a head, becomes a
pool with the same kernel at every position (stride 1). The view of its output holds the positions that the source had.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from converter.graph.affine import AffineView, FeatureMap, Ints, channels_at, identity_view
from converter.graph.convolutionalizer import Convolutionalizer, Handler, keep_node
from converter.graph.nodes import add_constant, constant_input, ints
from converter.graph.operators import ELEMENTWISE, MOVEMENT, REDUCTIONS
from converter.graph.refusals import refusal

POOLS = {"ReduceMean": "AveragePool", "ReduceMax": "MaxPool", "ReduceSum": "AveragePool"}
"""For each reduction, the pool that computes it over a rectangle; a sum is an average times the number of elements."""
GLOBAL_POOLS = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}
"""For each global pool, the equivalent reduction over rows and columns."""


@dataclass(frozen=True)
class _Reduction:
    """A reduction of a view along some axes by the operator `op_type`, written as `node` in the source."""

    node: ir.Node
    op_type: str
    view: AffineView
    axes: Sequence[int]


def global_pool(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Convert GlobalAveragePool and GlobalMaxPool."""
    view = state.input_view(node)
    axes = range(2, len(view.shape))
    return [_reduce(state, _Reduction(node, GLOBAL_POOLS[node.op_type], view, axes), keep_axes=True)]


def reduction(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Convert ReduceMean, ReduceSum, ReduceMax and other reductions."""
    view = state.input_view(node)
    rank = len(view.shape)
    given = constant_input(node, 1).tolist() if len(node.inputs) > 1 and node.inputs[1] is not None else []
    axes = sorted(axis % rank for axis in given) or list(range(rank))
    keep_axes = bool(node.attributes.get_int("keepdims", 1))
    return [_reduce(state, _Reduction(node, node.op_type, view, axes), keep_axes=keep_axes)]


def _reduce(state: Convolutionalizer, reduced: _Reduction, *, keep_axes: bool) -> AffineView:
    """Return a reduction as a view; raises UnsupportedError if it is neither a pool, along channels, nor linear."""
    view, axes = reduced.view, reduced.axes
    rows = _reduce_positions(state, reduced) or _reduce_channels(state, reduced)
    if rows is None and reduced.op_type in ("ReduceMean", "ReduceSum"):
        count = math.prod(view.shape[axis] for axis in axes) if reduced.op_type == "ReduceMean" else 1
        rows = view.sum_along(axes).scale_and_shift(1 / count, 0.0)
    if rows is None:
        raise refusal(reduced.node, "it reads the whole map in a way that no pool does")
    shape = [1 if axis in axes else size for axis, size in enumerate(view.shape) if keep_axes or axis not in axes]
    return rows.reshape(tuple(shape))


def _reduce_positions(state: Convolutionalizer, reduced: _Reduction) -> AffineView | None:
    """Return a reduction of each channel over one rectangle of the map as a pool; None for other reductions."""
    if reduced.op_type not in POOLS or not reduced.view.is_selection:
        return None
    rows, source = reduced.view.as_rows(reduced.axes), reduced.view.map
    channel = rows.channel_indices()
    if not (channel == channel[:, :1]).all():
        return None
    single_channel = FeatureMap(source.value, (source.size[0], 1, *source.size[2:]))
    stencil = AffineView(single_channel, rows.position_indices()[..., None]).stencil([1])
    if stencil is None or not stencil.is_rectangle:
        return None
    (height, width), count = stencil.extent, len(stencil.channel)
    if count > 1:
        op_type, kernel = POOLS[reduced.op_type], f"{height}×{width}"
        size = (*source.size[:2], source.size[2] - height + 1, source.size[3] - width + 1)
        source = state.emit(reduced.node, op_type, [source.value], size, kernel_shape=[height, width])
        state.record(reduced.node, f"{reduced.node.op_type} of {kernel}", f"{op_type} {kernel}, stride 1")
    image, row, col = stencil.anchors.T
    pooled = AffineView(source, source.flat_index(image, channel[:, 0], row, col)[:, None])
    return pooled.scale_and_shift(float(count), 0.0) if reduced.op_type == "ReduceSum" and count > 1 else pooled


def _reduce_channels(state: Convolutionalizer, reduced: _Reduction) -> AffineView | None:
    """Return a reduction over the channels of each position; None for other reductions."""
    stencil = reduced.view.stencil(reduced.axes)
    if stencil is None or not stencil.is_pointwise:
        return None
    node = reduced.node
    features, anchors = state.channels_of(node, reduced.view, reduced.axes)
    axes = add_constant(state.graph, f"{node.name}.axes", np.array([1]))
    size = (features.size[0], 1, *features.size[2:])
    made = state.emit(node, reduced.op_type, [features.value, axes], size, keepdims=1)
    return channels_at(made, anchors).reshape((len(anchors),))


def pool(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Convert AveragePool, LpPool and MaxPool: a pool before the head slides to every position, other pools remain."""
    view = state.input_view(node)
    kernel = ints(node, "kernel_shape", [])
    if len(view.shape) == 5 and kernel[1:] == [1, 1]:
        return [_average_channels(node, view, kernel[0])]
    keep_node(state, node)
    extent, output = state.input_view(node).map.size[2:], state.shapes[node.outputs[0]]
    if _covers_map(node, extent):
        kernel = list(extent)
    elif any(ints(node, "pads", [])) or not _partitions_map(node, extent) or not _feeds_head(node):
        return ()
    return [_slide(state, node, kernel, output)] if _is_changed(node, kernel) else ()


def _covers_map(node: ir.Node, extent: Sequence[int]) -> bool:
    """Return whether the pool's only window holds the whole map, and padding, if there is any, is not counted."""
    kernel, pads = ints(node, "kernel_shape", []), ints(node, "pads", [0] * 4)
    strides, dilations = ints(node, "strides", [1, 1]), ints(node, "dilations", [1, 1])
    is_single = all(
        size + pads[axis] + pads[axis + 2] - kernel[axis] < strides[axis] and kernel[axis] - pads[axis] >= size
        for axis, size in enumerate(extent)
    )
    counts_pads = node.op_type != "MaxPool" and any(pads) and bool(node.attributes.get_int("count_include_pad", 0))
    return is_single and dilations == [1, 1] and not counts_pads


def _partitions_map(node: ir.Node, extent: Sequence[int]) -> bool:
    """Return whether the node computes averages over a partition of the map into equal rectangles."""
    kernel = ints(node, "kernel_shape", [])
    fits = not any(size % side for size, side in zip(extent, kernel, strict=True))
    return node.op_type == "AveragePool" and ints(node, "strides", [1, 1]) == kernel and fits


def _is_changed(node: ir.Node, kernel: Sequence[int]) -> bool:
    """Return whether the pool with this kernel at every position differs from the node."""
    is_same = ints(node, "kernel_shape", []) == list(kernel) and not any(ints(node, "pads", []))
    return not is_same or ints(node, "strides", [1, 1]) != [1, 1]


def _slide(state: Convolutionalizer, node: ir.Node, kernel: Sequence[int], output: Sequence[int]) -> AffineView:
    """Make the node a pool at every position; returns the positions that the source had, of the shape `output`."""
    strides, extent = ints(node, "strides", [1, 1]), state.input_view(node).map.size[2:]
    was = f"{node.op_type} {'×'.join(map(str, ints(node, 'kernel_shape', [])))}, stride {'×'.join(map(str, strides))}"
    state.record(node, was, f"{node.op_type} {'×'.join(map(str, kernel))}, stride 1")
    for name in ("strides", "pads"):
        node.attributes.pop(name, None)
    node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", kernel)
    height, width = (total - side + 1 for total, side in zip(extent, kernel, strict=True))
    pooled = FeatureMap(node.outputs[0], (output[0], output[1], height, width))
    state.shapes[node.outputs[0]] = pooled.size
    index = identity_view(pooled).index
    return AffineView(pooled, index[:, :, :: strides[0], :: strides[1]][:, :, : output[2], : output[3]])


def _feeds_head(node: ir.Node) -> bool:
    """Return whether a node feeds only fully connected layers, apart from movement and pointwise operators between."""
    pending, seen = [node], {node}
    while pending:
        users = {use.node for use in pending.pop().outputs[0].uses()}
        passed = {user for user in users if user.op_type in MOVEMENT | ELEMENTWISE}
        if not users or any(user.op_type not in ("Gemm", "MatMul") for user in users - passed):
            return False
        pending += passed - seen
        seen |= passed
    return True


def _average_channels(node: ir.Node, view: AffineView, kernel: int) -> AffineView:
    """Return a 3-D average over channels alone, as PyTorch exports local response normalisation."""
    is_strided = ints(node, "strides", [1, 1, 1]) != [1, 1, 1]
    if node.op_type != "AveragePool" or is_strided or any(ints(node, "pads", [])):
        raise refusal(node, "expected a plain average over channels")
    numbers: Ints = np.arange(view.index[..., 0].size).reshape(view.shape)
    windows = view.gather(np.lib.stride_tricks.sliding_window_view(numbers, kernel, axis=2))
    shape = windows.shape[:-1]
    return windows.sum_along([5]).scale_and_shift(1 / kernel, 0.0).reshape(shape)


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(GLOBAL_POOLS, global_pool),
    **dict.fromkeys(REDUCTIONS, reduction),
    **dict.fromkeys(["AveragePool", "LpPool", "MaxPool"], pool),
}
