"""Reading the rows of one page of a TIFF file, block by block. A block is a tile or a strip.

A block that is damaged or truncated is an error. A block that the file leaves out, as GDAL leaves out empty blocks,
holds the file's nodata value, or 0.
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
from service.images.decoding import Pause
from service.images.photometric import Interpretation
from service.images.picture import SampleReader
from service.images.pixels import SampleArray, apply_blockwise
from service.images.tiff_codecs import NAMES, UNCOMPRESSED, BlockCodec, DamagedError

MAX_EXPANSION, EXPANSION_BYTES = 2, 1 << 16
"""Compressed data of a block may be larger than the block: at most by this factor, and this number of bytes."""


@dataclass(frozen=True)
class StoredPage:
    """One page: where its blocks lie in the file, and how they are stored. Sizes are before rotation."""

    name: str
    height: int
    width: int
    bands: int
    block_shape: tuple[int, int]
    """Height and width of a block. The last strip may have fewer rows."""
    tiled: bool
    separate: bool
    """Whether each band has blocks of its own."""
    offsets: tuple[int, ...]
    """Position of each block in the file."""
    byte_counts: tuple[int, ...]
    """Size of each block in the file."""
    codec: BlockCodec
    nodata: float
    """Value of all numbers in blocks that the file leaves out."""

    @property
    def decoded_bytes(self) -> int:
        """Bytes of the whole page, decoded."""
        return self.height * self.width * self.bands * self.codec.dtype.itemsize

    @property
    def block_row_bytes(self) -> int:
        """Bytes of one row of tiles, or of one strip, decoded."""
        return self.block_shape[0] * self.width * self.bands * self.codec.dtype.itemsize

    @property
    def block_bytes(self) -> int:
        """Bytes of one block, decoded."""
        return self.codec.size(*self.block_shape)

    def decode(self, file: BinaryIO, block_row: int, pause: Pause) -> SampleArray:
        """Decode one row of tiles, or one strip: (rows, cols, bands) stored numbers; raises ImageError.

        `pause` is called before each block.
        """
        (height, width), first = self.block_shape, block_row * self.block_shape[0]
        rows = min(height, self.height - first)
        result = np.empty((rows, self.width, self.bands), self.codec.dtype.newbyteorder("="))
        across, down = -(-self.width // width), -(-self.height // height)
        for plane in range(self.bands if self.separate else 1):
            bands = slice(plane, plane + 1) if self.separate else slice(None)
            for column in range(across):
                pause()
                target = result[:, column * width : (column + 1) * width, bands]
                try:
                    self._decode_into(target, file, (plane * down + block_row) * across + column)
                except (DamagedError, IndexError, OSError, OverflowError, TypeError, ValueError, struct.error) as error:
                    reason = str(error) if isinstance(error, DamagedError) else ""
                    raise ImageError(
                        f"{self.name}: rows {first} to {first + rows - 1} of the TIFF file "
                        f"({NAMES[self.codec.compression]} compression) cannot be decoded: {reason or 'damaged'}"
                    ) from None
        return result

    def _decode_into(self, target: SampleArray, file: BinaryIO, index: int) -> None:
        """Decode one block, of which the image may contain only a part; damage raises one of several errors."""
        offset, count = int(self.offsets[index]), int(self.byte_counts[index])
        if not (offset or count):
            target[:] = self.nodata
            return
        rows = self.block_shape[0] if self.tiled else len(target)
        size = self.codec.size(rows, self.block_shape[1])
        if self.codec.compression == UNCOMPRESSED:
            count = size  # some programs write no count, or that of a whole strip for the last one
        if not 0 < count <= MAX_EXPANSION * self.codec.size(*self.block_shape) + EXPANSION_BYTES:
            raise DamagedError
        end = file.seek(0, os.SEEK_END)
        if offset + count > end:
            raise DamagedError(f"truncated: they end at byte {offset + count}, the file ends at byte {end}")
        file.seek(offset)
        block = self.codec.decode(file.read(count), rows, self.block_shape[1], self.block_shape[0])
        if block.shape[0] < target.shape[0] or block.shape[1] < target.shape[1]:
            raise DamagedError
        target[:] = block[: target.shape[0], : target.shape[1]]


@dataclass(eq=False)
class StoredRows:
    """Reads a page's stored numbers forward; a `SampleReader`, which closes its file when it is freed."""

    page: StoredPage
    open_stream: Callable[[], BinaryIO]
    pause: Pause
    _file: BinaryIO = field(init=False)
    _block_row: int = field(init=False, default=-1)
    _decoded: SampleArray | None = field(init=False, default=None)
    """The row of tiles, or the strip, that was decoded last."""

    def __post_init__(self) -> None:
        """Open the file again, because another thread may read the same page."""
        self._file = self.open_stream()
        finalize(self, self._file.close)

    @property
    def block_rows(self) -> int:
        """Height of a block."""
        return self.page.block_shape[0]

    def read(self, first: int, stop: int) -> SampleArray:
        """Return rows [first, stop) as (rows, cols, bands); raises ImageError if they cannot be decoded."""
        height = self.block_rows
        parts = []
        for block_row in range(first // height, -(-stop // height)):
            rows = self._decode(block_row)
            parts.append(rows[max(0, first - block_row * height) : stop - block_row * height])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _decode(self, block_row: int) -> SampleArray:
        if block_row != self._block_row or self._decoded is None:
            self._decoded = self.page.decode(self._file, block_row, self.pause)
            self._block_row = block_row
        return self._decoded


@dataclass(frozen=True)
class TiffRows:
    """Reads a page's samples; a `SampleReader`."""

    name: str
    stored: SampleReader
    interpretation: Interpretation

    @property
    def block_rows(self) -> int:
        """Height of a block."""
        return self.stored.block_rows

    def read(self, first: int, stop: int) -> SampleArray:
        """Return rows [first, stop) as (rows, cols, bands); raises ImageError for numbers without a meaning."""
        try:
            return apply_blockwise(self.interpretation.apply, self.stored.read(first, stop))
        except IndexError:
            raise ImageError(f"{self.name}: expected numbers within its palette, got larger numbers") from None


@dataclass(frozen=True)
class TiffDataMask:
    """Reads where a page has data; a `SampleReader`.

    A pixel has data if no scored band is nodata or NaN, and the page's mask, if there is one, is not 0.
    """

    stored: SampleReader
    bands: tuple[int, ...]
    """The scored bands, counted from 0."""
    nodata: float | None
    """The nodata value. Default: None, the file has no such value."""
    mask: SampleReader | None
    """The page's mask. Default: None, the page has no mask."""

    @property
    def block_rows(self) -> int:
        """Height of a block."""
        return self.stored.block_rows

    def read(self, first: int, stop: int) -> NDArray[np.uint8]:
        """Return rows [first, stop) as (rows, cols, 1): 255 where there is data, else 0."""
        numbers = self.stored.read(first, stop)[..., list(self.bands)]
        band_has_data = ~np.isnan(numbers) if numbers.dtype.kind == "f" else np.ones(numbers.shape, np.bool_)
        if self.nodata is not None:
            band_has_data &= numbers != numbers.dtype.type(self.nodata)
        has_data = band_has_data.all(axis=-1, keepdims=True)
        if self.mask is not None:
            has_data &= self.mask.read(first, stop)[..., :1] != 0
        return np.where(has_data, np.uint8(255), np.uint8(0))
