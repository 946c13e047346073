"""Files that hold a value of every window. The suffix of a file decides its format.

.npz        the network's scores, as arrays                        `npz`
.zarr       the same as .npz, as a folder, for the extra `zarr`     `zarr`
.csv        a line for each window, with its probabilities         `table`
.parquet    the same as .csv, for the extra `parquet`              `table`
.geojson    a tile for each window, as QuPath reads them           `geojson`
.tif        a raster with a band for each class                    `geotiff`
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from fullconv.common.files import PAGE_SUFFIXES
from fullconv.description import ModelDescription
from fullconv.grid import GridHeader, RowSink
from fullconv.grids.cells import CellValues
from fullconv.grids.geojson import geojson_file
from fullconv.grids.geotiff import tiff_file
from fullconv.grids.npz import npz_file
from fullconv.grids.table import csv_file, parquet_file
from fullconv.grids.zarr import zarr_folder
from fullconv.images import ScoredPixels

SUFFIXES = {
    ".npz": npz_file,
    ".zarr": zarr_folder,
    ".csv": csv_file,
    ".parquet": parquet_file,
    ".geojson": geojson_file,
    ".tif": tiff_file,
}
"""The function that writes each format."""
SCORES = (".npz", ".zarr")
"""The formats that hold the network's scores instead of probabilities."""


def holds_probabilities(name: str) -> bool:
    """Return whether a file of this name holds probabilities, for which the model's description is needed."""
    return not name.lower().endswith(SCORES)


def cell_values(
    header: GridHeader,
    model: ModelDescription,
    chosen: tuple[int, ...],
    threshold: float | None = None,
    image: ScoredPixels | None = None,
) -> CellValues:
    """Describe what a file holds of rows that `header` describes: the classes `chosen` of a model."""
    colours = {index: colour for index, colour in enumerate(model.colours) if colour}
    return CellValues(header, model.output.kind, chosen, threshold, colours, image)


def values_file(
    path: Path, values: CellValues, answer: Callable[[], Mapping[str, Any]]
) -> AbstractContextManager[RowSink]:
    """Write a file like `grid_file`, or a page; `answer` returns the document of `--json` after the last row."""
    if path.suffix.lower() not in PAGE_SUFFIXES:
        return grid_file(path, values)
    from fullconv.page import page_file  # noqa: PLC0415 (matplotlib takes a second to load)

    return page_file(path, values, answer)


def grid_file(path: Path, values: CellValues) -> AbstractContextManager[RowSink]:
    """Write a file; the context yields the function that takes the rows, top to bottom. Raises OutputError."""
    return SUFFIXES[path.suffix.lower()](path, values)
