"""The cells that a mask selects, and the cost of a plan inside a mask."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.dense.tiles import AxisBand
from service.errors import ImageError
from service.images.decoding import Decoding
from service.images.mask import Mask, Spans
from service.scoring.band import Band
from service.scoring.plan import View
from service.scoring.planned import PlannedImage


@dataclass(frozen=True)
class ViewCount:
    """The part of a view's plan that lies inside the mask."""

    tiles: int
    multiply_adds: float
    cells: int


def count_inside_mask(planned: PlannedImage, decoding: Decoding) -> list[ViewCount]:
    """Return the cost of each view inside the mask, after reading the whole mask.

    Raises ImageError if a view has no cell to score; `decoding.pause` may raise an error to stop.
    """
    counts = []
    for view in planned.plan.views:
        mask = planned.open_mask(decoding)
        if mask is None:
            counts.append(ViewCount(len(view.tile_plan), view.multiply_adds, view.tile_plan.cells))
        else:
            counts.append(_count(planned, mask, view, decoding))
    check_any_scored(planned, [count.cells for count in counts])
    return counts


def _count(planned: PlannedImage, mask: Mask, view: View, decoding: Decoding) -> ViewCount:
    tiles, multiply_adds, cells = 0, 0.0, 0
    for axis in view.tile_plan.bands:
        decoding.pause()
        wanted = wanted_cells(planned, mask, view, axis)
        to_run = Band(view, axis, wanted, has_grid=False).tiles()
        tiles += len(to_run)
        multiply_adds += sum(planned.plan.mode.multiply_adds_of(*tile) for tile in to_run)
        cells += int(wanted.sum())
    return ViewCount(tiles, multiply_adds, cells)


def check_any_scored(planned: PlannedImage, cells: Iterable[int]) -> None:
    """Raise ImageError if a view has no cell to score; `cells` are the numbers of scored cells of the views."""
    if all(cells):
        return
    if planned.options.requested.mask is None:
        raise ImageError(
            f"{planned.picture.name}: expected at least one window without missing pixels (GDAL_NODATA, NaN), got none"
            "; choose another region (in the command --roi), or a file with data"
        )
    raise ImageError(f"{planned.picture.name}: mask: expected at least one window to score, got none")


def wanted_cells(planned: PlannedImage, mask: Mask, view: View, band: AxisBand) -> NDArray[np.bool_]:
    """Return which cells of a band are scored, (rows, cols)."""
    return mask.select_windows(*window_spans(planned, view, band))


def window_spans(planned: PlannedImage, view: View, band: AxisBand) -> tuple[Spans, Spans]:
    """Return where the windows of a band lie in the image, in pixels of the image: their rows and their columns."""
    vertical, horizontal = view.tile_plan.vertical, view.tile_plan.horizontal
    window, picture = planned.model.spec.window, planned.picture
    rows = _spans(vertical.positions[band.first : band.stop], window.height, view.height, picture.height)
    return rows, _spans(horizontal.positions, window.width, view.width, picture.width)


def _spans(starts: NDArray[np.int64], window: int, scaled: int, extent: int) -> Spans:
    """Return where windows of a scaled image begin and end, in pixels of the image itself: at least one pixel each."""
    first, stop = (np.rint(edges * (extent / scaled)).astype(np.int64) for edges in (starts, starts + window))
    first = np.minimum(first, extent - 1)
    return first, np.clip(stop, first + 1, extent)
