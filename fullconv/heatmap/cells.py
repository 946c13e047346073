"""What every cell of the grid shows, taken row by row as the scores come: one class's scores, or the winning class.

Each cell is drawn as a block of one stride around its window's centre. Where blocks would be smaller than a pixel of
the picture, several cells share a block, and memory is bounded by the picture: of one class the block shows the highest
score, so that nothing small is lost; of the winners it shows its first cell.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fullconv.answer import Scores
from fullconv.protos import scoring_pb2

NOBODY = -1
CHUNK = 1 << 22
"""Scores that are turned into probabilities at once."""
THRESHOLD = 0.5
"""Probability from which a class counts as present."""


@dataclass(frozen=True)
class Blocks:
    """Blocks of cells along an axis, without gaps; a block holds `step` cells, the last block what is left."""

    edges: NDArray[np.floating]
    """Where blocks begin, and where the last one ends, (blocks + 1,), in pixels of the image."""
    step: int

    @property
    def count(self) -> int:
        """Number of blocks."""
        return len(self.edges) - 1

    @property
    def centres(self) -> NDArray[np.floating]:
        """Pixels of the image, (blocks,)."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    def at(self, positions: NDArray[np.floating]) -> NDArray[np.intp]:
        """The block that holds each position, in pixels of the image; NOBODY outside."""
        found = np.searchsorted(self.edges, positions, side="right") - 1
        return np.where(found < self.count, found, NOBODY)

    def thinned(self, step: int) -> "Blocks":
        """The same with `step` blocks in one."""
        return Blocks(np.append(self.edges[:-1:step], self.edges[-1]), self.step * step)


def blocks_of(response: scoring_pb2.ScoreResponse, axis: int, scale: float) -> Blocks:
    """The blocks of axis 0 (rows) or 1 (columns), where `scale` pixels of the picture are one of the image.

    A last cell that is flush with the image's edge begins where the block before it ends.
    """
    grid, size = response.grid, response.image
    scaled = grid.scaled if grid.HasField("scaled") else size
    count, origin, last, step, window, factor = (
        (grid.rows, grid.origin_y, grid.last_y, grid.stride.height, grid.window.height, size.height / scaled.height),
        (grid.cols, grid.origin_x, grid.last_x, grid.stride.width, grid.window.width, size.width / scaled.width),
    )[axis]
    edges = origin + step * np.arange(count + 1) + (window - step) / 2
    if count > 1 and last != origin + (count - 1) * step:
        edges[-1] = last + (window + step) / 2
        edges[-2] = edges[-3] + step
    return Blocks(edges * factor, 1).thinned(max(1, math.ceil(1 / (step * factor * scale))))


@dataclass
class Values:
    """One class: the probability or the score of every block, the highest of its cells, NaN where none was scored."""

    rows_of: Blocks
    cols_of: Blocks
    column: int
    kind: str
    """Of the scores (ModelSpec.output.kind); "probabilities" or "raw": they are shown as they are."""
    value: NDArray[np.float32] = field(init=False)
    scored: int = field(init=False, default=0)
    """Cells that were scored."""
    present: int = field(init=False, default=0)
    """Cells whose value is at least THRESHOLD."""

    def __post_init__(self) -> None:
        """Make room for one number a block."""
        self.value = np.full((self.rows_of.count, self.cols_of.count), np.nan, np.float32)

    def rows(self, first: int, scores: Scores) -> None:
        """Take scores (rows, cols, classes), top to bottom."""
        for start, part in _chunks(first, scores):
            values = probability(part, self.column, self.kind)
            self.scored += int(np.count_nonzero(~np.isnan(values)))
            self.present += int(np.count_nonzero(values >= THRESHOLD))
            highest = np.fmax.reduceat(values, np.arange(0, values.shape[1], self.cols_of.step), axis=1)
            numbers = (start + np.arange(len(part))) // self.rows_of.step
            begins = np.flatnonzero(np.diff(numbers, prepend=NOBODY))
            band = slice(numbers[0], numbers[-1] + 1)
            self.value[band] = np.fmax(self.value[band], np.fmax.reduceat(highest, begins, axis=0))


@dataclass
class Winners:
    """The column that wins the first cell of every block, NOBODY where it was not scored, and its value."""

    rows_of: Blocks
    cols_of: Blocks
    columns: list[int]
    """The columns that may win."""
    kind: str | None
    """Turns scores into probabilities (ModelSpec.output.kind); None: values are scores."""
    winner: NDArray[np.int32] = field(init=False)
    value: NDArray[np.float32] = field(init=False)
    counts: NDArray[np.intp] = field(init=False)
    """Cells that each of `columns` has won."""

    def __post_init__(self) -> None:
        """Make room for one class and one number a block."""
        shape = (self.rows_of.count, self.cols_of.count)
        self.winner, self.value = np.full(shape, NOBODY, np.int32), np.full(shape, np.nan, np.float32)
        self.counts = np.zeros(len(self.columns), np.intp)

    def rows(self, first: int, scores: Scores) -> None:
        """Take scores (rows, cols, classes), top to bottom."""
        every = self.columns == list(range(scores.shape[-1]))
        for start, part in _chunks(first, scores):
            among = part if every else part[..., self.columns]
            winner = np.where(np.isnan(among[..., 0]), NOBODY, among.argmax(axis=-1))
            self.counts += np.bincount(winner[winner != NOBODY], minlength=len(self.columns))
            value = among.max(axis=-1) if self.kind is None else self._probability(part, winner)
            kept = slice(-start % self.rows_of.step, None, self.rows_of.step), slice(None, None, self.cols_of.step)
            above = -(-start // self.rows_of.step)
            band = slice(above, above + len(winner[kept]))
            self.winner[band], self.value[band] = winner[kept], value[kept]

    def _probability(self, scores: Scores, winner: NDArray[np.intp]) -> NDArray[np.float32]:
        """The probability of the class that wins."""
        return probability(scores, np.array(self.columns)[winner], self.kind or "")


def probability(scores: Scores, column: int | NDArray[np.intp], kind: str) -> NDArray[np.float32]:
    """The probability of one column, (rows, cols), or of one for each cell; scores of other kinds as they are."""
    column = np.broadcast_to(column, scores.shape[:2])[..., None]
    one = np.take_along_axis(scores, column, axis=-1)[..., 0].astype(np.float32)
    if kind == "logits-softmax":
        highest = scores.max(axis=-1)
        powers = np.exp(scores - highest[..., None])
        softmax: NDArray[np.float32] = np.exp(one - highest) / powers.sum(axis=-1)
        return softmax
    if kind == "logits-sigmoid":
        sigmoid: NDArray[np.float32] = np.float32(0.5) * (1 + np.tanh(one / 2))
        return sigmoid
    return one


def _chunks(first: int, scores: Scores) -> list[tuple[int, Scores]]:
    """The same rows a few at a time, each with the number of its first."""
    each = max(1, CHUNK // max(1, scores[0].size))
    return [(first + start, scores[start : start + each]) for start in range(0, len(scores), each)]
