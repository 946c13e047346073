"""The seconds that the images of a plan will take in this process, from the speed of scoring.

The speed is measured as for the plan of a job: images are scored for some seconds, and their scores dropped. A large
image is scored only as far as these seconds reach. The speed of a server is not measured, because its other clients
would wait.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullconv.answer import Answer
from fullconv.command.progress import ShowProgress
from fullconv.errors import ScoringError
from fullconv.options import Options

SAMPLE_SECONDS = 2.0
"""Seconds after which no further image is scored to measure the speed, and after which scoring of a large image stops.
"""
LEAST_SECONDS = 0.5
"""Smallest number of seconds that are measured: a small first image is scored repeatedly."""

Parts = tuple[Answer, Iterable[Any], Callable[[], Any]]
Scored = Callable[[Path, Options, ShowProgress], AbstractContextManager[Parts]]
"""Begins to score an image: the context yields the plan, the rows, and a function that returns the answer."""


class _EnoughError(Exception):
    """Raised to leave an image that is not scored to its end."""


@dataclass
class Speed:
    """The speed of scoring, with all that is needed around the network, over the images that were scored so far."""

    scored: Scored
    multiply_adds: float = 0.0
    seconds: float = 0.0

    def predicted_seconds(self, image: Path, options: Options, plan: Answer) -> float | None:
        """Return the predicted seconds for an image; None if neither it nor another image could be scored."""
        if self.seconds < SAMPLE_SECONDS and not image.is_fifo():
            with suppress(ScoringError):  # such as an image whose pixels are damaged
                self._measure(image, {**options, "grid": False})
        return self.seconds / self.multiply_adds * plan.plan.multiply_adds if self.multiply_adds else None

    def _measure(self, image: Path, options: Options) -> None:
        """Score an image, the first one until LEAST_SECONDS are measured; raises ScoringError."""
        if not self.seconds:
            self._sample(image, options)
            if self.seconds >= SAMPLE_SECONDS:
                return
            self.multiply_adds = self.seconds = 0.0  # the first run is slower
        self._sample(image, options)
        while self.seconds < LEAST_SECONDS:
            self._sample(image, options)

    def _sample(self, image: Path, options: Options) -> None:
        """Score an image for at most SAMPLE_SECONDS, and add what was done; raises ScoringError."""
        began, share = time.monotonic(), 0.0

        def show(_: str, what: str, done: int, of: int) -> None:
            nonlocal share
            if what == "scoring":
                share = done / of if of else 0.0
                if share and time.monotonic() - began > SAMPLE_SECONDS:
                    raise _EnoughError

        with self.scored(image, options, show) as (planned, _, result):
            try:
                result()
                share = 1.0
            except _EnoughError:
                pass
        self.multiply_adds += share * planned.plan.multiply_adds
        self.seconds += time.monotonic() - began
