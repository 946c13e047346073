"""The corners of the blocks that stand for cells in GeoJSON, in pixels of the image."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fullconv.blocks import blocks_of
from fullconv.grids.cells import CellValues


@dataclass(frozen=True)
class Corners:
    """The corners of blocks: corner (row, col) is the top left corner of the cell in this row and column."""

    down: NDArray[np.floating]
    """Edges of the rows, (rows + 1,), in pixels of the image."""
    across: NDArray[np.floating]
    """Edges of the columns, (cols + 1,), in pixels of the image."""

    def texts(self, rows: NDArray[np.integer], cols: NDArray[np.integer]) -> list[str]:
        """Return corners as text in JSON."""
        points = zip(self.across[cols].tolist(), self.down[rows].tolist(), strict=True)
        return [f"[{x}, {y}]" for x, y in points]


def corners_of(values: CellValues) -> Corners:
    """Return the corners of the blocks."""
    header = values.header
    down, across = (blocks_of(axis, math.inf).edges for axis in (header.vertical, header.horizontal))
    return Corners(down, across)
