"""Rows of a grid in blocks of equal height."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from fullconv.grid import GridRows
from fullconv.grids.row_blocks import RowBlocks

COUNT = 53
SCORES = np.random.default_rng(0).normal(size=(COUNT, 3, 2)).astype(np.float32)
POSITIONS = np.arange(COUNT * 6, dtype=np.uint32).reshape(COUNT, 3, 2)


@given(st.integers(1, 70), st.sets(st.integers(1, COUNT - 1)), st.booleans())
def test_blocks_have_every_row_once(height: int, ends: set[int], has_positions: bool) -> None:  # noqa: FBT001 (drawn)
    """Whatever parts the rows come in, blocks begin at multiples of their height and have all rows."""
    taken: list[GridRows] = []
    blocks = RowBlocks(lambda rows: taken.append(rows._replace(scores=rows.scores.copy())), height, COUNT)
    for first, stop in pairwise([0, *sorted(ends), COUNT]):
        scores = SCORES[first:stop].copy()
        blocks(GridRows(first, scores, POSITIONS[first:stop] if has_positions else None))
        scores[:] = np.nan  # the caller uses its memory again
    assert [part.first for part in taken] == [*range(0, COUNT, height)]
    assert_array_equal(np.concatenate([part.scores for part in taken]), SCORES)
    for part in taken:
        expected = POSITIONS[part.first : part.first + height] if has_positions else None
        assert_array_equal(part.positions, expected)
