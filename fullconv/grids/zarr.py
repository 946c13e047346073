"""A Zarr group with the values of every window, for xarray and dask; it needs the extra `zarr`.

x, y  (col,) and (row,) int64: the windows' left and top edges, in pixels of the image

The other arrays are those of `fullconv.grids.arrays`, NaN for windows that a mask left out. The attributes of the group
state `window` and `stride` (height, width), `classes` and `labels`. The dimensions have names, so that
xarray.open_zarr(path, consolidated=False) finds them. For an image whose file states the size of its pixels, the group
`ome` in it is the same as an OME-Zarr image (`fullconv.grids.ome`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fullconv.common.files import atomic_folder, sync_folder
from fullconv.errors import RequestError
from fullconv.grid import GridHeader, GridRows, RowSink
from fullconv.grids.arrays import GridArray, array_rows, arrays_bytes, grid_arrays
from fullconv.grids.cells import CellValues
from fullconv.grids.ome import OmeImage, has_ome_image
from fullconv.grids.row_blocks import RowBlocks

CHUNK, CHUNK_VALUES = 256, 16
"""Largest size of a chunk along rows and columns, and along classes or values."""
BLOCK_BYTES, FLOAT_BYTES = 64 << 20, 4
"""Bytes of the rows that are written together. Fewer rows than a chunk has make zarr compress the chunk repeatedly."""
MARK = "fullconv_grid"
"""The attribute by which a group is known as one that may be replaced."""


def is_grid(path: Path) -> bool:
    """Return whether a folder is a group that this module has written."""
    metadata = path / "zarr.json"
    return metadata.is_file() and f'"{MARK}"' in metadata.read_text("utf-8", "replace")


def zarr_bytes(values: CellValues) -> int:
    """Return the bytes of the values in all arrays of a folder, before compression."""
    image = replace(values, header=replace(values.header, further=())) if has_ome_image(values) else None
    return arrays_bytes(values) + (arrays_bytes(image) if image else 0)


@contextmanager
def zarr_folder(path: Path, values: CellValues) -> Iterator[RowSink]:
    """Write a .zarr folder; yields the function that takes the rows. Raises OutputError, RequestError."""
    zarr, header = zarr_library(), values.chosen_header
    with atomic_folder(path) as folder:
        attributes = {
            MARK: header.image.name,
            "window": header.window,
            "stride": header.stride,
            "classes": header.indices,
            "labels": header.labels,
        }
        # open_group with mode "w" would replace the folder by another one, which nobody has locked.
        group = zarr.create_group(folder, zarr_format=3, attributes=attributes)
        for name, dimension, axis in (("x", "col", header.horizontal), ("y", "row", header.vertical)):
            group.create_array(name, data=axis.starts, dimension_names=[dimension])
        described = grid_arrays(values)
        arrays = [_array(group, each, values) for each in described]
        image = OmeImage(group, values, described[0].dtype) if has_ome_image(values) else None

        def write(rows: GridRows) -> None:
            for array, part in zip(arrays, array_rows(values, rows), strict=True):
                array[rows.first : rows.first + len(part)] = part
            if image is not None:
                image.write(rows)

        yield RowBlocks(write, _block_rows(values.header), header.vertical.count)
        sync_folder(folder)


def _block_rows(header: GridHeader) -> int:
    """Return the number of rows that are written together: those of a chunk, or a part of them."""
    values = header.depth + sum(output.values for output in header.further)
    fitting = max(1, BLOCK_BYTES // (header.horizontal.count * values * FLOAT_BYTES))
    return min(CHUNK, 1 << (fitting.bit_length() - 1))


def _array(group: Any, array: GridArray, values: CellValues) -> Any:  # noqa: ANN401 (of an extra)
    """Create an array in the group."""
    header, depth = values.header, () if array.depth is None else (array.depth,)
    shape = header.vertical.count, header.horizontal.count, *depth
    chunks = tuple(min(size, most) for size, most in zip(shape, (CHUNK, CHUNK, CHUNK_VALUES), strict=False))
    last = f"{array.name}_{array.last}" if array.last == "value" else array.last
    return group.create_array(
        array.name,
        shape=shape,
        chunks=chunks,
        dtype=array.dtype,
        fill_value=np.nan if array.dtype.kind == "f" else values.no_class,
        dimension_names=["row", "col", last][: len(shape)],
    )


def zarr_library() -> Any:  # noqa: ANN401 (an extra)
    """Return the package zarr; raises RequestError if it is missing."""
    try:
        import zarr  # noqa: PLC0415 (an extra)
    except ImportError:
        raise RequestError("grid: expected the package zarr for .zarr, got none; pip install zarr") from None
    return zarr
