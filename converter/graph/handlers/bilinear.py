"""Bilinear pooling: the sum, over all positions of a map, of the products of its channels with those of another map."""

import numpy as np
import onnx_ir as ir

from converter.graph.affine import AffineView
from converter.graph.convolutionalizer import Convolutionalizer
from converter.graph.handlers.reductions import Reduction, reduce_view
from converter.graph.refusals import ATTENTION, refusal

MAX_PRODUCTS = 1 << 14
"""Largest number of products of channels, each of which becomes a channel."""


def pool_products(state: Convolutionalizer, node: ir.Node, left: AffineView, right: AffineView) -> AffineView:
    """Return the product of matrices (N, channels, positions) and (N, positions, channels) of the same positions.

    Raises UnsupportedError, naming the node, for other matrices, as attention multiplies them.
    """
    rows, columns = _channels(left), _channels(right.gather(_transposed(right)))
    if rows is None or columns is None or left.map.size[2:] != right.map.size[2:]:
        raise refusal(node, ATTENTION)
    positions = left.position_indices()[:, 0], right.position_indices()[..., 0]
    if not np.array_equal(*positions):
        raise refusal(node, ATTENTION)
    count = len(rows) * len(columns)
    if count > MAX_PRODUCTS:
        raise refusal(node, f"expected at most {MAX_PRODUCTS} products of channels, got {count}")
    factors = [
        state.select_channels(node, left.map, np.repeat(rows, len(columns))),
        state.select_channels(node, right.map, np.tile(columns, len(rows))),
    ]
    products = state.emit(node, "Mul", [factor.value for factor in factors], factors[0].size)
    image, _, row, col = (part[:, None, None] for part in left.map.coordinates(left.index[:, 0, :, 0]))
    channel = np.arange(count).reshape(1, len(rows), len(columns), 1)
    view = AffineView(products, products.flat_index(image, channel, row, col)[..., None])
    return reduce_view(state, Reduction(node, "ReduceSum", view, [3]), keep_axes=False)


def _transposed(view: AffineView) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Return the numbers of the elements of matrices (N, a, b) in the order of their transposes."""
    return np.arange(view.index[..., 0].size).reshape(view.shape).swapaxes(-1, -2)


def _channels(view: AffineView) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None:
    """Return the channel of each row of matrices (N, channels, positions); None for other views."""
    if not view.is_selection or len(view.shape) != 3:
        return None
    channel, position = view.channel_indices(), view.position_indices()
    if not (channel == channel[:1, :, :1]).all() or not (position == position[:, :1]).all():
        return None
    return channel[0, :, 0]
