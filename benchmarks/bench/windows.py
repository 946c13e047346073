"""The windows of a square image, the parts of it that are timed, and the scaling of their times to the whole image."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Slices = tuple[slice, slice]
"""Vertical, then horizontal."""


@dataclass(frozen=True)
class Lattice:
    """The windows of a square image. Lengths are in pixels."""

    side: int
    window: int
    stride: int

    def __post_init__(self) -> None:
        if not 0 < self.window <= self.side:
            raise ValueError(f"window: expected 1 to {self.side} pixels, the side of the image, got {self.window}")
        if self.stride < 1:
            raise ValueError(f"stride: expected at least 1 pixel, got {self.stride}")

    @property
    def count(self) -> int:
        """Number of windows along one axis."""
        return (self.side - self.window) // self.stride + 1

    @property
    def windows(self) -> int:
        """Number of windows."""
        return self.count**2


@dataclass(frozen=True)
class Part:
    """Neighbouring windows of a lattice: the row and the column of the first one, and how many there are."""

    row: int
    col: int
    rows: int
    cols: int

    @property
    def windows(self) -> int:
        """Number of windows."""
        return self.rows * self.cols

    def pixels(self, lattice: Lattice) -> Slices:
        """Return the pixels of the image that the windows cover."""
        return _span(self.row, self.rows, lattice), _span(self.col, self.cols, lattice)

    def inside(self, other: "Part") -> Slices:
        """Return the cells of the grid of `other`, which contains this part, that belong to this part."""
        row, col = self.row - other.row, self.col - other.col
        return slice(row, row + self.rows), slice(col, col + self.cols)


def _span(first: int, count: int, lattice: Lattice) -> slice:
    start = first * lattice.stride
    return slice(start, start + (count - 1) * lattice.stride + lattice.window)


def centred(lattice: Lattice, count: int) -> Part:
    """Return count × count windows in the middle of an image, or all of them if there are fewer."""
    taken = min(count, lattice.count)
    first = (lattice.count - taken) // 2
    return Part(first, first, taken, taken)


@dataclass(frozen=True)
class Sample:
    """How many windows stand for an image: `parts` blocks of rows × cols neighbouring windows."""

    rows: int
    cols: int
    parts: int

    def draw(self, area: Part, rng: np.random.Generator) -> tuple[Part, ...]:
        """Return blocks at random places of an area without overlap; the area itself if they would fill it."""
        down, across = area.rows // self.rows, area.cols // self.cols
        if down * across < self.parts or self.rows * self.cols * self.parts >= area.windows:
            return (area,)
        chosen = np.sort(rng.choice(down * across, self.parts, replace=False))
        places = [divmod(int(place), across) for place in chosen]
        return tuple(
            Part(area.row + row * self.rows, area.col + col * self.cols, self.rows, self.cols) for row, col in places
        )


def scaled(seconds: float, timed: int, windows: int) -> float:
    """Return the seconds of all windows, from the seconds of the windows that were timed."""
    if not 0 < timed <= windows:
        raise ValueError(f"timed: expected 1 to {windows} windows, got {timed}")
    return seconds * windows / timed


def windows_of(pixels: NDArray[Any], window: int, stride: int) -> NDArray[Any]:
    """Return a view of every window: (channels, height, width) → (rows, cols, channels, window, window)."""
    views = np.lib.stride_tricks.sliding_window_view(pixels, (window, window), axis=(1, 2))
    return views[:, ::stride, ::stride].transpose(1, 2, 0, 3, 4)


def batches(views: NDArray[Any], size: int) -> Iterator[NDArray[Any]]:
    """Yield the windows of `windows_of` row by row, as (size, channels, window, window); the last batch may be less."""
    rows, cols = views.shape[:2]
    for first in range(0, rows * cols, size):
        row, col = np.divmod(np.arange(first, min(first + size, rows * cols)), cols)
        yield views[row, col]
