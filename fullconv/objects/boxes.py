"""Boxes from a window and a network's offsets of its edges, as MTCNN's networks define them.

With a window (x, y, width, height) and the offsets (left, top, right, bottom), as shares of the window's sides:

    x₁ = x + left · width            y₁ = y + top · height
    x₂ = x + width + right · width   y₂ = y + height + bottom · height
"""

import numpy as np
from numpy.typing import NDArray


def moved_boxes(windows: NDArray[np.int64], offsets: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return x, y, width and height of the boxes, (boxes, 4), of windows and offsets of the same shape."""
    starts, sizes = windows[:, :2], windows[:, 2:]
    begins = starts + offsets[:, :2].astype(np.float64) * sizes
    ends = starts + sizes + offsets[:, 2:].astype(np.float64) * sizes
    return np.concatenate([begins, ends - begins], axis=1)


def have_area(boxes: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which boxes are finite and have a width and a height above 0, (boxes,)."""
    return np.asarray(np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1))
