"""Non-maximum suppression, as torchvision.ops.nms defines it.

Boxes are taken in the order of their scores, the highest first, and equal scores in the order of the boxes. A box is
kept unless its intersection over union with a kept box is larger than the allowed overlap.

The boxes are sorted along the axis on which they extend further. There, the boxes that a kept box can overlap are in
one range: they begin before its end, and come after the last box up to which all have ended before it begins. Each kept
box is compared with its range at once, so that the time depends on the neighbours of a box and not on all boxes.
"""

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.int64] | NDArray[np.float64]
"""x, y, width and height of each box, (boxes, 4)."""
Edges = NDArray[np.float64]
"""Begin and end along one axis, then begin and end along the other axis: (4, boxes), or (4, 1) for one box."""


def suppress_by_class(
    boxes: Boxes, scores: NDArray[np.float32], classes: NDArray[np.int64], overlap: float
) -> NDArray[np.intp]:
    """Return the positions of the boxes that are kept among those of their class, (kept,), the highest score first.

    `scores` and `classes` are (boxes,); `overlap` is the largest intersection over union of two boxes that are kept.
    """
    members = [np.flatnonzero(classes == class_) for class_ in np.unique(classes)]
    kept = [each[suppress(boxes[each], scores[each], overlap)] for each in members]
    positions = np.sort(np.concatenate([np.empty(0, np.intp), *kept]))
    return positions[_by_score(scores[positions])]


def suppress(boxes: Boxes, scores: NDArray[np.float32], overlap: float) -> NDArray[np.intp]:
    """Return the positions of the boxes that are kept, (kept,), the highest score first.

    `scores` are (boxes,); `overlap` is the largest intersection over union of two boxes that are kept.
    """
    edges, sorted_as = _sorted_edges(boxes)
    begins, ends = edges[:2]
    firsts = np.searchsorted(np.maximum.accumulate(ends), begins, side="right")
    lasts = np.searchsorted(begins, ends)
    places = np.empty_like(sorted_as)
    places[sorted_as] = np.arange(len(sorted_as))
    is_open = np.ones(len(places), bool)
    kept = list[int]()
    for position in _by_score(scores):
        place = places[position]
        if is_open[place]:
            kept.append(position)
            near = slice(firsts[place], lasts[place])
            is_open[near] &= ~(_overlaps(edges[:, place, None], edges[:, near]) > overlap)
    return np.array(kept, np.intp)


def _by_score(scores: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return positions, those of the highest scores first, and those of equal scores in their order."""
    return np.argsort(-scores, kind="stable")


def _sorted_edges(boxes: Boxes) -> tuple[Edges, NDArray[np.intp]]:
    """Return the edges of boxes, sorted by their begins on the axis of the larger extent, and the boxes' positions."""
    axes = [np.stack([boxes[:, axis], boxes[:, axis] + boxes[:, axis + 2]]).astype(np.float64) for axis in (0, 1)]
    edges = np.concatenate(sorted(axes, key=lambda axis: np.ptp(axis) if axis.size else 0, reverse=True))
    sorted_as = np.argsort(edges[0], kind="stable")
    return edges[:, sorted_as], sorted_as


def _overlaps(one: Edges, others: Edges) -> NDArray[np.float64]:
    """Return the intersection over union of one box and other boxes, NaN for boxes without area."""
    sides = np.minimum(one[1::2], others[1::2]) - np.maximum(one[::2], others[::2])
    shared = np.prod(np.maximum(sides, 0), axis=0)
    with np.errstate(invalid="ignore"):
        overlaps: NDArray[np.float64] = shared / (_areas(one) + _areas(others) - shared)
    return overlaps


def _areas(edges: Edges) -> NDArray[np.float64]:
    areas: NDArray[np.float64] = np.prod(edges[1::2] - edges[::2], axis=0)
    return areas
