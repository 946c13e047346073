"""One axis of a fully-convolutional network, and of an image laid out for it.

With native stride S, receptive field R, effective paddings P (before) and Q (after) and a training window W:
cell y reads pixels [yS - P, yS - P + R) and stands for the window [yS, yS + W). A network that has one cell at its
own window satisfies 0 <= W + P + Q - R < S; anything else is refused.

At a stride t the windows of an image of H pixels start at 0, t, 2t ... and end within H. The (H - W) mod t pixels
behind the last one lie in no window: the image is cropped to the others, or gets one more window, flush with its end.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class AxisGeometry:
    """A network's geometry along one axis; every length in pixels of the input."""

    window: int
    stride: int
    receptive_field: int
    padding_before: int
    padding_after: int

    def __post_init__(self) -> None:
        """Refuse a geometry that does not give one cell for one window."""
        if min(self.window, self.stride, self.receptive_field) < 1 or min(self.padding_before, self.padding_after) < 0:
            raise ValueError(f"expected positive window, stride and receptive field and paddings >= 0, got {self}")
        slack = self.window + self.padding_before + self.padding_after - self.receptive_field
        if not 0 <= slack < self.stride:
            raise ValueError(f"expected 0 <= window + paddings - receptive field < stride, got {self}")

    def halo_before(self, stride: int) -> int:
        """Leading cells of a tile, `stride` pixels apart, that see its padding instead of the image."""
        return -(-self.padding_before // stride)

    def halo_after(self, stride: int) -> int:
        """Trailing cells of a tile, `stride` pixels apart, that see its padding instead of the image."""
        return -(-max(0, self.receptive_field - self.padding_before - self.window) // stride)

    def min_tile_length(self, stride: int) -> int:
        """Pixels of the shortest tile inside an image that keeps a cell, for cells `stride` pixels apart."""
        return self.window + (self.halo_before(stride) + self.halo_after(stride)) * stride

    def crop_geometry(self) -> "AxisGeometry":
        """The same window run by itself: no stride of its own, no padding, nothing read beyond it."""
        return AxisGeometry(self.window, 1, self.window, 0, 0)


@dataclass(frozen=True)
class AxisLattice:
    """The windows of an image along one axis that are to be scored; lengths in pixels.

    Of all windows `stride` pixels apart, and one flush with the end if `anchored`, those inside [start, stop).
    """

    extent: int
    window: int
    stride: int
    anchored: bool = False
    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        """Refuse an axis on which no window lies."""
        if self.stride < 1:
            raise ValueError(f"expected a stride of at least 1 pixel, got {self.stride}")
        if self.extent < self.window:
            raise ValueError(f"expected at least {self.window} pixels, got {self.extent}")
        if not self.cells:
            raise ValueError(
                f"expected a region that holds a window of {self.window} pixels, got {self.start} to {self._stop}"
            )

    @property
    def regular(self) -> int:
        """Windows of the whole axis, `stride` pixels apart."""
        return (self.extent - self.window) // self.stride + 1

    @property
    def cropped(self) -> int:
        """Pixels from the first of those windows to the end of the last."""
        return self.pixels(self.regular)

    @property
    def left_out(self) -> int:
        """Trailing pixels of the region that lie in no window."""
        return self._stop - self.position(self.cells - 1) - self.window

    @cached_property
    def chosen(self) -> range:
        """Which of the regular windows lie inside the region."""
        first = -(-self.start // self.stride)
        return range(first, max(first, min(self.regular, (self._stop - self.window) // self.stride + 1)))

    @cached_property
    def anchor(self) -> int | None:
        """Where the window flush with the end starts, if there is one, off the lattice and inside the region."""
        start = self.extent - self.window
        wanted = self.anchored and self.cropped < self.extent and self.start <= start and self._stop >= self.extent
        return start if wanted else None

    @property
    def cells(self) -> int:
        """Windows to be scored."""
        return len(self.chosen) + (self.anchor is not None)

    @property
    def origin(self) -> int:
        """Where the first of them starts."""
        return self.chosen.start * self.stride if self.chosen or self.anchor is None else self.anchor

    def pixels(self, windows: int) -> int:
        """Pixels that so many neighbouring windows cover together; at least one window's."""
        return self.window + (max(1, windows) - 1) * self.stride

    def position(self, cell: int) -> int:
        """Where one of them starts."""
        return int(self.positions[cell])

    @property
    def positions(self) -> NDArray[np.int64]:
        """Where each of them starts, (cells,)."""
        regular = np.arange(self.chosen.start, self.chosen.stop, dtype=np.int64) * self.stride
        return regular if self.anchor is None else np.append(regular, self.anchor)

    @property
    def _stop(self) -> int:
        return self.extent if self.stop is None else min(self.stop, self.extent)
