"""The values that a page carries: of every cell the class with the highest value, and the values of some classes.

A page carries at most MAX_CLASSES classes, those with the highest values, and at most MAX_BYTES of their values. Larger
grids have fewer classes, at least FEW_CLASSES, and then blocks of step×step cells with the highest value of each class.
Values are stored as whole numbers of 16 bits, or of 8 bits if 16 are too many.
"""

from dataclasses import dataclass, field
from itertools import count
from typing import IO

import numpy as np
from numpy.typing import NDArray

from fullconv.common.probabilities import RAW
from fullconv.grid import GridHeader, GridRows
from fullconv.grids.cells import CellValues

MAX_CLASSES, FEW_CLASSES = 32, 8
MAX_BYTES = 40_000_000
MAX_SIDE = 8192
"""Largest number of rows and of columns: browsers draw the cells into a picture with a pixel for each cell."""
CHUNK_BYTES = 8 << 20
"""Size of the rows that are converted at once."""


@dataclass(frozen=True)
class Extent:
    """The size of the values: blocks of `step`×`step` cells, and `classes` classes with `bits` bits for each value."""

    rows: int
    cols: int
    classes: int
    step: int
    bits: int


def extent_of(header: GridHeader) -> Extent:
    """Return the size of the values of a grid."""
    for step in count(1):
        rows, cols = -(-header.vertical.count // step), -(-header.horizontal.count // step)
        classes = min(len(header.indices), MAX_CLASSES, MAX_BYTES // (rows * cols))
        if classes >= min(len(header.indices), FEW_CLASSES) and max(rows, cols) <= MAX_SIDE:
            break
    wanted = min(len(header.indices), MAX_CLASSES)
    return Extent(rows, cols, classes, step, 16 if rows * cols * wanted * 2 <= MAX_BYTES else 8)


@dataclass(frozen=True)
class Planes:
    """The values of all cells, or of blocks of cells; classes are positions in `columns`."""

    columns: list[int]
    """Columns of the grid: first the classes that have values, then the other classes that are the top of a cell."""
    low: float
    """The value that is stored as 0."""
    high: float
    """The value that is stored as the largest number of the bits."""
    top: NDArray[np.unsignedinteger]
    """The class with the highest value, (rows, cols); the largest number of the type for cells that were not scored."""
    value: NDArray[np.unsignedinteger]
    """The value of that class, (rows, cols)."""
    of: NDArray[np.unsignedinteger]
    """The values of the first classes, (classes, rows, cols)."""

    @property
    def counts(self) -> list[int]:
        """Number of cells, or blocks, of which each of `columns` is the top class."""
        none = np.iinfo(self.top.dtype).max
        return [int(number) for number in np.bincount(self.top[self.top != none], minlength=len(self.columns))]


@dataclass
class PageValues:
    """Takes the rows of a grid, keeps their blocks in a file, and returns the values that the page carries."""

    values: CellValues
    file: IO[bytes]
    extent: Extent = field(init=False)
    _highest: NDArray[np.float32] = field(init=False)
    """The highest value of each class so far, (classes,)."""
    _last: NDArray[np.float32] | None = field(init=False, default=None)
    """The last row of blocks, (cols, classes), to which further rows may belong."""

    def __post_init__(self) -> None:
        """Choose the size of the values."""
        self.extent = extent_of(self.values.chosen_header)
        self._highest = np.full(len(self.values.chosen), np.nan, np.float32)

    def add_rows(self, rows: GridRows) -> None:
        """Take rows, top to bottom."""
        step, values = self.extent.step, self.values.of_all(rows)
        numbers = (rows.first + np.arange(len(values))) // step
        across = np.fmax.reduceat(values, np.arange(0, values.shape[1], step), axis=1)
        blocks = np.fmax.reduceat(across, np.flatnonzero(np.diff(numbers, prepend=-1)), axis=0)
        if self._last is not None and rows.first % step:
            blocks[0] = np.fmax(blocks[0], self._last)
        elif self._last is not None:
            self._write(self._last)
        self._write(blocks[:-1])
        self._last = blocks[-1]
        self._highest = np.fmax(self._highest, np.fmax.reduce(blocks, axis=(0, 1)))

    def planes(self) -> Planes:
        """Return the values, after the last row."""
        if self._last is not None:
            self._write(self._last)
            self._last = None
        self.file.flush()
        extent = self.extent
        grid = np.memmap(self.file, np.float32, "r", shape=(extent.rows, extent.cols, len(self._highest)))
        return self._planes(grid, self._shown())

    def _write(self, blocks: NDArray[np.float32]) -> None:
        self.file.write(np.ascontiguousarray(blocks, "<f4").data)

    def _shown(self) -> list[int]:
        """Return the columns of the classes that have values: all of them, or those with the highest values."""
        if self.extent.classes == len(self._highest):
            return list(range(len(self._highest)))
        order = np.argsort(-np.nan_to_num(self._highest, nan=-np.inf), kind="stable")
        return [int(column) for column in order[: self.extent.classes]]

    def _planes(self, grid: NDArray[np.float32], shown: list[int]) -> Planes:
        """Convert a grid (rows, cols, classes)."""
        rows, cols, classes = grid.shape
        low, high = self._ends(grid)
        dtype = np.dtype(f"<u{self.extent.bits // 8}")
        winner = np.empty((rows, cols), "<u2" if classes < np.iinfo(np.uint16).max else "<u4")
        none = np.iinfo(winner.dtype).max
        value, of = np.empty((rows, cols), dtype), np.empty((len(shown), rows, cols), dtype)
        for band in _bands(grid):
            part = np.asarray(grid[band])
            is_scored = ~np.isnan(part).all(axis=-1)
            known = np.where(np.isnan(part), -np.inf, part)
            winner[band] = np.where(is_scored, known.argmax(axis=-1), none)
            value[band] = _quantised(known.max(axis=-1), low, high, dtype)
            of[:, band] = np.moveaxis(_quantised(known[..., shown], low, high, dtype), -1, 0)
        columns = shown + sorted(set(np.unique(winner[winner != none]).tolist()) - set(shown))
        positions = np.full(classes, none, winner.dtype)
        positions[columns] = np.arange(len(columns))
        top = np.where(winner == none, none, positions[np.minimum(winner, classes - 1)])
        return Planes(columns, low, high, top, value, of)

    def _ends(self, grid: NDArray[np.float32]) -> tuple[float, float]:
        """Return the lowest and the highest value: 0 and 1 for probabilities; scores are moved apart if equal."""
        if self.values.kind != RAW:
            return 0.0, 1.0
        ends = [part[np.isfinite(part)] for part in (np.asarray(grid[band]) for band in _bands(grid))]
        low = min((float(part.min()) for part in ends if part.size), default=0.0)
        high = max((float(part.max()) for part in ends if part.size), default=1.0)
        return (low, high) if high > low else (low, low + 1)


def _bands(grid: NDArray[np.float32]) -> list[slice]:
    """Return slices of rows of bounded size."""
    each = max(1, CHUNK_BYTES // (grid[0].size * 4))
    return [slice(first, first + each) for first in range(0, len(grid), each)]


def _quantised(
    values: NDArray[np.float32], low: float, high: float, dtype: np.dtype[np.unsignedinteger]
) -> NDArray[np.unsignedinteger]:
    """Return values as numbers from 0 for `low` to the largest number of the type for `high`."""
    share = np.clip((values - low) / (high - low), 0, 1)
    return np.asarray(np.rint(share * np.iinfo(dtype).max), dtype)
