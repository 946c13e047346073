"""Scoring a planned image: strips of pixels in; rows of the grid and the averages out.

    strip by strip → band of tiles by band → rows of the grid, and the means

Memory holds strips, tiles and the rows of one band, so that it does not grow with the height of the image.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from service.dense.arrays import Pixels, Scores
from service.dense.reducers import ViewMeans, make_means
from service.dense.tiles import AxisBand
from service.engine.engine import Engine, InlineEngine
from service.errors import CancelledRunError
from service.images.decoding import UNSHARED, Decoding
from service.images.picture import Picture, TurnRows
from service.images.rows import KeptRows, RowReader, ScaledRows, read_strips
from service.scoring.averaging import make_result
from service.scoring.band import Band, BandScoring, Stopwatch, Wanted
from service.scoring.grid import GridRows
from service.scoring.masking import wanted_cells, window_spans
from service.scoring.outcome import Result, Timing
from service.scoring.plan import View
from service.scoring.planned import PlannedImage

ALL_BANDS = slice(None)


def ignore_progress(_done: int, _total: int) -> None:
    """Do nothing."""


class Execution:
    """Scores a planned image once: iterate `rows`, then take `result`.

    `engine` runs the tiles. Default: the calling thread. `decoding` says when pixels are decoded. Default: as soon as
    they are needed. `progress` is called with the tiles that are done and their total. `bands` are the positions of the
    bands of each view that are scored. Default: all.
    """

    def __init__(
        self,
        planned: PlannedImage,
        engine: Engine | None = None,
        progress: Callable[[int, int], None] = ignore_progress,
        *,
        decoding: Decoding = UNSHARED,
        bands: slice = ALL_BANDS,
    ) -> None:
        self._planned, self._engine, self._progress = planned, engine or InlineEngine(), progress
        self._decoding, self._selected = decoding, bands
        self.band_means: list[Sequence[ViewMeans]] = []
        """The means of each band that was scored, if some bands were selected."""
        self._kept: KeptRows | None = None
        self._started = time.monotonic()
        self._stopwatch = Stopwatch()
        self._means: list[ViewMeans] = []
        self._tiles_done = 0
        self._bands: Iterator[BandScoring] | None = None
        self._begun: Sequence[BandScoring] = ()
        self._submitted = 0.0

    def begin(self) -> None:
        """Read the first strip and submit its first tiles, without waiting for their scores."""
        self._bands = self._start_bands()
        self._begun = list(islice(self._bands, 1))
        self._submitted = time.monotonic()

    def rows(self) -> Iterator[GridRows]:
        """Score every view; yields the rows of the first view's grid from top to bottom, if the options ask for it.

        Raises an error of `service.errors`; CancelledRunError once the request is cancelled.
        """
        bands = self._start_bands()
        if self._bands is not None:
            bands = chain(self._begun, self._bands)
            self._stopwatch.compute += time.monotonic() - self._submitted
        # The bands refer to this object. This ends the reference cycle, so that the object and its pixels are freed
        # at once.
        self._bands, self._begun = None, ()
        for band in bands:
            yield from self._timed(band.rows(self._advance))
            if self._selected != ALL_BANDS:
                self.band_means.append(band.means)

    def result(self) -> Result:
        """Return the averages, after the last row. Raises ImageError if no window was scored."""
        return make_result(self._planned, self._means, self.timing)

    @property
    def timing(self) -> Timing:
        """Where the time has gone so far."""
        clock = self._stopwatch
        return Timing(
            decode=clock.decode, compute=clock.compute, reduce=clock.reduce, total=time.monotonic() - self._started
        )

    def fraction_done(self) -> float:
        """Return the share of the tiles that are done, 0 to 1."""
        return self._tiles_done / self._planned.plan.tile_count

    def check_cancelled(self) -> None:
        """Raise CancelledRunError if the request was cancelled."""
        if self._engine.cancelled:
            raise CancelledRunError(f"{self._planned.picture.name}: the request was cancelled")

    def _start_bands(self) -> Iterator[BandScoring]:
        """Yield every band of every view once its first tiles are submitted."""
        planned = self._planned
        for number, view in enumerate(planned.plan.views):
            classes, areas = planned.model.spec.output.classes, len(planned.areas)
            means = [make_means(classes, areas) for _ in range(2 if view.tile_plan.mirrored else 1)]
            self._means += means
            has_grid = planned.options.requested.grid and number == 0
            for axis, wanted, strip in self._strips(view):
                band = Band(view, axis, wanted, has_grid, self._in_areas(view, axis, wanted))
                scoring = BandScoring(planned, band, strip, means, self._submit, self._stopwatch)
                self._advance(scoring.skipped)
                yield scoring

    def _in_areas(self, view: View, band: AxisBand, wanted: Wanted) -> tuple[NDArray[np.bool_], ...]:
        """Return which scored cells of a band lie in each named area."""
        if wanted is None or not self._planned.areas:
            return ()
        spans, selected = window_spans(self._planned, view, band), list[NDArray[np.bool_]]()
        for area in self._planned.areas:
            self.check_cancelled()  # there may be hundreds of areas
            selected.append(area.select_windows(*spans) & wanted)
        return tuple(selected)

    def _submit(self, tiles: Sequence[Pixels], multiply_adds: float) -> Future[Sequence[Scores]]:
        self.check_cancelled()
        return self._engine.submit(self._planned.session, tiles, multiply_adds)

    def _advance(self, tiles: int) -> None:
        self._tiles_done += tiles
        self._progress(self._tiles_done, self._planned.plan.tile_count)

    def _timed(self, rows: Iterator[GridRows]) -> Iterator[GridRows]:
        """Yield the same rows; the time that they take, without compute, counts as reducing."""
        clock = self._stopwatch
        while True:
            before, computed = time.monotonic(), clock.compute
            part = next(rows, None)
            clock.reduce += time.monotonic() - before - (clock.compute - computed)
            if part is None:
                return
            yield part

    def _strips(self, view: View) -> Iterator[tuple[AxisBand, Wanted, Pixels | None]]:
        """Yield every band with its pixels, None if no cell of it is scored. The next strip is read meanwhile."""
        self.check_cancelled()
        planned = self._planned
        mask = planned.open_mask(self._decoding)
        bands: deque[tuple[AxisBand, Wanted]] = deque()

        def spans() -> Iterator[tuple[int, int] | None]:
            for band in view.tile_plan.bands[self._selected]:
                self.check_cancelled()
                wanted = None if mask is None else wanted_cells(planned, mask, view, band)
                bands.append((band, wanted))
                yield band.pixels if wanted is None or wanted.any() else None

        before = time.monotonic()
        for strip in read_strips(self._pixel_rows(view), spans()):
            self._stopwatch.decode += time.monotonic() - before
            yield *bands.popleft(), strip
            before = time.monotonic()

    def _pixel_rows(self, view: View) -> RowReader:
        """Return the rows of the image, scaled to the size of the view."""
        scaled = (view.height, view.width)
        source = self._planned.picture.copy_for(scaled)
        rows = self._source_rows(source)
        is_same = source.size == scaled
        return TurnRows(rows if is_same else ScaledRows(rows, source.size, scaled), source.cost, self._decoding)

    def _source_rows(self, source: Picture) -> RowReader:
        """Return the rows of the image or a copy of it: decoded again for each view, or kept after the first."""
        planned = self._planned
        if self._kept is not None:
            return self._kept
        rows = source.rows(planned.model.spec.input, self._decoding)
        if not planned.decoding.keeps_pixels:
            return rows
        self._kept = KeptRows(rows, source.height)
        return self._kept
