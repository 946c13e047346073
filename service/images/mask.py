"""Which windows of an image are to be scored: those inside a mask, or those that are not background.

A mask of the image's own size is read from top to bottom, like the image; a window counts if all its pixels are there.
Background is found on a thumbnail: Otsu's threshold parts its tones in two, and the side that most of the image's edge
is on is background. A window counts unless it is background all over.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from protos import model_pb2
from service.errors import ImageError
from service.images.picture import Picture, RawPicture, VipsPicture
from service.images.rows import Held, Rows, Scaled

THUMBNAIL = 2048
"""Pixels of its longer side."""
CHUNK = 64
"""Rows that are counted at once."""

Spans = tuple[NDArray[np.int64], NDArray[np.int64]]
"""First pixels of some windows along an axis, and those behind their last."""


class Mask(Protocol):
    """Says which windows are to be scored."""

    def windows(self, rows: Spans, cols: Spans) -> NDArray[np.bool_]:
        """(rows, cols), for windows from top to bottom; later calls ask for later rows."""


@dataclass
class Drawn:
    """A mask as rows of the same width, every pixel of which that is not 0 counts."""

    rows: Rows
    _held: Held = field(init=False)

    def __post_init__(self) -> None:
        """Start at the top."""
        self._held = Held(self.rows)

    def windows(self, rows: Spans, cols: Spans) -> NDArray[np.bool_]:
        """Windows that lie wholly inside."""
        first = int(rows[0].min())
        inside = self._held.take(first, int(rows[1].max()))[..., 0] != 0
        counted = counts(inside, (rows[0] - first, rows[1] - first), cols)
        areas = np.outer(rows[1] - rows[0], cols[1] - cols[0])
        return np.asarray(counted == areas)


@dataclass(frozen=True)
class Foreground:
    """What is not background, on a thumbnail (height, width) of an image of a `size`."""

    thumbnail: NDArray[np.bool_]
    size: tuple[int, int]

    def windows(self, rows: Spans, cols: Spans) -> NDArray[np.bool_]:
        """Windows that hold some of it."""
        return counts(self.thumbnail, self._scaled(rows, 0), self._scaled(cols, 1)) > 0

    def _scaled(self, spans: Spans, axis: int) -> Spans:
        scaled, whole = self.thumbnail.shape[axis], self.size[axis]
        return spans[0] * scaled // whole, -(-spans[1] * scaled // whole)


@dataclass(frozen=True)
class Both:
    """What two masks let through."""

    one: Mask
    other: Mask

    def windows(self, rows: Spans, cols: Spans) -> NDArray[np.bool_]:
        """Windows that are to be scored by either."""
        return self.one.windows(rows, cols) & self.other.windows(rows, cols)


def counts(mask: NDArray[np.bool_], rows: Spans, cols: Spans) -> NDArray[np.int32]:
    """How many pixels of each window (rows, cols) are set."""
    down = np.zeros((len(mask) + 1, len(cols[0])), np.int32)
    sums = np.zeros((CHUNK, mask.shape[1] + 1), np.int32)
    for first in range(0, len(mask), CHUNK):
        part = mask[first : first + CHUNK]
        np.cumsum(part, axis=1, out=sums[: len(part), 1:])
        down[first + 1 : first + 1 + len(part)] = sums[: len(part), cols[1]] - sums[: len(part), cols[0]]
    np.cumsum(down, axis=0, out=down)
    return np.asarray(down[rows[1]] - down[rows[0]])


def drawn(mask: VipsPicture | RawPicture, picture: Picture) -> Drawn:
    """Take an image as the mask of another; raises ImageError if it is of another size."""
    if (mask.width, mask.height) != (picture.width, picture.height):
        raise ImageError(
            f"mask: expected the image's {picture.width}×{picture.height} pixels, got {mask.width}×{mask.height}"
        )
    return Drawn(mask.truth())


def foreground(picture: Picture, wanted: model_pb2.Input, check: Callable[[], None]) -> Foreground:
    """Find what is not background in the pixels that a model is given; raises ImageError if nothing differs.

    `check` is called now and then, and may raise to stop here.
    """
    from skimage.filters import threshold_otsu  # noqa: PLC0415 (loads SciPy, which nothing else needs)

    size = picture.height, picture.width
    scale = min(1.0, THUMBNAIL / max(size))
    scaled = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    rows, bands = Scaled(picture.rows(wanted), size, scaled), []
    for first in range(0, scaled[0], CHUNK):
        check()
        bands.append(rows.read(first, min(first + CHUNK, scaled[0])).mean(axis=-1, dtype=np.float32))
    grey = np.concatenate(bands)
    light = grey > threshold_otsu(grey)
    edge = np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]])
    found = light != (edge.mean() > 0.5)
    if not found.any():
        raise ImageError(f"{picture.name}: mask: expected a foreground by Otsu's threshold, got one tone: leave it out")
    return Foreground(found, size)
