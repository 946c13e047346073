"""What files of grids hold: the windows, and their scores or probabilities of the classes that were asked for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fullconv.common.probabilities import RAW, probabilities
from fullconv.grid import GridHeader, GridRows, Scores
from fullconv.images import ScoredPixels


def column_names(prefix: str, labels: Sequence[str], indices: Sequence[int]) -> list[str]:
    """Return the name of each class's column: PREFIX_LABEL, or PREFIX_LABEL_INDEX for classes with the same label."""
    counts = Counter(labels)
    return [
        f"{prefix}_{label}" if counts[label] == 1 else f"{prefix}_{label}_{index}"
        for label, index in zip(labels, indices, strict=True)
    ]


@dataclass(frozen=True)
class CellValues:
    """The classes that a file has, and how their values follow from rows of a grid.

    Softmax needs the scores of all classes, so that rows may have more classes than the file.
    """

    header: GridHeader
    """The description of the rows."""
    kind: str
    """The kind of the scores (`ModelOutput.kind`)."""
    chosen: tuple[int, ...]
    """The classes of the file, as indices in the network's output, in this order."""
    threshold: float | None = None
    """Smallest value, of the class with the highest value, of the windows in tables. None: all windows."""
    colours: Mapping[int, str] = field(default_factory=dict)
    """The colour "#rrggbb" of classes that have one, by their indices."""
    image: ScoredPixels | None = None
    """The image, whose georeference a raster has too. None: the raster has no georeference."""

    @cached_property
    def chosen_header(self) -> GridHeader:
        """The description of the grid with the classes of the file."""
        columns = self.header.columns(self.chosen)
        labels = tuple(self.header.labels[column] for column in columns)
        return replace(self.header, indices=self.chosen, labels=labels, depth=len(columns))

    @cached_property
    def names(self) -> list[str]:
        """The name of each class's column in tables: prob_LABEL, or score_LABEL if there are no probabilities.

        Classes with the same label have their index too: prob_LABEL_INDEX.
        """
        header = self.chosen_header
        return column_names("score" if self.kind == RAW else "prob", header.labels, header.indices)

    def scores(self, rows: GridRows) -> Scores:
        """Return the scores of the chosen classes, (rows, cols, classes)."""
        return rows.scores if self.chosen == self.header.indices else rows.scores[..., self._columns]

    def of_all(self, rows: GridRows) -> NDArray[np.float32]:
        """Return the values of the chosen classes, (rows, cols, classes): probabilities or, without them, scores."""
        scores = rows.scores.astype(np.float32, copy=False)
        return (scores if self.kind == RAW else probabilities(scores, self.kind))[..., self._columns]

    def cells(self, rows: GridRows) -> "Cells":
        """Return the windows of rows that were scored and reach the threshold, in the order of the rows."""
        values = self.of_all(rows)
        is_wanted = ~np.isnan(values[..., 0])
        if self.threshold is not None:
            is_wanted &= values.max(axis=-1) >= self.threshold
        row, col = np.nonzero(is_wanted)
        return Cells(row + rows.first, col, values[row, col])

    @cached_property
    def _columns(self) -> list[int]:
        return self.header.columns(self.chosen)


@dataclass(frozen=True)
class Cells:
    """Some windows of a grid, with the values of the chosen classes."""

    row: NDArray[np.intp]
    """Row in the grid, (windows,)."""
    col: NDArray[np.intp]
    """Column in the grid, (windows,)."""
    values: NDArray[np.float32]
    """(windows, classes)."""
