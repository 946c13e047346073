"""Images that come as arrays of pixels: in memory, a memory map, a chunked store, a stream of rows."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from service.errors import ImageError
from service.images.picture import FIRST_PAGE, MAX_BANDS, MAX_SIDE, PageSelection, Picture, SampleReader
from service.images.pixels import SampleArray, samples_of_array

DTYPES = ("uint8", "uint16", "int16", "float32")


@dataclass(frozen=True)
class ArrayInMemory:
    """Rows of an array (height, width, channels) that is there already."""

    pixels: SampleArray
    block_rows: int = 1

    def read(self, first: int, stop: int) -> SampleArray:
        """Rows [first, stop)."""
        return self.pixels[first:stop]


def open_array(
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    begin: Callable[[], SampleReader],
    selection: PageSelection = FIRST_PAGE,
    *,
    message: str = "",
) -> Picture:
    """An image of (height, width, channels) pixels, of which none is alpha; raises ImageError if it cannot be one.

    `message` is the message of a request that has these fields, for errors.
    """
    if dtype not in DTYPES:
        raise ImageError(f"{name}: {message}dtype: expected {', '.join(DTYPES)}, got {dtype!r}")
    for field, value in zip(("height", "width", "channels"), shape, strict=True):
        most = MAX_BANDS if field == "channels" else MAX_SIDE
        if not 0 < value <= most:
            raise ImageError(f"{name}: {message}{field}: expected 1 to {most}, got {value}")
    if selection.page > 1:
        raise ImageError(f"{name}: page: expected 1, since an array has no further pages, got {selection.page}")
    height, width, channels = shape
    samples = samples_of_array(channels, dtype)
    return Picture(name, height, width, samples, begin, selection.bands)


def open_raw(
    shape: tuple[int, int, int], dtype: str, data: bytes, selection: PageSelection = FIRST_PAGE, *, name: str
) -> Picture:
    """Open pixels (height, width, channels), little-endian; raises ImageError for another number of bytes."""
    picture = open_array(name, shape, dtype, lambda: ArrayInMemory(pixels), selection, message="image.raw.")
    element = np.dtype(dtype).newbyteorder("<")
    expected = math.prod(shape) * element.itemsize
    if len(data) != expected:
        raise ImageError(f"{name}: image.raw.data: expected {expected} bytes, got {len(data)}")
    pixels = np.frombuffer(data, element).reshape(shape)
    return picture
