"""Images from arrays of pixels: in memory, in a memory-mapped file, in a chunked store, or from a stream of rows."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from service.errors import ImageError
from service.images.picture import FIRST_PAGE, MAX_BANDS, MAX_SIDE, PageSelection, Picture, SampleReader
from service.images.pixels import SampleArray, layout_of_array
from service.images.rows import READ_PIXELS

DTYPES = ("uint8", "uint16", "int16", "float32")


@dataclass(frozen=True)
class ArrayInMemory:
    """Reads the rows of an array (height, width, channels) in memory; a `SampleReader`."""

    pixels: SampleArray

    @property
    def block_rows(self) -> int:
        """Number of rows to read in one call: those of READ_PIXELS pixels."""
        return max(1, READ_PIXELS // int(self.pixels.shape[1]))

    def read(self, first: int, stop: int) -> SampleArray:
        """Return rows [first, stop) as a view of the array."""
        return self.pixels[first:stop]


def open_array(
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    open_samples: Callable[[], SampleReader],
    selection: PageSelection = FIRST_PAGE,
    *,
    field_prefix: str = "",
) -> Picture:
    """Return an image of (height, width, channels) pixels without alpha; raises ImageError for an invalid shape.

    `field_prefix` precedes the names of the fields in errors.
    """
    if dtype not in DTYPES:
        raise ImageError(f"{name}: {field_prefix}dtype: expected {', '.join(DTYPES)}, got {dtype!r}")
    for field, value in zip(("height", "width", "channels"), shape, strict=True):
        largest = MAX_BANDS if field == "channels" else MAX_SIDE
        if not 0 < value <= largest:
            raise ImageError(f"{name}: {field_prefix}{field}: expected 1 to {largest}, got {value}")
    if selection.page > 1:
        raise ImageError(f"{name}: page: expected 1, since an array has no further pages, got {selection.page}")
    height, width, channels = shape
    layout = layout_of_array(channels, dtype)
    return Picture(name, height, width, layout, lambda _: open_samples(), selection.bands)


def open_raw(
    shape: tuple[int, int, int], dtype: str, data: bytes, selection: PageSelection = FIRST_PAGE, *, name: str
) -> Picture:
    """Return an image of (height, width, channels) pixels, little-endian; raises ImageError for a wrong size."""
    picture = open_array(name, shape, dtype, lambda: ArrayInMemory(pixels), selection, field_prefix="image.raw.")
    element = np.dtype(dtype).newbyteorder("<")
    expected = math.prod(shape) * element.itemsize
    if len(data) != expected:
        raise ImageError(f"{name}: image.raw.data: expected {expected} bytes, got {len(data)}")
    pixels = np.frombuffer(data, element).reshape(shape)
    return picture
