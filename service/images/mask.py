"""Masks: which windows of an image are scored.

A mask image is read from top to bottom, like the image. A window is scored if all its pixels are inside the mask. A
mask of another size and the same aspect ratio, as tissue segmentation tools write it, is scaled: then all mask pixels
that the window touches must be inside.

The foreground is found on a thumbnail of the image. Otsu's threshold divides its tones into two groups; the group that
contains most of the thumbnail's edge is the background. A window is scored if any of its pixels is foreground.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fullconv.protos import model_pb2
from service.errors import ImageError
from service.images.decoding import Decoding
from service.images.otsu import otsu_threshold
from service.images.picture import Picture, TurnRows, has_same_aspect_ratio
from service.images.rows import RowBuffer, RowReader, ScaledRows

THUMBNAIL_SIDE = 2048
"""Pixels of the thumbnail's longer side."""
MAX_DISTORTION = 0.01
"""Largest difference of the aspect ratios of a mask and its image: levels of slides are padded by some scanners."""
BLOCK_ROWS = 64
"""Rows that are counted or scaled together."""

Spans = tuple[NDArray[np.int64], NDArray[np.int64]]
"""First pixels (windows,) of windows along an axis, and the pixels after their last pixels (windows,)."""


class Mask(Protocol):
    """Selects the windows to be scored."""

    def select_windows(self, rows: Spans, cols: Spans) -> NDArray[np.bool_]:
        """Return which windows, (rows, cols), are scored. Later calls are for windows further down."""


@dataclass
class MaskImage:
    """A mask image: it selects windows in which all pixels of the mask are not 0."""

    rows: RowReader
    """The mask's pixels (rows, cols, channels), of which the first channel counts."""
    shape: tuple[int, int]
    """Height and width of the mask in pixels."""
    size: tuple[int, int]
    """Height and width of the image in pixels."""
    _buffer: RowBuffer = field(init=False)

    def __post_init__(self) -> None:
        """Start at the top of the mask."""
        self._buffer = RowBuffer(self.rows)

    def select_windows(self, rows: Spans, cols: Spans) -> NDArray[np.bool_]:
        """Return which windows, (rows, cols), lie wholly inside the mask."""
        rows = _scale_spans(rows, self.shape[0], self.size[0])
        cols = _scale_spans(cols, self.shape[1], self.size[1])
        first = int(rows[0].min())
        inside = self._buffer.read(first, int(rows[1].max()))[..., 0] != 0
        counted = count_pixels(inside, (rows[0] - first, rows[1] - first), cols)
        areas = np.outer(rows[1] - rows[0], cols[1] - cols[0])
        return np.asarray(counted == areas)


@dataclass(frozen=True)
class Foreground:
    """The foreground of an image: it selects windows that contain foreground."""

    thumbnail: NDArray[np.bool_]
    """Whether each pixel (rows, cols) of the thumbnail is foreground."""
    size: tuple[int, int]
    """Height and width of the image in pixels."""

    def select_windows(self, rows: Spans, cols: Spans) -> NDArray[np.bool_]:
        """Return which windows, (rows, cols), contain foreground."""
        (down, across), (height, width) = self.thumbnail.shape, self.size
        return count_pixels(self.thumbnail, _scale_spans(rows, down, height), _scale_spans(cols, across, width)) > 0


@dataclass(frozen=True)
class Intersection:
    """Two masks: it selects windows that both masks select."""

    first: Mask
    second: Mask

    def select_windows(self, rows: Spans, cols: Spans) -> NDArray[np.bool_]:
        """Return which windows, (rows, cols), both masks select."""
        return self.first.select_windows(rows, cols) & self.second.select_windows(rows, cols)


def _scale_spans(spans: Spans, scaled: int, size: int) -> Spans:
    """Convert spans of an axis of `size` pixels to one of `scaled` pixels; they cover all pixels that they touch."""
    return spans[0] * scaled // size, -(-spans[1] * scaled // size)


def count_pixels(mask: NDArray[np.bool_], rows: Spans, cols: Spans) -> NDArray[np.int32]:
    """Return how many pixels of each window, (rows, cols), are set in a mask (height, width)."""
    down = np.zeros((len(mask) + 1, len(cols[0])), np.int32)
    sums = np.zeros((BLOCK_ROWS, mask.shape[1] + 1), np.int32)
    for first in range(0, len(mask), BLOCK_ROWS):
        block = mask[first : first + BLOCK_ROWS]
        np.cumsum(block, axis=1, out=sums[: len(block), 1:])
        down[first + 1 : first + 1 + len(block)] = sums[: len(block), cols[1]] - sums[: len(block), cols[0]]
    np.cumsum(down, axis=0, out=down)
    return np.asarray(down[rows[1]] - down[rows[0]])


def check_mask(mask: Picture, picture: Picture) -> None:
    """Raise ImageError if the aspect ratios of a mask and its image differ by more than rounding and MAX_DISTORTION."""
    ratio = mask.width * picture.height / (mask.height * picture.width)
    is_near = abs(ratio - 1) <= MAX_DISTORTION
    if not (is_near or has_same_aspect_ratio(mask.size, picture.size)):
        raise ImageError(
            f"mask: expected the image's size, {picture.height}×{picture.width} pixels (height×width), or another size "
            f"with the same aspect ratio, got {mask.height}×{mask.width}"
        )


def mask_image(mask: Picture, picture: Picture, decoding: Decoding) -> MaskImage:
    """Open an image as the mask of another image."""
    rows = TurnRows(mask.nonzero_mask(decoding), mask.cost, decoding)
    return MaskImage(rows, (mask.height, mask.width), (picture.height, picture.width))


def find_foreground(picture: Picture, model_input: model_pb2.Input, decoding: Decoding) -> Foreground:
    """Find the foreground in an image's pixels as a model takes them; raises ImageError if they have one tone only."""
    scaled = thumbnail_size(picture)
    source = picture.copy_for(scaled)
    rows = TurnRows(ScaledRows(source.rows(model_input, decoding), source.size, scaled), source.cost, decoding)
    blocks = []
    for first in range(0, scaled[0], BLOCK_ROWS):
        decoding.pause()
        blocks.append(rows.read(first, min(first + BLOCK_ROWS, scaled[0])).mean(axis=-1, dtype=np.float32))
    grey = np.concatenate(blocks)
    light = grey > otsu_threshold(grey)
    edge = np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]])
    foreground = light != (edge.mean() > 0.5)
    if not foreground.any():
        raise ImageError(
            f"{picture.name}: mask: expected a foreground by Otsu's threshold, got an image of uniform brightness; "
            "leave the mask out"
        )
    return Foreground(foreground, picture.size)


def thumbnail_size(picture: Picture) -> tuple[int, int]:
    """Return height and width of the thumbnail on which the foreground is found."""
    scale = min(1.0, THUMBNAIL_SIDE / max(picture.size))
    return max(1, round(picture.height * scale)), max(1, round(picture.width * scale))
