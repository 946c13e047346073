"""The tiles and strips of TIFF files, from bytes to numbers.

A tile is decoded to the size in its page's tags; data that claim more are refused. LZW, PackBits and CCITT go
through libtiff, JPEG and WebP through their own libraries, all by way of libvips: these are hardened against hostile
data. The rest is numpy's: byte order, predictors, and numbers of fewer bits than a byte, or of 12.
"""

import lzma
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyvips
import zstandard

from service.images.pixels import SampleArray, array_of

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
"""By their numbers, the compressions that are read."""
WITH_PREDICTOR = (LZW, *DEFLATE, LZMA, ZSTANDARD)
"""Compressions before which numbers may have been differenced; with others the tag means nothing."""
LZMA_BYTES = 128 << 20
"""Memory that LZMA's dictionary may take."""
HORIZONTAL, FLOATING_POINT = 2, 3
"""Predictors: differences of neighbours; differences of the bytes of floating-point numbers, sorted by their weight."""
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
INKS = 4
END_OF_JPEG = b"\xff\xd9"
ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00%c"
"""JPEG's segment that says whether three bands are YCbCr, 1, or red, green and blue, 0."""


class DamagedError(Exception):
    """Data that end early, or do not decode."""


@dataclass(frozen=True)
class Coding:
    """How the tiles or strips of a page are stored."""

    compression: int
    dtype: np.dtype[Any]
    """Of the numbers, in the file's byte order."""
    bits: int
    bands: int
    """Of each pixel in one tile."""
    predictor: int = 1
    reversed: bool = False
    """Whether the first bit of a byte is the lowest (FillOrder 2)."""
    ycbcr: bool = False
    t4_options: int = 0
    tables: bytes = b""
    """JPEGTables (tag 347): quantisation and Huffman tables of all tiles. Default: empty."""

    def __post_init__(self) -> None:
        """Refuse what has no decoder; raises ValueError that names it."""
        packed = self.bits in (1, 2, 4, 12) and self.predictor == 1
        if self.bits != self.dtype.itemsize * 8 and not packed:
            raise ValueError(f"numbers of {self.bits} bits with predictor {self.predictor}")
        if self.predictor not in (1, HORIZONTAL, FLOATING_POINT):
            raise ValueError(f"predictor {self.predictor}")
        if self.compression in (JPEG, WEBP) and self.bits != 8:
            raise ValueError(f"{NAMES[self.compression]} of {self.bits} bits")
        if self.compression in CCITT and (self.bits, self.bands) != (1, 1):
            raise ValueError(f"CCITT of {self.bands} bands of {self.bits} bits")

    def decode(self, data: bytes, rows: int, width: int, most: int) -> SampleArray:
        """Decode a tile or strip (rows, width, bands), whose data may hold up to `most` rows; raises DamagedError."""
        try:
            if self.compression in (JPEG, WEBP):
                return self._picture(data, most, width)
            row_bytes = self.size(1, width)
            data = data.translate(REVERSED) if self.reversed else data
            if self.compression in DEFLATE:
                stored = _inflated(data, most * row_bytes)
            else:
                stored = self._decompressed(data, rows, width, row_bytes)
            if len(stored) < rows * row_bytes:
                raise DamagedError
            return self._predicted(self._numbers(stored[: rows * row_bytes], rows, width))
        except (pyvips.Error, zlib.error, lzma.LZMAError, zstandard.ZstdError, EOFError):
            raise DamagedError from None

    def size(self, rows: int, width: int) -> int:
        """Bytes of so many pixels, uncompressed."""
        return rows * -(-width * self.bands * self.bits // 8)

    def _picture(self, data: bytes, rows: int, width: int) -> SampleArray:
        """JPEG and WebP, which say by themselves how many pixels they have: no more than a tile has."""
        if self.compression == JPEG:
            if not data.rstrip(b"\0").endswith(END_OF_JPEG):  # the rest would be grey
                raise DamagedError
            colours = ADOBE % self.ycbcr if self.bands == 3 else b""
            data = b"".join((data[:2], colours, self.tables[2:-2], data[2:]))
        image = _loaded(data)
        if image.height > rows or image.width > width or image.bands != self.bands or image.format != "uchar":
            raise DamagedError
        pixels = array_of(image)
        return 255 - pixels if self.compression == JPEG and self.bands == INKS else pixels  # libvips has inverted them

    def _decompressed(self, data: bytes, rows: int, width: int, row_bytes: int) -> bytes:
        if self.compression in CCITT:
            file = one_strip(data, self.compression, rows, width, bits=1, t4_options=self.t4_options)
            return np.packbits(array_of(_loaded(file))[..., 0] != 0, axis=1).tobytes()
        if self.compression in (LZW, PACKBITS):
            return array_of(_loaded(one_strip(data, self.compression, rows, row_bytes))).tobytes()
        if self.compression == LZMA:
            return lzma.LZMADecompressor(memlimit=LZMA_BYTES).decompress(data, rows * row_bytes)
        if self.compression == ZSTANDARD:
            return bytes(zstandard.ZstdDecompressor().stream_reader(data).read(rows * row_bytes))
        return data

    def _numbers(self, stored: bytes, rows: int, width: int) -> SampleArray:
        """Numbers in the machine's byte order out of bytes, each row of which begins a new byte."""
        count = width * self.bands
        if self.bits == self.dtype.itemsize * 8 and self.predictor != FLOATING_POINT:
            numbers = np.frombuffer(stored, self.dtype).astype(self.dtype.newbyteorder("="), copy=False)
        elif self.predictor == FLOATING_POINT:
            sorted_bytes = np.frombuffer(stored, np.uint8).reshape(rows, -1, self.bands)
            summed = np.cumsum(sorted_bytes, axis=1, dtype=np.uint8).reshape(rows, self.dtype.itemsize, count)
            numbers = np.ascontiguousarray(summed.swapaxes(1, 2)).view(self.dtype.newbyteorder(">"))
            numbers = numbers.astype(self.dtype.newbyteorder("="))
        else:
            bits = np.unpackbits(np.frombuffer(stored, np.uint8).reshape(rows, -1), axis=1)[:, : count * self.bits]
            weights = (1 << np.arange(self.bits)[::-1]).astype(np.uint16)
            numbers = (bits.reshape(rows, count, self.bits) @ weights).astype(self.dtype)
        return numbers.reshape(rows, width, self.bands)

    def _predicted(self, numbers: SampleArray) -> SampleArray:
        """Sum up the differences of neighbours; those of floating-point numbers are summed already."""
        if self.predictor != HORIZONTAL:
            return numbers
        whole = numbers.view(f"u{numbers.dtype.itemsize}")
        return np.cumsum(whole, axis=1, dtype=whole.dtype).view(numbers.dtype)


def one_strip(data: bytes, compression: int, rows: int, width: int, *, bits: int = 8, t4_options: int = 0) -> bytes:
    """A TIFF file of one grey strip around compressed data, for libtiff to decode."""
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


def _inflated(data: bytes, most: int) -> bytes:
    """Deflate's data to their end, where their checksum is; raises DamagedError if that is not within `most` bytes."""
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(data, most + 1)  # one more, so that it goes on to the end
    if not inflater.eof:
        raise DamagedError
    return inflated


def _loaded(data: bytes) -> pyvips.Image:
    return pyvips.Image.new_from_buffer(data, "", access="sequential", fail_on="warning")
