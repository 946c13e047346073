"""The numbers of the regions of a grid of classes."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from skimage.measure import label

from fullconv.grids.regions import number_regions

NO_CLASS = 255
SPIRAL = ["0000000", "1111110", "0000010", "0111010", "0100010", "0111110", "0000000"]


def maze(seed: int, rows: int, cols: int, classes: int) -> NDArray[np.uint8]:
    """Return a random grid; one class in three is NO_CLASS."""
    grid = np.random.default_rng(seed).integers(0, classes * 3 // 2, (rows, cols))
    return np.where(grid < classes, grid, NO_CLASS).astype(np.uint8)


GRIDS = {
    "noise": maze(1, 60, 71, 3),
    "large regions": maze(2, 40, 50, 2).repeat(3, 0).repeat(2, 1),
    "mostly one class": np.where(np.random.default_rng(3).random((80, 90)) < 0.6, 0, NO_CLASS).astype(np.uint8),
    "spiral": np.array([[*map(int, row)] for row in SPIRAL], np.uint8),
    "comb": np.tile(np.array([0, 1], np.uint8), (30, 20)) * (np.arange(30) < 29).astype(np.uint8)[:, None],
    "one row": maze(4, 1, 20, 3),
    "one column": maze(5, 20, 1, 3),
    "no class": np.full((3, 4), NO_CLASS, np.uint8),
    "one window": np.zeros((1, 1), np.uint8),
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_regions_are_those_of_scikit_image(grid: NDArray[np.uint8]) -> None:
    """The numbers are those of scikit-image, which also follow the first windows of the regions."""
    expected = label(grid.astype(np.int64), connectivity=1, background=NO_CLASS)
    assert_array_equal(number_regions(grid, NO_CLASS), expected)
