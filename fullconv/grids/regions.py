"""The regions of a grid of classes: windows that have the same class and are connected by their sides.

Each row is divided into runs of equal classes. At first, each run is a region, which has the run's number. Two runs of
neighbouring rows meet if they have the same class and a column in common. While runs of different regions meet, each
region takes the lowest number of the regions that it meets, and numbers are followed until they do not change.

Source: Y. Shiloach and U. Vishkin, "An O(log n) Parallel Connectivity Algorithm", Journal of Algorithms 3 (1), 1982,
pages 57 to 67.
"""

import numpy as np
from numpy.typing import NDArray


def number_regions(classes: NDArray[np.integer], no_class: int) -> NDArray[np.int32]:
    """Return the number of the region of each window, (rows, cols), from 1 on; 0 for windows with `no_class`.

    The numbers follow the first windows of the regions, from top to bottom and from left to right.
    """
    begins = np.ones(classes.shape, np.bool_)
    begins[:, 1:] = classes[:, 1:] != classes[:, :-1]
    runs = np.cumsum(begins, dtype=np.int32).reshape(classes.shape) - 1
    meet = classes[1:] == classes[:-1]
    regions = _joined(int(begins.sum()), runs[:-1][meet], runs[1:][meet])
    has_class = classes[begins] != no_class
    is_first = has_class & (regions == np.arange(len(regions)))
    numbers = np.where(has_class, np.cumsum(is_first, dtype=np.int32)[regions], np.int32(0))
    return np.asarray(numbers[runs])


def _joined(runs: int, one: NDArray[np.int32], other: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the lowest run of the region of each run, (runs,), if the runs `one` and `other` (pairs,) are together."""
    regions = np.arange(runs, dtype=np.int32)
    while len(one):
        low, high = np.minimum(regions[one], regions[other]), np.maximum(regions[one], regions[other])
        apart = low != high
        one, other = one[apart], other[apart]
        np.minimum.at(regions, high[apart], low[apart])
        while not np.array_equal(regions, further := regions[regions]):
            regions = further
    return regions
