"""The decoding of the tiles and strips of TIFF files, from bytes to numbers. A block is a tile or a strip.

A block is decoded to the size that the tags of its page give; data that claim a larger size are refused. libtiff
decodes LZW, PackBits and CCITT, and libjpeg and libwebp decode JPEG and WebP, all through libvips: these libraries are
hardened against hostile data. numpy does the rest: byte order, predictors, and numbers of 1, 2, 4 or 12 bits.
"""

import lzma
import struct
import sys
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from fullconv.common.libvips import pyvips
from service.images.headers import MAX_SCANS, START_OF_SCAN
from service.images.pixels import SampleArray, samples_of

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdError

JPEG, WEBP = 7, 50001
LZW, PACKBITS = 5, 32773
DEFLATE = (8, 32946)
LZMA, ZSTANDARD = 34925, 50000
CCITT = (2, 3, 4)
UNCOMPRESSED = 1
NAMES = {
    UNCOMPRESSED: "no",
    **dict.fromkeys(CCITT, "CCITT"),
    LZW: "LZW",
    JPEG: "JPEG",
    **dict.fromkeys(DEFLATE, "Deflate"),
    PACKBITS: "PackBits",
    LZMA: "LZMA",
    ZSTANDARD: "Zstandard",
    WEBP: "WebP",
}
"""Names of the compressions that are decoded, by the value of the tag Compression."""
WITH_PREDICTOR = (LZW, *DEFLATE, LZMA, ZSTANDARD)
"""Compressions to which the tag Predictor applies."""
MAX_LZMA_BYTES = 128 << 20
"""Largest memory of LZMA's dictionary."""
HORIZONTAL, FLOATING_POINT = 2, 3
"""Predictors: differences of neighbours; differences of the bytes of floating-point numbers, sorted by significance."""
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Each byte with its bits in reverse order."""
INKS = 4
"""Number of bands of CMYK."""
END_OF_JPEG = b"\xff\xd9"
ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00%c"
"""Segment of JPEG that states whether three bands are YCbCr (1) or red, green and blue (0)."""


class DamagedError(Exception):
    """The data end early or cannot be decoded; the message is empty, or says which."""


@dataclass(frozen=True)
class BlockCodec:
    """How the blocks of a page are stored."""

    compression: int
    """Value of the tag Compression."""
    dtype: np.dtype[Any]
    """Element type of the numbers, in the file's byte order."""
    bits: int
    """Bits of each number."""
    bands: int
    """Numbers of each pixel of a block."""
    predictor: int = 1
    """Value of the tag Predictor. Default: 1, no predictor."""
    reversed: bool = False
    """Whether the first bit of a byte is the lowest (FillOrder 2)."""
    ycbcr: bool = False
    """Whether JPEG data of three bands are YCbCr. Default: red, green and blue."""
    t4_options: int = 0
    """Value of the tag T4Options, for CCITT."""
    tables: bytes = b""
    """JPEGTables (tag 347): quantisation and Huffman tables of all blocks. Default: empty."""

    def __post_init__(self) -> None:
        """Raise ValueError that names a combination for which there is no decoder."""
        packed = self.bits in (1, 2, 4, 12) and self.predictor == 1
        if self.bits != self.dtype.itemsize * 8 and not packed:
            raise ValueError(f"numbers of {self.bits} bits with predictor {self.predictor}")
        if self.predictor not in (1, HORIZONTAL, FLOATING_POINT):
            raise ValueError(f"predictor {self.predictor}")
        if self.compression in (JPEG, WEBP) and self.bits != 8:
            raise ValueError(f"{NAMES[self.compression]} of {self.bits} bits")
        if self.compression in CCITT and (self.bits, self.bands) != (1, 1):
            raise ValueError(f"CCITT of {self.bands} bands of {self.bits} bits")

    def decode(self, data: bytes, rows: int, width: int, max_rows: int) -> SampleArray:
        """Decode a block (rows, cols, bands) of `width` columns; raises DamagedError.

        The data hold at least `rows` rows and may hold up to `max_rows`; the result may have these further rows.
        """
        try:
            if self.compression in (JPEG, WEBP):
                return self._decode_image(data, max_rows, width)
            row_bytes = self.size(1, width)
            data = data.translate(REVERSED) if self.reversed else data
            if self.compression in DEFLATE:
                stored = _inflate(data, max_rows * row_bytes)
            else:
                stored = self._decompress(data, rows, width, row_bytes)
            if len(stored) < rows * row_bytes:
                raise DamagedError
            return self._undo_horizontal(self._numbers(stored[: rows * row_bytes], rows, width))
        except (zlib.error, lzma.LZMAError, ZstdError) as error:
            raise DamagedError(f"damaged: {error}") from None
        except (pyvips.Error, EOFError):  # libvips mixes the messages of all threads
            raise DamagedError from None

    def size(self, rows: int, width: int) -> int:
        """Return the bytes of rows × width pixels, uncompressed."""
        return rows * -(-width * self.bands * self.bits // 8)

    def _decode_image(self, data: bytes, max_rows: int, width: int) -> SampleArray:
        """Decode JPEG or WebP data, which have a size of their own; a size above that of a block is refused."""
        if self.compression == JPEG:
            is_complete = data.rstrip(b"\0").endswith(END_OF_JPEG)  # libjpeg would fill the rest with grey
            if not is_complete or data.count(START_OF_SCAN) > MAX_SCANS:
                raise DamagedError
            colours = ADOBE % self.ycbcr if self.bands == 3 else b""
            data = b"".join((data[:2], colours, self.tables[2:-2], data[2:]))
        image = _load(data)
        if image.height > max_rows or image.width > width or image.bands != self.bands or image.format != "uchar":
            raise DamagedError
        pixels = samples_of(image)
        # libvips has inverted CMYK
        return 255 - pixels if self.compression == JPEG and self.bands == INKS else pixels

    def _decompress(self, data: bytes, rows: int, width: int, row_bytes: int) -> bytes:
        if self.compression in CCITT:
            file = one_strip(data, self.compression, rows, width, bits=1, t4_options=self.t4_options)
            return np.packbits(samples_of(_load(file))[..., 0] != 0, axis=1).tobytes()
        if self.compression in (LZW, PACKBITS):
            return samples_of(_load(one_strip(data, self.compression, rows, row_bytes))).tobytes()
        if self.compression == LZMA:
            return lzma.LZMADecompressor(memlimit=MAX_LZMA_BYTES).decompress(data, rows * row_bytes)
        if self.compression == ZSTANDARD:
            return ZstdDecompressor().decompress(data, rows * row_bytes)
        return data

    def _numbers(self, stored: bytes, rows: int, width: int) -> SampleArray:
        """Convert bytes, each row of which starts a new byte, to numbers in the machine's byte order."""
        count = width * self.bands
        if self.predictor == FLOATING_POINT:
            numbers = self._sum_sorted_bytes(stored, rows, count)
        elif self.bits == self.dtype.itemsize * 8:
            numbers = np.frombuffer(stored, self.dtype).astype(self.dtype.newbyteorder("="), copy=False)
        else:
            bits = np.unpackbits(np.frombuffer(stored, np.uint8).reshape(rows, -1), axis=1)[:, : count * self.bits]
            weights = (1 << np.arange(self.bits)[::-1]).astype(np.uint16)
            numbers = (bits.reshape(rows, count, self.bits) @ weights).astype(self.dtype)
        return numbers.reshape(rows, width, self.bands)

    def _sum_sorted_bytes(self, stored: bytes, rows: int, count: int) -> SampleArray:
        """Undo the floating-point predictor: sum up the bytes, then put the bytes of each number together."""
        sorted_bytes = np.frombuffer(stored, np.uint8).reshape(rows, -1, self.bands)
        summed = np.cumsum(sorted_bytes, axis=1, dtype=np.uint8).reshape(rows, self.dtype.itemsize, count)
        numbers = np.ascontiguousarray(summed.swapaxes(1, 2)).view(self.dtype.newbyteorder(">"))
        return numbers.astype(self.dtype.newbyteorder("="))

    def _undo_horizontal(self, numbers: SampleArray) -> SampleArray:
        """Sum up the differences of neighbours, if the predictor is horizontal."""
        if self.predictor != HORIZONTAL:
            return numbers
        integers = numbers.view(f"u{numbers.dtype.itemsize}")
        return np.cumsum(integers, axis=1, dtype=integers.dtype).view(numbers.dtype)


def one_strip(data: bytes, compression: int, rows: int, width: int, *, bits: int = 8, t4_options: int = 0) -> bytes:
    """Return a TIFF file with one grey strip of compressed data, for libtiff to decode."""
    tags = {
        256: width,
        257: rows,
        258: bits,
        259: compression,
        262: 1,
        273: 8,
        277: 1,
        278: rows,
        279: len(data),
        292: t4_options,
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    padding = bytes(len(data) % 2)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return struct.pack("<4sI", b"II*\0", 8 + len(data) + len(padding)) + data + padding + directory


def _inflate(data: bytes, max_bytes: int) -> bytes:
    """Decompress Deflate to its end, where the checksum is; raises DamagedError for more than `max_bytes` bytes."""
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(data, max_bytes + 1)  # one byte more, so that zlib reads on to the checksum
    if not inflater.eof:
        raise DamagedError
    return inflated


def _load(data: bytes) -> pyvips.Image:
    return pyvips.Image.new_from_buffer(data, "", access="sequential", fail_on="warning")
