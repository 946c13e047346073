"""The file that `--grid OUT.npz` and `Answer.save` write: the scores of every window.

scores   (rows, cols, classes) float32, NaN for windows that a mask left out
x, y     (cols,) and (rows,) int64: the windows' left and top edges, in pixels of the image
window   (2,) int64: height and width in pixels of the image
classes  (classes,) int64: indices in the network's output
labels   (classes,) str
"""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from fullconv.common.files import atomic_write
from fullconv.grid import GridHeader, RowSink, Scores


@contextmanager
def grid_file(path: Path, header: GridHeader) -> Iterator[RowSink]:
    """Write the file row by row; yields the function that takes the rows. Raises OutputError."""
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in (
            ("x", header.horizontal.starts),
            ("y", header.vertical.starts),
            ("window", np.array(header.window, np.int64)),
            ("classes", np.array(header.indices, np.int64)),
            ("labels", np.array(header.labels, np.str_)),
        ):
            with archive.open(f"{name}.npy", "w") as member:
                npy.write_array(member, array, allow_pickle=False)
        with archive.open("scores.npy", "w", force_zip64=True) as member:
            shape = (header.vertical.count, header.horizontal.count, len(header.indices))
            npy.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": shape})
            yield lambda _, scores: _write(member, scores)


def _write(member: IO[bytes], scores: Scores) -> None:
    member.write(np.ascontiguousarray(scores, "<f4").data)
