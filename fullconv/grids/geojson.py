"""GeoJSON with a polygon for each window, as QuPath reads it: File, Import objects from file.

A polygon is the block of one stride around the window's centre (`fullconv.blocks`), so that neighbouring polygons touch
and do not overlap.
Coordinates are pixels of the image. Each polygon is a tile with the class of the highest probability, and with the
probabilities of all classes as measurements; for a model without probabilities, with the scores.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fullconv.blocks import blocks_of
from fullconv.common.files import atomic_write
from fullconv.features import classification, feature_collection, rectangle
from fullconv.grid import GridRows, RowSink
from fullconv.grids.cells import CellValues


@contextmanager
def geojson_file(path: Path, values: CellValues) -> Iterator[RowSink]:
    """Write a .geojson file; yields the function that takes the rows. Raises OutputError."""
    down, across = (blocks_of(axis, math.inf).edges for axis in (values.header.vertical, values.header.horizontal))
    labels = values.chosen_header.labels
    classes = [classification(*each) for each in zip(labels, map(values.colours.get, values.chosen), strict=True)]
    with atomic_write(path) as file, feature_collection(file) as add:

        def write(rows: GridRows) -> None:
            cells = values.cells(rows)
            for row, col, numbers in zip(cells.row, cells.col, cells.values, strict=True):
                add(
                    {
                        "type": "Feature",
                        "geometry": rectangle(*across[col : col + 2].tolist(), *down[row : row + 2].tolist()),
                        "properties": {
                            "objectType": "tile",
                            "classification": classes[numbers.argmax()],
                            # the shortest decimal that float32 reads back
                            "measurements": dict(zip(values.names, map(float, map(str, numbers)), strict=True)),
                        },
                    }
                )

        yield write
