"""Scores the pixels of one band of tiles: makes its means, and yields the band's rows of the grid."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from fullconv.common.probabilities import probabilities
from service.dense.arrays import Pixels, Scores
from service.dense.reducers import ViewMeans, make_means
from service.dense.tiles import AxisBand, AxisTile
from service.errors import ImageError, ModelError
from service.scoring.grid import BandGrid, GridRows
from service.scoring.modes import Submit
from service.scoring.nonfinite import first_nonfinite, nonfinite_pixels
from service.scoring.options import AverageOf
from service.scoring.plan import View
from service.scoring.planned import PlannedImage

Tile = tuple[AxisTile, AxisTile]
"""A tile's rows and its columns."""
Wanted = NDArray[np.bool_] | None
"""Which cells of a band are scored, (rows, cols); None: all."""


@dataclass
class Stopwatch:
    """Seconds spent in each stage of scoring an image so far."""

    decode: float = 0.0
    compute: float = 0.0
    reduce: float = 0.0


@dataclass(frozen=True, eq=False)
class Band:
    """A band of tiles of a view, and which of its cells are scored."""

    view: View
    axis: AxisBand
    wanted: Wanted
    has_grid: bool
    """Whether its scores belong to the grid of the answer."""
    in_areas: tuple[NDArray[np.bool_], ...] = ()
    """For each named area, which of the cells lie in it and are scored, (rows, cols)."""

    def rows_of(self, row: AxisTile) -> slice:
        """Return where a tile's rows lie in the band."""
        return slice(row.cells.start - self.axis.first, row.cells.stop - self.axis.first, row.cells.step)

    def tiles(self) -> list[Tile]:
        """Return the tiles that have a cell to score."""
        tiles = [(row, col) for row in self.axis.tiles for col in self.view.tile_plan.columns]
        wanted = self.wanted
        return (
            tiles if wanted is None else [each for each in tiles if wanted[self.rows_of(each[0]), each[1].cells].any()]
        )

    @property
    def tile_count(self) -> int:
        """Number of tiles, including tiles without a cell to score."""
        return len(self.axis.tiles) * len(self.view.tile_plan.columns)

    def cut(self, tile: Tile, strip: Pixels) -> Pixels:
        """Return a tile's pixels from the strip that the band reads."""
        row, col = tile
        start = row.start - self.axis.pixels[0]
        pixels = strip[start : start + row.length, col.start : col.start + col.length]
        return pixels[:, ::-1] if col.mirrored else pixels


class BandScoring:
    """One band that is being scored: its first tiles are submitted when it is made.

    `strip` holds the pixels that the band reads, None if it has no cell to score. `totals` are the means of the view
    and, if the mirrored image is scored too, of the mirrored view.
    """

    def __init__(
        self,
        planned: PlannedImage,
        band: Band,
        strip: Pixels | None,
        totals: Sequence[ViewMeans],
        submit: Submit,
        stopwatch: Stopwatch,
    ) -> None:
        self._planned, self._band, self._totals, self._stopwatch = planned, band, totals, stopwatch
        self.means = [make_means(total.all.classes, len(total.areas)) for total in totals]
        """The means of this band alone, in the order of `totals`."""
        tiles = band.tiles()
        self.skipped = band.tile_count - len(tiles)
        """Number of tiles without a cell to score."""
        self._batches = list(_batches(tiles, band.view.batch))
        self._nonfinite = nonfinite_pixels(strip)
        before = time.monotonic()
        cut = (_cut(band, batch, strip) for batch in self._batches)
        self._results = planned.plan.mode.run(submit, cut, band.view.prefetch)
        stopwatch.compute += time.monotonic() - before  # an engine in this thread runs tiles as they are submitted

    def rows(self, advance: Callable[[int], None]) -> Iterator[GridRows]:
        """Add every cell to the totals; yields the band's rows of the grid if it belongs to the answer.

        `advance` is called with the number of tiles of each batch that is done.
        """
        grid = None
        if self._band.has_grid:
            shape = self._band.axis.stop - self._band.axis.first, self._band.view.tile_plan.horizontal.cells
            grid = BandGrid(self._planned.options, shape, self._planned.picture.name)
        for batch in self._batches:
            self._reduce(batch, self._await_scores(), grid)
            advance(len(batch))
        for total, means in zip(self._totals, self.means, strict=True):
            total.add(means)
        if grid is not None:
            yield from grid.parts(self._band.axis.first, self._band.wanted)

    def _await_scores(self) -> Iterable[Scores]:
        """Return the scores of the next batch, and count the time until they are there as compute."""
        before = time.monotonic()
        scores = next(self._results)
        self._stopwatch.compute += time.monotonic() - before
        return scores

    def _reduce(self, batch: Sequence[Tile], scores: Iterable[Scores], grid: BandGrid | None) -> None:
        """Add the cells of a batch to the means and the grid. No variable holds their scores during the next batch."""
        options = self._planned.options
        for (row, col), tile_scores in zip(batch, scores, strict=True):
            kept = self._kept(row, col, tile_scores)
            self._average(row, col, kept)
            if grid is not None:
                of_all, further = np.split(kept, [kept.shape[-1] - options.further], axis=-1)
                chosen = of_all if options.has_all_classes else of_all[..., list(options.classes)]
                grid.add(self._band.rows_of(row), col.cells, chosen)
                if not col.mirrored:
                    grid.add_further(self._band.rows_of(row), col.cells, further)

    def _kept(self, row: AxisTile, col: AxisTile, scores: Scores) -> Scores:
        """Return the cells that a tile keeps, from left to right. Raises ModelError for a grid that is too small."""
        model = self._planned.model
        if scores.shape[0] < row.count or scores.shape[1] < col.count or scores.shape[2] != model.values:
            raise ModelError(
                f"model {model.name!r}: expected a tile's grid of {(row.count, col.count, model.values)}, got "
                f"{scores.shape}: its files do not match its geometry; convert it again"
            )
        return scores[row.kept, col.kept][:, :: -1 if col.mirrored else 1]

    def _average(self, row: AxisTile, col: AxisTile, kept: Scores) -> None:
        """Add the cells of a tile that are scored to the mean. Raises ImageError for scores that are not finite."""
        wanted, cells = self._band.wanted, (self._band.rows_of(row), col.cells)
        scored = kept if wanted is None else kept[wanted[cells]]
        if not np.isfinite(scored).all():
            is_bad = np.asarray(~np.isfinite(kept).all(axis=-1))
            self._refuse(row, col, is_bad if wanted is None else is_bad & wanted[cells])
        means = self.means[col.mirrored]
        means.all.add(self._averaged(scored))
        for mean, inside in zip(means.areas, self._band.in_areas, strict=True):
            mean.add(self._averaged(kept[inside[cells]]))

    def _refuse(self, row: AxisTile, col: AxisTile, is_bad: NDArray[np.bool_]) -> NoReturn:
        """Raise ImageError for scores of a tile that are not finite; `is_bad` says which of its cells have them."""
        planned, view = self._planned, self._band.view
        if self._nonfinite is None:
            raise ImageError(
                f"{planned.picture.name}: model {planned.model.name!r} gives values that are NaN or infinite, among "
                f"rows {row.cells.start} to {row.cells.stop - 1}, columns {col.cells.start} to {col.cells.stop - 1}"
            )
        at_row, at_col = np.argwhere(is_bad)[0]
        begin, size = self._band.axis.pixels[0], planned.model.spec.window
        top = int(view.tile_plan.vertical.positions[row.cells][at_row]) - begin
        left = int(view.tile_plan.horizontal.positions[col.cells][at_col])
        found = first_nonfinite(self._nonfinite, top, left, (size.height, size.width))
        x = found.x * planned.picture.width // view.width
        y = (found.y + begin) * planned.picture.height // view.height
        raise ImageError(
            f"{planned.picture.name}: expected finite pixels, got {found.name} at x {x}, y {y}; leave such pixels out "
            "with mask (in the command --mask)"
        )

    def _averaged(self, scores: Scores) -> Scores:
        """Return what is averaged of scores (..., values): scores or probabilities of all classes."""
        output, requested = self._planned.model.spec.output, self._planned.options.requested
        scores = scores[..., : output.classes]
        return probabilities(scores, output.kind) if requested.average is AverageOf.PROBABILITIES else scores


def _cut(band: Band, batch: Sequence[Tile], strip: Pixels | None) -> list[Pixels]:
    assert strip is not None  # noqa: S101 (a band with a tile to run has pixels)
    return [band.cut(tile, strip) for tile in batch]


def _batches(tiles: Sequence[Tile], size: int) -> Iterator[list[Tile]]:
    """Yield tiles of one shape, at most `size` together."""
    shapes: dict[tuple[int, int], list[Tile]] = {}
    for row, col in tiles:
        shapes.setdefault((row.length, col.length), []).append((row, col))
    for alike in shapes.values():
        following = iter(alike)
        while batch := list(islice(following, size)):
            yield batch
