"""Local maxima of a grid: cells that exceed their eight neighbours, for each class by itself.

Of neighbouring cells with equal values only the first in reading order counts: a maximum is larger than the four
neighbours before it, and at least as large as the four neighbours after it.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

HERE = (1, 1)
NEIGHBOURS = [place for place in product(range(3), repeat=2) if place != HERE]
"""Rows and columns of the neighbours, where the cell itself is in row 1 and column 1."""


class Maxima(NamedTuple):
    """Positions of local maxima, in reading order."""

    row: NDArray[np.intp]
    col: NDArray[np.intp]
    class_: NDArray[np.intp]
    """Position on the last axis of the values."""


def local_maxima(values: NDArray[np.float32], least: float) -> Maxima:
    """Return the local maxima that are at least `least` in all rows but the first and the last, which are context.

    `values` are (rows, cols, classes), NaN for cells without a value, which are no neighbours. Row 0 of the result is
    row 1 of the values.
    """
    row, col, class_ = np.nonzero(values[1:-1] >= least)
    own = values[row + 1, col, class_]
    widened = np.pad(values, ((0, 0), (1, 1), (0, 0)), constant_values=np.nan)
    is_maximum = np.ones(len(own), bool)
    for down, across in NEIGHBOURS:
        other = widened[row + down, col + across, class_]
        is_maximum &= ~(own <= other if (down, across) < HERE else own < other)
    return Maxima(row[is_maximum], col[is_maximum], class_[is_maximum])
