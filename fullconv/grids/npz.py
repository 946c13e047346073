"""Arrays in one .npz file.

x, y     (cols,) and (rows,) int64: the windows' left and top edges, in pixels of the image
window   (2,) int64: height and width in pixels of the image
classes  (classes,) int64: indices in the network's output
labels   (classes,) str

The values of the windows follow, as `fullconv.grids.arrays` describes them: `scores` unless the options say otherwise,
NaN for windows that a mask left out.
"""

import shutil
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fullconv.common.files import atomic_write, spool_file
from fullconv.grid import GridHeader, GridRows, RowSink
from fullconv.grids.arrays import GridArray, array_rows, grid_arrays
from fullconv.grids.cells import CellValues


@contextmanager
def npz_file(path: Path, values: CellValues) -> Iterator[RowSink]:
    """Write the file row by row; yields the function that takes the rows. Raises OutputError.

    Members of an archive are written one after the other, so that all arrays but the first wait in files of their own.
    """
    header = values.chosen_header
    first, *others = grid_arrays(values)
    with ExitStack() as stack:
        archive = zipfile.ZipFile(stack.enter_context(atomic_write(path)), "w")
        stack.enter_context(archive)
        waiting = [stack.enter_context(spool_file(path)) for _ in others]
        for name, known in (
            ("x", header.horizontal.starts),
            ("y", header.vertical.starts),
            ("window", np.array(header.window, np.int64)),
            ("classes", np.array(header.indices, np.int64)),
            ("labels", np.array(header.labels, np.str_)),
        ):
            with archive.open(f"{name}.npy", "w") as member:
                npy.write_array(member, known, allow_pickle=False)
        with _member(archive, header, first) as member:

            def write(rows: GridRows) -> None:
                for file, array, part in zip(
                    [member, *waiting], [first, *others], array_rows(values, rows), strict=True
                ):
                    _write(file, array, part)

            yield write
        for file, array in zip(waiting, others, strict=True):
            file.seek(0)
            with _member(archive, header, array) as member:
                shutil.copyfileobj(file, member)


@contextmanager
def _member(archive: zipfile.ZipFile, header: GridHeader, array: GridArray) -> Iterator[IO[bytes]]:
    """Begin an array; yields the file that takes its numbers."""
    with archive.open(f"{array.name}.npy", "w", force_zip64=True) as member:
        depth = () if array.depth is None else (array.depth,)
        shape = (header.vertical.count, header.horizontal.count, *depth)
        description = {"descr": npy.dtype_to_descr(array.dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(member, description)
        yield member


def _write(file: IO[bytes], array: GridArray, values: NDArray[Any]) -> None:
    file.write(np.ascontiguousarray(values, array.dtype).data)
