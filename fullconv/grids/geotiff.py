"""A raster with a band for each class: a GeoTIFF if the image is one, else a plain TIFF.

A pixel is the block of one stride around a window's centre, and holds the probability of each class; for a model
without probabilities, its score. Windows that were not scored are NaN, which the file states as its nodata value.
The file is tiled and compressed, and has overviews of half the size, a quarter and so on, each the mean of four pixels.
A last row or column of windows that is flush with the image's edge (border anchor) is placed one stride after the row
or column before it.
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
from fullconv.common.files import atomic_write, spool_file
from fullconv.grid import GridRows, RowSink
from fullconv.grids.cells import CellValues
from fullconv.grids.georeference import Blocks2D, georeference

TILE = 256
"""Side of a tile in pixels; the smallest overview fits one tile."""
NODATA = (42113, "s", 4, "nan", True)
"""GDAL's tag for the value of pixels without data."""
BIG_BYTES = 1 << 31
"""Size of the pixels from which the file has the form for large files, BigTIFF."""
ROWS_BYTES = 64 << 20
"""Size of the rows from which an overview is made at once."""


@contextmanager
def tiff_file(path: Path, values: CellValues) -> Iterator[RowSink]:
    """Write a .tif file; yields the function that takes the rows. Raises OutputError.

    Bands of a file are written one after the other, so that the rows wait in a temporary file.
    """
    header = values.chosen_header
    shape = (header.vertical.count, header.horizontal.count, len(header.indices))
    with ExitStack() as stack:
        file = stack.enter_context(atomic_write(path))
        spool = stack.enter_context(spool_file(path))

        def write(rows: GridRows) -> None:
            spool.write(np.ascontiguousarray(values.of_all(rows), "<f4").data)

        yield write
        with spool_file(path) as halves:
            _write_pyramid(file, _mapped(spool, shape), halves, [NODATA, *_georeference(values)])


def _write_pyramid(file: Any, grid: NDArray[np.float32], halves: IO[bytes], tags: list[Any]) -> None:  # noqa: ANN401
    """Write a raster (rows, cols, bands) with its overviews; `halves` holds the overviews meanwhile."""
    from tifffile import TiffWriter  # noqa: PLC0415 (only for rasters)

    with TiffWriter(file, bigtiff=grid.nbytes >= BIG_BYTES) as writer:
        is_overview = False
        while True:
            writer.write(
                _tiles(grid),
                shape=(grid.shape[2], *grid.shape[:2]) if grid.shape[2] > 1 else grid.shape[:2],
                dtype=np.float32,
                tile=(TILE, TILE),
                photometric="minisblack",
                planarconfig="separate" if grid.shape[2] > 1 else None,
                compression="zlib",
                subfiletype=int(is_overview),
                metadata=None,
                extratags=[] if is_overview else tags,
            )
            if max(grid.shape[:2]) <= TILE:
                return
            grid, is_overview = _halved(grid, halves), True


def _tiles(grid: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Yield the tiles of a raster, band by band; tiles at the right and bottom are filled with NaN."""
    for band in range(grid.shape[2]):
        for top in range(0, grid.shape[0], TILE):
            for left in range(0, grid.shape[1], TILE):
                part = grid[top : top + TILE, left : left + TILE, band]
                tile = np.full((TILE, TILE), np.nan, np.float32)
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile


def _halved(grid: NDArray[np.float32], file: IO[bytes]) -> NDArray[np.float32]:
    """Return a raster of half the size, in the file after what it has; pixels without data do not count."""
    rows, cols, bands = grid.shape
    start = file.seek(0, 2)
    each = max(2, ROWS_BYTES // (cols * bands * 4) // 2 * 2)
    for first in range(0, rows, each):
        part = grid[first : first + each]
        part = np.pad(part, ((0, len(part) % 2), (0, cols % 2), (0, 0)), constant_values=np.nan)
        blocks = part.reshape(len(part) // 2, 2, -1, 2, bands)
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # a block without data
            file.write(np.nanmean(blocks, axis=(1, 3), dtype=np.float32).data)
    return _mapped(file, (math.ceil(rows / 2), math.ceil(cols / 2), bands), start)


def _mapped(file: IO[bytes], shape: tuple[int, int, int], offset: int = 0) -> NDArray[np.float32]:
    """Return an array in a file without reading it into memory."""
    file.flush()
    return np.memmap(file, np.float32, "r", offset, shape)


def _georeference(values: CellValues) -> list[Any]:
    down, across = values.header.vertical, values.header.horizontal
    top, left = (float(blocks_of(axis, math.inf).edges[0]) for axis in (down, across))
    return georeference(values.image, Blocks2D((left, top), (across.stride * across.scale, down.stride * down.scale)))
