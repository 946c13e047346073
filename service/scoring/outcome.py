"""The outcomes of scoring an image: results, plans, and the events of a large image."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.scoring.grid import GridRows
from service.scoring.masking import ViewCount
from service.scoring.planned import PlannedImage


@dataclass(frozen=True)
class Timing:
    """Where the time of a request went, in seconds."""

    queue: float = 0.0
    """Waiting for a thread, and for the first turn of its tiles."""
    decode: float = 0.0
    """Waiting for pixels. The next strip is decoded while one is scored."""
    compute: float = 0.0
    """Waiting for scores."""
    reduce: float = 0.0
    """Averaging, and gathering the rows of the grid."""
    total: float = 0.0
    """From the arrival of the request until its image is scored, without encoding the answer."""


@dataclass(frozen=True, eq=False)
class AreaAverage:
    """The average over the windows of a named area."""

    name: str
    cells: int
    """Number of windows of the first view in the area."""
    average: NDArray[np.float64]
    """(classes,), in the order of `ResolvedOptions.classes`; empty if no view has a window in the area."""


@dataclass(frozen=True, eq=False)
class Result:
    """What is known once every window is scored."""

    average: NDArray[np.float64]
    """(classes,), in the order of `ResolvedOptions.classes`: over all scored cells, then over all views."""
    top: tuple[int, ...]
    """Positions in `average` of the highest averages, the highest first."""
    scored_cells: int
    """Number of cells of the first view that were scored."""
    timing: Timing
    areas: tuple[AreaAverage, ...] = ()
    """For each named area."""


@dataclass(frozen=True, eq=False)
class Scored:
    """An image that was scored. `rows` are all rows of the grid, unless they were handed over one by one."""

    planned: PlannedImage
    rows: tuple[GridRows, ...]
    result: Result


@dataclass(frozen=True, eq=False)
class Counted:
    """A request for the plan alone, with the cost of each view inside the mask."""

    planned: PlannedImage
    counts: tuple[ViewCount, ...]
    queue_seconds: float = 0.0


Outcome = Scored | Counted


@dataclass(frozen=True)
class Started:
    """A large image is planned and admitted, and is about to be scored."""

    planned: PlannedImage
    queue_seconds: float


@dataclass(frozen=True)
class Progress:
    """The number of tiles of a large image that are scored so far."""

    tiles: int
    total: int


Event = Started | Progress | GridRows | Outcome
"""For a large image, in this order: Started; GridRows and Progress; Scored. For a plan alone: only Counted."""
