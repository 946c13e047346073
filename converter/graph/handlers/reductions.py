"""Reductions: those over positions become sliding pools, those over channels are kept.

A sum or mean of values that no pool computes is an affine view. Features at several positions that are reduced
together, as for the length of a flattened map, are first brought to the channels of one position.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from converter.graph.affine import AffineView, FeatureMap, Ints, channels_at
from converter.graph.convolutionalizer import Convolutionalizer, Handler
from converter.graph.handlers.log_sum_exp import log_sum_exp
from converter.graph.nodes import add_constant, constant_input
from converter.graph.operators import REDUCTIONS
from converter.graph.refusals import refusal

POOLS = {
    "ReduceL1": ("LpPool", {"p": 1}),
    "ReduceL2": ("LpPool", {"p": 2}),
    "ReduceMax": ("MaxPool", {}),
    "ReduceMean": ("AveragePool", {}),
    "ReduceMin": ("MaxPool", {}),
    "ReduceSum": ("AveragePool", {}),
    "ReduceSumSquare": ("AveragePool", {}),
}
"""For each reduction, the pool that computes it over a rectangle: of the negative values for a minimum, of the squares
for a sum of squares. A sum is an average times the number of elements."""
SUMS = ("ReduceSum", "ReduceSumSquare")
OF_SEVERAL = {"ReduceMax": "Max", "ReduceMin": "Min"}
"""For each reduction, the operator that computes it of several maps."""
MAX_PIECES = 64
"""Largest number of channels of a maxout unit."""
GLOBAL_POOLS = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}
"""For each global pool, the equivalent reduction over rows and columns."""


@dataclass(frozen=True)
class Reduction:
    """A reduction of a view along some axes by the operator `op_type`, written as `node` in the source."""

    node: ir.Node
    op_type: str
    view: AffineView
    axes: Sequence[int]


def global_pool(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Convert GlobalAveragePool and GlobalMaxPool."""
    view = state.input_view(node)
    axes = range(2, len(view.shape))
    return [reduce_view(state, Reduction(node, GLOBAL_POOLS[node.op_type], view, axes), keep_axes=True)]


def reduction(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Convert ReduceMean, ReduceSum, ReduceMax and other reductions."""
    view = state.input_view(node)
    rank = len(view.shape)
    given = constant_input(node, 1).tolist() if len(node.inputs) > 1 and node.inputs[1] is not None else []
    axes = sorted(axis % rank for axis in given) or list(range(rank))
    keep_axes = bool(node.attributes.get_int("keepdims", 1))
    return [reduce_view(state, Reduction(node, node.op_type, view, axes), keep_axes=keep_axes)]


def reduce_view(state: Convolutionalizer, reduced: Reduction, *, keep_axes: bool) -> AffineView:
    """Return a reduction as a view; raises UnsupportedError if it is neither a pool, along channels, nor linear."""
    view, axes = reduced.view, reduced.axes
    rows = _reduce_positions(state, reduced) or _reduce_channels(state, reduced)
    rows = rows or _reduce_pieces(state, reduced)
    if rows is None and reduced.op_type in ("ReduceMean", "ReduceSum"):
        count = math.prod(view.shape[axis] for axis in axes) if reduced.op_type == "ReduceMean" else 1
        rows = view.sum_along(axes).scale_and_shift(1 / count, 0.0)
    if rows is None:
        rows = _reduce_features(state, reduced)
    if rows is None:
        raise refusal(reduced.node, "it reads the whole map in a way that no pool does")
    shape = [1 if axis in axes else size for axis, size in enumerate(view.shape) if keep_axes or axis not in axes]
    return rows.reshape(tuple(shape))


def _reduce_positions(state: Convolutionalizer, reduced: Reduction) -> AffineView | None:
    """Return a reduction of each channel over one rectangle of the map as a pool; None for other reductions."""
    if reduced.op_type not in (*POOLS, "ReduceLogSumExp") or not reduced.view.is_selection:
        return None
    rows, source = reduced.view.as_rows(reduced.axes), reduced.view.map
    channel = rows.channel_indices()
    if not (channel == channel[:, :1]).all():
        return None
    single_channel = FeatureMap(source.value, (source.size[0], 1, *source.size[2:]))
    stencil = AffineView(single_channel, rows.position_indices()[..., None]).stencil([1])
    if stencil is None or not stencil.is_rectangle:
        return None
    count = len(stencil.channel)
    if count > 1:
        source = _slide(state, reduced, source, stencil.extent)
    image, row, col = stencil.anchors.T
    pooled = AffineView(source, source.flat_index(image, channel[:, 0], row, col)[:, None])
    return pooled.scale_and_shift(float(count), 0.0) if reduced.op_type in SUMS and count > 1 else pooled


def _slide(state: Convolutionalizer, reduced: Reduction, source: FeatureMap, extent: tuple[int, int]) -> FeatureMap:
    """Return a map reduced over a rectangle at every position; of a sum, the mean."""
    node, rectangle = reduced.node, f"{extent[0]}×{extent[1]}"
    if reduced.op_type == "ReduceLogSumExp":
        state.record(node, f"{node.op_type} of {rectangle}", f"log-sum-exp {rectangle}, stride 1")
        return log_sum_exp(state, node, source, extent)
    op_type, attributes = POOLS[reduced.op_type]
    state.record(node, f"{node.op_type} of {rectangle}", f"{op_type} {rectangle}, stride 1")
    if reduced.op_type == "ReduceSumSquare":
        source = state.emit(node, "Mul", [source.value, source.value], source.size)
    if reduced.op_type == "ReduceMin":
        source = state.emit(node, "Neg", [source.value], source.size)
    size = (*source.size[:2], source.size[2] - extent[0] + 1, source.size[3] - extent[1] + 1)
    pooled = state.emit(node, op_type, [source.value], size, kernel_shape=list(extent), **attributes)
    return state.emit(node, "Neg", [pooled.value], size) if reduced.op_type == "ReduceMin" else pooled


def _reduce_channels(state: Convolutionalizer, reduced: Reduction) -> AffineView | None:
    """Return a reduction over the channels of each position; None for other reductions."""
    stencil = reduced.view.stencil(reduced.axes)
    if stencil is None or not stencil.is_pointwise:
        return None
    return _reduce_map(state, reduced, *state.channels_of(reduced.node, reduced.view, reduced.axes))


def _reduce_map(state: Convolutionalizer, reduced: Reduction, features: FeatureMap, anchors: Ints) -> AffineView:
    """Return a reduction over all channels of a map at `anchors` (rows, 3), as (rows,)."""
    node = reduced.node
    axes = add_constant(state.graph, f"{node.name}.axes", np.array([1]))
    size = (features.size[0], 1, *features.size[2:])
    made = state.emit(node, reduced.op_type, [features.value, axes], size, keepdims=1)
    return channels_at(made, anchors).reshape((len(anchors),))


def _reduce_pieces(state: Convolutionalizer, reduced: Reduction) -> AffineView | None:
    """Return a reduction over other channels for each row, as in a maxout unit; None for other reductions."""
    if reduced.op_type not in OF_SEVERAL or not reduced.view.is_selection:
        return None
    rows, source = reduced.view.as_rows(reduced.axes), reduced.view.map
    position, pieces = rows.position_indices(), rows.shape[1]
    if pieces > MAX_PIECES or not (position == position[:, :1]).all():
        return None
    channels, units = np.unique(rows.channel_indices(), axis=0, return_inverse=True)
    size = (source.size[0], len(channels), *source.size[2:])
    parts = [state.select_channels(reduced.node, source, channels[:, piece]).value for piece in range(pieces)]
    made = state.emit(reduced.node, OF_SEVERAL[reduced.op_type], parts, size)
    image, _, row, col = source.coordinates(rows.index[:, 0, 0])
    return AffineView(made, made.flat_index(image, units.reshape(-1), row, col)[:, None])


def _reduce_features(state: Convolutionalizer, reduced: Reduction) -> AffineView | None:
    """Return a reduction over features at several positions, brought to one position; None if they are too many."""
    features = state.features_of(reduced.node, reduced.view, reduced.axes)
    return None if features is None else _reduce_map(state, reduced, *features)


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(GLOBAL_POOLS, global_pool),
    **dict.fromkeys(REDUCTIONS, reduction),
}
