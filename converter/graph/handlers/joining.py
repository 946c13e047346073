"""Concat: joins the channels of several maps to one map."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from converter.graph.affine import AffineView, channels_at, identity_view
from converter.graph.convolutionalizer import Convolutionalizer, Handler, keep_node
from converter.graph.refusals import refusal


def concat(state: Convolutionalizer, node: ir.Node) -> Sequence[AffineView]:
    """Keep a Concat of maps along the channels; a Concat of other views becomes a view of the maps' concatenation."""
    axis = node.attributes["axis"].as_int()
    views = [_computed_view(state, node, position) for position in range(len(node.inputs))]
    if len(views[0].shape) == 4 and axis % 4 == 1:
        return keep_node(state, node)
    sizes = [view.map.size for view in views]
    if len({(size[0], *size[2:]) for size in sizes}) > 1:
        if axis % len(views[0].shape) == 3 and (maps := state.materialize_channels_last(node, views)):
            joined_size = (*maps[0].size[:1], sum(each.size[1] for each in maps), *maps[0].size[2:])
            joined = state.emit(node, "Concat", [each.value for each in maps], joined_size, axis=1)
            return [identity_view(joined).channels_last]
        if (features := _concatenate_features(state, node, views, axis)) is not None:
            return [features]
        raise refusal(node, f"expected maps of one size, got {', '.join(str(size[2:]) for size in sizes)}")
    if not all(view.is_selection for view in views):
        raise refusal(node, "expected to join unchanged elements of maps, got computed ones")
    return [_concatenate_maps(state, node, views, axis % len(views[0].shape))]


def _concatenate_maps(state: Convolutionalizer, node: ir.Node, views: Sequence[AffineView], axis: int) -> AffineView:
    """Return the concatenation of selections as a selection of the concatenation of their maps' channels."""
    sizes = [view.map.size for view in views]
    size = (sizes[0][0], sum(size[1] for size in sizes), *sizes[0][2:])
    joined = state.emit(node, "Concat", [view.map.value for view in views], size, axis=1)
    indices, first_channel = [], 0
    for view in views:
        image, channel, row, col = view.map.coordinates(view.index)
        indices.append(joined.flat_index(image, channel + first_channel, row, col))
        first_channel += view.map.size[1]
    return replace(views[0], map=joined, index=np.concatenate(indices, axis))


def _concatenate_features(
    state: Convolutionalizer, node: ir.Node, views: Sequence[AffineView], axis: int
) -> AffineView | None:
    """Return the concatenation of rows of features of several maps, as in a spatial pyramid; None for other views."""
    if len(views[0].shape) != 2 or axis % 2 != 1:
        return None
    parts = [features for view in views if (features := state.features_of(node, view, [1])) is not None]
    anchors = [part[1] for part in parts]
    if len(parts) < len(views) or any(not np.array_equal(each, anchors[0]) for each in anchors):
        return None
    sizes = [part[0].size for part in parts]
    if len({size[2:] for size in sizes}) > 1:
        return None
    size = (sizes[0][0], sum(each[1] for each in sizes), *sizes[0][2:])
    return channels_at(state.emit(node, "Concat", [part[0].value for part in parts], size, axis=1), anchors[0])


def _computed_view(state: Convolutionalizer, node: ir.Node, position: int) -> AffineView:
    view = state.view(node, position)
    if view is None:
        raise refusal(node, "it joins a constant to the map, such as a class token, which belongs to no position")
    return view


HANDLERS: dict[str, Handler] = {"Concat": concat}
