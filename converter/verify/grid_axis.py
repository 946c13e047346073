"""The grid of an image along one axis: the cells that read beyond the image, and parts of the grid.

With native stride S, receptive field R, padding P and window W, cell y of n reads pixels [yS − P, yS − P + R) of an
image that is cropped to its lattice, W + (n − 1)S pixels. The first ⌈P/S⌉ cells and the last ⌈max(0, R − P − W)/S⌉ read
beyond the image: they are the border. The others are the interior.
"""

from dataclasses import dataclass

import numpy as np

from converter.graph.geometry import AxisGeometry
from fullconv.common.geometry import border_after, border_before


@dataclass(frozen=True)
class GridAxis:
    """The cells of an image along one axis; every length in pixels."""

    geometry: AxisGeometry
    window: int
    cells: int

    @classmethod
    def of_image(cls, geometry: AxisGeometry, window: int, pixels: int) -> "GridAxis":
        """Return the cells of an image of `pixels` pixels, at least those of a window."""
        return cls(geometry, window, (pixels - window) // geometry.stride + 1)

    @classmethod
    def with_interior(cls, geometry: AxisGeometry, window: int, interior: int) -> "GridAxis":
        """Return the smallest grid with `interior` interior cells."""
        empty = cls(geometry, window, 0)
        return cls(geometry, window, empty.before + interior + empty.after)

    @property
    def before(self) -> int:
        """Number of cells at the top or left that read beyond the image."""
        return border_before(self.geometry.padding_before, self.geometry.stride)

    @property
    def after(self) -> int:
        """Number of cells at the bottom or right that read beyond the image."""
        geometry = self.geometry
        return border_after(self.window, geometry.receptive_field, geometry.padding_before, geometry.stride)

    @property
    def interior(self) -> range:
        """The cells that read nothing beyond the image; empty if the image is too small."""
        return range(self.before, max(self.before, self.cells - self.after))

    @property
    def pixels(self) -> int:
        """Pixels that the windows of all cells cover."""
        return self.window + (self.cells - 1) * self.geometry.stride

    def pixels_of(self, first: int, stop: int) -> slice:
        """Return the pixels that the windows of cells [first, stop) cover."""
        return slice(first * self.geometry.stride, (stop - 1) * self.geometry.stride + self.window)

    def random_part(self, pixels: int, rng: np.random.Generator) -> "GridPart":
        """Return all cells, or as many neighbouring cells as a pass over `pixels` pixels scores, placed at random."""
        if self.pixels <= pixels:
            return GridPart(self, 0, self.cells)
        scored = (pixels - self.window) // self.geometry.stride + 1 - self.before - self.after
        count = min(self.cells, max(1, scored))
        first = int(rng.integers(self.cells - count + 1))
        return GridPart(self, first, first + count)


@dataclass(frozen=True)
class GridPart:
    """Cells [first, stop) of a grid's axis, scored as a pass over the whole image scores them."""

    axis: GridAxis
    first: int
    stop: int

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.stop - self.first

    @property
    def is_whole(self) -> bool:
        """Whether these are all cells of the axis."""
        return self.cells == self.axis.cells

    @property
    def pixels_read(self) -> slice:
        """The pixels of the image that a pass must read for these cells and for the neighbours on which they depend."""
        return self.axis.pixels_of(self._first_scored, self._stop_scored)

    @property
    def cells_kept(self) -> slice:
        """The positions of these cells in that pass's grid."""
        return slice(self.first - self._first_scored, self.stop - self._first_scored)

    @property
    def cells_scored(self) -> int:
        """Number of cells that the pass computes."""
        return self._stop_scored - self._first_scored

    def window_of(self, cell: int) -> slice:
        """Return the pixels of a cell's window, counted from the first pixel that the pass reads."""
        window = self.axis.pixels_of(cell, cell + 1)
        return slice(window.start - self.pixels_read.start, window.stop - self.pixels_read.start)

    @property
    def _first_scored(self) -> int:
        return max(0, self.first - self.axis.before)

    @property
    def _stop_scored(self) -> int:
        return min(self.axis.cells, self.stop + self.axis.after)
