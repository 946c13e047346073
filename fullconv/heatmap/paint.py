"""The colours of values, painted over a grey picture; for the colour bar, over white."""

from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from fullconv.heatmap.backdrop import WHITE
from fullconv.heatmap.cells import THRESHOLD

LEVELS = 256
NOTHING = LEVELS
"""The level of cells that are not painted."""
OPACITY = 0.75
INVISIBLE = 0.1
"""Share of a rising scale, from its low end, that is transparent."""
RED = 0.85
"""Share of matplotlib's colour map from yellow to red that is used: the rest is too dark for dark images."""
ROWS = 256
"""Number of rows of the picture that are painted at once."""
RGB = NDArray[np.uint8]


@dataclass(frozen=True)
class Scale:
    """How values from `low` to `high` become colours: (LEVELS, 4), red, green, blue and opacity from 0 to 1."""

    low: float
    high: float
    colours: NDArray[np.float64]
    label: str
    """Name of the values."""
    threshold: float | None = None
    """The value that is marked in the colour bar; None: no value is marked."""

    def levels(self, values: NDArray[np.float32]) -> NDArray[np.int16]:
        """Return the level of each value, NOTHING for NaN."""
        share = np.nan_to_num((values - self.low) / (self.high - self.low), posinf=1, neginf=0)
        levels = (np.clip(share, 0, 1) * (LEVELS - 1)).round()
        return np.where(np.isnan(values), NOTHING, levels).astype(np.int16)

    def painted(self, grey: NDArray[np.uint8], levels: NDArray[np.int16]) -> RGB:
        """Return the colours of levels (height, width) over a grey picture of the same size: (height, width, 3)."""
        opacity = np.append(self.colours[:, 3], 0).astype(np.float32)[:, None]
        paint = np.vstack([self.colours[:, :3], np.zeros(3)]).astype(np.float32) * opacity * WHITE
        behind = 1 - opacity
        picture = np.empty((*grey.shape, 3), np.uint8)
        for first in range(0, len(grey), ROWS):
            band = slice(first, first + ROWS)
            picture[band] = (grey[band, :, None] * behind[levels[band]] + paint[levels[band]]).round()
        return picture


def even_scale(low: float, high: float, label: str) -> Scale:
    """Return a scale from dark blue to yellow, of the same opacity everywhere."""
    return Scale(low, high, _colours("viridis", np.full(LEVELS, OPACITY)), label)


def rising_scale(low: float, high: float, label: str, threshold: float | None) -> Scale:
    """Return a scale from yellow to red, transparent in the lowest part and of full opacity from the middle on."""
    opacity = np.clip((np.linspace(0, 1, LEVELS) - INVISIBLE) / (THRESHOLD - INVISIBLE), 0, 1) * OPACITY
    return Scale(low, high, _colours("YlOrRd", opacity, to=RED), label, threshold)


def _colours(name: str, opacity: NDArray[np.float64], *, to: float = 1.0) -> NDArray[np.float64]:
    """Return the colours of all levels: the part of matplotlib's colour map `name` up to the share `to`."""
    return np.column_stack([colormaps[name](np.linspace(0, to, LEVELS))[:, :3], opacity])
