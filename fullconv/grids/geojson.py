"""GeoJSON with a polygon for each window, as QuPath reads it: File, Import objects from file.

A polygon is the block of one stride around the window's centre (`fullconv.blocks`), so that neighbouring polygons touch
and do not overlap.
Coordinates are pixels of the image, or those of its coordinate system. Each polygon is a tile with the class of the
highest score, and with the probabilities of all classes as measurements; for a model without probabilities, with the
scores. Exterior rings run counter-clockwise, as RFC 7946 wants them. `fullconv.grids.merged` makes larger polygons.
"""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np

from fullconv.common.files import atomic_write
from fullconv.features import feature, feature_collection
from fullconv.grid import GridRows, RowSink
from fullconv.grids.cells import Cells, CellValues
from fullconv.grids.corners import Corners, corners_of
from fullconv.grids.merged import merged_file


def geojson_file(path: Path, values: CellValues) -> AbstractContextManager[RowSink]:
    """Write a .geojson file of windows, or of neighbouring windows that are merged."""
    return merged_file(path, values) if values.options.get("merge") else tiles_file(path, values)


@contextmanager
def tiles_file(path: Path, values: CellValues) -> Iterator[RowSink]:
    """Write a polygon for each window; yields the function that takes the rows. Raises OutputError, ImageError."""
    corners = corners_of(values)
    with atomic_write(path) as file, feature_collection(file, corners.coordinates.crs) as add:

        def write(rows: GridRows) -> None:
            for text in _features(values, corners, rows):
                add(text)

        yield write


def _features(values: CellValues, corners: Corners, rows: GridRows) -> Iterator[str]:
    """Yield the tiles of rows."""
    cells, classes = values.cells(rows), values.classifications
    across = np.arange(len(corners.across))
    edges = range(rows.first, rows.first + len(rows.scores) + 1)
    points = [corners.texts(np.full_like(across, row), across) for row in edges]
    is_mirrored = corners.is_mirrored
    indices = (part.tolist() for part in (cells.row - rows.first, cells.col, cells.winners[:, 0]))
    for row, col, winner, measured in zip(*indices, _measurements(values, cells), strict=True):
        above, below = points[row], points[row + 1]
        ring = [above[col], above[col + 1], below[col + 1], below[col], above[col]]
        yield feature("tile", [ring[::-1] if is_mirrored else ring], classes[winner], measured)


def _measurements(values: CellValues, cells: Cells) -> Iterator[str]:
    """Yield the values of each window in JSON."""
    names, texts = [json.dumps(name, ensure_ascii=False) for name in values.names], cells.texts().tolist()
    if values.ranks == "argmax":
        return (f'{{"{values.quantity}": {text}}}' for (text,) in texts)
    if values.ranks == "top":
        ranked = zip(cells.winners.tolist(), texts, strict=True)
        return (_object([names[winner] for winner in winners], numbers) for winners, numbers in ranked)
    return (_object(names, numbers) for numbers in texts)


def _object(names: list[str], numbers: list[str]) -> str:
    return f"{{{', '.join([f'{name}: {number}' for name, number in zip(names, numbers, strict=True)])}}}"
