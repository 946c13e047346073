"""A Zarr group with the scores of every window, for xarray and dask; it needs the extra `zarr`.

scores        (row, col, class) float32, NaN for windows that a mask left out
x, y          (col,) and (row,) int64: the windows' left and top edges, in pixels of the image
further_NAME  (row, col, value) float32, for each further output NAME of the model

The attributes of the group state `window` and `stride` (height, width), `classes` and `labels`. The dimensions have
names, so that xarray.open_zarr(path, consolidated=False) finds them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fullconv.common.files import atomic_folder
from fullconv.errors import RequestError
from fullconv.grid import GridHeader, GridRows, RowSink
from fullconv.grids.cells import CellValues

CHUNK, CHUNK_VALUES = 256, 16
"""Largest size of a chunk along rows and columns, and along classes or values."""
MARK = "fullconv_grid"
"""The attribute by which a group is known as one that may be replaced."""


def is_grid(path: Path) -> bool:
    """Return whether a folder is a group that this module has written."""
    metadata = path / "zarr.json"
    return metadata.is_file() and f'"{MARK}"' in metadata.read_text("utf-8", "replace")


@contextmanager
def zarr_folder(path: Path, values: CellValues) -> Iterator[RowSink]:
    """Write a .zarr folder; yields the function that takes the rows. Raises OutputError, RequestError."""
    zarr, header = _library(), values.chosen_header
    with atomic_folder(path) as folder:
        group = zarr.open_group(folder, mode="w", zarr_format=3)
        group.attrs.update(
            {
                MARK: header.image.name,
                "window": header.window,
                "stride": header.stride,
                "classes": header.indices,
                "labels": header.labels,
            }
        )
        for name, dimension, axis in (("x", "col", header.horizontal), ("y", "row", header.vertical)):
            group.create_array(name, data=axis.starts, dimension_names=[dimension])
        scores = _array(group, "scores", header, len(header.indices), "class")
        further = {
            each.name: _array(group, f"further_{each.name}", header, each.values, "value") for each in header.further
        }

        def write(rows: GridRows) -> None:
            part = slice(rows.first, rows.first + len(rows.scores))
            scores[part] = np.asarray(values.scores(rows), np.float32)
            if rows.further is not None:
                for name, output in header.split(rows.further).items():
                    further[name][part] = output

        yield write


def _array(group: Any, name: str, header: GridHeader, depth: int, last: str) -> Any:  # noqa: ANN401 (of an extra)
    """Create an array (rows, cols, depth) of float32."""
    shape = header.vertical.count, header.horizontal.count, depth
    chunks = tuple(min(size, most) for size, most in zip(shape, (CHUNK, CHUNK, CHUNK_VALUES), strict=True))
    names = ["row", "col", last if last == "class" else f"{name}_{last}"]
    return group.create_array(
        name, shape=shape, chunks=chunks, dtype="float32", fill_value=np.nan, dimension_names=names
    )


def _library() -> Any:  # noqa: ANN401 (an extra)
    try:
        import zarr  # noqa: PLC0415 (an extra)
    except ImportError:
        raise RequestError("grid: expected the package zarr for .zarr, got none: pip install zarr") from None
    return zarr
