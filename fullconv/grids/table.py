"""Tables with a line for each window: .csv and .parquet.

minx, miny, width, height   the window, in pixels of the image
prob_LABEL                  the probability of each class; score_LABEL if the table has scores

With argmax, `class` and `prob` (or `score`) are in place of the last: the label of the class with the highest score,
and its probability. With top, class_1, prob_1, class_2 and so on are the highest classes.

Windows that a mask left out have no line. The columns are those of WSInfer's tables.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.common.csv_file import write_rows
from fullconv.common.files import atomic_write
from fullconv.grid import GridRows, RowSink
from fullconv.grids.cells import Cells, CellValues

BOX = ["minx", "miny", "width", "height"]


@contextmanager
def csv_file(path: Path, values: CellValues) -> Iterator[RowSink]:
    """Write a .csv file; yields the function that takes the rows. Raises OutputError."""
    with atomic_write(path) as file:
        write_rows(file, [[*BOX, *values.value_names]])

        def write(rows: GridRows) -> None:
            cells = values.cells(rows)
            columns = _columns(values, cells, cells.texts())
            write_rows(file, zip(*(column.tolist() for column in columns), strict=True))

        yield write


@contextmanager
def parquet_file(path: Path, values: CellValues) -> Iterator[RowSink]:
    """Write a .parquet file; yields the function that takes the rows. Raises OutputError."""
    import pyarrow as pa  # noqa: PLC0415 (it takes long to load)
    from pyarrow import parquet  # noqa: PLC0415

    types = [pa.string(), pa.float32()] * values.depth if values.ranks else [pa.float32()] * values.depth
    schema = pa.schema(zip([*BOX, *values.value_names], [*[pa.int64()] * len(BOX), *types], strict=True))
    with atomic_write(path) as file, parquet.ParquetWriter(file, schema) as writer:

        def write(rows: GridRows) -> None:
            cells = values.cells(rows)
            columns = zip(_columns(values, cells, cells.values), schema, strict=True)
            writer.write_table(pa.table([pa.array(column, field.type) for column, field in columns], schema=schema))

        yield write


def _columns(values: CellValues, cells: Cells, numbers: NDArray[Any]) -> list[NDArray[Any]]:
    """Return the columns, each (windows,); `numbers` (windows, classes) are the values of the cells, or their text."""
    boxes = [*values.header.boxes_at(cells.row, cells.col).T]
    if not values.ranks:
        return [*boxes, *numbers.T]
    labels = np.array(values.class_names, object)
    pairs = zip((labels[winners] for winners in cells.winners.T), numbers.T, strict=True)
    return [*boxes, *(column for pair in pairs for column in pair)]
