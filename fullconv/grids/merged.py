"""GeoJSON with a polygon for each region of neighbouring windows that have the same class; it needs rasterio.

Windows are neighbours if their blocks (`fullconv.blocks`) have a side in common. A polygon follows the edges of the
blocks, and has a hole for each region that it encloses. Its measurements are the number of windows, and the mean and
the highest probability of its class among these windows; for a model without probabilities, of its scores. The class of
each window and this value wait in memory until the last row has arrived.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fullconv.common.files import atomic_write
from fullconv.errors import RequestError
from fullconv.features import feature, feature_collection
from fullconv.grid import GridRows, RowSink
from fullconv.grids.cells import CellValues, Winners
from fullconv.grids.corners import Corners, corners_of
from fullconv.grids.regions import number_regions


@contextmanager
def merged_file(path: Path, values: CellValues) -> Iterator[RowSink]:
    """Write a polygon for each region; yields the function that takes the rows.

    Raises OutputError, RequestError, ImageError.
    """
    shapes, corners = region_shapes(), corners_of(values)
    size = values.header.shape[:2]
    winners, highest = np.full(size, values.no_class, values.winner_type), np.zeros(size, np.float32)
    with atomic_write(path) as file, feature_collection(file, corners.coordinates.crs) as add:

        def write(rows: GridRows) -> None:
            ranking, part = values.ranking(rows, 1), slice(rows.first, rows.first + len(rows.scores))
            is_wanted = values.is_wanted(rows, ranking)
            winners[part][is_wanted] = ranking.winners[is_wanted, 0]
            highest[part][is_wanted] = ranking.values[is_wanted, 0]

        yield write
        regions, classes = number_regions(winners, values.no_class), values.classifications
        winner, measured = _winners(regions, winners), _measurements(regions, highest, values.quantity)
        for rings, number in shapes(regions):
            texts = [_ring(corners, points, is_hole=at > 0) for at, points in enumerate(rings)]
            add(feature("annotation", texts, classes[winner[number]], measured[number]))


def _winners(regions: NDArray[np.int32], winners: Winners) -> list[int]:
    """Return the class of each region by its number."""
    classes = np.zeros(regions.max() + 1, winners.dtype)
    classes[regions] = winners
    found: list[int] = classes.tolist()
    return found


def _measurements(regions: NDArray[np.int32], highest: NDArray[np.float32], quantity: str) -> list[str]:
    """Return the measurements of each region in JSON, by its number."""
    numbers = regions.ravel()
    cells, sums = np.bincount(numbers), np.bincount(numbers, highest.ravel())
    maxima = np.full(len(cells), -np.inf, np.float32)
    np.maximum.at(maxima, numbers, highest.ravel())
    means = (sums / np.maximum(cells, 1)).astype(np.float32)
    return [
        f'{{"cells": {count}, "{quantity}_mean": {mean!s}, "{quantity}_max": {most!s}}}'
        for count, mean, most in zip(cells, means, maxima, strict=True)
    ]


def _ring(corners: Corners, points: list[tuple[float, float]], *, is_hole: bool) -> list[str]:
    """Return a ring as text: counter-clockwise, a hole clockwise. `points` are columns and rows of corners."""
    cols, rows = np.array(points, np.intp).T
    x, y = corners.at(rows, cols).T
    area = np.dot(x[:-1] - x[0], y[1:] - y[0]) - np.dot(x[1:] - x[0], y[:-1] - y[0])
    texts = corners.texts(rows, cols)
    return texts[::-1] if (area > 0) == is_hole else texts


def region_shapes() -> Callable[[NDArray[np.int32]], Iterator[tuple[list[list[tuple[float, float]]], int]]]:
    """Return the function that yields the rings of each region, the exterior ring first, and the region's number."""
    try:
        from rasterio.features import shapes  # noqa: PLC0415 (an extra)
    except ImportError:
        raise RequestError("merge: expected the package rasterio, got none; pip install rasterio") from None

    def polygons(regions: NDArray[np.int32]) -> Iterator[tuple[list[list[tuple[float, float]]], int]]:
        for polygon, number in shapes(regions, mask=regions > 0, connectivity=4):
            yield polygon["coordinates"], int(number)

    return polygons
