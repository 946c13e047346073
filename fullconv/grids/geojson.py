"""GeoJSON with a polygon for each window, as QuPath reads it: File, Import objects from file.

A polygon is the block of one stride around the window's centre (`fullconv.blocks`), so that neighbouring polygons touch
and do not overlap.
Coordinates are pixels of the image. Each polygon is a tile with the class of the highest probability, and with the
probabilities of all classes as measurements; for a model without probabilities, with the scores.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fullconv.blocks import blocks_of
from fullconv.common.files import atomic_write
from fullconv.grid import GridRows, RowSink
from fullconv.grids.cells import CellValues

BEGIN, BETWEEN, END = b'{"type": "FeatureCollection", "features": [\n', b",\n", b"\n]}\n"


@contextmanager
def geojson_file(path: Path, values: CellValues) -> Iterator[RowSink]:
    """Write a .geojson file; yields the function that takes the rows. Raises OutputError."""
    down, across = (blocks_of(axis, math.inf).edges for axis in (values.header.vertical, values.header.horizontal))
    classifications = [_classification(values, index) for index in values.chosen]
    is_first = True
    with atomic_write(path) as file:
        file.write(BEGIN)

        def write(rows: GridRows) -> None:
            nonlocal is_first
            cells = values.cells(rows)
            for row, col, numbers in zip(cells.row, cells.col, cells.values, strict=True):
                feature = {
                    "type": "Feature",
                    "geometry": _rectangle(*across[col : col + 2].tolist(), *down[row : row + 2].tolist()),
                    "properties": {
                        "objectType": "tile",
                        "classification": classifications[numbers.argmax()],
                        # the shortest decimal that float32 reads back
                        "measurements": dict(zip(values.names, map(float, map(str, numbers)), strict=True)),
                    },
                }
                file.write((b"" if is_first else BETWEEN) + json.dumps(feature, ensure_ascii=False).encode())
                is_first = False

        yield write
        file.write(END)


def _rectangle(left: float, right: float, top: float, bottom: float) -> dict[str, Any]:
    """Return a polygon whose ring ends where it begins."""
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {"type": "Polygon", "coordinates": [ring]}


def _classification(values: CellValues, index: int) -> dict[str, Any]:
    """Return a class with its name and, if it has one, its colour."""
    name = {"name": values.header.labels[values.header.columns([index])[0]]}
    colour = values.colours.get(index)
    return name if not colour else name | {"color": [int(colour[at : at + 2], 16) for at in (1, 3, 5)]}
