"""The value that each cell of a heatmap shows: the score of one class, or the winning class. Scores arrive in rows.

Each cell is drawn as a block of one stride around its window's centre. Where blocks would be smaller than a pixel of
the picture, several cells share a block, so that the picture bounds the memory. A block of one class shows the highest
value of its cells, so that no small region is lost; a block of winners shows its first cell.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fullconv.blocks import NO_INDEX, Blocks
from fullconv.common.probabilities import probability
from fullconv.grid import Scores

CHUNK = 1 << 22
"""Number of scores that are turned into probabilities at once."""
THRESHOLD = 0.5
"""Probability from which a class counts as present."""


@dataclass
class SingleClass:
    """One class: the highest probability, or score, among the cells of every block; NaN if no cell was scored."""

    rows_of: Blocks
    cols_of: Blocks
    column: int
    kind: str
    """The kind of the scores (`ModelOutput.kind`); "probabilities" and "raw" are shown unchanged."""
    threshold: float = THRESHOLD
    """Value from which a cell counts as present."""
    value: NDArray[np.float32] = field(init=False)
    scored: int = field(init=False, default=0)
    """Number of cells that were scored."""
    present: int = field(init=False, default=0)
    """Number of cells whose value is at least `threshold`."""

    def __post_init__(self) -> None:
        """Allocate one number for each block."""
        self.value = np.full((self.rows_of.count, self.cols_of.count), np.nan, np.float32)

    def add_rows(self, first: int, scores: Scores) -> None:
        """Take scores (rows, cols, classes), top to bottom."""
        for start, part in _chunks(first, scores):
            values = probability(part, self.column, self.kind)
            self.scored += int(np.count_nonzero(~np.isnan(values)))
            self.present += int(np.count_nonzero(values >= self.threshold))
            highest = np.fmax.reduceat(values, np.arange(0, values.shape[1], self.cols_of.step), axis=1)
            numbers = (start + np.arange(len(part))) // self.rows_of.step
            begins = np.flatnonzero(np.diff(numbers, prepend=NO_INDEX))
            band = slice(numbers[0], numbers[-1] + 1)
            self.value[band] = np.fmax(self.value[band], np.fmax.reduceat(highest, begins, axis=0))


@dataclass
class Winners:
    """The class that wins the first cell of every block, and its value; NO_INDEX and NaN if the cell was not scored."""

    rows_of: Blocks
    cols_of: Blocks
    columns: list[int]
    """The columns of the scores that may win. A winner is a position in this list."""
    kind: str | None
    """What the scores are (`ModelOutput.kind`), if the values are to be probabilities; None: the values are scores."""
    threshold: float = -math.inf
    """Value from which a cell counts as present."""
    winner: NDArray[np.int32] = field(init=False)
    value: NDArray[np.float32] = field(init=False)
    counts: NDArray[np.intp] = field(init=False)
    """Number of cells that each of `columns` has won."""
    present: NDArray[np.intp] = field(init=False)
    """Number of these cells whose value is at least `threshold`."""

    def __post_init__(self) -> None:
        """Allocate one class and one number for each block."""
        shape = (self.rows_of.count, self.cols_of.count)
        self.winner, self.value = np.full(shape, NO_INDEX, np.int32), np.full(shape, np.nan, np.float32)
        self.counts, self.present = np.zeros((2, len(self.columns)), np.intp)

    def add_rows(self, first: int, scores: Scores) -> None:
        """Take scores (rows, cols, classes), top to bottom."""
        every = self.columns == list(range(scores.shape[-1]))
        for start, part in _chunks(first, scores):
            among = part if every else part[..., self.columns]
            winner = np.where(np.isnan(among[..., 0]), NO_INDEX, among.argmax(axis=-1))
            value = among.max(axis=-1) if self.kind is None else self._probability(part, winner)
            known = winner != NO_INDEX
            self.counts += np.bincount(winner[known], minlength=len(self.columns))
            self.present += np.bincount(winner[known & (value >= self.threshold)], minlength=len(self.columns))
            kept = slice(-start % self.rows_of.step, None, self.rows_of.step), slice(None, None, self.cols_of.step)
            above = -(-start // self.rows_of.step)
            band = slice(above, above + len(winner[kept]))
            self.winner[band], self.value[band] = winner[kept], value[kept]

    def _probability(self, scores: Scores, winner: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the probability of the class that wins each cell."""
        return probability(scores, np.array(self.columns)[winner], self.kind or "")


def _chunks(first: int, scores: Scores) -> list[tuple[int, Scores]]:
    """Return the same rows in parts of bounded size, each with the index of its first row."""
    each = max(1, CHUNK // max(1, scores[0].size))
    return [(first + start, scores[start : start + each]) for start in range(0, len(scores), each)]
