"""`--grid OUT.npz`: every cell's scores, written row by row as they come.

scores   (rows, cols, classes) float32, NaN for windows that a mask left out
x, y     (cols,) and (rows,) int64: the windows' left and top edges, in pixels of the image
window   (2,) int64: height and width in pixels
classes  (classes,) int64: positions in the network's output
labels   (classes,) str
"""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from fullconv.answer import Answer, Scores
from fullconv.common.files import whole_file
from fullconv.protos import scoring_pb2

Rows = Callable[[int, Scores], None]
"""Takes (first row, scores (rows, cols, classes)), top to bottom."""


@contextmanager
def grid_file(path: Path, response: scoring_pb2.ScoreResponse) -> Iterator[Rows]:
    """Write the file while its rows come; `response` says how many there will be."""
    grid, answer = response.grid, Answer(response)
    with whole_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in (
            ("x", answer.x),
            ("y", answer.y),
            ("window", np.array(answer.window, np.int64)),
            ("classes", np.array([entry.index for entry in response.classes], np.int64)),
            ("labels", np.array([entry.label for entry in response.classes], np.str_)),
        ):
            with archive.open(f"{name}.npy", "w") as member:
                npy.write_array(member, array, allow_pickle=False)
        with archive.open("scores.npy", "w", force_zip64=True) as member:
            shape = (grid.rows, grid.cols, len(response.classes))
            npy.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": shape})
            yield lambda _, scores: _write(member, scores)


def _write(member: IO[bytes], scores: Scores) -> None:
    member.write(np.ascontiguousarray(scores, "<f4").data)
