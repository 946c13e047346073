"""The positions of a grid's windows in an image, and rows of the grid's scores."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fullconv.common.text import counted
from fullconv.errors import UnavailableError

Scores = NDArray[np.float32] | NDArray[np.float16]
"""(rows, cols, classes)."""


class GridRows(NamedTuple):
    """Consecutive rows of a grid."""

    first: int
    """Index of the first row."""
    scores: Scores
    """(rows, cols, depth), NaN for windows that were not scored."""
    positions: NDArray[np.uint32] | None = None
    """In a grid of the highest scores: the position of each score in the answer's classes, (rows, cols, depth)."""
    further: NDArray[np.float32] | None = None
    """The values of the model's further outputs, one output after the other: (rows, cols, values). None if the model
    has no further output. `GridHeader.split` separates the outputs."""


def join_rows(rows: Sequence[GridRows]) -> GridRows:
    """Return consecutive rows of a grid in one part."""
    if len(rows) == 1:
        return rows[0]
    positions = [part.positions for part in rows if part.positions is not None]
    further = [part.further for part in rows if part.further is not None]
    scores: Any = np.concatenate([part.scores for part in rows])
    return GridRows(
        rows[0].first,
        scores,
        np.concatenate(positions) if positions else None,
        np.concatenate(further) if further else None,
    )


RowSink = Callable[[GridRows], None]
"""Takes rows of a grid, top to bottom."""


class FurtherOutput(NamedTuple):
    """An output of a model beside the scores, such as the offsets of boxes."""

    name: str
    """The name of the output in the network."""
    values: int
    """Number of values for each window."""


@dataclass(frozen=True)
class ImageInfo:
    """An image that was scored: its name and its size in pixels, after EXIF rotation."""

    name: str
    width: int
    height: int
    microns_per_pixel: tuple[float, float] | None = None
    """Size of a pixel in micrometres, horizontal before vertical. None: the file does not state it."""

    def document(self) -> dict[str, Any]:
        """Return what `--json` prints of the image."""
        known: dict[str, Any] = {"name": self.name, "width": self.width, "height": self.height}
        return known if self.microns_per_pixel is None else known | {"mpp": list(self.microns_per_pixel)}


@dataclass(frozen=True)
class WindowAxis:
    """The windows along one axis of an image.

    Lengths are in pixels of the image as it was scored; `scale` converts them to pixels of the image itself.
    """

    count: int
    """Number of windows."""
    origin: int
    """Start of the first window."""
    last: int
    """Start of the last window, on the lattice or flush with the image's edge."""
    stride: int
    """Distance between neighbouring windows."""
    window: int
    """Length of a window."""
    left_out: int = 0
    """Length of the part at the end that belongs to no window."""
    scale: float = 1.0
    """Pixels of the image for each pixel that was scored."""

    @property
    def starts(self) -> NDArray[np.int64]:
        """Start of every window, (count,), in pixels of the image."""
        return self._in_image(self._positions())

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of every window, (count,), in pixels of the image; of a scaled image they differ by rounding."""
        positions = self._positions()
        return self._in_image(positions + self.window) - self._in_image(positions)

    def pixels(self, length: int) -> int:
        """Convert a length to pixels of the image, rounded."""
        return round(length * self.scale)

    def _positions(self) -> NDArray[np.int64]:
        positions = self.origin + self.stride * np.arange(self.count, dtype=np.int64)
        positions[-1:] = self.last
        return positions

    def _in_image(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.asarray(np.rint(positions * self.scale), np.int64)


@dataclass(frozen=True)
class GridHeader:
    """The description of a grid, known before its rows are scored: the image, the windows and the classes."""

    image: ImageInfo
    vertical: WindowAxis
    """The rows, from top to bottom."""
    horizontal: WindowAxis
    """The columns, from left to right."""
    indices: tuple[int, ...]
    """The classes of the answer, as indices in the network's output; every list of scores has this order."""
    labels: tuple[str, ...]
    """The label of each class, or its index as text if the model has no labels."""
    depth: int
    """Numbers in each cell of the grid: one for each class, or fewer in a grid of the highest scores."""
    further: tuple[FurtherOutput, ...] = ()
    """The model's further outputs."""

    def split(self, values: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Return the values of each further output by its name, from `GridRows.further`."""
        ends = np.cumsum([output.values for output in self.further])
        parts = zip(self.further, ends, strict=True)
        return {output.name: values[..., end - output.values : end] for output, end in parts}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns and depth of the grid."""
        return self.vertical.count, self.horizontal.count, self.depth

    def columns(self, indices: Iterable[int]) -> list[int]:
        """Return the positions of classes, given as indices in the network's output, on the last axis of the grid.

        Raises UnavailableError for a class that the grid lacks, because a server has described another model.
        """
        positions = {index: column for column, index in enumerate(self.indices)}
        wanted = list(indices)
        missing = [index for index in wanted if index not in positions]
        if missing:
            raise UnavailableError(
                f"classes: expected class {missing[0]} of the model's description in the answer, got "
                f"{counted(len(positions), 'other class')}; the model was replaced meanwhile, or the server is faulty"
            )
        return [positions[index] for index in wanted]

    def boxes_at(self, row: NDArray[np.intp], col: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return x, y, width and height of the windows in some rows and columns, (windows, 4), in pixels of the image.

        `row` and `col` are (windows,).
        """
        down, across = self.vertical, self.horizontal
        return np.stack([across.starts[col], down.starts[row], across.lengths[col], down.lengths[row]], axis=-1)

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of a window, in pixels of the image."""
        return self.vertical.pixels(self.vertical.window), self.horizontal.pixels(self.horizontal.window)

    @property
    def stride(self) -> tuple[int, int]:
        """Distance between neighbouring windows, vertical and horizontal, in pixels of the image."""
        return self.vertical.pixels(self.vertical.stride), self.horizontal.pixels(self.horizontal.stride)

    @property
    def left_out(self) -> tuple[int, int]:
        """Rows and columns of pixels, at the bottom and right of the image, that belong to no window."""
        return self.vertical.pixels(self.vertical.left_out), self.horizontal.pixels(self.horizontal.left_out)
