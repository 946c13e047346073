"""Regions in coordinates of a map, as pixels of an image."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fullconv.errors import ImageError
from fullconv.grids.georeference import MapCoordinates, map_coordinates, scored_page
from fullconv.images import FileSource, ScoredPixels

OWN = "image"
"""Stands for the image's own coordinate system."""
TOLERANCE = 1e-6
"""Pixels by which an edge of a region may miss the edge of a pixel, by rounding, and still contain the pixel."""
Bounds = tuple[float, float, float, float]
"""Smallest x and y, largest x and y."""
Box = tuple[int, int, int, int]
"""x, y, width and height in pixels."""


@dataclass(frozen=True)
class MapRegion:
    """A rectangle of a map, whose sides are parallel to the axes of its coordinate system."""

    bounds: Bounds
    crs: str
    """The coordinate system, as GDAL knows it, or OWN."""

    def pixels(self, path: Path, page: int) -> Box:
        """Return the largest upright rectangle of whole pixels inside the region's bounding box and the image.

        Raises ImageError for an image without a georeference, and if nothing is left.
        """
        place = map_coordinates(ScoredPixels(FileSource(path), page=page))
        if place is None:
            raise ImageError(
                f"{path.name}: roi: expected an image with a georeference, got none; give --roi in pixels, without "
                "--roi-crs"
            )
        x, y = _to_pixels(place, self._in_crs_of(place, path.name))
        size = _size(path, page)
        start = [max(0, math.ceil(min(values) - TOLERANCE)) for values in (x, y)]
        stop = [min(side, math.floor(max(values) + TOLERANCE)) for side, values in zip(size, (x, y), strict=True)]
        if start[0] >= stop[0] or start[1] >= stop[1]:
            raise ImageError(
                f"{path.name}: roi: expected a region inside the image of {size[0]}×{size[1]} pixels (width×height), "
                f"got x from {min(x):.1f} to {max(x):.1f} and y from {min(y):.1f} to {max(y):.1f} in pixels"
            )
        return start[0], start[1], stop[0] - start[0], stop[1] - start[1]

    def _in_crs_of(self, place: MapCoordinates, name: str) -> Bounds:
        """Return the bounds of the rectangle in an image's coordinate system; raises ImageError."""
        if self.crs == OWN:
            return self.bounds
        try:
            from rasterio.crs import CRS  # noqa: PLC0415 (an extra)
            from rasterio.warp import transform_bounds  # noqa: PLC0415
        except ImportError:
            raise ImageError(
                "roi-crs: expected the package rasterio for other coordinate systems than the image's, got none; pip "
                "install rasterio, or give --roi-crs image"
            ) from None
        try:
            own, theirs = CRS.from_user_input(place.crs), CRS.from_user_input(self.crs)
            bounds: Bounds = transform_bounds(theirs, own, *self.bounds)
        except Exception as error:  # rasterio raises errors of unrelated classes
            raise ImageError(
                f"{name}: roi-crs: expected a coordinate system of GDAL, got {self.crs}: {error}"
            ) from None
        if not all(map(math.isfinite, bounds)):
            raise ImageError(f"{name}: roi: expected a region of {self.crs} that its map shows, got {self.bounds}")
        return bounds


def _to_pixels(place: MapCoordinates, bounds: Bounds) -> tuple[list[float], list[float]]:
    """Return x and y in pixels of the four corners of a rectangle."""
    left, bottom, right, top = bounds
    corners = np.array([[left, left, right, right], [bottom, top, bottom, top], [1, 1, 1, 1]], np.float64)
    inverse = np.linalg.inv(np.vstack([place.matrix, [0.0, 0.0, 1.0]]))
    x, y = inverse[:2] @ corners
    return x.tolist(), y.tolist()


def _size(path: Path, page: int) -> tuple[int, int]:
    """Return width and height of a page of a TIFF file, whose georeference was read before."""
    from tifffile import TiffFile  # noqa: PLC0415 (only for maps)

    with TiffFile(path) as file:
        directory = scored_page(file, page)
        return int(directory.imagewidth), int(directory.imagelength)
