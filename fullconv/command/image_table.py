"""A table with a row for each image: .csv and .parquet.

path            the image, as the command line names it, or as it was found in a folder
width, height   in pixels, after EXIF rotation
model, version, mode
windows         number of windows that were scored
score_LABEL     average of each class over these windows; prob_LABEL if the averages are of probabilities
top_class       label of the class with the highest average
error           the reason why the image could not be scored; only the path is stated with it

The rows have the order of the images. The temporary file is opened before the first image is scored, and written and
renamed after the last image: an interrupted run leaves no table.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fullconv.answer import Answer
from fullconv.common.csv_file import write_rows
from fullconv.common.files import atomic_write
from fullconv.common.probabilities import PROBABILITIES
from fullconv.common.text import encodable
from fullconv.description import ModelDescription
from fullconv.grids.cells import column_names
from fullconv.shown import class_indices

FACTS = {"path": str, "width": int, "height": int, "model": str, "version": str, "mode": str, "windows": int}
REMARKS = {"top_class": str, "error": str}
GROUP_ROWS = 256
"""Rows that are written to Parquet together."""

Row = dict[str, Any]
"""Values by column. A missing value has no entry."""


@dataclass(frozen=True)
class ImageTable:
    """Rows of images, which may be added in any order."""

    classes: dict[int, str]
    """The column of each class, by its index in the network's output."""
    _rows: dict[int, tuple[Row, NDArray[np.float64]]] = field(init=False, default_factory=dict)
    """For each image its values without the averages, and the averages, (classes,), or none, (0,)."""

    @property
    def columns(self) -> dict[str, type]:
        """The columns with the types of their values."""
        return {**FACTS, **dict.fromkeys(self.classes.values(), float), **REMARKS}

    def rows(self) -> Iterator[Row]:
        """Yield the rows in the order of the images."""
        for _, (row, averages) in sorted(self._rows.items()):
            yield {**row, **dict(zip(self.classes.values(), averages.tolist(), strict=False))}

    def add(self, position: int, path: Path, result: Answer | Exception) -> None:
        """Add the row of an image from its answer, or from the error that the image has in place of an answer.

        Raises UnavailableError if the answer lacks a class, because the model was replaced.
        """
        row: Row = {"path": encodable(str(path))}
        averages = np.empty(0)
        if isinstance(result, Answer):
            row |= {"width": result.image.width, "height": result.image.height, "windows": result.scored}
            row |= {"model": result.model, "version": result.version, "mode": result.mode}
            row["top_class"] = result.top[0].label
            averages = result.average[result.header.columns(self.classes)]
        else:
            row["error"] = encodable(str(result))
        self._rows[position] = row, averages


@contextmanager
def image_table(path: Path, model: ModelDescription, classes: Sequence[str], average_of: str) -> Iterator[ImageTable]:
    """Yield a table of the named classes, or of all classes; the file appears when the block ends without an error.

    Raises OutputError, and RequestError for an unknown class.
    """
    write = WRITERS[path.suffix.lower()]
    indices = class_indices(model, classes, "classes") or tuple(range(model.output.classes))
    labels = [model.labels[index] if model.labels else str(index) for index in indices]
    is_probability = average_of == "probabilities" or model.output.kind == PROBABILITIES
    names = column_names("prob" if is_probability else "score", labels, indices)
    table = ImageTable(dict(zip(indices, names, strict=True)))
    with atomic_write(path) as file:
        yield table
        write(file, table)


def _write_csv(file: BinaryIO, table: ImageTable) -> None:
    columns = list(table.columns)
    rows = ([row.get(name) for name in columns] for row in table.rows())
    write_rows(file, chain([columns], rows))


def _write_parquet(file: BinaryIO, table: ImageTable) -> None:
    import pyarrow as pa  # noqa: PLC0415 (it takes long to load)
    from pyarrow import parquet  # noqa: PLC0415

    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in table.columns.items()])
    rows = table.rows()
    with parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, GROUP_ROWS)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


WRITERS: dict[str, Callable[[BinaryIO, ImageTable], None]] = {".csv": _write_csv, ".parquet": _write_parquet}
"""The function that writes each format."""
