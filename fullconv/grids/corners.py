"""The corners of the blocks that stand for cells in GeoJSON, in pixels of the image or in its coordinate system."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fullconv.blocks import blocks_of
from fullconv.errors import ImageError
from fullconv.grids.cells import CellValues
from fullconv.grids.georeference import MapCoordinates, map_coordinates

PIXELS = MapCoordinates(np.eye(2, 3), None)
"""Coordinates that are pixels of the image."""


@dataclass(frozen=True)
class Corners:
    """The corners of blocks: corner (row, col) is the top left corner of the cell in this row and column."""

    down: NDArray[np.floating]
    """Edges of the rows, (rows + 1,), in pixels of the image."""
    across: NDArray[np.floating]
    """Edges of the columns, (cols + 1,), in pixels of the image."""
    coordinates: MapCoordinates

    def at(self, rows: NDArray[np.integer], cols: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return the coordinates of corners, (corners, 2)."""
        matrix = self.coordinates.matrix
        return np.column_stack([self.across[cols], self.down[rows]]) @ matrix[:, :2].T + matrix[:, 2]

    def texts(self, rows: NDArray[np.integer], cols: NDArray[np.integer]) -> list[str]:
        """Return corners as text in JSON."""
        return [f"[{x}, {y}]" for x, y in self.at(rows, cols).tolist()]

    @property
    def is_mirrored(self) -> bool:
        """Whether the second coordinate grows upwards, so that a ring runs in the other direction on the map."""
        return bool(np.linalg.det(self.coordinates.matrix[:, :2]) < 0)


def corners_of(values: CellValues) -> Corners:
    """Return the corners of the blocks; raises ImageError if the options want a map and the image is not on one."""
    header = values.header
    down, across = (blocks_of(axis, math.inf).edges for axis in (header.vertical, header.horizontal))
    if values.options.get("coordinates", "pixels") == "pixels":
        return Corners(down, across, PIXELS)
    coordinates = map_coordinates(values.image)
    if coordinates is None:
        raise ImageError(
            f"{header.image.name}: coordinates: expected a GeoTIFF with an EPSG code and one transformation for 'map', "
            "got an image without them; use 'pixels'"
        )
    return Corners(down, across, coordinates)
