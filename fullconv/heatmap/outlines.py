"""Lines around the regions where something holds."""

from collections.abc import Iterator

import numpy as np
from contourpy import LineType, contour_generator
from numpy.typing import NDArray

from fullconv.heatmap.cells import Blocks

CELLS = 1024
"""Blocks along the longer side of the mask that is outlined; finer ones are thinned out."""
SHARP, INSET = 512, 0.05
"""Blocks along the longer side up to which lines follow the blocks' edges, and how much of a corner they cut."""
SPECK = 3.0, 1e-3
"""Regions smaller than this number of blocks, and than this share of the mask, are only counted."""
Line = NDArray[np.float64]
"""Points (points, 2): x and y in pixels of the image."""


def outlines(mask: NDArray[np.bool_], rows: Blocks, cols: Blocks, least: float) -> Iterator[tuple[Line, bool]]:
    """A line around every region of the mask (blocks down, blocks across), and whether it encloses the region.

    The other lines run around holes. Areas below `least`, in square pixels of the image, have no line.
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
    """Where the mask is sampled: at the blocks' centres, or at both of their edges; and beyond each end."""
    edges, widths = blocks.edges, np.diff(blocks.edges)
    inset = np.minimum(np.append(widths, widths[-1]), np.append(widths[0], widths)) * INSET
    both = np.column_stack([edges[:-1] + inset[:-1], edges[1:] - inset[1:]]).ravel()
    inner = both if copies == 2 else blocks.centres
    return np.concatenate([[2 * edges[0] - inner[0]], inner, [2 * edges[-1] - inner[-1]]])


def _areas(points: Line, offsets: NDArray[np.integer]) -> NDArray[np.float64]:
    """What each closed line encloses, by the shoelace formula; the sign says which way the line runs."""
    x, y = points.T
    crossed = np.append(x[:-1] * y[1:] - x[1:] * y[:-1], 0)
    crossed[offsets[1:] - 1] = 0  # from the end of a line to the beginning of the next
    return np.add.reduceat(crossed, offsets[:-1].astype(np.intp)) / 2
