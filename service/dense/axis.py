"""One axis of a fully convolutional network, and the windows of an image along that axis.

With native stride S, receptive field R, effective paddings P (before) and Q (after) and training window W:
cell y reads pixels [yS - P, yS - P + R) and stands for the window [yS, yS + W). A network that returns exactly one cell
for one window satisfies 0 <= W + P + Q - R < S; every other geometry is refused.

At stride t the windows of an image of H pixels start at 0, t, 2t ... and end inside the image. The (H - W) mod t pixels
after the last window belong to no window: either the image is cropped before them, or the lattice has one more
window, the anchored window, which ends where the image ends.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fullconv.common.geometry import border_after, border_before


@dataclass(frozen=True)
class AxisGeometry:
    """A network's geometry along one axis; every length in pixels of the input."""

    window: int
    stride: int
    receptive_field: int
    padding_before: int
    padding_after: int

    def __post_init__(self) -> None:
        """Raise ValueError for a geometry that does not return exactly one cell for one window."""
        if min(self.window, self.stride, self.receptive_field) < 1 or min(self.padding_before, self.padding_after) < 0:
            raise ValueError(f"expected positive window, stride and receptive field and paddings >= 0, got {self}")
        slack = self.window + self.padding_before + self.padding_after - self.receptive_field
        if not 0 <= slack < self.stride:
            raise ValueError(f"expected 0 <= window + paddings - receptive field < stride, got {self}")

    def halo_before(self, stride: int) -> int:
        """Return the number of leading cells, `stride` pixels apart, that read a tile's padding, not the image."""
        return border_before(self.padding_before, stride)

    def halo_after(self, stride: int) -> int:
        """Return the number of trailing cells, `stride` pixels apart, that read a tile's padding, not the image."""
        return border_after(self.window, self.receptive_field, self.padding_before, stride)

    def min_tile_length(self, stride: int) -> int:
        """Return the pixels of the shortest tile inside an image that keeps a cell; cells are `stride` pixels apart."""
        return self.window + (self.halo_before(stride) + self.halo_after(stride)) * stride

    def crop_geometry(self) -> "AxisGeometry":
        """Return the geometry of single windows: stride 1, no padding, a receptive field as long as the window."""
        return AxisGeometry(self.window, 1, self.window, 0, 0)


@dataclass(frozen=True)
class AxisLattice:
    """The windows to be scored along one axis of an image; every length in pixels.

    The candidates are the regular windows, which start every `stride` pixels, and if `anchored` the window that ends
    where the image ends. The cells are the candidates that lie wholly inside [start, stop). Default of `stop`: the end
    of the image.
    """

    extent: int
    window: int
    stride: int
    anchored: bool = False
    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for an axis that has no window."""
        if self.stride < 1:
            raise ValueError(f"expected a stride of at least 1 pixel, got {self.stride}")
        if self.extent < self.window:
            raise ValueError(f"expected at least {self.window} pixels, got {self.extent}")
        if not self.cells:
            raise ValueError(
                f"expected a region that holds a window of {self.window} pixels, which begins at a multiple of "
                f"{self.stride}, got {self.start} to {self._stop}; enlarge it, or use a finer stride"
            )

    @property
    def regular_windows(self) -> int:
        """Number of regular windows of the whole axis, inside the region or not."""
        return (self.extent - self.window) // self.stride + 1

    @property
    def cropped_extent(self) -> int:
        """Pixels from the start of the image to the end of its last regular window."""
        return self.pixels(self.regular_windows)

    @property
    def left_out(self) -> int:
        """Pixels at the end of the region that belong to no window."""
        return self._stop - self.position(self.cells - 1) - self.window

    @cached_property
    def region_windows(self) -> range:
        """Indices of the regular windows that lie wholly inside the region."""
        first = -(-self.start // self.stride)
        return range(first, max(first, min(self.regular_windows, (self._stop - self.window) // self.stride + 1)))

    @cached_property
    def anchor(self) -> int | None:
        """First pixel of the anchored window; None if it is no cell, or if it is the last regular window."""
        start = self.extent - self.window
        is_cell = (
            self.anchored and self.cropped_extent < self.extent and self.start <= start and self._stop >= self.extent
        )
        return start if is_cell else None

    @property
    def cells(self) -> int:
        """Number of windows to be scored."""
        return len(self.region_windows) + (self.anchor is not None)

    @property
    def origin(self) -> int:
        """First pixel of the first cell's window."""
        return self.region_windows.start * self.stride if self.region_windows or self.anchor is None else self.anchor

    def pixels(self, windows: int) -> int:
        """Return the pixels that `windows` neighbouring windows cover, at least those of one window."""
        return self.window + (max(1, windows) - 1) * self.stride

    def position(self, cell: int) -> int:
        """Return the first pixel of a cell's window."""
        return int(self.positions[cell])

    @property
    def positions(self) -> NDArray[np.int64]:
        """First pixel of each cell's window, (cells,)."""
        regular = np.arange(self.region_windows.start, self.region_windows.stop, dtype=np.int64) * self.stride
        return regular if self.anchor is None else np.append(regular, self.anchor)

    @property
    def _stop(self) -> int:
        return self.extent if self.stop is None else min(self.stop, self.extent)
