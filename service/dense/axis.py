"""One axis of a fully-convolutional network, and of an image laid out for it.

With native stride S, receptive field R, effective paddings P (before) and Q (after) and a training window W:
cell y reads pixels [yS - P, yS - P + R) and stands for the window [yS, yS + W). A network that has one cell at its
own window satisfies 0 <= W + P + Q - R < S; anything else is refused.
"""

from dataclasses import dataclass


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

    @property
    def halo_before(self) -> int:
        """Leading cells of a tile that see its padding instead of the image."""
        return -(-self.padding_before // self.stride)

    @property
    def halo_after(self) -> int:
        """Trailing cells of a tile that see its padding instead of the image."""
        return -(-max(0, self.receptive_field - self.padding_before - self.window) // self.stride)


@dataclass(frozen=True)
class AxisLattice:
    """The cells of an image along one axis: as many windows as fit, one native stride apart, from pixel 0."""

    extent: int
    geometry: AxisGeometry

    def __post_init__(self) -> None:
        """Refuse an image in which no window fits."""
        if self.extent < self.geometry.window:
            raise ValueError(f"expected at least {self.geometry.window} pixels, got {self.extent}")

    @property
    def cells(self) -> int:
        """Windows that fit."""
        return (self.extent - self.geometry.window) // self.geometry.stride + 1

    @property
    def cropped(self) -> int:
        """Pixels that lie in at least one window."""
        return self.pixels(self.cells)

    @property
    def left_out(self) -> int:
        """Trailing pixels that lie in no window."""
        return self.extent - self.cropped

    def pixels(self, cells: int) -> int:
        """Pixels that so many neighbouring windows cover together."""
        return self.geometry.window + (cells - 1) * self.geometry.stride
