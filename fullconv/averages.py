"""Averages of an answer: of a class, and of all classes over the windows of an area."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Entry:
    """A class, and its average over windows."""

    index: int
    label: str
    score: float

    def document(self) -> dict[str, Any]:
        """Return what `--json` prints of it."""
        return {"class": self.index, "label": self.label, "score": self.score}


@dataclass(frozen=True, eq=False)
class AreaAverage:
    """The average over the windows that lie in a named area of the mask."""

    name: str
    windows: int
    """Number of windows in the area. If it is 0, there is no average."""
    average: NDArray[np.float64]
    """The mean over these windows, (classes,); empty without windows."""
    top: tuple[Entry, ...]
    """The classes with the highest averages, the highest first."""

    def document(self) -> dict[str, Any]:
        """Return what `--json` prints of it."""
        return {"name": self.name, "windows": self.windows, "top": [entry.document() for entry in self.top]}


def highest(average: NDArray[np.float64], indices: tuple[int, ...], labels: tuple[str, ...], count: int) -> list[Entry]:
    """Return the classes with the highest of averages (classes,), the highest first; of equal averages, the first."""
    order = np.argsort(-average, kind="stable")[:count]
    return [Entry(indices[at], labels[at], float(average[at])) for at in order]
