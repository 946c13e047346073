"""One image being scored as planned: strips of pixels in; rows of the grid, and the averages, out.

    strip by strip → tile by tile → means, and the rows of the grid

Nothing larger than a strip, a tile and the rows of one band is kept, however large the image.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from fullconv.protos import scoring_pb2
from service.answer import classes
from service.dense.arrays import Pixels
from service.dense.reducers import Mean, argsort_descending, probabilities
from service.dense.tiles import AxisBand, AxisTile
from service.engine.engine import PREFETCH_BATCHES, Engine, InlineEngine
from service.engine.repository import StoredModel
from service.engine.session import Session
from service.errors import CancelledRunError, ImageError, ModelError
from service.grid import BandGrid, GridRows
from service.images.mask import Mask, Spans
from service.images.picture import Picture
from service.images.rows import RowReader, ScaledRows, read_strips
from service.options import OF_PROBABILITIES, Options
from service.plan import Plan, View

SMALL = 1 << 16
"""Pixels of an image that is decoded in less time than it takes to hand it to another thread and back."""
Wanted = NDArray[np.bool_] | None
"""Which cells of a band are scored, (rows, cols); None: all."""


@dataclass
class Run:
    """Iterate `bands`, then take `answer`; `response` is known from the beginning but for averages and times."""

    picture: Picture
    model: StoredModel
    session: Session
    plan: Plan
    options: Options
    described: scoring_pb2.ScoreResponse
    """What is known of every image so planned."""
    masks: Callable[[Callable[[], None]], Mask | None] = lambda _: None
    """Begins the mask, from the top; what it is given is called now and then, and may raise to stop."""
    engine: Engine = field(default_factory=InlineEngine)
    progress: Callable[[int], None] = lambda _: None
    """Told the tiles that are done, of `plan.tile_count`."""
    started: float = field(default_factory=time.monotonic)
    response: scoring_pb2.ScoreResponse = field(init=False)
    _parts: Iterator["_Band"] | None = field(init=False, default=None)
    _first: Sequence["_Band"] = field(init=False, default=())
    _submitted: float = field(init=False, default=0.0)
    _means: list[Mean] = field(init=False, default_factory=list)
    _done: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Say everything that is known before the pixels are."""
        self.response = scoring_pb2.ScoreResponse()
        self.response.CopyFrom(self.described)
        self.response.MergeFrom(classes(self.model, self.options))
        self.response.image.name = self.picture.name
        self.response.warnings.extend(self.picture.warnings(self.model.spec.input))

    @property
    def small(self) -> bool:
        """Whether all of its tiles are submitted as it begins, and its pixels are few."""
        views = self.plan.views
        if len(views) > 1 or self.options.asked.WhichOneof("mask") or self.options.asked.plan_only:
            return False
        pixels = max(self.picture.width * self.picture.height, views[0].width * views[0].height)
        if pixels > SMALL or len(views[0].tile_plan.bands) > 1:
            return False
        return self.plan.mode.submits(views[0].tile_plan, views[0].batch) <= PREFETCH_BATCHES

    def begin(self) -> None:
        """Read the first strip and submit its first tiles, without waiting for their scores."""
        self._parts = self._begun()
        self._first = list(islice(self._parts, 1))
        self._submitted = time.monotonic()

    def bands(self) -> Iterator[GridRows]:
        """Score every view; yields the first one's rows, top to bottom, if a grid was asked for."""
        parts = self._begun()
        if self._parts is not None:
            parts = chain(self._first, self._parts)
            self.response.timing.compute_ms += _milliseconds(self._submitted)
        self._parts, self._first = None, []  # they know this run: it is gone, pixels and all, when its caller lets go
        for part in parts:
            yield from self._reduced(part.rows())
        self.response.scored_cells = self._means[0].cells

    def _reduced(self, parts: Iterator[GridRows]) -> Iterator[GridRows]:
        """Yield the same rows; the time that they take, apart from compute, counts as reducing."""
        timing = self.response.timing
        while True:
            before, computed = time.monotonic(), timing.compute_ms
            rows = next(parts, None)
            timing.reduce_ms += _milliseconds(before) + computed - timing.compute_ms
            if rows is None:
                return
            yield rows

    def _begun(self) -> Iterator["_Band"]:
        """Every band of every view, its first tiles on their way."""
        for number, view in enumerate(self.plan.views):
            means = [Mean(self.model.spec.output.classes) for _ in range(2 if view.tile_plan.mirrored else 1)]
            self._means += means
            grid = self.options.asked.grid and number == 0
            for band, wanted, strip in self._strips(view):
                yield _Band(self, view, band, wanted, means, strip, grid=grid)

    def planned(self) -> scoring_pb2.ScoreResponse:
        """The response for a request that asks for the plan alone.

        If there is a mask, it is read to its end, and only tiles with a window inside it count. Raises ImageError if
        no window is inside.
        """
        scored: list[int] = []
        for view, said in zip(self.plan.views, self.response.plan.views, strict=True):
            mask = self.masks(self.check_cancelled)
            scored.append(view.tile_plan.cells if mask is None else self._count(mask, view, said))
        self._check_scored(scored)
        self.response.scored_cells = scored[0]
        self.response.plan.multiply_adds = sum(said.multiply_adds for said in self.response.plan.views)
        return self.response

    def _count(self, mask: Mask, view: View, said: scoring_pb2.View) -> int:
        """Set the tiles and the multiply-adds of a view inside a mask; returns its number of windows to be scored."""
        said.tiles, said.multiply_adds, scored = 0, 0.0, 0
        for band in view.tile_plan.bands:
            self.check_cancelled()
            wanted = self._wanted(mask, view, band)
            tiles = _to_run(view, band, wanted)
            said.tiles += len(tiles)
            said.multiply_adds += sum(self.plan.mode.multiply_adds_of(*tile) for tile in tiles)
            scored += int(wanted.sum())
        return scored

    def _check_scored(self, cells: Sequence[int]) -> None:
        """Raise ImageError if a view has no cell to score."""
        if not all(cells):
            raise ImageError(f"{self.picture.name}: mask: expected a window to be scored, got none inside")

    def answer(self) -> scoring_pb2.ScoreResponse:
        """The averages over all cells and views; only after the last band. Raises ImageError if nothing was scored."""
        self._check_scored([mean.cells for mean in self._means])
        average = np.mean([mean.value for mean in self._means], axis=0)[list(self.options.chosen)]
        self.response.average.values[:] = average.tolist()
        self.response.average.top[:] = argsort_descending(average, self.options.top)
        self.response.timing.total_ms = _milliseconds(self.started)
        return self.response

    def check_cancelled(self) -> None:
        """Raise CancelledRunError if nobody waits for the answer any longer."""
        if self.engine.cancelled:
            raise CancelledRunError(f"{self.picture.name}: nobody waits for the answer any longer")

    def done(self) -> float:
        """How much of it is done, 0 to 1."""
        return self._done / self.plan.tile_count

    def advance(self, tiles: int) -> None:
        """Count tiles that are done."""
        self._done += tiles
        self.progress(self._done)

    def _strips(self, view: View) -> Iterator[tuple[AxisBand, Wanted, Pixels | None]]:
        """Every band with the rows that it reads, None if it has nothing to score; the next ones are read meanwhile."""
        self.check_cancelled()
        mask = self.masks(self.check_cancelled)
        bands: deque[tuple[AxisBand, Wanted]] = deque()

        def spans() -> Iterator[tuple[int, int] | None]:
            for band in view.tile_plan.bands:
                self.check_cancelled()
                wanted = None if mask is None else self._wanted(mask, view, band)
                bands.append((band, wanted))
                yield band.pixels if wanted is None or wanted.any() else None

        before = time.monotonic()
        for strip in read_strips(self._rows(view), spans()):
            self.response.timing.decode_ms += _milliseconds(before)
            yield *bands.popleft(), strip
            before = time.monotonic()

    def _rows(self, view: View) -> RowReader:
        rows = self.picture.rows(self.model.spec.input)
        size, scaled = (self.picture.height, self.picture.width), (view.height, view.width)
        return rows if size == scaled else ScaledRows(rows, size, scaled)

    def _wanted(self, mask: Mask, view: View, band: AxisBand) -> NDArray[np.bool_]:
        tiles, window = view.tile_plan, self.model.spec.window
        tops, lefts = tiles.vertical.positions[band.first : band.stop], tiles.horizontal.positions
        rows = _spans(tops, window.height, view.height, self.picture.height)
        return mask.select_windows(rows, _spans(lefts, window.width, view.width, self.picture.width))


class _Band:
    """The tiles of one band of a view, of which the first are on their way."""

    def __init__(  # noqa: PLR0913 (a value, once it is made)
        self,
        run: Run,
        view: View,
        band: AxisBand,
        wanted: Wanted,
        means: list[Mean],
        strip: Pixels | None,
        *,
        grid: bool,
    ) -> None:
        """Take the pixels that the band reads; the means are those of the view as it is and, if it is run, mirrored."""
        self.run, self.view, self.band, self.wanted, self.means, self.grid = run, view, band, wanted, means, grid
        chosen = _to_run(view, band, wanted)
        run.advance(len(band.tiles) * len(view.tile_plan.columns) - len(chosen))
        self._batches = list(_batches(chosen, view.batch))
        before = time.monotonic()
        self._results = self._run(self._batches, strip)
        run.response.timing.compute_ms += _milliseconds(before)  # an engine in this thread runs what is submitted

    def rows(self) -> Iterator[GridRows]:
        """Add every cell to the means; yields the band's rows of the grid if it is asked for."""
        grid = None
        if self.grid:
            shape = self.band.stop - self.band.first, self.view.tile_plan.horizontal.cells
            grid = BandGrid(self.run.options, shape, self.run.picture.name)
        for batch in self._batches:
            self._take(batch, self._awaited(), grid)
            self.run.advance(len(batch))
        if grid is not None:
            yield from grid.parts(self.band.first, self.wanted)

    def _take(
        self,
        batch: list[tuple[AxisTile, AxisTile]],
        results: Iterable[NDArray[np.float32]],
        grid: BandGrid | None,
    ) -> None:
        """Add the cells of a batch to the means and to the grid. Nothing holds their scores while the next one runs."""
        chosen = list(self.run.options.chosen)
        all_chosen = chosen == list(range(self.run.model.spec.output.classes))
        for (row, col), scores in zip(batch, results, strict=True):
            kept = self._checked(row, col, scores)
            if grid is not None:
                grid.add(_rows(self.band, row), col.cells, kept if all_chosen else kept[..., chosen])

    def _run(
        self, batches: list[list[tuple[AxisTile, AxisTile]]], strip: Pixels | None
    ) -> Iterator[Iterable[NDArray[np.float32]]]:
        def submit(tiles: Sequence[Pixels], multiply_adds: float) -> Future[Sequence[NDArray[np.float32]]]:
            self.run.check_cancelled()
            return self.run.engine.submit(self.run.session, tiles, multiply_adds)

        return self.run.plan.mode.run(submit, (self._pixels(batch, strip) for batch in batches))

    def _awaited(self) -> Iterable[NDArray[np.float32]]:
        """The scores of the next batch; waiting for them counts as compute."""
        before = time.monotonic()
        results = next(self._results)
        self.run.response.timing.compute_ms += _milliseconds(before)
        return results

    def _pixels(self, batch: list[tuple[AxisTile, AxisTile]], strip: Pixels | None) -> list[Pixels]:
        assert strip is not None  # noqa: S101 (a band with a tile to run has pixels)
        tiles = []
        for row, col in batch:
            start = row.start - self.band.pixels[0]
            tile = strip[start : start + row.length, col.start : col.start + col.length]
            tiles.append(tile[:, ::-1] if col.mirrored else tile)
        return tiles

    def _checked(self, row: AxisTile, col: AxisTile, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """The cells that a tile keeps, from left to right, added to their mean."""
        classes = self.run.model.spec.output.classes
        if scores.shape[0] < row.count or scores.shape[1] < col.count or scores.shape[2] != classes:
            raise ModelError(
                f"model {self.run.model.name!r}: expected a tile's grid of {(row.count, col.count, classes)}, got "
                f"{scores.shape}: its files do not fit its geometry; convert it again"
            )
        kept = scores[row.kept, col.kept][:, :: -1 if col.mirrored else 1]
        counted = kept if self.wanted is None else kept[self.wanted[_rows(self.band, row), col.cells]]
        if not np.isfinite(counted).all():
            raise ImageError(
                f"{self.run.picture.name}: model {self.run.model.name!r} gives scores that are NaN or infinite, among "
                f"rows {row.cells.start} to {row.cells.stop - 1}, columns {col.cells.start} to {col.cells.stop - 1}"
            )
        if self.run.options.average == OF_PROBABILITIES:
            counted = probabilities(counted, self.run.model.spec.output.kind)
        self.means[col.mirrored].add(counted)
        return kept


def _rows(band: AxisBand, row: AxisTile) -> slice:
    """Where a tile's rows lie in its band."""
    return slice(row.cells.start - band.first, row.cells.stop - band.first, row.cells.step)


def _to_run(view: View, band: AxisBand, wanted: Wanted) -> list[tuple[AxisTile, AxisTile]]:
    """The tiles of a band that have a cell to score."""
    tiles = [(row, col) for row in band.tiles for col in view.tile_plan.columns]
    return [(row, col) for row, col in tiles if wanted is None or wanted[_rows(band, row), col.cells].any()]


def _batches(tiles: list[tuple[AxisTile, AxisTile]], size: int) -> Iterator[list[tuple[AxisTile, AxisTile]]]:
    """Tiles of one shape, so many together."""
    shapes: dict[tuple[int, int], list[tuple[AxisTile, AxisTile]]] = {}
    for row, col in tiles:
        shapes.setdefault((row.length, col.length), []).append((row, col))
    for alike in shapes.values():
        following = iter(alike)
        while batch := list(islice(following, size)):
            yield batch


def _spans(starts: NDArray[np.int64], window: int, scaled: int, extent: int) -> Spans:
    """Where windows of a scaled image begin and end, in pixels of the image itself; at least one pixel each."""
    first, stop = (np.rint(edges * (extent / scaled)).astype(np.int64) for edges in (starts, starts + window))
    first = np.minimum(first, extent - 1)
    return first, np.clip(stop, first + 1, extent)


def _milliseconds(since: float) -> float:
    return (time.monotonic() - since) * 1e3
