"""The seconds that the images of a plan will take in this process, from the speed of its network.

The speed is measured on grey images, of which the first has a few windows. Neither the pixels of the planned image nor
the memory of its plan are needed.
"""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from fullconv.answer import Answer
from fullconv.base import BaseScorer
from fullconv.description import ModelDescription
from fullconv.errors import ScoringError

if TYPE_CHECKING:
    from fullconv.common.names import ModeName

CELLS = 4
"""Number of windows of the first image along each axis; each further image has twice as many."""
LEAST_SECONDS, MAX_PIXELS = 0.1, 1 << 20
"""Seconds of scoring, and pixels, from which on no further image is scored."""
GREY = 128


@dataclass
class Speed:
    """How fast a scorer in this process computes networks."""

    scorer: BaseScorer
    _rates: dict[tuple[str, str, str], float | None] = field(default_factory=dict)
    """Multiply-adds per second of each model, version and mode; None if the network cannot run."""

    def predicted_seconds(self, plan: Answer) -> float | None:
        """Return the predicted seconds for decoding a planned image and computing its scores; None if not known."""
        network = plan.model, plan.version, plan.mode
        if network not in self._rates:
            try:
                self._rates[network] = self._measured_rate(plan)
            except ScoringError:  # such as a lack of memory; the plan itself is valid
                self._rates[network] = None
        rate = self._rates[network]
        return None if rate is None else plan.plan.decode_seconds + plan.plan.multiply_adds / rate

    def _measured_rate(self, plan: Answer) -> float:
        """Return the multiply-adds per second; raises ScoringError."""
        model, cells = self.scorer.model(plan.model, plan.version), CELLS
        while True:
            image = _grey_image(model, cells)
            self._multiply_adds(image, plan)  # the first run is slower
            started = time.monotonic()
            multiply_adds = self._multiply_adds(image, plan)
            seconds = time.monotonic() - started
            if seconds >= LEAST_SECONDS or image.size >= MAX_PIXELS:
                return multiply_adds / seconds
            cells *= 2

    def _multiply_adds(self, image: NDArray[np.generic], plan: Answer) -> float:
        """Score an image in the mode of a plan; returns its multiply-adds."""
        mode = cast("ModeName", plan.mode)
        answer = self.scorer.score(image, model=plan.model, version=plan.version, mode=mode)
        return answer.plan.multiply_adds


def _grey_image(model: ModelDescription, cells: int) -> NDArray[np.generic]:
    """Return an image with so many windows along each axis at the native stride."""
    height, width = (window + (cells - 1) * step for window, step in zip(model.window, model.stride, strict=True))
    return np.full((height, width, model.input.channels), GREY, model.input.dtype)
