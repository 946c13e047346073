"""The rows of the results: a row for each image, with the same columns in every part.

path                        the image, as the arguments or the list name it
bytes, sha256               size of the file; SHA-256 of a file of at most WHOLE_BYTES
width, height               pixels, after EXIF rotation
model, version, weights_sha256
mode, exact                 the mode, and whether its scores are those of the classifier itself
provider, precision         the runtime that has computed the scores, and the number format
rows, cols, stride, window  the grid; stride and window are height and width in pixels of the image
windows                     number of windows that were scored
average                     average of each class over these windows, float32; with `wide` a column for each class
top_class, top_label        the classes with the highest averages, the highest first
areas                       name, number of windows and averages of each named area of a mask of areas
warnings
grid                        path of the image's grid in the results, if grids are written
error, error_kind           the reason why the image has no scores; then only path, bytes and sha256 are known

Columns that a list carries follow. Averages are rounded to float32, the precision of the scores: the order in which
tiles are added, which depends on the speed of a server, changes at most digits beyond it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from fullconv.answer import Answer
from fullconv.common.probabilities import PROBABILITIES
from fullconv.common.text import encodable
from fullconv.description import ModelDescription
from fullconv.errors import ImageError
from fullconv.grids.cells import column_names
from fullconv.shown import class_indices

Row = dict[str, Any]
"""Values by column. A missing value has no entry."""
AREAS = pa.list_(
    pa.struct([pa.field("name", pa.string()), ("windows", pa.int64()), ("average", pa.list_(pa.float32()))])
)
FACTS = {
    "path": pa.string(),
    "bytes": pa.int64(),
    "sha256": pa.string(),
    "width": pa.int64(),
    "height": pa.int64(),
    "model": pa.string(),
    "version": pa.string(),
    "weights_sha256": pa.string(),
    "mode": pa.string(),
    "exact": pa.bool_(),
    "provider": pa.string(),
    "precision": pa.string(),
    "rows": pa.int64(),
    "cols": pa.int64(),
    "stride": pa.list_(pa.int64()),
    "window": pa.list_(pa.int64()),
    "windows": pa.int64(),
}
REMARKS = {
    "top_class": pa.list_(pa.int32()),
    "top_label": pa.list_(pa.string()),
    "areas": AREAS,
    "warnings": pa.list_(pa.string()),
    "grid": pa.string(),
    "error": pa.string(),
    "error_kind": pa.string(),
}
AVERAGE = "average"


@dataclass(frozen=True)
class Records:
    """The columns of a job's results, and the rows that answers and errors become."""

    classes: tuple[int, ...]
    """Indices of the classes of the averages, in the network's output."""
    class_columns: tuple[str, ...]
    """A column for each class; empty: one column with the averages of all classes."""
    weights_sha256: str
    carried: pa.Schema
    """The columns that a list carries."""

    @property
    def schema(self) -> pa.Schema:
        """The schema of the results; raises ImageError if a carried column has the name of another column."""
        averages = dict.fromkeys(self.class_columns, pa.float32()) or {AVERAGE: pa.list_(pa.float32())}
        fields = {**FACTS, **averages, **REMARKS}
        for name in self.carried.names:
            if name in fields:
                raise ImageError(
                    f"list: expected carried columns with other names than those of the results, got {name!r}; rename "
                    "the column"
                )
        return pa.schema([*fields.items(), *self.carried])

    def row_of(self, answer: Answer) -> Row:
        """Return the columns of an answer."""
        rows, cols, _ = answer.header.shape
        columns = answer.header.columns(self.classes)
        return {
            "width": answer.image.width,
            "height": answer.image.height,
            "model": answer.model,
            "version": answer.version,
            "weights_sha256": self.weights_sha256,
            "mode": answer.mode,
            "exact": answer.own_scores,
            "provider": answer.provider,
            "precision": answer.precision,
            "rows": rows,
            "cols": cols,
            "stride": list(answer.stride),
            "window": list(answer.window),
            "windows": answer.scored,
            "top_class": [entry.index for entry in answer.top],
            "top_label": [entry.label for entry in answer.top],
            "areas": [
                {"name": area.name, "windows": area.windows, "average": area.average[columns if area.windows else []]}
                for area in answer.areas
            ],
            "warnings": list(answer.warnings),
            **self._averages(answer.average[columns].astype(np.float32)),
        }

    def _averages(self, average: Any) -> Row:  # noqa: ANN401 (an array)
        if not self.class_columns:
            return {AVERAGE: average}
        return dict(zip(self.class_columns, average.tolist(), strict=True))

    def serialize(self, rows: Sequence[Row], carried: pa.Table) -> bytes:
        """Return a Parquet file of rows and their carried columns; the same values give the same bytes."""
        schema = self.schema
        own = schema.names[: len(schema.names) - len(self.carried.names)]
        columns = [pa.array([row.get(name) for row in rows], schema.field(name).type) for name in own]
        table = pa.Table.from_arrays([*columns, *carried.columns], schema=schema)
        file = BytesIO()
        parquet.write_table(table, file, compression="zstd")
        return file.getvalue()


def make_records(
    model: ModelDescription, classes: Sequence[str], average_of: str, carried: pa.Schema, *, wide: bool
) -> Records:
    """Return the columns for a model's classes; raises RequestError for an unknown class, and ImageError."""
    indices = class_indices(model, classes, "classes") or tuple(range(model.output.classes))
    columns: tuple[str, ...] = ()
    if wide:
        labels = [model.labels[index] if model.labels else str(index) for index in indices]
        is_probability = average_of == "probabilities" or model.output.kind == PROBABILITIES
        columns = tuple(column_names("prob" if is_probability else "score", labels, indices))
    records = Records(indices, columns, model.weights_sha256, carried)
    _ = records.schema  # checks the names
    return records


def failed_row(message: str, kind: str) -> Row:
    """Return the columns of an image that has no scores."""
    return {"error": encodable(message), "error_kind": kind}
