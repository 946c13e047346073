"""What the first bytes of JPEG and PNG files say of the work that decoding them takes, read before a decoder sees them.

A JPEG file decodes all its scans before its first row is known, and a PNG file may hold compressed text of a thousand
times its size. Both are limited here.
"""

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from service.errors import LimitError

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8"
START_OF_SCAN = b"\xff\xda"
MAX_SCANS = 100
"""Scans of a JPEG file. Common encoders write at most 15."""
MAX_TEXT_BYTES = 1 << 16
"""Compressed bytes of the texts of a PNG file."""
MAX_CHUNKS = 10_000
"""Chunks of a PNG file before its pixels."""
MAX_KEYWORD_BYTES = 81
"""Bytes of the keyword of a text, its end, and the flag that says whether the text is compressed."""
QUICK_BYTES = 1 << 13
"""Bytes before the pixels of a file that is opened in a few milliseconds."""
BLOCK_BYTES = 1 << 20


def count_scans(name: str, file: BinaryIO) -> int:
    """Return the number of scans of a JPEG file; raises LimitError for more than MAX_SCANS.

    A marker inside of metadata, as of an embedded thumbnail, is counted too.
    """
    scans, last = 0, b""
    while block := file.read(BLOCK_BYTES):
        scans += _count_scans(last + block, MAX_SCANS + 1)
        last = block[-1:]
        if scans > MAX_SCANS:
            raise LimitError(
                f"{name}: scans: expected at most {MAX_SCANS} in a JPEG file, got more; save it as a baseline JPEG"
            )
    return scans


def check_png_chunks(name: str, file: BinaryIO) -> None:
    """Raise LimitError for a PNG file with too much before its pixels; damage is left to the decoder."""
    compressed = 0
    for number, size in enumerate(_compressed_sizes(file)):
        compressed += size
        if compressed > MAX_TEXT_BYTES:
            raise LimitError(
                f"{name}: text: expected at most {MAX_TEXT_BYTES >> 10} KiB of compressed text in a PNG file, got "
                "more; save it without metadata"
            )
        if number == MAX_CHUNKS:
            raise LimitError(
                f"{name}: chunks: expected at most {MAX_CHUNKS} before the pixels of a PNG file, got more; save it "
                "without metadata"
            )


def opens_quickly(data: bytes) -> bool:
    """Return whether a JPEG, PNG or WebP file in memory is opened in a few milliseconds."""
    start = data[:QUICK_BYTES]
    if start.startswith(PNG):
        return b"IDAT" in start
    if start.startswith(JPEG):
        return START_OF_SCAN in start and _count_scans(data, MAX_SCANS + 1) <= MAX_SCANS
    return start.startswith(b"RIFF") and start[8:12] == b"WEBP"


def _count_scans(data: bytes, most: int) -> int:
    """Return the number of scans in a part of a JPEG file, at most `most`; reads no further than to that scan."""
    at = -1
    for number in range(most):
        at = data.find(START_OF_SCAN, at + 1)
        if at < 0:
            return number
    return most


def _compressed_sizes(file: BinaryIO) -> Iterator[int]:
    """Yield for each chunk before the pixels its bytes of compressed text."""
    file.seek(len(PNG))
    while len(head := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        if kind == b"IDAT":
            return
        start = file.read(min(size, MAX_KEYWORD_BYTES))
        _, _, flags = start.partition(b"\0")
        yield size if kind == b"zTXt" or (kind == b"iTXt" and flags[:1] != b"\0") else 0
        file.seek(size - len(start) + 4, os.SEEK_CUR)
