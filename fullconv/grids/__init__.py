"""Files that hold a value of every window. The suffix of a file decides its format.

.npz        the network's scores, as arrays                        `npz`
.zarr       the same as .npz, as a folder, for the extra `zarr`     `zarr`
.csv        a line for each window, with its probabilities         `table`
.parquet    the same as .csv                                       `table`
.geojson    a tile for each window, as QuPath reads them           `geojson`
            a polygon for neighbouring windows of one class        `merged`
.tif        a raster with a band for each class                    `geotiff`

`fullconv.file_options` describes what else the files can hold.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fullconv.common.files import PAGE_SUFFIXES, TABLE_SUFFIXES
from fullconv.common.probabilities import RAW, SOFTMAX
from fullconv.description import ModelDescription
from fullconv.errors import RequestError
from fullconv.file_options import FileOptions
from fullconv.grid import GridHeader, RowSink
from fullconv.grids.arrays import arrays_bytes
from fullconv.grids.cells import CellValues
from fullconv.grids.geojson import geojson_file
from fullconv.grids.geotiff import raster_bytes, tiff_file
from fullconv.grids.merged import region_shapes
from fullconv.grids.npz import npz_file
from fullconv.grids.table import csv_file, parquet_file
from fullconv.grids.zarr import zarr_bytes, zarr_folder, zarr_library
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
BYTES: Mapping[str, Callable[[CellValues], int]] = {
    ".npz": arrays_bytes,
    ".zarr": zarr_bytes,
    ".tif": raster_bytes,
}
"""The function that counts the bytes of the values in each format whose size is known before scoring."""
SCORES = (".npz", ".zarr")
"""The formats that hold the network's scores instead of probabilities."""


def needs_model(name: str, options: FileOptions) -> bool:
    """Return whether a file of this name holds more than the network's scores, and needs the model's description."""
    return not name.lower().endswith(SCORES) or options.get("grid_as") == "probability"


def held_kind(name: str, kind: str, options: FileOptions) -> str:
    """Return the kind of scores from which a file's probabilities follow; RAW if the file holds no probabilities.

    `kind` is the kind of the model's scores.
    """
    grid_as = options.get("grid_as")
    has_none = grid_as in ("scores", "float16") or (grid_as == "argmax" and name.lower().endswith(".tif"))
    return RAW if has_none or not needs_model(name, options) else kind


def uses_softmax(name: str, kind: str, options: FileOptions) -> bool:
    """Return whether a file, or its threshold, needs probabilities that follow from the scores of all classes.

    `kind` is the kind of the model's scores.
    """
    has_threshold = options.get("threshold") is not None and name.lower().endswith(TABLE_SUFFIXES)
    return kind == SOFTMAX and (has_threshold or held_kind(name, kind, options) == SOFTMAX)


def cell_values(
    header: GridHeader,
    model: ModelDescription,
    chosen: tuple[int, ...],
    options: FileOptions | None = None,
    image: ScoredPixels | None = None,
) -> CellValues:
    """Describe what files hold of rows that `header` describes: the classes `chosen` of a model."""
    colours = {index: colour for index, colour in enumerate(model.colours) if colour}
    kind = model.output.kind
    return CellValues(header, kind, chosen, options or {}, colours, image, kind)


def check_model(model: ModelDescription, options: FileOptions) -> None:
    """Raise RequestError, which names the option, for a value that files of a model's grid cannot have."""
    if model.output.kind == RAW:
        if options.get("grid_as") == "probability":
            raise RequestError(f"grid_as: expected scores, got probability, which model {model.name!r} does not have")
        return
    threshold = options.get("threshold")
    if threshold is not None and not 0 <= threshold <= 1:
        raise RequestError(f"threshold: expected a probability from 0 to 1, got {threshold}")


def check_packages(names: Sequence[str], options: FileOptions) -> None:
    """Raise RequestError if a package is missing that one of the files needs."""
    if any(name.lower().endswith(".zarr") for name in names):
        zarr_library()
    if options.get("merge"):
        region_shapes()


def checked_values(
    name: str,
    header: GridHeader,
    describe: Callable[[], ModelDescription],
    options: FileOptions,
    image: ScoredPixels | None,
) -> CellValues:
    """Describe what the file `name` holds of rows with all scores that `header` describes.

    Raises RequestError if the model or the rows lack what the file needs. `describe` returns the model's description,
    and is called only if the file needs it.
    """
    if not needs_model(name, options):
        return CellValues(header, RAW, header.indices, options)
    model = describe()
    check_model(model, options)
    if uses_softmax(name, model.output.kind, options) and len(header.indices) < model.output.classes:
        raise RequestError(
            f"save: expected the scores of all {model.output.classes} classes for probabilities, got the scores of "
            f"{len(header.indices)}; score without the option classes"
        )
    return cell_values(header, model, header.indices, options, image)


def values_file(
    path: Path, values: CellValues, answer: Callable[[], Mapping[str, Any]]
) -> AbstractContextManager[RowSink]:
    """Write a file like `grid_file`, or a page; `answer` returns the document of `--json` after the last row.

    The options of grids do not change a page.
    """
    if path.suffix.lower() not in PAGE_SUFFIXES:
        return grid_file(path, values)
    from fullconv.page import page_file  # noqa: PLC0415 (matplotlib takes a second to load)

    return page_file(path, replace(values, options=FileOptions()), answer)


def grid_file(path: Path, values: CellValues) -> AbstractContextManager[RowSink]:
    """Write a file; the context yields the function that takes the rows, top to bottom.

    Raises OutputError; RequestError if a package is missing; ImageError if the image has no coordinates on a map.
    """
    return SUFFIXES[path.suffix.lower()](path, _held(path, values))


def file_bytes(path: Path, values: CellValues) -> int | None:
    """Return the bytes of the values in a file, before compression; None if its values are stored as text.

    A .parquet file has only the windows that were scored, so that its size is not known either.
    """
    count = BYTES.get(path.suffix.lower())
    return None if count is None else count(_held(path, values))


def _held(path: Path, values: CellValues) -> CellValues:
    return replace(values, kind=held_kind(path.name, values.kind, values.options))
