"""The style of a heatmap: which parts are drawn, and in which colours."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fullconv.common.files import TIFF_SUFFIXES
from fullconv.errors import RequestError

OPAQUE_SUFFIXES = (".jpg", ".jpeg")
"""The formats without transparency."""
COLOURS = 256
"""Smallest number of colours of a colour map. Colour maps for categories have fewer."""
EXAMPLES = ("viridis", "magma", "cividis", "Blues", "YlOrRd")


@dataclass(frozen=True)
class HeatmapStyle:
    """The parts of a heatmap that are drawn, and their colours. The default is the whole picture with its legend.

    Raises RequestError for a value that is invalid.
    """

    threshold: float | None = None
    """Smallest value of a coloured cell: of the shown class, or of the class that wins. Default: all cells."""
    colormap: str | None = None
    """Name of a colour map of matplotlib. Default: YlOrRd for one class, viridis for the class that wins."""
    opacity: float = 0.75
    """Largest opacity of the colours, from 0 to 1. With a threshold, the opacity of all coloured cells."""
    legend: bool = True
    """Whether the panel with the colour bar and the legend is drawn beside the image. A .tif never has the panel."""
    overlay: bool = False
    """Whether only the colours are drawn, with transparency, without the image, the outlines and the panel."""
    scale: float = 1.0
    """Size of a .tif as a factor of the image's size, above 0 and at most 1."""

    def __post_init__(self) -> None:
        """Raise RequestError for a value that is invalid."""
        if self.threshold is not None and not abs(self.threshold) < float("inf"):
            raise RequestError(f"threshold: expected a finite number, got {self.threshold}")
        if self.colormap is not None and not _is_colormap(self.colormap):
            raise RequestError(
                f"colormap: expected a continuous colour map of matplotlib, such as {', '.join(EXAMPLES)}; got "
                f"{self.colormap!r}"
            )
        if not 0 <= self.opacity <= 1:
            raise RequestError(f"opacity: expected a number from 0 to 1, got {self.opacity}")
        if not 0 < self.scale <= 1:
            raise RequestError(f"scale: expected a factor above 0 and at most 1, got {self.scale}")

    def check_files(self, names: Iterable[str | Path]) -> None:
        """Raise RequestError if a file of these names cannot hold the heatmap, or no file uses the scale."""
        suffixes = [Path(name).suffix.lower() for name in names]
        opaque = [suffix for suffix in suffixes if suffix in OPAQUE_SUFFIXES]
        if self.overlay and opaque:
            raise RequestError(
                f"overlay: expected a format with transparency (.png, .webp or .tif), got {opaque[0]}; choose another "
                "format"
            )
        if self.scale != 1 and not any(suffix in TIFF_SUFFIXES for suffix in suffixes):
            raise RequestError(f"scale: expected a .tif with it, got {' and '.join(suffixes)}; leave the scale out")


DEFAULT_STYLE = HeatmapStyle()


def _is_colormap(name: str) -> bool:
    """Return whether matplotlib has a colour map of this name with at least COLOURS colours."""
    from matplotlib import colormaps  # noqa: PLC0415 (matplotlib takes a second to load)

    return name in colormaps and colormaps[name].N >= COLOURS
