"""The georeference of an image, and of a raster whose pixels are blocks of the image's pixels.

A GeoTIFF states in its tags where a pixel lies on the earth: by a scale and one point, or by an affine transformation.
Both are changed so that they hold for the raster; the tags of the coordinate system are copied. Files with several
tie points, which describe no affine transformation, have no georeference here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fullconv.images import FileSource, ScoredPixels

if TYPE_CHECKING:
    from tifffile import TiffFile

SCALE, TIE_POINT, TRANSFORMATION = 33550, 33922, 34264
KEYS = {34735: "H", 34736: "d", 34737: "s"}
"""The tags of the coordinate system, and the types of their values."""
RASTER_TYPE, POINT = 1025, 2
"""The key that says what the coordinates of a pixel mean, and the value for its centre; else they mean its corner."""
PROJECTED, GEOGRAPHIC, USER_DEFINED = 3072, 2048, 32767
"""The keys that name a coordinate system by its code of EPSG, and the value for a system without a code."""
WGS84 = 4326
HALF = 0.5
REDUCED, MASK = 1, 4
"""Bits of the tag NewSubfileType."""
MAX_PAGES = 1000
"""Largest number of pages among which the scored page is sought."""

ExtraTag = tuple[int, str, int, Any, bool]
"""A tag as tifffile writes it: code, type, number of values, values, and whether only the first page has it."""


@dataclass(frozen=True)
class Blocks2D:
    """The blocks of an image that are the pixels of a raster, in pixels of the image; x before y."""

    origin: tuple[float, float]
    """The top left corner of the first block."""
    size: tuple[float, float]
    """Width and height of a block."""


@dataclass(frozen=True, eq=False)
class MapCoordinates:
    """The coordinates of points of an image in a coordinate system."""

    matrix: NDArray[np.float64]
    """(2, 3): from pixels of the image, where (0, 0) is the top left corner of the first pixel, to coordinates."""
    crs: str | None
    """The name of the coordinate system, an URN. None: pixels of the image."""


def map_coordinates(pixels: ScoredPixels | None) -> MapCoordinates | None:
    """Return the coordinates of an image; None if it has no georeference with a code of EPSG."""
    tags = _tags_of(pixels)
    transformation, crs = _transformation(tags), _crs(tags)
    if transformation is None or crs is None:
        return None
    matrix = transformation[:2, [0, 1, 3]]
    if _means_centre(tags):
        matrix[:, 2] -= matrix[:, :2].sum(axis=1) * HALF
    return MapCoordinates(matrix, crs)


def georeference(pixels: ScoredPixels | None, blocks: Blocks2D) -> list[ExtraTag]:
    """Return the tags of a raster of blocks of an image; none if the image is no file with a georeference."""
    tags = _tags_of(pixels)
    transformation = _transformation(tags)
    if transformation is None:
        return []
    shift = HALF if _means_centre(tags) else 0.0
    origin = [start + size * shift - shift for start, size in zip(blocks.origin, blocks.size, strict=True)]
    to_image = np.diag([*blocks.size, 1.0, 1.0])
    to_image[:2, 3] = origin
    matrix = transformation @ to_image
    is_text = {code: kind == "s" for code, kind in KEYS.items()}
    known = {code: tags[code] for code in KEYS if isinstance(tags.get(code), str if is_text[code] else tuple)}
    keys = [(code, KEYS[code], _count(value), value, True) for code, value in known.items()]
    return [(TRANSFORMATION, "d", 16, tuple(matrix.ravel().tolist()), True), *keys]


def _tags_of(pixels: ScoredPixels | None) -> Mapping[int, Any]:
    """Return the tags of an image's georeference; none if the image is no file."""
    if pixels is None or not isinstance(pixels.source, FileSource):
        return {}
    return _tags(pixels.source.path, pixels.page)


def _tags(path: Path, page: int) -> Mapping[int, Any]:
    """Return the tags of a georeference in a TIFF file; none for other files."""
    from tifffile import TiffFile  # noqa: PLC0415 (only for rasters)

    wanted = (SCALE, TIE_POINT, TRANSFORMATION, *KEYS)
    try:
        with TiffFile(path) as file:
            directory = scored_page(file, page)
            return {code: directory.tags[code].value for code in wanted if code in directory.tags}
    except Exception:  # tifffile raises errors of unrelated classes; the service reports files that cannot be read
        return {}


def scored_page(file: "TiffFile", page: int) -> Any:  # noqa: ANN401 (a page of tifffile)
    """Return the page of a TIFF file that is scored: page `page`, counted from 1, or for 0 the largest page.

    Pages that are marked as reduced copies or masks count only if there are no other pages; of several pages of the
    same size, the first counts. Raises what tifffile raises for damaged files.
    """
    if page:
        return file.pages[page - 1]
    pages: list[Any] = [*islice(file.pages, MAX_PAGES)]
    complete = [each for each in pages if not each.subfiletype & (REDUCED | MASK)]
    return max(complete or pages, key=lambda each: each.imagewidth * each.imagelength)


def _transformation(tags: Mapping[int, Any]) -> NDArray[np.float64] | None:
    """Return the matrix (4, 4) from pixels of the image to the coordinate system; None if the tags state none."""
    matrix = _stated(tags)
    return matrix if matrix is not None and np.linalg.det(matrix[:2, :2]) else None


def _stated(tags: Mapping[int, Any]) -> NDArray[np.float64] | None:
    if TRANSFORMATION in tags:
        return _matrix(tags[TRANSFORMATION], (4, 4))
    scale, point = (_matrix(tags.get(code, ()), (count,)) for code, count in ((SCALE, 3), (TIE_POINT, 6)))
    if scale is None or point is None:
        return None
    matrix = np.diag([scale[0], -scale[1], 0.0, 1.0])
    matrix[:2, 3] = point[3] - point[0] * scale[0], point[4] + point[1] * scale[1]
    return matrix


def _matrix(values: Any, shape: tuple[int, ...]) -> NDArray[np.float64] | None:  # noqa: ANN401 (of a tag)
    """Return numbers of a tag in a shape; None if they are others or not finite."""
    try:
        array = np.array(values, np.float64).reshape(shape)
    except (TypeError, ValueError):
        return None
    return array if np.isfinite(array).all() else None


def _means_centre(tags: Mapping[int, Any]) -> bool:
    """Return whether the coordinates of a pixel are those of its centre."""
    return _numbers(tags).get(RASTER_TYPE) == POINT


def _crs(tags: Mapping[int, Any]) -> str | None:
    """Return the name of the coordinate system, as GDAL writes it into GeoJSON; None without a code of EPSG."""
    numbers = _numbers(tags)
    code = numbers.get(PROJECTED, numbers.get(GEOGRAPHIC, USER_DEFINED))
    if code == WGS84:
        return "urn:ogc:def:crs:OGC:1.3:CRS84"  # longitude before latitude
    return f"urn:ogc:def:crs:EPSG::{code}" if 0 < code < USER_DEFINED else None


def _numbers(tags: Mapping[int, Any]) -> dict[int, int]:
    """Return the keys whose value is one number, with their values."""
    keys = tags.get(34735, ())
    if not isinstance(keys, Sequence):  # a damaged directory
        return {}
    entries = (tuple(keys[at : at + 4]) for at in range(4, len(keys) - 3, 4))
    return {key: value for key, place, count, value in entries if (place, count) == (0, 1)}


def _count(value: Any) -> int:  # noqa: ANN401 (of a tag)
    return len(value) + 1 if isinstance(value, str) else len(value)
