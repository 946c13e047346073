"""Images that come as arrays of pixels, a few rows at a time: from a stream, a memory map, a chunked store."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from protos import model_pb2
from service.errors import ImageError
from service.images.picture import MAX_SIDE, RAW_FORMATS, in_memory
from service.images.pixels import convert
from service.images.rows import Pixels, Rows

Array = NDArray[np.uint8] | NDArray[np.uint16]


class ArrayRows(Protocol):
    """An array's rows, read forward."""

    @property
    def together(self) -> int:
        """Rows that are best read together: as many as a chunk has."""

    def read(self, first: int, stop: int) -> Array:
        """Rows [first, stop) as (rows, width, channels); `first` is at or behind the last `stop`."""


@dataclass(frozen=True)
class ArrayPicture:
    """An image of (height, width, channels) pixels of "uint8" or "uint16"; `begin` starts from the top."""

    name: str
    shape: tuple[int, int, int]
    dtype: str
    begin: Callable[[], ArrayRows]
    begin_valid: Callable[[], Rows] | None = None
    """The same for a mask, one channel that is 0 where the file says that there are no data; None: nowhere."""
    whole: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be pixels; raises ImageError."""
        if self.dtype not in RAW_FORMATS:
            raise ImageError(f"{self.name}: dtype: expected {' or '.join(RAW_FORMATS)}, got {self.dtype!r}")
        for field, value in zip(("height", "width", "channels"), self.shape, strict=True):
            if not 0 < value <= MAX_SIDE:
                raise ImageError(f"{self.name}: {field}: expected 1 to {MAX_SIDE}, got {value}")

    @property
    def height(self) -> int:
        """Pixels."""
        return self.shape[0]

    @property
    def width(self) -> int:
        """Pixels."""
        return self.shape[1]

    def check_bands(self, wanted: model_pb2.Input) -> None:
        """Raise ImageError if the bands cannot become what a model takes."""
        row = np.zeros((1, 1, self.shape[2]), self.dtype)
        _converted(self.name, row, wanted)

    def valid(self) -> Rows | None:
        """Where there are data, from the top: not 0; None: everywhere."""
        return self.begin_valid() if self.begin_valid is not None else None

    def rows(self, wanted: model_pb2.Input) -> "ConvertedRows":
        """The pixels as a model takes them, from the top."""
        return ConvertedRows(self.name, self.begin(), wanted)


@dataclass(frozen=True)
class ConvertedRows:
    """An array's rows as a model takes them."""

    name: str
    source: ArrayRows
    wanted: model_pb2.Input

    def read(self, first: int, stop: int) -> Pixels:
        """Rows [first, stop) as (rows, width, channels)."""
        return _converted(self.name, self.source.read(first, stop), self.wanted)

    @property
    def together(self) -> int:
        """Rows that are best read together."""
        return self.source.together


def _converted(name: str, pixels: Array, wanted: model_pb2.Input) -> Pixels:
    height, width, channels = pixels.shape
    native = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
    try:
        image = convert(
            in_memory(native.data, (height, width, channels), pixels.dtype.name),
            channels=wanted.channels,
            dtype=wanted.dtype,
        )
    except ValueError as error:
        raise ImageError(f"{name}: {error}") from None
    converted: Pixels = image.numpy()
    return converted.reshape(height, width, wanted.channels)
