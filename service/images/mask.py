"""Which windows of an image are to be scored: those inside a mask, or those that are not background.

A mask is read from top to bottom, like the image; a window counts if all its pixels are there. A mask of another size
and the image's aspect ratio, as tissue segmenters make them, is scaled: of its pixels all count that a window touches.
Background is found on a thumbnail: Otsu's threshold parts its tones in two, and the side that most of the image's edge
is on is background. A window counts unless it is background all over.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fullconv.protos import model_pb2
from service.errors import ImageError
from service.images.picture import Picture
from service.images.rows import RowBuffer, RowReader, ScaledRows

THUMBNAIL = 2048
"""Pixels of its longer side."""
CHUNK = 64
"""Rows that are counted at once."""

Spans = tuple[NDArray[np.int64], NDArray[np.int64]]
"""First pixels of some windows along an axis, and those behind their last."""


class Mask(Protocol):
    """Says which windows are to be scored."""

    def select_windows(self, rows: Spans, cols: Spans) -> NDArray[np.bool_]:
        """(rows, cols), for windows from top to bottom; later calls ask for later rows."""


@dataclass
class MaskImage:
    """A mask (height, width) of an image of a `size`, as rows, every pixel of which that is not 0 counts."""

    rows: RowReader
    shape: tuple[int, int]
    size: tuple[int, int]
    _held: RowBuffer = field(init=False)

    def __post_init__(self) -> None:
        """Start at the top."""
        self._held = RowBuffer(self.rows)

    def select_windows(self, rows: Spans, cols: Spans) -> NDArray[np.bool_]:
        """Windows that lie wholly inside."""
        rows, cols = (_scaled(spans, *sizes) for spans, sizes in zip((rows, cols), self._sizes, strict=True))
        first = int(rows[0].min())
        inside = self._held.read(first, int(rows[1].max()))[..., 0] != 0
        counted = counts(inside, (rows[0] - first, rows[1] - first), cols)
        areas = np.outer(rows[1] - rows[0], cols[1] - cols[0])
        return np.asarray(counted == areas)

    @property
    def _sizes(self) -> list[tuple[int, int]]:
        return list(zip(self.shape, self.size, strict=True))


@dataclass(frozen=True)
class Foreground:
    """What is not background, on a thumbnail (height, width) of an image of a `size`."""

    thumbnail: NDArray[np.bool_]
    size: tuple[int, int]

    def select_windows(self, rows: Spans, cols: Spans) -> NDArray[np.bool_]:
        """Windows that hold some of it."""
        (down, across), (height, width) = self.thumbnail.shape, self.size
        return counts(self.thumbnail, _scaled(rows, down, height), _scaled(cols, across, width)) > 0


@dataclass(frozen=True)
class Intersection:
    """What two masks let through."""

    one: Mask
    other: Mask

    def select_windows(self, rows: Spans, cols: Spans) -> NDArray[np.bool_]:
        """Returns the windows that both masks let through."""
        return self.one.select_windows(rows, cols) & self.other.select_windows(rows, cols)


def _scaled(spans: Spans, scaled: int, size: int) -> Spans:
    """Spans of an axis of `size` pixels on one of `scaled` pixels: everything that they touch."""
    return spans[0] * scaled // size, -(-spans[1] * scaled // size)


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


def mask_image(mask: Picture, picture: Picture) -> MaskImage:
    """Take an image as the mask of another; raises ImageError if it is of another aspect ratio."""
    if not _is_scaled(mask, picture):
        raise ImageError(
            f"mask: expected the image's {picture.height}×{picture.width} pixels (height×width), or fewer or more of "
            f"the same aspect ratio, got {mask.height}×{mask.width}"
        )
    return MaskImage(mask.nonzero_mask(), (mask.height, mask.width), (picture.height, picture.width))


def _is_scaled(mask: Picture, picture: Picture) -> bool:
    """Whether one factor, each side rounded either way, makes the mask's size of the image's."""
    least, most = (
        [(side + rounding) / size for side, size in ((mask.height, picture.height), (mask.width, picture.width))]
        for rounding in (-1, 1)
    )
    return max(least) < min(most)


def find_foreground(picture: Picture, wanted: model_pb2.Input, check: Callable[[], None]) -> Foreground:
    """Find what is not background in the pixels that a model is given; raises ImageError if nothing differs.

    `check` is called now and then, and may raise to stop here.
    """
    from skimage.filters import threshold_otsu  # noqa: PLC0415 (loads SciPy, which nothing else needs)

    size = picture.height, picture.width
    scale = min(1.0, THUMBNAIL / max(size))
    scaled = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    rows, bands = ScaledRows(picture.rows(wanted), size, scaled), []
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
