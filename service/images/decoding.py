"""What decoding an image costs, predicted from its header, and the interface through which requests share the work.

The seconds are of one CPU. They were measured with libvips 8.18 on photographs and on files that are made to be slow;
`DecodingRates` corrects them by what decoding takes on this machine.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Protocol

Pause = Callable[[], None]
"""Called between parts of long work. It may wait while another request decodes, and raises an error to stop the
work."""

STEP_PIXELS = 1 << 18
"""Pixels that are decoded between two pauses, at the most, where the decoder can be interrupted."""
FACTORS = 1 / 8, 8.0
"""Lowest and highest factor between predicted and actual seconds that is learnt."""
LEARNING_RATE = 0.2
OBSERVED_SECONDS = 0.01
"""Predicted seconds below which the actual time says little."""


@dataclass(frozen=True)
class DecodingCost:
    """What it costs to decode an image once, from top to bottom."""

    kind: str = "raw"
    """Format and kind of the file, such as "progressive JPEG"."""
    held_bytes: int = 0
    """Peak bytes that the decoder holds beside the rows that it returns."""
    seconds: float = 0.0
    step_seconds: float = 0.0
    """Seconds of the longest part that cannot be interrupted."""


FREE = DecodingCost()
"""The cost of pixels that are not encoded."""
HEADER = DecodingCost("header")
"""The cost of opening a file and planning its image, which needs a turn too."""


@dataclass(frozen=True)
class EncodedFile:
    """An image file in memory or on this machine, and the page of it that is read."""

    content: bytes | Path
    page: int


class DecodingRates:
    """Learns how long decoding takes on this machine, by kind of file; safe to share between threads."""

    def __init__(self) -> None:
        self._factors: dict[str, float] = {}
        self._lock = Lock()

    def seconds(self, cost: DecodingCost) -> float:
        """Return the predicted seconds of one pass."""
        return cost.seconds * self._factors.get(cost.kind, 1.0)

    def observe(self, cost: DecodingCost, passes: float, seconds: float) -> None:
        """Learn from so many whole passes over an image, which took `seconds` together."""
        nominal = cost.seconds * passes
        if nominal < OBSERVED_SECONDS:
            return
        lowest, highest = FACTORS
        factor = min(highest, max(lowest, seconds / nominal))
        with self._lock:
            known = self._factors.get(cost.kind, 1.0)
            self._factors[cost.kind] = known + LEARNING_RATE * (factor - known)


class Decoding(Protocol):
    """Where and when a request decodes its images."""

    def turn(self, cost: DecodingCost) -> AbstractContextManager[None]:
        """Wait for a turn to decode an image of this cost, and hold it during the block; raises CancelledRunError."""

    def pause(self) -> None:
        """Leave the turn to another request, if one waits, and wait for the next; raises CancelledRunError."""

    def is_apart(self, cost: DecodingCost) -> bool:
        """Return whether files of this cost are decoded in a process of their own."""

    def at_end(self, end: Callable[[], None]) -> None:
        """Call a function once the request has ended, from any thread; at once if it has ended already."""


class UnsharedDecoding:
    """Decodes at once, in the calling thread. `check` is called between parts, and may raise an error."""

    def __init__(self, check: Pause = lambda: None) -> None:
        self._check = check

    def turn(self, _: DecodingCost) -> AbstractContextManager[None]:
        """Do not wait."""
        return nullcontext()

    def pause(self) -> None:
        """Call `check`."""
        self._check()

    def is_apart(self, _: DecodingCost) -> bool:
        """Return False."""
        return False

    def at_end(self, _: Callable[[], None]) -> None:
        """Do nothing: no process is started."""


UNSHARED = UnsharedDecoding()
