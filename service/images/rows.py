"""Pixels from top to bottom: what every kind of image is read through, however large it is.

Rows are (rows, width, channels), in a model's element type, values 0 to 255. Reading goes forward only, and may leave
rows out. The next strip is read while the caller works on the one before; what two strips share is read once.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8] | NDArray[np.float32]


class Rows(Protocol):
    """An image's pixels, read forward."""

    def read(self, first: int, stop: int) -> Pixels:
        """Rows [first, stop) as (rows, width, channels); `first` is at or behind the last `stop`."""


@dataclass
class Held:
    """Reads rows again that were read last: spans may overlap those before, but begin no sooner."""

    rows: Rows
    _first: int = field(init=False, default=0)
    _held: Pixels | None = field(init=False, default=None)

    def take(self, first: int, stop: int) -> Pixels:
        """Rows [first, stop), those that are held and those that are new; rows before `first` are forgotten."""
        kept = self._held[first - self._first :] if self._held is not None else None
        missing = first + len(kept) if kept is not None else first
        if kept is None or not len(kept):
            self._held = self.rows.read(first, stop)
        elif missing < stop:
            self._held = np.concatenate([kept, self.rows.read(missing, stop)])
        else:
            self._held = kept
        self._first = first
        return self._held[: stop - first]


def strips(rows: Rows, spans: Iterable[tuple[int, int] | None]) -> Iterator[Pixels | None]:
    """Rows [first, stop) for every span, in order of `first`; None for None.

    The next span is asked for, and its rows are read, while the caller has those of the one before.
    """
    held, waiting = Held(rows), deque[Future[Pixels] | None]()
    with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
        for span in spans:
            waiting.append(reader.submit(held.take, *span) if span else None)
            if len(waiting) > 1:
                yield _result(waiting.popleft())
        if waiting:
            yield _result(waiting.popleft())


def _result(coming: Future[Pixels] | None) -> Pixels | None:
    return coming.result() if coming else None


@dataclass
class Scaled:
    """An image at another size: bilinear, antialiased where it gets smaller, as Pillow does it; sizes in pixels."""

    rows: Rows
    size: tuple[int, int]
    """Height and width of the image."""
    scaled: tuple[int, int]
    """Height and width that it gets."""
    _held: Held = field(init=False)

    def __post_init__(self) -> None:
        """Hold what neighbouring rows share."""
        self._held = Held(self.rows)

    def read(self, first: int, stop: int) -> Pixels:
        """Rows [first, stop) of the scaled image."""
        step = self.size[0] / self.scaled[0]
        reach = max(1.0, step) + 1
        begin, end = max(0, int(first * step - reach)), min(self.size[0], int(stop * step + reach) + 1)
        strip = self._held.take(begin, end)
        box = (0, first * step - begin, self.size[1], stop * step - begin)
        bands = [_resized(strip[..., band], (self.scaled[1], stop - first), box) for band in range(strip.shape[-1])]
        return cast("Pixels", np.stack(bands, axis=-1))


def _resized(band: Pixels, size: tuple[int, int], box: tuple[float, float, float, float]) -> Pixels:
    image = Image.fromarray(np.ascontiguousarray(band))
    return cast("Pixels", np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box)))
