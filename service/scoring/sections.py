"""The division of a large image into sections, which are scored apart, also on several machines, and then merged.

    plan of the whole image → sections of its bands → SectionScores of each → MergedSections → rows and averages

A section is some consecutive bands of the plan of the whole image. It runs the same tiles as the whole image and
returns the sums of each of its bands, which are added in the order of the bands. Merged sections therefore give the
same rows and the same averages as the image scored as a whole, to the last bit.

Images that would have to be decoded from the top for each section, or whose parts depend on each other, are not
divided.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.dense.reducers import ViewMeans, make_means
from service.scoring.averaging import make_result
from service.scoring.execution import Execution
from service.scoring.grid import GridRows
from service.scoring.options import OTSU
from service.scoring.outcome import Result, Timing
from service.scoring.plan import View
from service.scoring.planned import PlannedImage

SECTION_PIXELS = 16 << 20
"""Pixels of a section, at the least: so many that opening the file again costs little."""
SECTION_BYTES = 64 << 20
"""Bytes of the grid of a section, beyond which it gets no further band. They are held in memory."""
LEAST, MOST = 4, 1024
"""Number of sections of an image: smaller images are not divided, larger ones have larger sections."""


@dataclass(frozen=True, eq=False)
class SectionScores:
    """What the bands of a section give."""

    rows: tuple[GridRows, ...]
    """Rows of the grid, if a grid was requested."""
    sums: NDArray[np.float64]
    """Sums over the scored cells of each band, (bands, views, 1 + areas, classes): of all cells, then of each area. If
    the mirrored image is scored too, it is a view of its own."""
    cells: NDArray[np.int64]
    """Number of these cells, (bands, views, 1 + areas)."""

    @staticmethod
    def of(rows: Iterable[GridRows], execution: Execution) -> "SectionScores":
        """Return the scores of an execution of some bands, whose rows are taken here."""
        taken = tuple(rows)
        every = [[view.every for view in band] for band in execution.band_means]
        sums = np.array([[[mean.sum for mean in view] for view in band] for band in every])
        cells = np.array([[[mean.cells for mean in view] for view in band] for band in every], np.int64)
        return SectionScores(taken, sums, cells)


class MergedSections:
    """The sections of an image, as one execution: iterate `rows`, then take `result`."""

    def __init__(self, planned: PlannedImage, sections: Iterable[SectionScores]) -> None:
        """Merge all sections of an image, from top to bottom. Each is taken when its rows are needed."""
        self._planned, self._sections = planned, sections
        classes, areas = planned.model.spec.output.classes, len(planned.areas)
        views = 2 if planned.plan.views[0].tile_plan.mirrored else 1
        self._means = [make_means(classes, areas) for _ in range(views)]

    def rows(self) -> Iterator[GridRows]:
        """Yield the rows of the grid from top to bottom, if there is a grid."""
        for section in self._sections:
            for sums, cells in zip(section.sums, section.cells, strict=True):
                _add(self._means, sums, cells)
            yield from section.rows

    def result(self) -> Result:
        """Return the averages, after the last row; raises ImageError if no window was scored."""
        return make_result(self._planned, self._means, Timing())


def _add(means: Sequence[ViewMeans], sums: NDArray[np.float64], cells: NDArray[np.int64]) -> None:
    """Add the sums of a band, (views, 1 + areas, classes), over numbers of cells, (views, 1 + areas)."""
    for view, view_sums, view_cells in zip(means, sums, cells, strict=True):
        for mean, total, count in zip(view.every, view_sums, view_cells, strict=True):
            mean.add_sum(total, int(count))


def is_large(pixels: int) -> bool:
    """Return whether an image of so many pixels may be divided."""
    return pixels >= LEAST * SECTION_PIXELS


def sections_of(planned: PlannedImage) -> tuple[slice, ...]:
    """Return the bands of each section of an image, from top to bottom; one section if the image is not divided."""
    view, options = planned.plan.views[0], planned.options
    row_bytes = view.tile_plan.horizontal.cells * options.cell_bytes * options.requested.grid
    divided = () if why_whole(planned) else divide(view, row_bytes)
    return divided if len(divided) >= LEAST else (slice(0, len(view.tile_plan.bands)),)


def why_whole(planned: PlannedImage) -> str:
    """Return why an image cannot be divided; empty if it can be."""
    picture, mask, view = planned.picture, planned.options.requested.mask, planned.plan.views[0]
    if len(planned.plan.views) > 1:
        return "it is scored at several sizes"
    if picture.decoded_whole:
        return "its file can only be decoded from the top"
    if picture.copy_for((view.height, view.width)).resampled:
        return "its decoder scales the level that is scored"
    if mask == OTSU:
        return "its foreground is found on the whole image"
    if callable(mask) and mask().decoded_whole:
        return "its mask can only be decoded from the top"
    return ""


def divide(view: View, row_bytes: int) -> tuple[slice, ...]:
    """Divide the bands of a view into sections, each with as few bands as give a section's size.

    `row_bytes` are the bytes of a row of the grid; 0 without a grid. A band that is left over joins the last section.
    """
    bands = view.tile_plan.bands
    share = max(SECTION_PIXELS, math.ceil(view.height * view.width / MOST))
    ends, size = list[int](), 0.0
    for position, band in enumerate(bands):
        first, stop = band.pixels
        rows = band.stop - band.first
        size += max((stop - first) * view.width / share, rows * row_bytes / SECTION_BYTES)
        if size >= 1:
            ends.append(position + 1)
            size = 0.0
    if not ends or ends[-1] < len(bands):
        ends[-1:] = [len(bands)]
    return tuple(slice(first, end) for first, end in zip([0, *ends], ends, strict=False))
