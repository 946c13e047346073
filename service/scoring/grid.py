"""The rows of the grid: gathered tile by tile for one band, then returned in parts from top to bottom.

If the answer holds only the highest scores of each cell, they are picked as each tile is scored, so that a band holds
`depth` scores per cell. With mirrored tiles, whose scores are added first, a band holds the scores of all chosen
classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.dense.reducers import top_k
from service.errors import ImageError
from service.scoring.options import GridAs, ResolvedOptions

PART_BYTES = 4 << 20
"""Size of one part. A part has at least one row."""
FLOAT_BYTES = POSITION_BYTES = 4
Number = TypeVar("Number", np.float32, np.uint32)


@dataclass(frozen=True)
class GridRows:
    """Rows of the grid from `first` on: scores (rows, cols, depth); for the highest scores, also their positions.

    `further` are the values (rows, cols, values) of the further outputs, None if the model has no further output.
    """

    first: int
    scores: NDArray[np.float32] | NDArray[np.float16]
    positions: NDArray[np.uint32] | None = None
    further: NDArray[np.float32] | None = None


def picks_by_tile(options: ResolvedOptions) -> bool:
    """Return whether the highest scores of a cell are picked as soon as its tile is scored."""
    return options.requested.grid_as in (GridAs.TOP, GridAs.ARGMAX) and not options.requested.flip


def cell_bytes(options: ResolvedOptions) -> int:
    """Return the bytes of memory for each cell of a band while the band is scored."""
    further = options.further * FLOAT_BYTES
    if picks_by_tile(options):
        return options.depth * (FLOAT_BYTES + POSITION_BYTES) + further
    return len(options.classes) * FLOAT_BYTES + further


def part_rows(row_bytes: int) -> int:
    """Return the number of rows in one part, for rows of `row_bytes` bytes in a band."""
    return max(1, PART_BYTES // max(1, row_bytes))


@dataclass
class BandGrid:
    """The grid of one band of (rows, cols) cells; `name` is the image's name in errors."""

    options: ResolvedOptions
    shape: tuple[int, int]
    name: str
    _scores: NDArray[np.float32] = field(init=False)
    _positions: NDArray[np.uint32] | None = field(init=False, default=None)
    _further: NDArray[np.float32] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Allocate the band, filled with zeros if scores are added to it."""
        picks = picks_by_tile(self.options)
        shape = (*self.shape, self.options.depth if picks else len(self.options.classes))
        self._scores = np.zeros(shape, np.float32) if self.options.requested.flip else np.empty(shape, np.float32)
        if picks:
            self._positions = np.empty(shape, np.uint32)
        if self.options.further:
            self._further = np.empty((*self.shape, self.options.further), np.float32)

    def add(self, rows: slice, cols: slice, scores: NDArray[np.float32]) -> None:
        """Add the scores (rows, cols, classes of the answer) of one tile; with flip, mirrored tiles are added to it."""
        if self._positions is not None:
            self._scores[rows, cols], self._positions[rows, cols] = top_k(scores, self.options.depth)
        elif self.options.requested.flip:
            self._scores[rows, cols] += scores
        else:
            self._scores[rows, cols] = scores

    def add_further(self, rows: slice, cols: slice, values: NDArray[np.float32]) -> None:
        """Add the further outputs (rows, cols, values) of one tile."""
        if self._further is not None:
            self._further[rows, cols] = values

    def parts(self, first: int, wanted: NDArray[np.bool_] | None) -> Iterator[GridRows]:
        """Yield all rows after every tile was added; cells outside of `wanted` (rows, cols) become NaN.

        `first` is the index of the band's first row in the image's grid. The last part is a copy, so that a caller that
        still holds it does not hold the whole band while the next band is scored.
        """
        if self.options.requested.flip:
            self._scores /= 2
        if wanted is not None:
            self._scores[~wanted] = np.nan
            if self._positions is not None:
                self._positions[~wanted] = np.arange(self.options.depth)
            if self._further is not None:
                self._further[~wanted] = np.nan
        rows, each = len(self._scores), part_rows(self.shape[1] * cell_bytes(self.options))
        for start in range(0, rows, each):
            part, is_last = slice(start, start + each), start + each >= rows
            scores = _part(self._scores, part, copies=is_last)
            positions = None if self._positions is None else _part(self._positions, part, copies=is_last)
            further = None if self._further is None else _part(self._further, part, copies=is_last)
            yield GridRows(first + start, *self._reduced(scores, positions), further)

    def _reduced(
        self, scores: NDArray[np.float32], positions: NDArray[np.uint32] | None
    ) -> tuple[NDArray[np.float32] | NDArray[np.float16], NDArray[np.uint32] | None]:
        """Return cells as the options ask for them; raises ImageError for scores beyond the range of float16."""
        if positions is not None or self.options.requested.grid_as is GridAs.FLOAT32:
            return scores, positions
        if self.options.requested.grid_as is not GridAs.FLOAT16:
            return top_k(scores, self.options.depth)
        if np.nanmax(np.abs(scores), initial=0) > np.finfo(np.float16).max:
            raise ImageError(f"{self.name}: grid_as: expected scores that float16 can hold, got larger scores")
        return scores.astype(np.float16), None


def _part(grid: NDArray[Number], rows: slice, *, copies: bool) -> NDArray[Number]:
    return grid[rows].copy() if copies else grid[rows]
