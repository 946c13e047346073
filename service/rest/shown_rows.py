"""The rows of a grid as the viewer shows them: of every cell the class with the highest value, and values of classes.

The values are probabilities, or the scores of a model that has none. A large grid has blocks of step × step cells,
each with the highest value of each class among its cells, so that a browser can hold the values.
"""

from base64 import b64encode
from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.common.probabilities import RAW, probabilities
from fullconv.protos import scoring_pb2

MAX_PLANES = 32
"""Largest number of classes whose values are shown for every cell."""
MAX_VALUES = 20_000_000
"""Largest number of values that a browser gets for one image."""
MAX_SIDE = 8192
"""Largest number of rows and of columns: browsers draw the cells into a picture with a pixel for each cell."""
MAX_STORED = 0xFFFF
NO_CLASS = 0xFFFFFFFF
"""Stands for the class of a cell that was not scored."""


def step_of(grid: scoring_pb2.GridInfo, planes: int) -> int:
    """Return the number of rows and of columns of cells in a block."""
    for step in count(1):
        rows, cols = -(-grid.rows // step), -(-grid.cols // step)
        if rows * cols * (planes + 1) <= MAX_VALUES and max(rows, cols) <= MAX_SIDE:
            break
    return step


class ShownRows:
    """Converts the rows of one grid of all classes, from top to bottom.

    `kind` is ModelSpec.output.kind; `planes` are the classes whose values are shown.
    """

    def __init__(self, grid: scoring_pb2.GridInfo, kind: str, planes: Sequence[int]) -> None:
        self.step = step_of(grid, len(planes))
        self._grid, self._kind, self._planes = grid, kind, list(planes)
        self._open: NDArray[np.float32] | None = None
        """The last row of blocks, (1, cols, classes), if further rows of cells belong to it."""

    def add(self, rows: scoring_pb2.GridRows) -> dict[str, Any] | None:
        """Return the rows of blocks that these rows of cells complete, or None if no row of blocks is complete.

        `first` and `count` are rows of blocks. `top` has the class with the highest value in each block, as uint32.
        `values` has that value in each block, then those of each plane, as uint16: 0 stands for `low`, and the largest
        number for `high`. Both are little-endian in base64. `low` and `high` are None if no cell has a finite value.
        """
        step, grid = self.step, self._grid
        blocks = self._blocks(rows)
        first, stop = rows.first // step, (rows.first + rows.count) // step
        if rows.first + rows.count == grid.rows:
            stop = -(-grid.rows // step)
        self._open = blocks[stop - first :]
        return self._document(first, blocks[: stop - first]) if stop > first else None

    def _blocks(self, rows: scoring_pb2.GridRows) -> NDArray[np.float32]:
        """Return the blocks to which rows belong, (rows, cols, classes); the first may have begun in earlier rows."""
        step, cols = self.step, self._grid.cols
        scores = np.frombuffer(rows.scores, "<f4").reshape(rows.count, cols, -1)
        values = scores if self._kind == RAW else probabilities(scores, self._kind)
        if step == 1:
            return values
        numbers = (rows.first + np.arange(rows.count)) // step
        across = np.fmax.reduceat(values, np.arange(0, cols, step), axis=1)
        blocks: NDArray[np.float32] = np.fmax.reduceat(across, np.flatnonzero(np.diff(numbers, prepend=-1)), axis=0)
        if self._open is not None and len(self._open):
            blocks[:1] = np.fmax(blocks[:1], self._open)
        return blocks

    def _document(self, first: int, blocks: NDArray[np.float32]) -> dict[str, Any]:
        is_scored = ~np.isnan(blocks).all(axis=-1)
        known = np.where(np.isnan(blocks), -np.inf, blocks)
        top = np.where(is_scored, known.argmax(axis=-1), NO_CLASS)
        low, high = self._ends(blocks)
        shown = np.concatenate([known.max(axis=-1)[None], np.moveaxis(known[..., self._planes], -1, 0)])
        share = (shown - low) / (high - low) if high > low else np.zeros(shown.shape)
        stored = np.rint(np.clip(share, 0, 1) * MAX_STORED)
        is_known = is_scored.any()
        return {
            "first": first,
            "count": len(blocks),
            "low": low if is_known else None,
            "high": high if is_known else None,
            "top": b64encode(top.astype("<u4").tobytes()).decode(),
            "values": b64encode(stored.astype("<u2").tobytes()).decode(),
        }

    def _ends(self, blocks: NDArray[np.float32]) -> tuple[float, float]:
        """Return the values that become the lowest and the highest number."""
        if self._kind != RAW:
            return 0.0, 1.0
        finite = blocks[np.isfinite(blocks)]
        return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
