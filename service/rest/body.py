"""The body of a request: its media type, its parts, and the whole of it up to a limit, also after decompression."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from starlette.requests import Request

from service.errors import CancelledRunError, LimitError, MediaTypeError, OptionError

ENCODINGS = ("identity", "gzip", "deflate")
GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
"""For zlib: the data begin with the header of gzip or of zlib. The encoding "deflate" of HTTP has the latter."""
PIECE_BYTES = 1 << 20
"""Bytes that are decompressed at once."""
_decompressing = ThreadPoolExecutor(1, "decompress")
"""One thread: 60 kB may become the largest message, and several threads would take the CPUs from other requests."""


def check_media_type(request: Request, *allowed: str, default: str = "") -> None:
    """Raise MediaTypeError unless the media type of a body is allowed; `default` is that of a request without one."""
    content = request.headers.get("content-type", default).partition(";")[0].strip().lower()
    if content not in allowed:
        raise MediaTypeError(f"content-type: expected {' or '.join(allowed)}, got {content[:40]!r}")


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body of a request, decompressed.

    Raises LimitError if it is larger than `limit` bytes, in either form, and CancelledRunError if the client leaves.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ENCODINGS:
        raise MediaTypeError(f"content-encoding: expected {' or '.join(ENCODINGS)}, got {encoding[:40]!r}")
    _check_size(int(request.headers.get("content-length", "0")), limit)
    parts, size = [], 0  # joined once: a buffer that grows leaves holes in memory
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise CancelledRunError("the client has closed the connection")
        parts.append(message["body"])
        size += len(message["body"])
        _check_size(size, limit)
        if not message["more_body"]:
            break
    request.state.resume_reading()  # uvicorn pauses after a large body, and would not notice that the client leaves
    body = b"".join(parts)
    del parts, message
    if encoding == "identity":
        return body
    return await asyncio.get_running_loop().run_in_executor(_decompressing, _decompressed, body, limit)


async def body_parts(request: Request) -> AsyncIterator[bytes]:
    """Yield the parts of a body as they arrive; raises CancelledRunError if the client leaves."""
    is_last = False
    while not is_last:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise CancelledRunError("the client has closed the connection")
        is_last = not message["more_body"]
        if message["body"]:
            yield message["body"]
    request.state.resume_reading()  # uvicorn pauses after a large body, and would not notice that the client leaves


async def take(parts: AsyncIterator[bytes], size: int) -> tuple[bytes, bytes]:
    """Return the first `size` bytes of a body, and the bytes after them that arrived in the same part.

    Raises OptionError if the body ends earlier.
    """
    taken: list[bytes] = []
    missing = size
    while missing > 0:
        part = await anext(parts, b"")
        if not part:
            raise OptionError(f"body: expected a mask of {size} bytes, then the file, got {size - missing} bytes")
        taken.append(part)
        missing -= len(part)
    last = taken.pop() if taken else b""
    end = len(last) + missing
    return b"".join([*taken, last[:end]]), last[end:]


def _decompressed(body: bytes, limit: int) -> bytes:
    """Return the contents of one gzip or zlib stream; raises OptionError for other bytes, and LimitError."""
    decoder, parts, size, has_more = zlib.decompressobj(GZIP_OR_ZLIB), [], 0, False
    try:
        for start in range(0, len(body), PIECE_BYTES):
            piece = body[start : start + PIECE_BYTES]
            while piece and not decoder.eof:
                parts.append(decoder.decompress(piece, PIECE_BYTES))
                size += len(parts[-1])
                _check_size(size, limit)
                piece = decoder.unconsumed_tail
            if decoder.eof:
                has_more = bool(decoder.unused_data) or start + PIECE_BYTES < len(body)
                break
    except zlib.error as error:
        raise OptionError(f"body: expected one stream of gzip or zlib, got {error}") from None
    if not decoder.eof or has_more:
        got = "bytes after it" if decoder.eof else "one that ends early"
        raise OptionError(f"body: expected one complete stream of gzip or zlib, got {got}")
    return b"".join(parts)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise LimitError(
            f"body: expected at most {limit} bytes, also after decompression, got {size} or more; send encoded images "
            "as binary data, or call ScoreLarge by gRPC"
        )
