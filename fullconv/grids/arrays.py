"""The arrays of .npz and .zarr files: what they are called, their types and shapes, and their values.

scores, probabilities  (rows, cols, classes) float32 or float16
scores                 of the highest classes: (rows, cols) float32 with argmax, (rows, cols, n) with top
winners                the positions of these classes in `classes` and `labels`, in the smallest unsigned type
further_NAME           (rows, cols, values) float32, for each further output NAME of the model
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.common.probabilities import RAW
from fullconv.grid import GridRows
from fullconv.grids.cells import CellValues


@dataclass(frozen=True)
class GridArray:
    """An array with a value, or several, of every window."""

    name: str
    dtype: np.dtype[Any]
    depth: int | None
    """Number of values of a window. None: one value, and no axis for it."""
    last: str = ""
    """What the values of a window are: "class", "rank" or "value"."""


def grid_arrays(values: CellValues) -> list[GridArray]:
    """Return the arrays of a file, in the order of `array_rows`."""
    single, half = np.dtype("<f4"), np.dtype("<f2")
    if values.ranks:
        depth = None if values.ranks == "argmax" else values.depth
        arrays = [
            GridArray("scores", single, depth, "rank"),
            GridArray("winners", values.winner_type.newbyteorder("<"), depth, "rank"),
        ]
    else:
        name = "scores" if values.kind == RAW else "probabilities"
        dtype = half if values.options.get("grid_as") == "float16" else single
        arrays = [GridArray(name, dtype, values.depth, "class")]
    further = [GridArray(f"further_{each.name}", single, each.values, "value") for each in values.header.further]
    return arrays + further


def arrays_bytes(values: CellValues) -> int:
    """Return the bytes of the values in all arrays of a file, before compression."""
    cells = values.header.vertical.count * values.header.horizontal.count
    return cells * sum(each.dtype.itemsize * (each.depth or 1) for each in grid_arrays(values))


def array_rows(values: CellValues, rows: GridRows) -> list[NDArray[Any]]:
    """Return rows of each array."""
    if values.ranks:
        ranking = values.ranking(rows, values.depth)
        parts: list[NDArray[Any]] = [ranking.values, ranking.winners]
        if values.ranks == "argmax":
            parts = [part[..., 0] for part in parts]
    else:
        parts = [values.of_all(rows)]
    further = [] if rows.further is None else [*values.header.split(rows.further).values()]
    return parts + further
