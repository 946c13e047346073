"""Pixels that are NaN or infinite, which explain why scores are NaN or infinite.

Only models of floating-point pixels can get them: from arrays, and infinity from files. The pixels of a strip are gone
when its scores are there. Therefore the positions of such pixels are kept, if there are any.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.dense.arrays import Pixels

NAMES = {1: "NaN", 2: "infinity"}
"""The names of the numbers in `NonfinitePixels`. The number of finite pixels is 0."""

NonfinitePixels = NDArray[np.uint8]
"""What each pixel of a strip holds in one of its channels, (rows, cols)."""


class NonfinitePixel(NamedTuple):
    """A pixel that is not finite."""

    name: str
    """Its value."""
    y: int
    x: int
    """Its position in the strip."""


def nonfinite_pixels(strip: Pixels | None) -> NonfinitePixels | None:
    """Return which pixels of a strip (rows, cols, channels) are not finite; None if all are finite."""
    if strip is None or strip.dtype.kind != "f":
        return None
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        total = strip.sum(dtype=np.float64)
    if math.isfinite(total):
        return None
    has_nan, has_infinity = (np.asarray(is_kind(strip).any(axis=-1)) for is_kind in (np.isnan, np.isinf))
    return np.where(has_nan, np.uint8(1), np.where(has_infinity, np.uint8(2), np.uint8(0)))


def first_nonfinite(pixels: NonfinitePixels, top: int, left: int, window: tuple[int, int]) -> NonfinitePixel:
    """Return the first pixel that is not finite in a window (height, width), or in the strip if the window has none.

    A padded network also sees pixels beside the window.
    """
    inside = np.zeros_like(pixels)
    part = slice(max(0, top), top + window[0]), slice(left, left + window[1])
    inside[part] = pixels[part]
    searched = inside if inside.any() else pixels
    y, x = np.unravel_index(np.flatnonzero(searched)[0], searched.shape)
    return NonfinitePixel(NAMES[int(searched[y, x])], int(y), int(x))
