"""The numbers of the tables: medians and ranges, and the ratios of times of the same round."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.contenders import BASELINE
from bench.measure import CaseRun, Entry


@dataclass(frozen=True)
class Spread:
    """The median, the lowest and the highest of some numbers."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Spread":
        """Return the spread of at least one number."""
        return cls(statistics.median(numbers), min(numbers), max(numbers))

    def text(self) -> str:
        """Return the numbers with three digits."""
        return f"{digits(self.median)} ({digits(self.low)} to {digits(self.high)})"


def digits(number: float) -> str:
    """Return a number with three significant digits, without an exponent unless it is very small."""
    if number and abs(number) < 1e-4:
        return f"{number:.1e}"
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def ratios(entry: Entry, run: CaseRun) -> list[float]:
    """Return, for each round, the time of the original classifier divided by that of a contender."""
    baseline = next(other for other in run.entries if other.name == BASELINE.name)
    return paired(baseline, entry)


def paired(slow: Entry, fast: Entry) -> list[float]:
    """Return, for each round that both have finished, the time of one contender divided by that of another."""
    return [theirs / own for theirs, own in zip(slow.seconds, fast.seconds, strict=False)]
