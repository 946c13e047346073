"""What files of grids hold: the windows, and their scores or probabilities of the classes that were asked for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fullconv.common.names import DEFAULT_TOP
from fullconv.common.probabilities import RAW, probabilities
from fullconv.errors import ImageError
from fullconv.features import classification
from fullconv.file_options import FileOptions
from fullconv.grid import GridHeader, GridRows, Scores
from fullconv.images import ScoredPixels

Winners = NDArray[np.unsignedinteger[Any]]
"""Positions of classes among the classes of a file; `CellValues.no_class` for windows that were not scored."""


class Ranking(NamedTuple):
    """The classes with the highest scores of each window, the highest first."""

    winners: Winners
    """(rows, cols, depth)."""
    values: NDArray[np.float32]
    """Probabilities or scores of these classes, (rows, cols, depth); NaN for windows that were not scored."""


def column_names(prefix: str, labels: Sequence[str], indices: Sequence[int]) -> list[str]:
    """Return the name of each class's column: PREFIX_LABEL, or PREFIX_LABEL_INDEX for classes with the same label."""
    return [f"{prefix}_{label}" for label in distinct_labels(labels, indices)]


def distinct_labels(labels: Sequence[str], indices: Sequence[int]) -> list[str]:
    """Return the label of each class; classes with the same label have their index too: LABEL_INDEX."""
    counts, pairs = Counter(labels), [*zip(labels, indices, strict=True)]
    names = [label if counts[label] == 1 else f"{label}_{index}" for label, index in pairs]
    if len(set(names)) < len(names):  # a label has the form of another label with its index
        names = [f"{label}_{index}" for label, index in pairs]
    return names


@dataclass(frozen=True)
class CellValues:
    """The classes that a file has, and how their values follow from rows of a grid.

    Softmax needs the scores of all classes, so that rows may have more classes than the file.
    """

    header: GridHeader
    """The description of the rows."""
    kind: str
    """The kind of the scores (`ModelOutput.kind`) from which the file's probabilities follow; RAW: it has scores."""
    chosen: tuple[int, ...]
    """The classes of the file, as indices in the network's output, in this order."""
    options: FileOptions = field(default_factory=FileOptions)
    """What the file holds."""
    colours: Mapping[int, str] = field(default_factory=dict)
    """The colour "#rrggbb" of classes that have one, by their indices."""
    image: ScoredPixels | None = None
    """The image, which may have a georeference. None: there is no georeference."""
    model_kind: str = RAW
    """The kind of the model's scores. If the file has scores, the probabilities for the threshold follow from it."""

    @cached_property
    def chosen_header(self) -> GridHeader:
        """The description of the grid with the classes of the file."""
        columns = self.header.columns(self.chosen)
        labels = tuple(self.header.labels[column] for column in columns)
        return replace(self.header, indices=self.chosen, labels=labels, depth=len(columns))

    @property
    def ranks(self) -> str | None:
        """What the file has if not every class: "argmax", the class with the highest score, or "top", several."""
        grid_as = self.options.get("grid_as")
        return grid_as if grid_as in ("argmax", "top") else None

    @property
    def depth(self) -> int:
        """Number of values of each window in the file."""
        most = {"argmax": 1, "top": self.options.get("grid_top", DEFAULT_TOP), None: len(self.chosen)}[self.ranks]
        return min(most, len(self.chosen), self.header.depth)

    @property
    def winner_type(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The smallest type that holds the position of every class of the file, and `no_class`."""
        return np.min_scalar_type(len(self.chosen))

    @property
    def no_class(self) -> int:
        """The largest number of `winner_type`, which stands for no class."""
        return int(np.iinfo(self.winner_type).max)

    @property
    def quantity(self) -> str:
        """The name of the values in tables: "prob", or "score" if the file has scores."""
        return "score" if self.kind == RAW else "prob"

    @cached_property
    def class_names(self) -> list[str]:
        """The label of each class; classes with the same label have their index too: LABEL_INDEX."""
        return distinct_labels(self.chosen_header.labels, self.chosen)

    @cached_property
    def names(self) -> list[str]:
        """The name of each class's column in tables: prob_LABEL, or score_LABEL if the file has scores."""
        return column_names(self.quantity, self.chosen_header.labels, self.chosen)

    @property
    def classifications(self) -> list[str]:
        """Each class in JSON, with its label and its colour."""
        return [*map(classification, self.chosen_header.labels, map(self.colours.get, self.chosen))]

    @cached_property
    def value_names(self) -> list[str]:
        """The names of the values of each window: of all classes, or class and prob of the highest."""
        if self.ranks == "argmax":
            return ["class", self.quantity]
        if self.ranks == "top":
            return [f"{name}_{rank}" for rank in range(1, self.depth + 1) for name in ("class", self.quantity)]
        return self.names

    def of_all(self, rows: GridRows) -> Scores:
        """Return the values of the chosen classes, (rows, cols, classes): scores or probabilities.

        Raises ImageError for scores that float16 cannot hold, if the file has that type.
        """
        if self.options.get("grid_as") == "float16":
            return self._half(rows.scores if self.chosen == self.header.indices else rows.scores[..., self._columns])
        scores = rows.scores.astype(np.float32, copy=False)
        if self.kind != RAW:
            scores = probabilities(scores, self.kind)
        return scores if self.chosen == self.header.indices else scores[..., self._columns]

    def ranking(self, rows: GridRows, depth: int, of_all: Scores | None = None) -> Ranking:
        """Return the `depth` classes with the highest scores; of equal scores, the first class comes first.

        `of_all` are the values of all classes, if they are known already.
        """
        if rows.positions is not None:
            winners: NDArray[Any] = rows.positions[..., :depth]
            values = rows.scores[..., :depth].astype(np.float32, copy=False)
            values = values if self.kind == RAW else probabilities(values, self.kind)
        else:
            winners = _order(rows.scores[..., self._columns], depth)
            known: NDArray[Any] = self.of_all(rows) if of_all is None else of_all
            values = np.take_along_axis(known, winners, axis=-1)
        return Ranking(np.where(np.isnan(values), self.no_class, winners).astype(self.winner_type), values)

    def cells(self, rows: GridRows) -> "Cells":
        """Return the windows of rows that were scored and reach the threshold, in the order of the rows."""
        if self.ranks:
            ranking = self.ranking(rows, self.depth)
            values: Scores = ranking.values
        else:
            values = self.of_all(rows)
            ranking = self.ranking(rows, 1, values)
        row, col = np.nonzero(self.is_wanted(rows, ranking))
        return Cells(row + rows.first, col, ranking.winners[row, col], values[row, col])

    def is_wanted(self, rows: GridRows, ranking: Ranking) -> NDArray[np.bool_]:
        """Return whether windows were scored and reach the threshold, (rows, cols).

        The threshold is a probability also if the file has scores, unless the model has no probabilities.
        """
        highest, threshold = ranking.values[..., 0], self.options.get("threshold")
        if threshold is None:
            return ~np.isnan(highest)
        if self.kind == RAW != self.model_kind:
            columns = self._columns if rows.positions is None else [0]
            scores = rows.scores.astype(np.float32, copy=False)
            highest = probabilities(scores, self.model_kind)[..., columns].max(axis=-1)
        return highest >= threshold

    def _half(self, scores: Scores) -> NDArray[np.float16]:
        if np.nanmax(np.abs(scores), initial=0) > np.finfo(np.float16).max:
            raise ImageError(
                f"{self.header.image.name}: grid_as: expected scores that float16 can hold, got larger scores"
            )
        return scores.astype(np.float16)

    @cached_property
    def _columns(self) -> list[int]:
        return self.header.columns(self.chosen)


@dataclass(frozen=True)
class Cells:
    """Some windows of a grid, with their highest classes, and the values of the file."""

    row: NDArray[np.intp]
    """Row in the grid, (windows,)."""
    col: NDArray[np.intp]
    """Column in the grid, (windows,)."""
    winners: Winners
    """The class with the highest score, or the classes of the file's values, (windows, classes)."""
    values: Scores
    """(windows, classes): of all classes of the file, or of `winners`."""

    def texts(self) -> NDArray[Any]:
        """Return the values as text, (windows, classes): the shortest decimals that are read back unchanged."""
        return self.values.astype(np.dtypes.StringDType())


def _order(scores: Scores, depth: int) -> NDArray[np.intp]:
    """Return the positions of the highest scores of each window, (rows, cols, depth)."""
    order: NDArray[np.intp] = np.argsort(-scores, axis=-1, kind="stable") if depth > 1 else scores.argmax(-1)[..., None]
    return order[..., :depth]
