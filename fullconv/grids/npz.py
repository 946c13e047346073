"""Arrays in one .npz file: the scores of every window.

scores   (rows, cols, classes) float32, NaN for windows that a mask left out
x, y     (cols,) and (rows,) int64: the windows' left and top edges, in pixels of the image
window   (2,) int64: height and width in pixels of the image
classes  (classes,) int64: indices in the network's output
labels   (classes,) str
further_NAME  (rows, cols, values) float32, for each further output NAME of the model
"""

import shutil
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from fullconv.common.files import atomic_write, spool_file
from fullconv.grid import GridHeader, GridRows, RowSink, Scores
from fullconv.grids.cells import CellValues


@contextmanager
def npz_file(path: Path, values: CellValues) -> Iterator[RowSink]:
    """Write the file row by row; yields the function that takes the rows. Raises OutputError.

    Members of an archive are written one after the other, so that further outputs wait in files of their own.
    """
    header = values.chosen_header
    with ExitStack() as stack:
        archive = zipfile.ZipFile(stack.enter_context(atomic_write(path)), "w")
        stack.enter_context(archive)
        waiting = [stack.enter_context(spool_file(path)) for _ in header.further]
        for name, array in (
            ("x", header.horizontal.starts),
            ("y", header.vertical.starts),
            ("window", np.array(header.window, np.int64)),
            ("classes", np.array(header.indices, np.int64)),
            ("labels", np.array(header.labels, np.str_)),
        ):
            with archive.open(f"{name}.npy", "w") as member:
                npy.write_array(member, array, allow_pickle=False)
        with _member(archive, "scores", header, len(header.indices)) as scores:

            def write(rows: GridRows) -> None:
                _write(scores, values.scores(rows))
                if rows.further is not None:
                    for file, output in zip(waiting, header.split(rows.further).values(), strict=True):
                        _write(file, output)

            yield write
        for file, output in zip(waiting, header.further, strict=True):
            file.seek(0)
            with _member(archive, f"further_{output.name}", header, output.values) as member:
                shutil.copyfileobj(file, member)


@contextmanager
def _member(archive: zipfile.ZipFile, name: str, header: GridHeader, depth: int) -> Iterator[IO[bytes]]:
    """Begin an array (rows, cols, depth) of float32; yields the file that takes its numbers."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        shape = (header.vertical.count, header.horizontal.count, depth)
        npy.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": shape})
        yield member


def _write(file: IO[bytes], values: Scores) -> None:
    file.write(np.ascontiguousarray(values, "<f4").data)
