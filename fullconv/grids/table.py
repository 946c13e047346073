"""Tables with a line for each window: .csv and .parquet.

minx, miny, width, height   the window, in pixels of the image
prob_LABEL                  the probability of each class; score_LABEL if the model has no probabilities

Windows that a mask left out have no line. The columns are those of WSInfer's tables. Parquet needs pyarrow.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fullconv.common.files import atomic_write
from fullconv.errors import RequestError
from fullconv.grid import GridRows, RowSink
from fullconv.grids.cells import CellValues

BOX = ["minx", "miny", "width", "height"]


@contextmanager
def csv_file(path: Path, values: CellValues) -> Iterator[RowSink]:
    """Write a .csv file; yields the function that takes the rows. Raises OutputError."""
    with atomic_write(path) as file:
        file.write(_lines([[*BOX, *values.names]]))

        def write(rows: GridRows) -> None:
            cells = values.cells(rows)
            boxes = values.header.boxes_at(cells.row, cells.col).tolist()
            file.write(_lines([*box, *map(str, numbers)] for box, numbers in zip(boxes, cells.values, strict=True)))

        yield write


def _lines(rows: Iterable[Sequence[object]]) -> bytes:
    """Return lines of a .csv file."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


@contextmanager
def parquet_file(path: Path, values: CellValues) -> Iterator[RowSink]:
    """Write a .parquet file; yields the function that takes the rows. Raises OutputError, RequestError."""
    try:
        import pyarrow as pa  # noqa: PLC0415 (an extra)
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise RequestError("grid: expected the package pyarrow for .parquet, got none: pip install pyarrow") from None
    fields = [*((name, pa.int64()) for name in BOX), *((name, pa.float32()) for name in values.names)]
    schema = pa.schema(fields)
    with atomic_write(path) as file, parquet.ParquetWriter(file, schema) as writer:

        def write(rows: GridRows) -> None:
            cells = values.cells(rows)
            columns = [*values.header.boxes_at(cells.row, cells.col).T, *cells.values.T]
            writer.write_table(pa.table([pa.array(column) for column in columns], schema=schema))

        yield write
