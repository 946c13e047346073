"""Pixels from top to bottom: what every kind of image is read through, however large it is.

Rows are (rows, width, channels), in a model's element type. Reading goes forward only, and may leave rows out.
The next strip is read while the caller works on the one before; what two strips share is read once.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol, cast

import numpy as np
from PIL import Image

from service.dense.arrays import Pixels

SOURCE_ROWS = 64
"""That are scaled at once, beside those on which the first and the last of them depend too."""

END = (-1, -1)
READ = 1 << 18
"""Pixels that are read at once, unless the rows of a file's tiles are more: every step on their way holds as many."""


class RowReader(Protocol):
    """An image's pixels, read forward."""

    @property
    def block_rows(self) -> int:
        """Rows that are best read together: as many as a file's tiles have."""

    def read(self, first: int, stop: int) -> Pixels:
        """Rows [first, stop) as (rows, width, channels); `first` is at or behind the last `stop`."""


@dataclass
class RowBuffer:
    """Reads rows again that were read last: spans may overlap those before, but begin no sooner."""

    rows: RowReader
    _first: int = field(init=False, default=0)
    _held: Pixels | None = field(init=False, default=None)

    def read(self, first: int, stop: int) -> Pixels:
        """Rows [first, stop), those that are held and those that are new; rows before `first` are forgotten."""
        if first < self._first:
            raise ValueError(f"expected rows from {self._first} on, got {first}")
        held = self._held[first - self._first :] if self._held is not None else None
        if held is None or len(held) < stop - first:
            held = self._read(first, stop, held)
        self._first, self._held = first, held
        return held[: stop - first]

    def _read(self, first: int, stop: int, held: Pixels | None) -> Pixels:
        """Copy what is held, and read the rest bit by bit, so that no strip is in memory twice."""
        at = first + (len(held) if held is not None else 0)
        part = self.rows.read(at, self._end(at, 1, stop))
        strip = cast("Pixels", np.empty((stop - first, *part.shape[1:]), part.dtype))
        if held is not None:
            strip[: len(held)] = held
        while True:
            strip[at - first : at - first + len(part)] = part
            at += len(part)
            if at == stop:
                return strip
            part = self.rows.read(at, self._end(at, READ // part.shape[1], stop))

    def _end(self, at: int, rows: int, stop: int) -> int:
        """Where to stop reading: about so many rows on, where a row of the file's tiles ends."""
        block_rows = self.rows.block_rows
        return min(stop, (at // block_rows + max(1, rows // block_rows)) * block_rows)


def read_strips(rows: RowReader, spans: Iterable[tuple[int, int] | None]) -> Iterator[Pixels | None]:
    """Rows [first, stop) for every span, in order of `first`; None for None.

    The next span is asked for, and its rows are read, while the caller has those of the one before.
    """
    held, following = RowBuffer(rows), iter(spans)
    first, second = next(following, END), next(following, END)
    if second is END:  # nothing to read meanwhile
        if first is not END:
            yield held.read(*first) if first else None
        return
    waiting = deque[Future[Pixels] | None]()
    reader = ThreadPoolExecutor(1, thread_name_prefix="read")
    try:
        for span in chain((first, second), following):
            waiting.append(reader.submit(held.read, *span) if span else None)
            if len(waiting) > 1:
                yield _result(waiting.popleft())
        yield _result(waiting.popleft())
    finally:
        reader.shutdown(wait=False, cancel_futures=True)  # rows that are still to come may never


def _result(coming: Future[Pixels] | None) -> Pixels | None:
    return coming.result() if coming else None


@dataclass
class ScaledRows:
    """An image at another size: bilinear, antialiased where it gets smaller, as Pillow does it; sizes in pixels."""

    rows: RowReader
    size: tuple[int, int]
    """Height and width of the image."""
    scaled: tuple[int, int]
    """Height and width that it gets."""
    block_rows: int = 16
    _held: RowBuffer = field(init=False)

    def __post_init__(self) -> None:
        """Hold what neighbouring rows share."""
        self._held = RowBuffer(self.rows)

    def read(self, first: int, stop: int) -> Pixels:
        """Rows [first, stop) of the scaled image."""
        each = max(1, SOURCE_ROWS * self.scaled[0] // self.size[0])
        parts = [self._part(start, min(start + each, stop)) for start in range(first, stop, each)]
        return cast("Pixels", np.concatenate(parts))

    def _part(self, first: int, stop: int) -> Pixels:
        step = self.size[0] / self.scaled[0]
        reach = max(1.0, step) + 1
        begin, end = max(0, int(first * step - reach)), min(self.size[0], int(stop * step + reach) + 1)
        strip = self._held.read(begin, end)
        box = (0, first * step - begin, self.size[1], stop * step - begin)
        bands = [_resized(strip[..., band], (self.scaled[1], stop - first), box) for band in range(strip.shape[-1])]
        return cast("Pixels", np.stack(bands, axis=-1))

    @staticmethod
    def source_rows(height: int, scaled: int) -> int:
        """Rows of the image that are in memory at once, at the most, while it is scaled to another height."""
        return min(height, SOURCE_ROWS + 4 * (height // scaled + 2))


def _resized(band: Pixels, size: tuple[int, int], box: tuple[float, float, float, float]) -> Pixels:
    deep = band.dtype == np.uint16  # Pillow scales these with the rounding of 8 bits
    image = Image.fromarray(np.ascontiguousarray(band, np.float32 if deep else None))
    scaled = np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box))
    return cast("Pixels", np.rint(scaled).astype(np.uint16) if deep else scaled)
