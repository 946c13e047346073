"""The file of a section: an .npz archive of the sums of its bands and of its rows of the grid.

sums, cells                     as in `SectionScores`
first                           (parts,) int64: the first row of each part of the rows
scores0, positions0, further0   the rows of part 0, of which positions and further values may be absent
"""

from io import BytesIO

import numpy as np

from service.scoring.grid import GridRows
from service.scoring.sections import SectionScores


def section_bytes(section: SectionScores) -> bytes:
    """Return the file of a section."""
    arrays = {"sums": section.sums, "cells": section.cells, "first": np.array([part.first for part in section.rows])}
    for number, part in enumerate(section.rows):
        values = {"scores": part.scores, "positions": part.positions, "further": part.further}
        arrays |= {f"{name}{number}": array for name, array in values.items() if array is not None}
    file = BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def section_of(data: bytes) -> SectionScores:
    """Return the section of a file."""
    with np.load(BytesIO(data), allow_pickle=False) as file:

        def rows(number: int, first: int) -> GridRows:
            positions, further = file.get(f"positions{number}"), file.get(f"further{number}")
            return GridRows(first, file[f"scores{number}"], positions, further)

        parts = tuple(rows(number, int(first)) for number, first in enumerate(file["first"]))
        return SectionScores(parts, file["sums"], file["cells"])
