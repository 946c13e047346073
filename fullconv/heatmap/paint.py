"""The colours of values, over a grey picture; the colour bar is painted in the same way, over white."""

from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from fullconv.heatmap.backdrop import WHITE, Grey
from fullconv.heatmap.cells import THRESHOLD

LEVELS = 256
NOTHING = LEVELS
"""The level of what is not painted."""
OPACITY = 0.75
INVISIBLE = 0.1
"""The share of a scale, from its low end, that is not seen."""
RED = 0.85
"""The share of yellow to red that is used: what follows is too dark for dark images."""
ROWS = 256
"""Rows of the picture that are painted at once."""
RGB = NDArray[np.uint8]


@dataclass(frozen=True)
class Scale:
    """How values become colours: (LEVELS, 4) of red, green, blue and opacity, 0 to 1, from `low` to `high`."""

    low: float
    high: float
    colours: NDArray[np.float64]
    label: str
    """What the values are."""
    threshold: float | None = None
    """The value that is marked; None: no value means more than the others."""

    def levels(self, values: NDArray[np.float32]) -> NDArray[np.int16]:
        """The level of each value, NOTHING for NaN."""
        share = np.nan_to_num((values - self.low) / (self.high - self.low), posinf=1, neginf=0)
        levels = (np.clip(share, 0, 1) * (LEVELS - 1)).round()
        return np.where(np.isnan(values), NOTHING, levels).astype(np.int16)

    def painted(self, grey: Grey, levels: NDArray[np.int16]) -> RGB:
        """The colours of levels (height, width) over a grey picture of the same size: (height, width, 3)."""
        opacity = np.append(self.colours[:, 3], 0).astype(np.float32)[:, None]
        paint = np.vstack([self.colours[:, :3], np.zeros(3)]).astype(np.float32) * opacity * WHITE
        behind = 1 - opacity
        picture = np.empty((*grey.shape, 3), np.uint8)
        for first in range(0, len(grey), ROWS):
            band = slice(first, first + ROWS)
            picture[band] = (grey[band, :, None] * behind[levels[band]] + paint[levels[band]]).round()
        return picture


def even(low: float, high: float, label: str) -> Scale:
    """Dark blue to yellow, all of the same opacity."""
    return Scale(low, high, _colours("viridis", np.full(LEVELS, OPACITY)), label)


def rising(low: float, high: float, label: str, threshold: float | None) -> Scale:
    """Yellow to red, invisible in the lowest part and of full opacity from the middle on."""
    opacity = np.clip((np.linspace(0, 1, LEVELS) - INVISIBLE) / (THRESHOLD - INVISIBLE), 0, 1) * OPACITY
    return Scale(low, high, _colours("YlOrRd", opacity, to=RED), label, threshold)


def _colours(name: str, opacity: NDArray[np.float64], *, to: float = 1.0) -> NDArray[np.float64]:
    """The levels' colours, of matplotlib's map up to a share of it."""
    return np.column_stack([colormaps[name](np.linspace(0, to, LEVELS))[:, :3], opacity])
