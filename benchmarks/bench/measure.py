"""Times contenders on one image, in turns, and compares their scores with those of the original classifier.

In the first round nothing is timed: every contender runs once, and its scores are compared. In each further round every
contender runs once, in alternating order, so that the ratio of two times of a round is not affected by slow changes of
the machine. A contender whose time is proportional to the number of windows scores a sample of them; the time is scaled
to all windows.
"""

import gc
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

import numpy as np

from bench.cases import Case, Scope
from bench.contenders import Contender, Grid, Pixels, Prepared, Setup
from bench.windows import Lattice, Part, Sample, centred, scaled

PAUSE = 0.05
"""Seconds before each measurement, in which threads of the previous contender stop to spin."""


@dataclass
class Entry:
    """A contender in one case: how it runs, or why it does not, and what was measured so far."""

    name: str
    prepared: Prepared | None = None
    problem: str = ""
    """Why it is not measured: "not installed: NAME", or the error."""
    parts: tuple[Part, ...] = ()
    """The windows that it scores."""
    seconds: list[float] = field(default_factory=list)
    """Seconds for all windows of the image, one number for each round."""
    difference: float | None = None
    """Largest difference of a score from the original classifier's, relative to the largest score."""
    agreement: float | None = None
    """Share of windows with the original classifier's top class."""

    @property
    def timed(self) -> int:
        """Number of windows that are scored in a round."""
        return sum(part.windows for part in self.parts)

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


class Runner:
    """Measures one case in rounds."""

    def __init__(self, run: CaseRun, image: Pixels, scope: Scope, sample: Sample) -> None:
        self.run, self._image = run, image
        areas = [self._area(entry, scope.multiply_adds) for entry in run.entries]
        drawn = sample.draw(min(areas, key=lambda area: area.windows), np.random.default_rng(1))
        self._sample = drawn
        for entry, area in zip(run.entries, areas, strict=True):
            entry.parts = (area,) if entry.is_whole else drawn

    def _area(self, entry: Entry, limit: float) -> Part:
        """Return the windows in the middle of the image that a contender scores for at most so many multiply-adds."""
        lattice = self.run.lattice
        if entry.prepared is None or entry.prepared.multiply_adds is None:
            return centred(lattice, lattice.count)
        side = lattice.side
        while side // 2 > lattice.window and entry.prepared.multiply_adds(side) > limit:
            side //= 2
        return centred(lattice, Lattice(side, lattice.window, lattice.stride).count)

    def compare(self) -> None:
        """Run every contender once, and compare its scores with those of the first."""
        reference: list[Grid] = []
        for entry in self.run.entries:
            grids = self._score(entry)
            if grids is None:
                continue
            found = grids
            if entry.is_whole:
                found = [grids[0][part.inside(entry.parts[0])] for part in self._sample]
            reference = reference or found
            entry.difference, entry.agreement = compare(found, reference)

    def measure(self, number: int) -> None:
        """Time every contender once."""
        order = self.run.entries if number % 2 == 0 else self.run.entries[::-1]
        for entry in order:
            self._score(entry, timed=True)

    def _score(self, entry: Entry, *, timed: bool = False) -> list[Grid] | None:
        """Run a contender once over its parts; returns its grids, or None if it fails."""
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
        if timed:
            entry.seconds.append(scaled(seconds, entry.timed, self.run.lattice.windows))
        return grids


def compare(found: Sequence[Grid], reference: Sequence[Grid]) -> tuple[float, float]:
    """Return the largest difference of a score relative to the largest score, and how often the top class agrees."""
    got, expected = (
        np.concatenate([grid.reshape(-1, grid.shape[-1]) for grid in grids]) for grids in (found, reference)
    )
    difference = np.abs(got - expected).max() / np.abs(expected).max()
    return float(difference), float(np.mean(got.argmax(-1) == expected.argmax(-1)))
