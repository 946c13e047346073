"""A raster with a band for each class: a GeoTIFF if the image is one, else a plain TIFF.

A pixel is the block of one stride around a window's centre, and holds the probability of each class; for a model
without probabilities, its score. Windows that were not scored are NaN, which the file states as its nodata value.
The file is tiled and compressed, and has overviews of half the size, a quarter and so on, each the mean of four pixels.
A last row or column of windows that is flush with the image's edge (border anchor) is placed one stride after the row
or column before it.

With argmax, the only band has the class with the highest score, by its position among the classes of the file; with
top, two bands for each of the highest classes have its position and its probability. Overviews then have every second
pixel, because classes have no mean.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fullconv.blocks import blocks_of
from fullconv.common.files import OutputError, atomic_write, names_file, spool_file
from fullconv.grid import GridRows, RowSink
from fullconv.grids.cells import CellValues
from fullconv.grids.georeference import Blocks2D, georeference
from fullconv.grids.palette import band_names, category_names, colour_map

TILE = 256
"""Side of a tile in pixels; the smallest overview fits one tile."""
NODATA, METADATA = 42113, 42112
"""GDAL's tags for the value of pixels without data, and for the names of bands."""
BIG_BYTES = 1 << 31
"""Size of the pixels from which the file has the form for large files, BigTIFF."""
ROWS_BYTES = 64 << 20
"""Size of the rows from which an overview is made at once."""


Raster = NDArray[Any]
"""(rows, cols, bands): float32, float16, or the unsigned type of classes."""


@contextmanager
def tiff_file(path: Path, values: CellValues) -> Iterator[RowSink]:
    """Write a .tif file; yields the function that takes the rows. Raises OutputError.

    Bands of a file are written one after the other, so that the rows wait in a temporary file.
    """
    header, names = values.header, _band_names(values)
    shape = (header.vertical.count, header.horizontal.count, len(names))
    dtype = _type_of(values)
    with ExitStack() as stack:
        beside = names_file(path)
        if values.ranks == "argmax":
            stack.enter_context(atomic_write(beside)).write(category_names(values.class_names))
        file = stack.enter_context(atomic_write(path))
        spool = stack.enter_context(spool_file(path))

        def write(rows: GridRows) -> None:
            spool.write(np.ascontiguousarray(_bands(values, rows), dtype).data)

        yield write
        with spool_file(path) as halves:
            _write_pyramid(file, _mapped(spool, dtype, shape), halves, values)
    if values.ranks != "argmax":
        try:
            beside.unlink(missing_ok=True)  # of an earlier raster
        except OSError as error:
            raise OutputError(f"{beside}: cannot be removed: {error.strerror}") from None


def raster_bytes(values: CellValues) -> int:
    """Return the bytes of the pixels of a raster and its overviews, before compression."""
    rows, cols = values.header.vertical.count, values.header.horizontal.count
    pixels = rows * cols
    while max(rows, cols) > TILE:
        rows, cols = math.ceil(rows / 2), math.ceil(cols / 2)
        pixels += rows * cols
    return pixels * len(_band_names(values)) * _type_of(values).itemsize


def _band_names(values: CellValues) -> list[str]:
    return values.value_names[:1] if values.ranks == "argmax" else values.value_names


def _type_of(values: CellValues) -> np.dtype[Any]:
    if values.ranks == "argmax":
        return values.winner_type.newbyteorder("<")
    return np.dtype("<f2" if values.options.get("grid_as") == "float16" else "<f4")


def _bands(values: CellValues, rows: GridRows) -> Raster:
    """Return the pixels of rows."""
    if not values.ranks:
        return values.of_all(rows)
    ranking = values.ranking(rows, values.depth)
    if values.ranks == "argmax":
        return ranking.winners
    winners = np.where(np.isnan(ranking.values), np.float32(np.nan), ranking.winners)
    return np.stack([winners, ranking.values], axis=-1).reshape(*winners.shape[:2], -1)


def _write_pyramid(file: Any, grid: Raster, halves: IO[bytes], values: CellValues) -> None:  # noqa: ANN401
    """Write a raster with its overviews; `halves` holds the overviews meanwhile."""
    from tifffile import TiffWriter  # noqa: PLC0415 (only for rasters)

    nodata = np.nan if grid.dtype.kind == "f" else values.no_class
    colours = colour_map(values) if values.ranks == "argmax" else None
    tags, is_overview = [*_gdal_tags(values, nodata), *_georeference(values)], False
    with TiffWriter(file, bigtiff=grid.nbytes >= BIG_BYTES) as writer:
        while True:
            writer.write(
                _tiles(grid, nodata),
                shape=(grid.shape[2], *grid.shape[:2]) if grid.shape[2] > 1 else grid.shape[:2],
                dtype=grid.dtype,
                tile=(TILE, TILE),
                photometric="minisblack" if colours is None else "palette",
                colormap=colours,
                planarconfig="separate" if grid.shape[2] > 1 else None,
                compression="zlib",
                subfiletype=int(is_overview),
                metadata=None,
                extratags=[] if is_overview else tags,
            )
            if max(grid.shape[:2]) <= TILE:
                return
            grid, is_overview = _halved(grid, halves, has_mean=not values.ranks), True


def _gdal_tags(values: CellValues, nodata: float) -> list[Any]:
    """Return GDAL's tags for the value of pixels without data and for the names of the bands."""
    text, names = str(nodata), band_names(_band_names(values))
    return [(NODATA, "s", len(text) + 1, text, True), (METADATA, "s", len(names), names, True)]


def _tiles(grid: Raster, nodata: float) -> Iterator[Raster]:
    """Yield the tiles of a raster, band by band; tiles at the right and bottom are filled up."""
    for band in range(grid.shape[2]):
        for top in range(0, grid.shape[0], TILE):
            for left in range(0, grid.shape[1], TILE):
                part = grid[top : top + TILE, left : left + TILE, band]
                tile = np.full((TILE, TILE), nodata, grid.dtype)
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile


def _halved(grid: Raster, file: IO[bytes], *, has_mean: bool) -> Raster:
    """Return a raster of half the size, in the file after what it has: the means of the pixels with data.

    Without `has_mean`, it has every second pixel of every second row.
    """
    rows, cols, bands = grid.shape
    start = file.seek(0, 2)
    each = max(2, ROWS_BYTES // (cols * bands * 4) // 2 * 2)
    for first in range(0, rows, each):
        part = grid[first : first + each]
        file.write(np.ascontiguousarray(_means(part) if has_mean else part[::2, ::2], grid.dtype).data)
    return _mapped(file, grid.dtype, (math.ceil(rows / 2), math.ceil(cols / 2), bands), start)


def _means(part: Raster) -> Raster:
    """Return the mean of each four pixels; pixels without data do not count."""
    rows, cols, bands = part.shape
    part = np.pad(part, ((0, rows % 2), (0, cols % 2), (0, 0)), constant_values=np.nan)
    blocks = part.reshape(len(part) // 2, 2, -1, 2, bands)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # a block without data
        return np.asarray(np.nanmean(blocks, axis=(1, 3), dtype=np.float32))


def _mapped(file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, int, int], offset: int = 0) -> Raster:
    """Return an array in a file without reading it into memory."""
    file.flush()
    return np.memmap(file, dtype, "r", offset, shape)


def _georeference(values: CellValues) -> list[Any]:
    down, across = values.header.vertical, values.header.horizontal
    top, left = (float(blocks_of(axis, math.inf).edges[0]) for axis in (down, across))
    return georeference(values.image, Blocks2D((left, top), (across.stride * across.scale, down.stride * down.scale)))
