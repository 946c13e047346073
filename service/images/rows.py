"""Reading an image's pixels from top to bottom, in strips of rows, however large the image is.

Pixels are (rows, cols, channels), in the element type that the model takes. Reading goes forward only and may skip
rows. The next strip is read while the caller works on the current one; rows that two strips share are read once.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol, cast

import numpy as np

from service.dense.arrays import Pixels

SOURCE_ROWS = 64
"""Rows of the image that are scaled together. Neighbouring rows on which they depend are read in addition."""
READ_PIXELS = 1 << 18
"""Pixels that are read together, or a row of the file's tiles if that is more. Each step of the conversion holds as
many pixels."""
END = (-1, -1)
"""Stands for the end of the spans."""


class RowReader(Protocol):
    """Reads an image's pixels forward."""

    @property
    def block_rows(self) -> int:
        """Number of rows to read in one call: the height of the file's tiles or chunks."""

    def read(self, first: int, stop: int) -> Pixels:
        """Return rows [first, stop) as (rows, cols, channels); `first` is not before the last call's `stop`."""


@dataclass
class RowBuffer:
    """Reads overlapping spans of rows: it keeps the rows of the last span, from which the next span may start."""

    rows: RowReader
    _first: int = field(init=False, default=0)
    _buffer: Pixels | None = field(init=False, default=None)

    def read(self, first: int, stop: int) -> Pixels:
        """Return rows [first, stop) and forget the rows before `first`, which must not decrease from call to call."""
        if first < self._first:
            raise ValueError(f"expected rows from {self._first} on, got {first}")
        kept = self._buffer[first - self._first :] if self._buffer is not None else None
        if kept is None or len(kept) < stop - first:
            kept = self._extend(first, stop, kept)
        self._first, self._buffer = first, kept
        return kept[: stop - first]

    def _extend(self, first: int, stop: int, kept: Pixels | None) -> Pixels:
        """Copy the kept rows and read the others block by block, so that no strip is in memory twice."""
        at = first + (len(kept) if kept is not None else 0)
        block = self.rows.read(at, self._block_stop(at, 1, stop))
        if kept is None and len(block) == stop - first:
            return block
        strip = cast("Pixels", np.empty((stop - first, *block.shape[1:]), block.dtype))
        if kept is not None:
            strip[: len(kept)] = kept
        while True:
            strip[at - first : at - first + len(block)] = block
            at += len(block)
            if at == stop:
                return strip
            block = self.rows.read(at, self._block_stop(at, READ_PIXELS // block.shape[1], stop))

    def _block_stop(self, at: int, rows: int, stop: int) -> int:
        """Return where to stop reading: about `rows` rows after `at`, at the end of a row of the file's tiles."""
        block_rows = self.rows.block_rows
        return min(stop, (at // block_rows + max(1, rows // block_rows)) * block_rows)


def read_strips(rows: RowReader, spans: Iterable[tuple[int, int] | None]) -> Iterator[Pixels | None]:
    """Yield rows [first, stop) for every span, in ascending order of `first`, and None for every None.

    The next span is taken from `spans`, and its rows are read in another thread, while the caller works on a strip.
    """
    buffer, remaining = RowBuffer(rows), iter(spans)
    first, second = next(remaining, END), next(remaining, END)
    if second is END:  # there is nothing to read ahead
        if first is not END:
            yield buffer.read(*first) if first else None
        return
    submitted = deque[Future[Pixels] | None]()
    reader = ThreadPoolExecutor(1, thread_name_prefix="read")
    try:
        for span in chain((first, second), remaining):
            submitted.append(reader.submit(buffer.read, *span) if span else None)
            if len(submitted) > 1:
                yield _result(submitted.popleft())
        yield _result(submitted.popleft())
    finally:
        reader.shutdown(wait=False, cancel_futures=True)  # rows of a stream may never arrive


def _result(strip: Future[Pixels] | None) -> Pixels | None:
    try:
        return strip.result() if strip else None
    finally:
        strip = None  # an error refers to this frame, and would keep the strip


@dataclass
class KeptRows:
    """Reads an image's pixels once and keeps them, so that its rows may be read again."""

    rows: RowReader
    height: int
    """Rows of the image."""
    block_rows: int = 1
    _pixels: Pixels | None = field(init=False, default=None)
    _known: int = field(init=False, default=0)
    """Rows that are read so far."""

    def read(self, first: int, stop: int) -> Pixels:
        """Return rows [first, stop) as a view of the kept pixels."""
        while self._pixels is None or self._known < stop:
            step = READ_PIXELS // self._pixels.shape[1] if self._pixels is not None else 1
            end = min(self.height, self._known + max(self.rows.block_rows, step))
            block = self.rows.read(self._known, end)
            if self._pixels is None:
                self._pixels = cast("Pixels", np.empty((self.height, *block.shape[1:]), block.dtype))
            self._pixels[self._known : end] = block
            self._known = end
        return self._pixels[first:stop]


@dataclass
class ScaledRows:
    """Reads an image at another size: bilinear, antialiased when the image gets smaller, as Pillow scales.

    Blocks of rows are scaled together. They begin at fixed rows, so that pixels do not depend, in the last digit, on
    where reading begins.
    """

    rows: RowReader
    size: tuple[int, int]
    """Height and width of the image in pixels."""
    scaled: tuple[int, int]
    """Height and width of the scaled image in pixels."""
    block_rows: int = 16
    _buffer: RowBuffer = field(init=False)
    _number: int = field(init=False, default=-1)
    _scaled_block: Pixels | None = field(init=False, default=None)
    """The block that was scaled last, and its number."""

    def __post_init__(self) -> None:
        """Make a buffer for the rows that neighbouring blocks share."""
        self._buffer = RowBuffer(self.rows)

    def read(self, first: int, stop: int) -> Pixels:
        """Return rows [first, stop) of the scaled image."""
        height = self.rows_together(self.size[0], self.scaled[0])
        parts = []
        for number in range(first // height, -(-stop // height)):
            begin = number * height
            parts.append(self._block_of(number, height)[max(0, first - begin) : stop - begin])
        return cast("Pixels", np.concatenate(parts))

    def _block_of(self, number: int, height: int) -> Pixels:
        if number != self._number or self._scaled_block is None:
            begin = number * height
            self._scaled_block = self._block(begin, min(begin + height, self.scaled[0]))
            self._number = number
        return self._scaled_block

    def _block(self, first: int, stop: int) -> Pixels:
        step = self.size[0] / self.scaled[0]
        reach = max(1.0, step) + 1
        begin, end = max(0, int(first * step - reach)), min(self.size[0], int(stop * step + reach) + 1)
        strip = self._buffer.read(begin, end)
        box = (0, first * step - begin, self.size[1], stop * step - begin)
        bands = [_resize(strip[..., band], (self.scaled[1], stop - first), box) for band in range(strip.shape[-1])]
        return cast("Pixels", np.stack(bands, axis=-1))

    @staticmethod
    def rows_together(height: int, scaled: int) -> int:
        """Return the number of rows that are scaled together when `height` rows are scaled to `scaled` rows."""
        return max(1, SOURCE_ROWS * scaled // height)

    @staticmethod
    def source_rows(height: int, scaled: int) -> int:
        """Return the largest number of the image's rows in memory while `height` rows are scaled to `scaled` rows."""
        return min(height, SOURCE_ROWS + 4 * (height // scaled + 2))


def _resize(band: Pixels, size: tuple[int, int], box: tuple[float, float, float, float]) -> Pixels:
    from PIL import Image  # noqa: PLC0415 (only scaled images need it)

    is_16_bit = band.dtype == np.uint16  # Pillow scales 16-bit values with the precision of 8 bits
    image = Image.fromarray(np.ascontiguousarray(band, np.float32 if is_16_bit else None))
    scaled = np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box))
    return cast("Pixels", np.rint(scaled).astype(np.uint16) if is_16_bit else scaled)
