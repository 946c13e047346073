"""Lines around the regions of a mask."""

from collections.abc import Iterator

import numpy as np
from contourpy import LineType, contour_generator
from numpy.typing import NDArray

from fullconv.blocks import Blocks

CELLS = 1024
"""Largest number of blocks along the longer side of an outlined mask; finer masks are thinned out."""
SHARP, INSET = 512, 0.05
"""Largest number of blocks along the longer side for which lines follow the blocks' edges, and the share of a block
that a line cuts off at a corner."""
SPECK = 3.0, 1e-3
"""Regions smaller than both this number of blocks and this share of the mask have no line."""
Line = NDArray[np.float64]
"""Points (points, 2): x and y in pixels of the image."""


def outlines(mask: NDArray[np.bool_], rows: Blocks, cols: Blocks, least: float) -> Iterator[tuple[Line, bool]]:
    """Yield lines around the regions of a mask (blocks down, blocks across), and whether the line encloses a region.

    A line that does not enclose a region runs around a hole. Areas below `least`, in square pixels of the image, have
    no line.
    """
    step = -(-max(mask.shape) // CELLS)
    rows, cols, mask = rows.thinned(step), cols.thinned(step), mask[::step, ::step]
    cell = float(np.median(np.diff(rows.edges)) * np.median(np.diff(cols.edges)))
    least = max(least, min(SPECK[0], SPECK[1] * mask.size) * cell)
    copies = 2 if max(mask.shape) <= SHARP else 1
    inside = np.pad(mask.repeat(copies, 0).repeat(copies, 1).astype(np.float32), 1)
    x, y = _samples(cols, copies), _samples(rows, copies)
    generator = contour_generator(x, y, inside, line_type=LineType.ChunkCombinedOffset)
    for points, offsets in zip(*generator.lines(0.5), strict=True):
        if points is None or offsets is None:
            continue
        areas = _areas(points, offsets)
        for number in np.flatnonzero(np.abs(areas) >= least):
            yield points[offsets[number] : offsets[number + 1]], bool(areas[number] > 0)


def _samples(blocks: Blocks, copies: int) -> NDArray[np.floating]:
    """Return the sampling positions of the mask: the blocks' centres or both their edges, and one beyond each end."""
    edges, widths = blocks.edges, np.diff(blocks.edges)
    inset = np.minimum(np.append(widths, widths[-1]), np.append(widths[0], widths)) * INSET
    both = np.column_stack([edges[:-1] + inset[:-1], edges[1:] - inset[1:]]).ravel()
    inner = both if copies == 2 else blocks.centres
    return np.concatenate([[2 * edges[0] - inner[0]], inner, [2 * edges[-1] - inner[-1]]])


def _areas(points: Line, offsets: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the area in each closed line, by the shoelace formula; the sign tells the direction of the line."""
    x, y = points.T
    crossed = np.append(x[:-1] * y[1:] - x[1:] * y[:-1], 0)
    crossed[offsets[1:] - 1] = 0  # from the end of a line to the beginning of the next
    return np.add.reduceat(crossed, offsets[:-1].astype(np.intp)) / 2
