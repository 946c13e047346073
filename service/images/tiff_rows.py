"""The rows of one page of a TIFF file, tile by tile or strip by strip.

A tile that is damaged or cut short is an error; a tile that the file leaves out, as GDAL does with empty ones, holds
the file's nodata value, or 0.
"""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from service.errors import ImageError
from service.images.photometric import Interpretation
from service.images.picture import SampleReader
from service.images.pixels import SampleArray, blockwise
from service.images.tiff_codecs import NAMES, UNCOMPRESSED, Coding, DamagedError

MOST_TIMES, LEAST_BYTES = 2, 1 << 16
"""Compressed data may be larger than what they hold, but not much."""


@dataclass(frozen=True)
class Page:
    """One page: where its tiles or strips lie in the file, and how they are stored. Sizes are before rotation."""

    name: str
    height: int
    width: int
    bands: int
    part: tuple[int, int]
    """Height and width of a tile or strip; of a strip the last one may have fewer rows."""
    tiled: bool
    separate: bool
    """Whether each band has tiles of its own."""
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    coding: Coding
    nodata: float
    """What tiles hold that the file leaves out."""

    @property
    def bytes(self) -> int:
        """Bytes of all numbers, once they are decoded."""
        return self.height * self.width * self.bands * self.coding.dtype.itemsize

    @property
    def part_bytes(self) -> int:
        """Bytes of one row of tiles, or of one strip, once it is decoded."""
        return self.part[0] * self.width * self.bands * self.coding.dtype.itemsize

    def decode(self, file: BinaryIO, row: int) -> SampleArray:
        """Decode one row of tiles, or a strip: (rows, width, bands) of stored numbers; raises ImageError."""
        (height, width), first = self.part, row * self.part[0]
        rows = min(height, self.height - first)
        block = np.empty((rows, self.width, self.bands), self.coding.dtype.newbyteorder("="))
        across, down = -(-self.width // width), -(-self.height // height)
        for plane in range(self.bands if self.separate else 1):
            bands = slice(plane, plane + 1) if self.separate else slice(None)
            for column in range(across):
                room = block[:, column * width : (column + 1) * width, bands]
                try:
                    self._decode_into(room, file, (plane * down + row) * across + column)
                except (DamagedError, IndexError, OSError, OverflowError, TypeError, ValueError, struct.error):
                    raise ImageError(
                        f"{self.name}: rows {first} to {first + rows - 1} of the TIFF file "
                        f"({NAMES[self.coding.compression]} compression) cannot be decoded: damaged or cut short"
                    ) from None
        return block

    def _decode_into(self, room: SampleArray, file: BinaryIO, index: int) -> None:
        """Decode one tile or strip, of which the image may hold a part alone; raises what damage leads to."""
        offset, count = int(self.offsets[index]), int(self.counts[index])
        if not (offset or count):
            room[:] = self.nodata
            return
        rows = self.part[0] if self.tiled else len(room)
        size = self.coding.size(rows, self.part[1])
        if self.coding.compression == UNCOMPRESSED:
            count = size  # some writers leave it out, or say how large a whole strip would be
        if not 0 < count <= MOST_TIMES * self.coding.size(*self.part) + LEAST_BYTES:
            raise DamagedError
        if offset + count > file.seek(0, os.SEEK_END):
            raise DamagedError
        file.seek(offset)
        part = self.coding.decode(file.read(count), rows, self.part[1], self.part[0])
        if part.shape[0] < room.shape[0] or part.shape[1] < room.shape[1]:
            raise DamagedError
        room[:] = part[: room.shape[0], : room.shape[1]]


@dataclass(eq=False)
class StoredRows:
    """A page's numbers as they are stored, read forward; the file is closed with them."""

    page: Page
    read_file: Callable[[], BinaryIO]
    _file: BinaryIO = field(init=False)
    _row: int = field(init=False, default=-1)
    _block: SampleArray | None = field(init=False, default=None)
    """The row of tiles that was decoded last."""

    def __post_init__(self) -> None:
        """Open the file anew: another thread may read the same page."""
        self._file = self.read_file()
        finalize(self, self._file.close)

    @property
    def block_rows(self) -> int:
        """Rows of a tile or strip."""
        return self.page.part[0]

    def read(self, first: int, stop: int) -> SampleArray:
        """Rows [first, stop) as (rows, width, bands); raises ImageError where they cannot be decoded."""
        height = self.block_rows
        parts = []
        for row in range(first // height, -(-stop // height)):
            block = self._decoded(row)
            parts.append(block[max(0, first - row * height) : stop - row * height])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _decoded(self, row: int) -> SampleArray:
        if row != self._row or self._block is None:
            self._block = self.page.decode(self._file, row)
            self._row = row
        return self._block


@dataclass(frozen=True)
class TiffRows:
    """A page's samples."""

    name: str
    stored: SampleReader
    interpretation: Interpretation

    @property
    def block_rows(self) -> int:
        """Rows of a tile or strip."""
        return self.stored.block_rows

    def read(self, first: int, stop: int) -> SampleArray:
        """Rows [first, stop) as (rows, width, bands); raises ImageError for numbers that have no meaning."""
        try:
            return blockwise(self.interpretation.apply, self.stored.read(first, stop))
        except IndexError:
            raise ImageError(f"{self.name}: expected numbers that its palette has, got larger ones") from None


@dataclass(frozen=True)
class DataMaskRows:
    """Where a page has data: none of the bands that are scored is nodata or NaN, and its mask, if any, is not 0."""

    stored: SampleReader
    bands: tuple[int, ...]
    """Counted from 0."""
    nodata: float | None
    mask: SampleReader | None

    @property
    def block_rows(self) -> int:
        """Rows of a tile or strip."""
        return self.stored.block_rows

    def read(self, first: int, stop: int) -> NDArray[np.uint8]:
        """Rows [first, stop) as (rows, width, 1), 255 or 0."""
        numbers = self.stored.read(first, stop)[..., list(self.bands)]
        valid = ~np.isnan(numbers) if numbers.dtype.kind == "f" else np.ones(numbers.shape, np.bool_)
        if self.nodata is not None:
            valid &= numbers != numbers.dtype.type(self.nodata)
        there = valid.all(axis=-1, keepdims=True)
        if self.mask is not None:
            there &= self.mask.read(first, stop)[..., :1] != 0
        return np.where(there, np.uint8(255), np.uint8(0))


class OrientedRows:
    """Rows of an image that its Orientation turns or mirrors: read whole, then turned."""

    block_rows = 1

    def __init__(self, rows: SampleReader, height: int, orientation: int) -> None:
        self._rows, self._height, self._orientation = rows, height, orientation
        self._turned: SampleArray | None = None

    def read(self, first: int, stop: int) -> SampleArray:
        """Rows [first, stop) of the turned image."""
        if self._turned is None:
            self._turned = turned(self._rows.read(0, self._height), self._orientation)
        return self._turned[first:stop]


def turned(rows: SampleArray, orientation: int) -> SampleArray:
    """An image (rows, width, bands) as EXIF's Orientation, 1 to 8, says that it is looked at."""
    if orientation > 4:
        rows = rows.swapaxes(0, 1)
    down = orientation in (3, 4, 7, 8)
    across = orientation in (2, 3, 6, 7)
    return rows[:: -1 if down else 1, :: -1 if across else 1]
