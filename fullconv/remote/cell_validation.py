"""Checks the values of cells in an answer of a server: their number, and that they are finite or NaN."""

import numpy as np
from numpy.typing import NDArray

from fullconv.common.text import counted
from fullconv.protos import scoring_pb2
from fullconv.remote.expectations import expect_between, expect_equal, refuse

SCORE_BYTES = POSITION_BYTES = 4
HALF_BYTES = 2
"""Bytes of a float16."""


def check_cells(
    response: scoring_pb2.ScoreResponse, rows: int, cells: scoring_pb2.ScoreResponse | scoring_pb2.GridRows
) -> int:
    """Check the cells of rows of the grid that a response describes; returns the number of windows without scores."""
    grid, is_half = response.grid, response.grid.holds == scoring_pb2.GRID_AS_FLOAT16
    elements = rows * grid.cols * grid.depth
    picks = grid.holds in (scoring_pb2.GRID_AS_TOP, scoring_pb2.GRID_AS_ARGMAX)
    _expect_bytes("scores", cells.scores, elements * (HALF_BYTES if is_half else SCORE_BYTES))
    _expect_bytes("positions", cells.positions, elements * POSITION_BYTES if picks else 0)
    further = sum(output.values for output in grid.further)
    _expect_bytes("further", cells.further, rows * grid.cols * further * SCORE_BYTES)
    if picks:
        expect_between("positions", int(np.frombuffer(cells.positions, "<u4").max()), 0, len(response.classes) - 1)
    unscored = _count_unscored("scores", np.frombuffer(cells.scores, "<f2" if is_half else "<f4"), grid.depth)
    if further:
        expect_equal("further", _count_unscored("further", np.frombuffer(cells.further, "<f4"), further), unscored)
    return unscored


def _count_unscored(field: str, values: NDArray[np.floating], depth: int) -> int:
    """Return the number of cells of `depth` values that are NaN; all values of other cells must be finite."""
    finite = np.isfinite(values)
    if finite.all():
        return 0
    unscored = int(np.count_nonzero(np.isnan(values.reshape(-1, depth)).all(axis=1)))
    if unscored * depth != np.count_nonzero(~finite):
        refuse(field, "finite numbers, or NaN for all values of a window", "NaN or infinity among numbers")
    return unscored


def _expect_bytes(field: str, got: bytes, expected: int) -> None:
    expect_equal(field, counted(len(got), "byte"), counted(expected, "byte"))


def check_unscored(response: scoring_pb2.ScoreResponse, unscored: int) -> None:
    """Raise MalformedAnswerError unless a grid has as many windows without scores as a response says."""
    windows = response.grid.rows * response.grid.cols
    expect_equal("scored_cells", response.scored_cells, windows - unscored)


def check_no_scores(response: scoring_pb2.ScoreResponse) -> None:
    """Raise MalformedAnswerError if a response has values of cells."""
    for field in ("scores", "positions", "further"):
        _expect_bytes(field, getattr(response, field), 0)
