"""Makers of small image files that cost their reader much."""

import struct
import zlib

SMALL_WEBP = bytes.fromhex("524946461a000000574542505650384c0e0000002f7ffe9f0f071011fd0f4444ff03")
"""34 bytes: a lossless WebP image of 16000×16000 pixels."""
RUN = 1 << 15
"""Blocks of 8×8 coefficients that one code of a JPEG scan can skip, plus one."""


def progressive(width: int, height: int, scans: int) -> bytes:
    """Return a progressive JPEG of three bands without subsampling, with `scans` scans beside those of the averages."""
    blocks = -(-width // 8) * -(-height // 8)
    codes, left = [], blocks
    while left:
        skipped = min(left, RUN - 1) if left >= RUN // 2 else 0
        codes.append(f"0{skipped - RUN // 2:014b}" if skipped else "10" * left)
        left -= skipped or left
    bits = "".join(codes)
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    components = b"".join(bytes([band + 1, 0x11, 0]) for band in range(3))
    head = b"\xff\xd8" + _segment(0xDB, b"\0" + bytes([1] * 64))
    head += _segment(0xC2, struct.pack(">BHHB", 8, height, width, 3) + components)
    head += _segment(0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\x00")
    head += _segment(0xC4, b"\x10" + bytes([1, 1] + [0] * 14) + b"\xe0\x00")
    averages = [_segment(0xDA, bytes([1, band + 1, 0, 0, 0, 0])) + bytes(-(-blocks // 8)) for band in range(3)]
    numbers = [(1 + scan % 3, 1 + scan % 63) for scan in range(scans)]
    details = [_segment(0xDA, bytes([1, band, 0, number, number, 0])) + data for band, number in numbers]
    return b"".join([head, *averages, *details, b"\xff\xd9"])


def many_scans(size: int) -> bytes:
    """Return a progressive JPEG of 256×256 pixels with as many scans as fit `size` bytes."""
    components = b"".join(bytes([band + 1, 0x11, 0]) for band in range(3))
    parts = [b"\xff\xd8", _segment(0xDB, b"\0" + bytes([1] * 64))]
    parts.append(_segment(0xC2, struct.pack(">BHHB", 8, 256, 256, 3) + components))
    parts.append(_segment(0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\x00"))
    parts.append(_segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\xa0"))
    parts += [_segment(0xDA, bytes([1, band + 1, 0, 0, 0, 0])) + bytes(128) for band in range(3)]
    scan, left = 0, size - sum(map(len, parts))
    while left > 0:
        parts.append(_segment(0xDA, bytes([1, 1 + scan % 3, 0, 1 + scan % 63, 1 + scan % 63, 0])) + b"\x00\x1f")
        scan, left = scan + 1, left - len(parts[-1])
    return b"".join([*parts, b"\xff\xd9"])


def one_bit_png(width: int, height: int, *, chunks: bytes = b"") -> bytes:
    """Return a black PNG of one bit; `chunks` come before its pixels."""
    compressor, row = zlib.compressobj(9), bytes(1 + -(-width // 8))
    pixels = b"".join(compressor.compress(row) for _ in range(height)) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunks + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _segment(marker: int, data: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data
