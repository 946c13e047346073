"""What becomes of the cells' scores as they come: averages, and the step from scores to probabilities."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class Mean:
    """The mean over all cells, summed in float64."""

    classes: int
    _sum: NDArray[np.float64] = field(init=False)
    cells: int = field(init=False, default=0)
    """How many there were."""

    def __post_init__(self) -> None:
        """Start from nothing."""
        self._sum = np.zeros(self.classes)

    def add(self, values: NDArray[np.floating]) -> None:
        """Add cells; `values` is (..., classes)."""
        cells = values.reshape(-1, self.classes)
        self._sum += cells.sum(axis=0, dtype=np.float64)
        self.cells += len(cells)

    @property
    def value(self) -> NDArray[np.float64]:
        """The mean so far, (classes,) float64; NaN before the first cell."""
        return self._sum / self.cells if self.cells else np.full(self.classes, np.nan)


def probabilities(scores: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    """Turn scores (..., classes) of an output kind (ModelSpec.output.kind) into probabilities of the same shape."""
    match kind:
        case "probabilities":
            return scores
        case "logits-softmax":
            powers: NDArray[np.float32] = np.exp(scores - scores.max(axis=-1, keepdims=True))
            powers /= powers.sum(axis=-1, keepdims=True)
            return powers
        case "logits-sigmoid":
            sigmoid: NDArray[np.float32] = np.float32(0.5) * (1 + np.tanh(scores / 2))
            return sigmoid
        case _:
            raise ValueError(f"expected an output kind that has probabilities, got {kind!r}")


def top_k(scores: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """The highest scores (..., count) of (..., classes) and their positions, the highest first, ties in order."""
    if count == 1:
        positions = scores.argmax(axis=-1)[..., None]
    else:
        positions = np.argsort(-scores, axis=-1, kind="stable")[..., :count]
    return np.take_along_axis(scores, positions, axis=-1), positions.astype(np.uint32)


def argsort_descending(values: NDArray[np.float64], count: int) -> list[int]:
    """Positions of the highest values of (classes,), the highest first, ties in order."""
    return [int(position) for position in np.argsort(-values, kind="stable")[:count]]
