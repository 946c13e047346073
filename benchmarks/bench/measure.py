"""Times contenders on one image, in turns, and compares their scores with those of the original classifier.

In the first round nothing is timed: every contender runs once, and its scores are compared. In each further round every
contender runs once, in alternating order, so that the ratio of two times of a round is not affected by slow changes of
the machine. A contender whose time is proportional to the number of windows scores a sample of them; the time is scaled
to all windows.
"""

import gc
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from bench.cases import Case, Scope
from bench.contenders import BASELINE, Contender, Grid, Pixels, Prepared, Setup
from bench.windows import Lattice, Part, Sample, centred, scaled

CHECKED = 24
"""Number of windows at random places on which the scores of whole images are compared, besides the sample."""
SMALLEST = 1.5
"""Least side of a part of an image, in windows, that is measured in place of the image."""
TRIALS = 3
"""Number of runs of this part. The fastest counts: the first prepares kernels, and any run may wait for a CPU."""
PAUSE = 0.05
"""Seconds before each measurement, in which threads of the previous contender stop to spin."""


@dataclass
class Entry:
    """A contender in one case: how it runs, or why it does not, and what was measured so far."""

    name: str
    prepared: Prepared | None = None
    problem: str = ""
    """Why it is not measured: "not installed: NAME", or the error."""
    detail: str = ""
    """What it has chosen: the size of its batches, or a provider and a precision."""
    parts: tuple[Part, ...] = ()
    """The windows that it scores."""
    timed: int = 0
    """Number of windows that are scored in a round."""
    seconds: list[float] = field(default_factory=list)
    """Seconds for all windows of the image, one number for each round."""
    difference: float | None = None
    """Largest difference of a score from the original classifier's, relative to the largest score."""
    agreement: float | None = None
    """Share of windows with the original classifier's top class."""

    @property
    def is_whole(self) -> bool:
        """Whether the cost of a window depends on the size of the image."""
        return self.prepared is not None and self.prepared.multiply_adds is not None

    def fail(self, error: BaseException) -> None:
        """Record why the contender is not measured."""
        first, *_ = [*str(error).strip().splitlines(), ""]
        self.prepared, self.problem = None, f"failed: {type(error).__name__}: {first[:160]}"


@dataclass
class CaseRun:
    """The measurement of a case: what has been measured so far is valid at any time."""

    case: Case
    lattice: Lattice
    is_padded: bool
    """Whether the network pads, so that dense scores differ from the classifier's."""
    entries: list[Entry]


def prepare(contenders: Iterable[Contender], setup: Setup) -> list[Entry]:
    """Prepare the contenders that can score the network. Packages that are missing, and errors, are recorded."""
    entries = []
    for contender in contenders:
        if not contender.fits(setup.network):
            continue
        entry = Entry(contender.name)
        entries.append(entry)
        missing = [name for name in contender.requires if find_spec(name) is None]
        try:
            if missing:
                entry.problem = f"not installed: {', '.join(missing)}"
            else:
                entry.prepared = contender.prepare(setup)
        except ImportError as error:
            entry.problem = f"not installed: {error.name or error}"
        except Exception as error:  # of any library
            entry.fail(error)
    return entries


class Scored(NamedTuple):
    """The outcome of one run of a contender over its parts."""

    seconds: float
    grids: list[Grid]


class Runner:
    """Measures one case in rounds."""

    def __init__(self, run: CaseRun, image: Pixels, scope: Scope) -> None:
        self.run, self._image = run, image
        limit = math.inf if run.case.is_whole else scope.seconds
        areas = [self._area(entry, limit) for entry in run.entries]
        smallest = min(areas, key=lambda area: area.windows)
        self._sample = scope.sample(run.case.network).draw(smallest, np.random.default_rng(1))
        self._checked = Sample(1, 1, CHECKED).draw(smallest, np.random.default_rng(2))
        for entry, area in zip(run.entries, areas, strict=True):
            entry.parts = (area,) if entry.is_whole else self._sample
            entry.timed = sum(part.windows for part in entry.parts)

    def _area(self, entry: Entry, limit: float) -> Part:
        """Return the windows in the middle of the image that a contender scores in at most so many seconds.

        The time is predicted from that of a small part, by the multiply-adds.
        """
        lattice = self.run.lattice
        whole = centred(lattice, lattice.count)
        sides = halves(lattice)
        if entry.prepared is None or entry.prepared.multiply_adds is None or len(sides) == 1 or limit == math.inf:
            return whole
        areas = [centred(lattice, Lattice(side, lattice.window, lattice.stride).count) for side in sides]
        costs = [entry.prepared.multiply_adds(side) for side in sides]
        entry.parts = (areas[-1],)
        timed = [scored.seconds for scored in [self._score(entry) for _ in range(TRIALS)] if scored]
        if len(timed) < TRIALS:
            return whole
        fitting = [area for area, cost in zip(areas, costs, strict=True) if min(timed) * cost / costs[-1] <= limit]
        return fitting[0] if fitting else areas[-1]

    def compare(self) -> None:
        """Run every contender once, and compare its scores with those of the original classifier, the first.

        Scores of a whole image are also compared on windows at random places.
        """
        reference, further = list[Grid](), list[Grid]()
        for entry in self.run.entries:
            scored = self._score(entry)
            if scored is None:
                continue
            found, expected = scored.grids, reference
            if entry.name == BASELINE.name:
                reference = expected = found
                further = self._scores_of_checked(entry)
            if entry.is_whole:
                parts = (*self._sample, *self._checked) if further else self._sample
                found, expected = [found[0][part.inside(entry.parts[0])] for part in parts], reference + further
            if expected:
                entry.difference, entry.agreement = compare(found, expected)

    def _scores_of_checked(self, entry: Entry) -> list[Grid]:
        """Return the scores of the windows at random places."""
        sample, entry.parts = entry.parts, self._checked
        scored = self._score(entry)
        entry.parts = sample
        return [] if scored is None else scored.grids

    def measure(self, number: int) -> None:
        """Time every contender once."""
        order = self.run.entries if number % 2 == 0 else self.run.entries[::-1]
        for entry in order:
            scored = self._score(entry)
            if scored is not None:
                entry.seconds.append(scaled(scored.seconds, entry.timed, self.run.lattice.windows))

    def _score(self, entry: Entry) -> Scored | None:
        """Run a contender once over its parts; returns None if it fails, now or before."""
        if entry.prepared is None:
            return None
        images = [np.ascontiguousarray(self._image[part.pixels(self.run.lattice)]) for part in entry.parts]
        gc.collect()
        time.sleep(PAUSE)
        try:
            began = time.perf_counter()
            grids = [entry.prepared.run(image) for image in images]
            seconds = time.perf_counter() - began
        except Exception as error:  # of any library
            entry.fail(error)
            return None
        entry.detail = entry.prepared.detail
        return Scored(seconds, grids)


def halves(lattice: Lattice) -> list[int]:
    """Return the side of an image, half of it and so on, as long as it has at least `SMALLEST` windows."""
    sides = [lattice.side]
    while sides[-1] // 2 >= SMALLEST * lattice.window:
        sides.append(sides[-1] // 2)
    return sides


def compare(found: Sequence[Grid], reference: Sequence[Grid]) -> tuple[float, float]:
    """Return the largest difference of a score relative to the largest score, and how often the top class agrees."""
    got, expected = (
        np.concatenate([grid.reshape(-1, grid.shape[-1]) for grid in grids]) for grids in (found, reference)
    )
    difference = np.abs(got - expected).max() / np.abs(expected).max()
    return float(difference), float(np.mean(got.argmax(-1) == expected.argmax(-1)))
