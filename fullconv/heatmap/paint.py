"""The colours of values, painted over a grey picture or alone; for the colour bar, over white.

Pictures are images of libvips, which computes their pixels when they are written, so that large pictures are never
held whole.
"""

import math
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from fullconv.blocks import NO_INDEX
from fullconv.common.libvips import pyvips
from fullconv.heatmap.backdrop import WHITE
from fullconv.heatmap.cells import THRESHOLD
from fullconv.style import HeatmapStyle

LEVELS = 256
NOTHING = LEVELS
"""The level of cells that are not painted."""
INVISIBLE = 0.1
"""Share of a rising scale, from its low end, that is transparent."""
RED = 0.85
"""Share of matplotlib's colour map from yellow to red that is used: the rest is too dark for dark images."""
Pixels = NDArray[np.uint8]
"""(height, width, channels)."""


@dataclass(frozen=True)
class Scale:
    """How values from `low` to `high` become colours: (LEVELS, 4), red, green, blue and opacity from 0 to 1."""

    low: float
    high: float
    colours: NDArray[np.float64]
    label: str
    """Name of the values."""
    least: float = -math.inf
    """Smallest value that is painted."""
    mark: float | None = None
    """The value that is marked in the colour bar; None: no value is marked."""

    def levels(self, values: NDArray[np.floating]) -> NDArray[np.uint16]:
        """Return the levels, in the shape of `values`: 0 to 255, and NOTHING for NaN and values below `least`."""
        share = np.nan_to_num((values - self.low) / (self.high - self.low), posinf=1, neginf=0)
        levels = (np.clip(share, 0, 1) * (LEVELS - 1)).round()
        return np.where(values >= self.least, levels, NOTHING).astype(np.uint16)

    def ramp(self) -> pyvips.Image:
        """Return the colours from the lowest to the highest value over white: one row of LEVELS pixels."""
        levels = self.levels(np.linspace(self.low, self.high, LEVELS, dtype=np.float32))
        white = pyvips.Image.black(LEVELS, 1) + WHITE
        return self.painted(white, pyvips.Image.new_from_array(levels[None]))

    def painted(self, grey: pyvips.Image, levels: pyvips.Image) -> pyvips.Image:
        """Return the colours of levels over a grey picture of the same size: red, green and blue."""
        opacity = self.colours[:, 3:]
        premultiplied = np.hstack([self.colours[:, :3] * opacity * WHITE, 1 - opacity])
        over = levels.maplut(_table(premultiplied, (0, 0, 0, 1)))
        return _eight_bit(over.extract_band(0, n=3) + grey * over[3])

    def overlay(self, levels: pyvips.Image) -> pyvips.Image:
        """Return the colours of levels alone: red, green, blue and opacity."""
        return _eight_bit(levels.maplut(_table(self.colours * WHITE, (0, 0, 0, 0))))


def enlarged(levels: NDArray[np.uint16], down: NDArray[np.intp], across: NDArray[np.intp]) -> pyvips.Image:
    """Return the picture in which each pixel has the level of its block.

    `levels` is (blocks down, blocks across); `down` and `across` are the block of each row and column of the picture,
    or NO_INDEX where there is no block.
    """
    padded = pyvips.Image.new_from_array(np.pad(levels, ((0, 1), (0, 1)), constant_values=NOTHING))
    rows, cols = (
        np.where(blocks == NO_INDEX, count, blocks).astype(np.uint16)
        for blocks, count in zip((down, across), levels.shape, strict=True)
    )
    x = pyvips.Image.new_from_array(cols[None]).replicate(1, len(rows))
    y = pyvips.Image.new_from_array(rows[:, None]).replicate(len(cols), 1)
    return padded.mapim(x.bandjoin(y), interpolate=pyvips.Interpolate.new("nearest"))


def transparent(size: tuple[int, int]) -> pyvips.Image:
    """Return a picture of (width, height) pixels without any colour."""
    return pyvips.Image.black(*size, bands=4).copy(interpretation="srgb")


def laid_over(picture: pyvips.Image, drawing: Pixels) -> pyvips.Image:
    """Return a picture with a drawing over it: red, green, blue and opacity, (height, width, 4), enlarged to fit."""
    over = pyvips.Image.new_from_array(drawing).copy(interpretation="srgb").premultiply()
    over = over.resize(picture.width / over.width, vscale=picture.height / over.height, kernel="linear")
    return _eight_bit(over.extract_band(0, n=3) + picture * (1 - over[3] / WHITE))


def even_scale(low: float, high: float, label: str, style: HeatmapStyle) -> Scale:
    """Return a scale from dark blue to yellow, of the same opacity everywhere."""
    colours = _colours(style.colormap or "viridis", np.full(LEVELS, style.opacity))
    return Scale(low, high, colours, label, _least(style))


def rising_scale(low: float, high: float, label: str, mark: float | None, style: HeatmapStyle) -> Scale:
    """Return a scale from yellow to red, transparent in the lowest part and of full opacity from the middle on.

    With a threshold, all values that reach it have full opacity.
    """
    share = np.clip((np.linspace(0, 1, LEVELS) - INVISIBLE) / (THRESHOLD - INVISIBLE), 0, 1)
    opacity = style.opacity * (share if style.threshold is None else np.ones(LEVELS))
    colours = _colours(style.colormap, opacity) if style.colormap else _colours("YlOrRd", opacity, to=RED)
    return Scale(low, high, colours, label, _least(style), mark)


def _least(style: HeatmapStyle) -> float:
    """Return the smallest value that is painted."""
    return -math.inf if style.threshold is None else style.threshold


def _colours(name: str, opacity: NDArray[np.float64], *, to: float = 1.0) -> NDArray[np.float64]:
    """Return the colours of all levels: the part of matplotlib's colour map `name` up to the share `to`."""
    return np.column_stack([colormaps[name](np.linspace(0, to, LEVELS))[:, :3], opacity])


def _table(colours: NDArray[np.float64], nothing: tuple[int, int, int, int]) -> pyvips.Image:
    """Return the table of the colours of all levels and of NOTHING."""
    return pyvips.Image.new_from_array(np.vstack([colours, nothing]).astype(np.float32)[None])


def _eight_bit(picture: pyvips.Image) -> pyvips.Image:
    """Return a picture rounded to 8 bits."""
    return picture.rint().cast("uchar").copy(interpretation="srgb")
