"""Says why a file cannot be decoded, for error messages.

The structure of a file (segments of JPEG, chunks of PNG, the size in WebP) shows whether the file ends early or is
damaged. The messages of libvips are not used, because one buffer collects those of all threads.
"""

import os
import struct
import zlib
from typing import BinaryIO, Literal

from service.images.headers import JPEG, PNG

WEBP = b"RIFF", b"WEBP"
"""First bytes of a WebP file: at its start, and after its size."""
END_OF_IMAGE, START_OF_SCAN = b"\xff\xd9", 0xDA
TIFF_START, BIG_TIFF = 16, 43
"""Bytes of the longest header, that of BigTIFF, and the number that marks BigTIFF."""
SHOWN_BYTES = 8
"""Number of first bytes of an unknown file that an error shows."""
MAX_EXAMINED_BYTES, MAX_PIECES = 64 << 20, 100_000
"""Bytes of the largest file that is examined, and number of its segments or chunks after which the search ends: both
take at most a tenth of a second."""
MAX_INCOMPLETE = 3
"""Largest number of bytes of a letter in UTF-8 that is cut off."""
UNREADABLE = "a damaged file that cannot be decoded"
COPY = "copy the file again from a complete original"


def format_of(start: bytes) -> str:
    """Return the format of a file by its first bytes: "JPEG", "PNG" or "WebP"; empty for other files."""
    if start.startswith(JPEG):
        return "JPEG"
    if start.startswith(PNG):
        return "PNG"
    return "WebP" if start.startswith(WEBP[0]) and start[8:12] == WEBP[1] else ""


def appearance(start: bytes) -> str:
    """Return what a file looks like that is no image, by its first bytes, and how to proceed."""
    if not start:
        return f"an empty file; {COPY}"
    text = _text_of(start)
    found = f"text that begins with {text!r}" if text else f"the first bytes {start[:SHOWN_BYTES].hex(' ')}"
    return f"{found}; check that the file is an image"


def defect_of(file: BinaryIO) -> str:
    """Return why a JPEG, PNG or WebP file cannot be decoded: truncated or damaged, the reason, and how to proceed."""
    data = file.read(MAX_EXAMINED_BYTES + 1)
    if len(data) > MAX_EXAMINED_BYTES:
        return f"{UNREADABLE}; {COPY}"
    defect = {"JPEG": _jpeg_defect, "PNG": _png_defect, "WebP": _webp_defect}.get(format_of(data))
    return f"{UNREADABLE if defect is None else defect(data)}; {COPY}"


def directory_defect_of(file: BinaryIO) -> str:
    """Return why the directory of a TIFF file cannot be read, in the same words as `defect_of`."""
    start, size = file.read(TIFF_START), file.seek(0, os.SEEK_END)
    if len(start) < TIFF_START:
        return f"{_truncated(size, 'within its header')}; {COPY}"
    order: Literal["little", "big"] = "little" if start.startswith(b"I") else "big"
    is_large = int.from_bytes(start[2:4], order) == BIG_TIFF
    begin = int.from_bytes(start[8:16] if is_large else start[4:8], order)
    is_truncated = begin >= size
    place = f"before its directory at byte {begin}"
    return f"{_truncated(size, place) if is_truncated else 'a damaged or truncated directory'}; {COPY}"


def _truncated(data_bytes: int, place: str) -> str:
    """Return the words for a file of `data_bytes` bytes that ends within, or before, a place."""
    return f"a truncated file: it ends after {data_bytes} bytes, {place}"


def _text_of(start: bytes) -> str:
    """Return the first line of a text; empty if the bytes are not text in UTF-8."""
    for cut in range(MAX_INCOMPLETE + 1):
        try:
            text = start[: len(start) - cut].decode("utf-8-sig")
        except UnicodeDecodeError:
            continue
        is_text = bool(text.strip()) and all(letter.isprintable() or letter.isspace() for letter in text)
        return text.strip().splitlines()[0] if is_text else ""
    return ""


def _jpeg_defect(data: bytes) -> str:
    at = len(JPEG)
    for _ in range(MAX_PIECES):
        if at + 4 > len(data):
            return _truncated(len(data), "within its header")
        sign, marker, length = struct.unpack_from(">BBH", data, at)
        if sign != END_OF_IMAGE[0]:
            return f"a damaged file: there is no segment at byte {at}"
        at += 2 + length
        if marker == START_OF_SCAN:
            is_whole = data.find(END_OF_IMAGE, at) >= 0
            return UNREADABLE if is_whole else _truncated(len(data), "before the end of its pixels")
    return UNREADABLE


def _png_defect(data: bytes) -> str:
    at = len(PNG)
    for _ in range(MAX_PIECES):
        if at + 8 > len(data):
            return _truncated(len(data), "before the chunk IEND")
        size, kind = struct.unpack_from(">I4s", data, at)
        end, name = at + 8 + size, kind.decode("ascii", "replace")
        if not kind.isalpha():
            return f"a damaged file: there is no chunk at byte {at}"
        if end + 4 > len(data):
            return _truncated(len(data), f"within a chunk {name} of {size} bytes")
        if zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(data[end : end + 4]):
            return f"a damaged file: the checksum of the chunk {name} at byte {at} is wrong"
        at = end + 4
        if kind == b"IEND":
            break
    return UNREADABLE


def _webp_defect(data: bytes) -> str:
    size = 8 + int.from_bytes(data[4:8], "little")
    return f"a truncated file: it has {len(data)} of {size} bytes" if len(data) < size else UNREADABLE
