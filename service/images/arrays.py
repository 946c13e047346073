"""Images that come as arrays of pixels: in memory, a memory map, a chunked store, a stream of rows."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from protos import scoring_pb2
from service.errors import ImageError
from service.images.picture import EVERYTHING, MAX_SIDE, Picture, SampleRows, Selection
from service.images.pixels import Array, samples_of_array
from service.images.rows import Rows

DTYPES = ("uint8", "uint16", "int16", "float32")


@dataclass(frozen=True)
class ArrayInMemory:
    """Rows of an array (height, width, channels) that is there already."""

    pixels: Array
    together: int = 1

    def read(self, first: int, stop: int) -> Array:
        """Rows [first, stop)."""
        return self.pixels[first:stop]


def open_array(
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    begin: Callable[[], SampleRows],
    selection: Selection = EVERYTHING,
    begin_valid: Callable[[], Rows] | None = None,
) -> Picture:
    """An image of (height, width, channels) pixels, of which none is alpha; raises ImageError if it cannot be one."""
    if dtype not in DTYPES:
        raise ImageError(f"{name}: dtype: expected {', '.join(DTYPES)}, got {dtype!r}")
    for field, value in zip(("height", "width", "channels"), shape, strict=True):
        if not 0 < value <= MAX_SIDE:
            raise ImageError(f"{name}: {field}: expected 1 to {MAX_SIDE}, got {value}")
    if selection.page > 1:
        raise ImageError(f"{name}: page: expected 1, since an array has no further pages, got {selection.page}")
    height, width, channels = shape
    samples = samples_of_array(channels, dtype)
    return Picture(name, height, width, samples, begin, selection.bands, begin_valid)


def open_raw(raw: scoring_pb2.RawImage, selection: Selection = EVERYTHING, *, name: str) -> Picture:
    """Take uncompressed pixels, after checking that they are as many as they say."""
    shape = (raw.height, raw.width, raw.channels)
    picture = open_array(name, shape, raw.dtype, lambda: ArrayInMemory(pixels), selection)
    dtype, data = np.dtype(raw.dtype).newbyteorder("<"), raw.data
    expected = raw.height * raw.width * raw.channels * dtype.itemsize
    if len(data) != expected:
        raise ImageError(f"{name}: image.raw.data: expected {expected} bytes, got {len(data)}")
    pixels = np.frombuffer(data, dtype).reshape(shape)
    return picture
