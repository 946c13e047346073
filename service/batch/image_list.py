"""Lists of images: the file of `--list`.

.csv, .parquet      a column `path`, and further columns, which the results carry
any other suffix    a text with a path in each line
"""

from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv, parquet

from fullconv.errors import ImageError

COLUMN = "path"


def read_list(path: Path) -> tuple[list[str], pa.Table]:
    """Return the paths of a list, and its other columns.

    Raises ImageError if the list cannot be read, lacks the column `path`, or has a path twice or an empty path.
    """
    try:
        table = _read(path)
    except OSError as error:
        raise ImageError(f"list: {path} cannot be read: {error.strerror or error}") from None
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise ImageError(f"list: {path} cannot be read: {str(error).splitlines()[0]}") from None
    if table.column_names.count(COLUMN) != 1:
        columns = ", ".join(table.column_names) or "no columns"
        raise ImageError(f"list: expected one column {COLUMN!r} in {path}, got {columns}")
    if len(set(table.column_names)) < len(table.column_names):
        raise ImageError(f"list: expected columns with different names in {path}, got {', '.join(table.column_names)}")
    paths = table[COLUMN].to_pylist()
    _check(paths, path)
    return paths, _kept(table.drop_columns([COLUMN]), path)


def _kept(carried: pa.Table, list_file: Path) -> pa.Table:
    """Return columns as a Parquet file gives them back, which may have coarser types; raises ImageError."""
    file = BytesIO()
    try:
        parquet.write_table(carried.cast(_without_views(carried.schema)), file)
        return parquet.read_table(file).take(pa.array(range(carried.num_rows), pa.int64()))
    except pa.ArrowException as error:
        raise ImageError(f"list: expected columns that Parquet can hold in {list_file}: {error}") from None


def _without_views(schema: pa.Schema) -> pa.Schema:
    """Return a schema with plain texts and bytes in place of views, from which rows cannot be taken."""
    plain = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    return pa.schema([field.with_type(plain.get(field.type, field.type)) for field in schema])


def _read(path: Path) -> pa.Table:
    with path.open("rb") as file:
        match path.suffix.lower():
            case ".csv":
                parsing = csv.ParseOptions(newlines_in_values=True)
                types = csv.ConvertOptions(column_types={COLUMN: pa.string()})
                return csv.read_csv(file, parse_options=parsing, convert_options=types)
            case ".parquet":
                return parquet.read_table(file)
            case _:
                lines = [line.removesuffix("\r") for line in file.read().decode("utf-8-sig").split("\n")]
                return pa.table({COLUMN: [line for line in lines if line]})


def _check(paths: list[Any], list_file: Path) -> None:
    """Raise ImageError unless all paths are different texts."""
    rows: dict[str, int] = {}
    for row, path in enumerate(paths, 1):
        if not isinstance(path, str) or not path:
            raise ImageError(f"list: expected a path in row {row} of {list_file}, got {path!r}")
        if path in rows:
            raise ImageError(
                f"list: expected each path once in {list_file}, got {path!r} in rows {rows[path]} and {row}"
            )
        rows[path] = row
