"""Reductions of cells' scores: the mean of each class, and the classes with the highest scores.

Sums of floating-point numbers depend on the order in which they are added. The cells of each band are added up by
themselves, and the sums of the bands are added from top to bottom. Bands that are scored apart therefore give the same
means, to the last bit, as bands that are scored together.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FEW = 64
"""Number of values up to which Python sorts them. numpy takes as long, and always releases the interpreter lock for it,
which often means a change of threads."""


@dataclass
class Mean:
    """The mean over all added cells, summed in float64."""

    classes: int
    sum: NDArray[np.float64] = field(init=False)
    """The sum over the added cells, (classes,)."""
    cells: int = field(init=False, default=0)
    """Number of cells that were added."""

    def __post_init__(self) -> None:
        """Start with no cells."""
        self.sum = np.zeros(self.classes)

    def add(self, values: NDArray[np.floating]) -> None:
        """Add cells; `values` is (..., classes)."""
        cells = values.reshape(-1, self.classes)
        self.add_sum(cells.sum(axis=0, dtype=np.float64), len(cells))

    def add_sum(self, total: NDArray[np.float64], cells: int) -> None:
        """Add the sum (classes,) over a number of cells."""
        self.sum += total
        self.cells += cells

    @property
    def value(self) -> NDArray[np.float64]:
        """The mean so far, (classes,) float64; NaN before the first cell."""
        return self.sum / self.cells if self.cells else np.full(self.classes, np.nan)


@dataclass(frozen=True)
class ViewMeans:
    """The means of one view."""

    all: Mean
    """Over all cells."""
    areas: tuple[Mean, ...]
    """Over the cells of each named area."""

    @property
    def every(self) -> tuple[Mean, ...]:
        """The mean over all cells, then those of the areas."""
        return self.all, *self.areas

    def add(self, other: "ViewMeans") -> None:
        """Add the cells of other means, of as many classes and areas."""
        for mean, added in zip(self.every, other.every, strict=True):
            mean.add_sum(added.sum, added.cells)


def make_means(classes: int, areas: int) -> ViewMeans:
    """Return means of no cells yet, for a number of classes and of areas."""
    return ViewMeans(Mean(classes), tuple(Mean(classes) for _ in range(areas)))


def top_k(scores: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """Return the highest scores (..., count) of scores (..., classes), in descending order, and their classes.

    Of equal scores the class with the lower index comes first.
    """
    if count == 1:
        positions = scores.argmax(axis=-1)[..., None]
    else:
        positions = np.argsort(-scores, axis=-1, kind="stable")[..., :count]
    return np.take_along_axis(scores, positions, axis=-1), positions.astype(np.uint32)


def argsort_descending(values: NDArray[np.float64], count: int) -> list[int]:
    """Return the positions of the `count` highest of values (n,), in descending order of the values.

    Of equal values the one with the lower position comes first.
    """
    if len(values) <= FEW:
        return sorted(range(len(values)), key=(-values).tolist().__getitem__)[:count]
    return [int(position) for position in np.argsort(-values, kind="stable")[:count]]
