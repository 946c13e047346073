"""The choice of the windows of a certificate: cells of images at their own size, chosen at random from whole grids.

images, in random order → the whole grid of each, or the part of it that one pass may score → cells of all grids
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from converter.graph.geometry import Geometry2D
from converter.verify.grid_axis import GridAxis, GridPart
from converter.verify.images import PixelFormat, Pixels, SampleImage, synthetic_images

FEW_IMAGES = 8
"""Number of images that are always used, independent of their cost, if there are that many."""
INTERIOR_CELLS = 4
"""Smallest number of interior cells of a synthetic image along either axis."""
NOISE_IMAGES = 1
"""Smallest number of images of noise beside the image of the checks."""


@dataclass(frozen=True)
class Budget:
    """The extent of a measurement: the number of windows, and the largest number of pixels of one pass.

    If the images have at most `affordable_windows` windows, all windows are measured. `is_per_window` says that a pass
    costs one window per cell, as in mode crops.
    """

    windows: int
    pass_pixels: int
    affordable_windows: int = 0
    is_per_window: bool = False

    @property
    def cells(self) -> int:
        """Smallest number of cells from which the windows are chosen."""
        return max(self.windows, self.affordable_windows)


@dataclass(frozen=True)
class Sample:
    """An image, the part of its grid that is scored in one pass, and the cells (row, col) of the grid to compare."""

    image: SampleImage
    rows: GridPart
    cols: GridPart
    cells: Sequence[tuple[int, int]]

    @property
    def pixels(self) -> Pixels:
        """The part of the image that the pass reads."""
        return self.image.read(self.rows.pixels_read, self.cols.pixels_read)

    def window_of(self, cell: tuple[int, int], pixels: Pixels) -> Pixels:
        """Return the window of a cell (row, col); `pixels` are those of this sample."""
        row, col = cell
        return np.ascontiguousarray(pixels[self.rows.window_of(row), self.cols.window_of(col)])

    @property
    def is_whole(self) -> bool:
        """Whether the pass scores the whole image."""
        return self.rows.is_whole and self.cols.is_whole

    @property
    def has_interior(self) -> bool:
        """Whether the image has a cell that reads nothing beyond the image."""
        return bool(self.rows.axis.interior) and bool(self.cols.axis.interior)

    def is_interior(self, cell: tuple[int, int]) -> bool:
        """Return whether a cell reads nothing beyond the image."""
        return cell[0] in self.rows.axis.interior and cell[1] in self.cols.axis.interior


def choose_cells(
    images: Iterable[SampleImage],
    geometry: Geometry2D,
    window: tuple[int, int],
    budget: Budget,
    rng: np.random.Generator,
) -> list[Sample]:
    """Return samples with all cells if that is affordable, else with `budget.windows` cells, all equally likely.

    Images are taken in their order until there are enough cells, and the dense passes cost as much as the comparison
    of the windows will cost.
    """
    parts = list(_parts(images, geometry, window, budget, rng))
    counts = [rows.cells * cols.cells for _, rows, cols in parts]
    total = sum(counts)
    is_whole = all(part.is_whole for _, *both in parts for part in both)
    count = min(total, budget.cells if is_whole and total <= budget.cells else budget.windows)
    chosen = np.sort(rng.choice(total, count, replace=False))
    ends = np.cumsum(counts)
    samples = []
    for (image, rows, cols), end, count in zip(parts, ends, counts, strict=True):
        own = chosen[(chosen >= end - count) & (chosen < end)] - (end - count)
        cells = [(rows.first + int(cell) // cols.cells, cols.first + int(cell) % cols.cells) for cell in own]
        if cells:
            samples.append(Sample(image, rows, cols, cells))
    return samples


def synthetic_images_for(
    geometry: Geometry2D,
    window: tuple[int, int],
    pixel_format: PixelFormat,
    budget: Budget,
    known_cells: int,
    rng: np.random.Generator,
) -> Iterator[SampleImage]:
    """Yield synthetic images, of which a quarter of the cells is interior if one pass may be that large.

    Together with `known_cells` cells of other images, they have at least as many cells as the budget has windows.
    """
    side = math.isqrt(budget.pass_pixels)
    axes = []
    for axis, size in zip(geometry, window, strict=True):
        halo = GridAxis.with_interior(axis, size, 0).cells
        room = (side - size) // axis.stride + 1 - halo
        axes.append(GridAxis.with_interior(axis, size, max(INTERIOR_CELLS, min(halo, room))))
    cells = math.prod(axis.cells for axis in axes)
    count = max(NOISE_IMAGES, -((known_cells - budget.windows) // cells))
    yield from synthetic_images((axes[0].pixels, axes[1].pixels), pixel_format, window, count, rng)


def _parts(
    images: Iterable[SampleImage],
    geometry: Geometry2D,
    window: tuple[int, int],
    budget: Budget,
    rng: np.random.Generator,
) -> Iterator[tuple[SampleImage, GridPart, GridPart]]:
    """Yield images until there are enough, each with the part that one pass scores."""
    area, cells, pixels = math.prod(window), 0, 0
    for number, image in enumerate(images):
        if number >= FEW_IMAGES and cells >= budget.cells and pixels >= budget.windows * area:
            return
        vertical, horizontal = (GridAxis.of_image(*each) for each in zip(geometry, window, image.size, strict=True))
        rows, cols = _random_part(vertical, horizontal, budget.pass_pixels, rng)
        cells += rows.cells * cols.cells
        read = math.prod(part.pixels_read.stop - part.pixels_read.start for part in (rows, cols))
        pixels += rows.cells * cols.cells * area if budget.is_per_window else read
        yield image, rows, cols


def _random_part(
    vertical: GridAxis, horizontal: GridAxis, most: int, rng: np.random.Generator
) -> tuple[GridPart, GridPart]:
    """Return the part of an image that a pass over at most `most` pixels scores, as square as the image allows."""
    rows = vertical.random_part(max(math.isqrt(most), most // horizontal.pixels), rng)
    return rows, horizontal.random_part(most // (rows.pixels_read.stop - rows.pixels_read.start), rng)
