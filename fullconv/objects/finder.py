"""Finds the objects of an image in the rows of its grids.

Rows are taken as they are scored. Beside the candidates only two rows are held: the last row, which is compared with
the row below it when that is known, and the row above it.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Unpack

import numpy as np
from numpy.typing import NDArray

from fullconv.common.probabilities import SOFTMAX
from fullconv.common.text import counted
from fullconv.description import ModelDescription
from fullconv.errors import RequestError
from fullconv.grid import GridHeader, GridRows, RowSink
from fullconv.grids import cell_values
from fullconv.grids.cells import CellValues
from fullconv.objects.boxes import have_area, moved_boxes
from fullconv.objects.found import DetectedObjects
from fullconv.objects.maxima import local_maxima
from fullconv.objects.rule import ObjectOptions, ObjectRule, object_rule
from fullconv.objects.suppression import Boxes, suppress_by_class


class Candidates(NamedTuple):
    """Windows that may be objects."""

    boxes: Boxes
    """x, y, width and height in pixels of the image, (windows, 4)."""
    scores: NDArray[np.float32]
    """Probability or score of the class, (windows,)."""
    classes: NDArray[np.int64]
    """Index of the class in the network's output, (windows,)."""
    windows: NDArray[np.int64]
    """x, y, width and height of the window, (windows, 4)."""
    further: NDArray[np.float32]
    """Values of the model's further outputs, one output after the other, (windows, values)."""

    def at(self, positions: NDArray[np.intp] | NDArray[np.bool_]) -> "Candidates":
        """Return the candidates at some positions."""
        parts: tuple[Any, ...] = self
        return Candidates(*(part[positions] for part in parts))


class ObjectFinder:
    """Collects the candidates in the grids of one image, and chooses the objects among them."""

    def __init__(self, model: ModelDescription, rule: ObjectRule) -> None:
        self.model, self._rule = model, rule
        self._grids: list[_GridCandidates] = []

    @property
    def has_grids(self) -> bool:
        """Whether a grid was taken."""
        return bool(self._grids)

    @contextmanager
    def grid(self, header: GridHeader) -> Iterator[RowSink]:
        """Take a grid of the image; yields the function that takes its rows, top to bottom."""
        grid = _GridCandidates(cell_values(header, self.model, self._rule.classes), self._rule)
        self._grids.append(grid)
        yield grid.add
        grid.finish()

    def objects(self) -> DetectedObjects:
        """Return the objects in the grids, of which there is at least one."""
        parts = [part for grid in self._grids for part in grid.found]
        found = Candidates(*map(np.concatenate, zip(*parts, strict=True)))
        groups = np.zeros_like(found.classes) if self._rule.across_classes else found.classes
        found = found.at(suppress_by_class(found.boxes, found.scores, groups, self._rule.overlap))
        values = self._grids[0].values
        names = dict(zip(values.chosen, values.chosen_header.labels, strict=True))
        further = values.header.split(found.further)
        return DetectedObjects(*found[:-1], further=further, names=names, colours=values.colours)


def find_objects(
    model: ModelDescription, grids: Iterable[tuple[GridHeader, Iterable[GridRows]]], **options: Unpack[ObjectOptions]
) -> DetectedObjects:
    """Return the objects of an image in one or several of its grids, each with its rows from top to bottom.

    Several grids are those of the image at several scales. Raises RequestError if an option is invalid, if there is no
    grid, or if a grid lacks the scores of a class that is needed: of all classes for probabilities by softmax.
    """
    rule = object_rule(model, options)
    finder, needed = ObjectFinder(model, rule), rule.classes
    if model.output.kind == SOFTMAX:
        needed = tuple(range(model.output.classes))
    for header, parts in grids:
        if not set(needed) <= set(header.indices):
            raise RequestError(
                f"grid: expected the scores of {counted(len(needed), 'class')} for objects, got the scores of "
                f"{len(header.indices)}; score without the option classes"
            )
        with finder.grid(header) as add:
            for rows in parts:
                add(rows)
    if not finder.has_grids:
        raise RequestError("grids: expected at least one grid of the image, got none")
    return finder.objects()


class _GridCandidates:
    """Collects the candidates of one grid from its rows."""

    def __init__(self, values: CellValues, rule: ObjectRule) -> None:
        self.values, self._rule = values, rule
        self.found: list[Candidates] = []
        depth = len(values.chosen) + sum(output.values for output in values.header.further)
        self._outside = np.full((1, values.header.horizontal.count, depth), np.nan, np.float32)
        self._held, self._next = self._outside, 0
        """The last two rows, of which the second is still to be compared; and the index of that row."""

    def add(self, rows: GridRows) -> None:
        """Take rows, and collect the candidates of all rows but the last."""
        parts = [self.values.of_all(rows), *([] if rows.further is None else [rows.further])]
        self._compare(np.concatenate(parts, axis=-1))

    def finish(self) -> None:
        """Collect the candidates of the last row."""
        self._compare(self._outside)

    def _compare(self, below: NDArray[np.float32]) -> None:
        """Collect the candidates of the rows that have a row above and a row below."""
        cells = np.concatenate([self._held, below])
        row, col, class_ = local_maxima(cells[..., : len(self.values.chosen)], self._rule.threshold)
        found = self._candidates(row + self._next, col, class_, cells[row + 1, col])
        if len(found.scores) or not self.found:
            self.found.append(found)
        self._held, self._next = cells[-2:].copy(), self._next + len(cells) - 2

    def _candidates(
        self, row: NDArray[np.intp], col: NDArray[np.intp], class_: NDArray[np.intp], cells: NDArray[np.float32]
    ) -> Candidates:
        """Return the candidates at positions in the grid whose box has an area; `cells` are their values."""
        windows, further = self.values.header.boxes_at(row, col), cells[:, len(self.values.chosen) :]
        boxes: Boxes = windows
        if self._rule.box_output is not None:
            boxes = moved_boxes(windows, self.values.header.split(further)[self._rule.box_output])
        scores = cells[np.arange(len(cells)), class_]
        classes = np.array(self.values.chosen, np.int64)[class_]
        return Candidates(boxes, scores, classes, windows, further).at(have_area(boxes))
